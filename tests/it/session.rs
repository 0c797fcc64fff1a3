//! Sessions on a scripted engine, with items from a channel.

use std::{collections::BTreeMap, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use tidemill::{
    accounts::{Allowance, Tenants},
    auth::{Keys, Quotas},
    clock,
    codec::FramingRule,
    device::{Device, Lanes, ModelRuntime, Timekeeper},
    domain::{Batching, Datatype, Fault, FaultKind, NamedTensor, Outcome, Signature, StateSpec, TensorSpec, Timestamp},
    drain::Drain,
    engine::{
        Executable, LaneThreads,
        synthetic::{Misbehaviour, PlannedFault, Script, SyntheticControl, SyntheticEngine, SyntheticKind, Trigger},
    },
    registry::{LoadedModel, Model, VersionPolicy},
    scheduler::{Admission, CostCurve, Ledger, ModelOptions, Overflow, StreamOptions},
    session::{
        Backlog, Event, Inbound, ItemRequest, OnDrain, Order, OverflowPolicy, PayloadKind, PcmOptions, Session, SessionMetrics,
        SessionOptions, Unread, UploadOptions, UploadPart, UploadParts, WhenFull, collect_upload,
    },
    telemetry::Telemetry,
    vitals::Vitals,
};

/// Long enough for any machine; only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// First input values: with the first the model fails, with the other it panics.
const FAIL: f32 = -1.0;
const PANIC: f32 = -2.0;

struct Fixture {
    device: Arc<Device>,
    control: Arc<SyntheticControl>,
    model: Arc<Model>,
    drain: Drain,
    telemetry: Telemetry,
    _lanes: Lanes,
    kicker: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.kicker.abort();
    }
}

fn fixture(stateful: bool, items_max: usize) -> Fixture {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(6)], batch_axis: Some(0) };
    let state = StateSpec {
        input: "state".into(),
        output: "next".into(),
        datatype: Datatype::Fp32,
        dims: smallvec::smallvec![1],
        batch_axis: Some(0),
    };
    let states = if stateful { vec![state] } else { Vec::new() };
    let signature = Arc::new(Signature { inputs: vec![spec("in")], outputs: vec![spec("out")], states, ..Signature::default() });
    let planned = |value: f32, what| PlannedFault { when: Trigger::FirstElement(value.into()), what };
    let script = Script {
        kind: SyntheticKind::Double,
        faults: vec![planned(FAIL, Misbehaviour::Error), planned(PANIC, Misbehaviour::Panic)],
        ..Script::default()
    };
    let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
    let control = engine.control();
    let compute = [LaneThreads::new()];
    let executable = Arc::new(Executable::new(Arc::new(engine), signature, &compute).expect("a sound model"));
    let telemetry = Telemetry::new();
    let admission = Admission { items: items_max, bytes: 1 << 20, model_items: items_max, model_bytes: 1 << 20 };
    let device = Device::new(1, admission, &telemetry);
    let options = ModelOptions {
        curve: CostCurve::new([1_u64, 1, 1, 1].map(Duration::from_micros).to_vec()),
        max_batch: 8,
        max_delay: Duration::ZERO,
        max_call_bytes: 1 << 20,
        stateful,
        item_bytes: 24,
        padding_waste_max: None,
        wide_ratio: None,
    };
    let runtime = ModelRuntime { executable: Arc::clone(&executable), metrics: telemetry.model("test", "1"), costs: Vec::new() };
    let key = device.add_model(("test", "1"), options, runtime);
    let lanes = Lanes::start(&device, &compute, &Vitals::new(&telemetry)).expect("threads");
    let loaded = LoadedModel {
        name: "test".into(),
        version: "1".into(),
        description: "".into(),
        executable,
        framing: Some(FramingRule::new(16_000, 4, 2).expect("a sound rule")),
        segments: None,
        padding_waste_max: None,
        batching: Batching::off(""),
        terms: Arc::default(),
        subject: None,
        kept: None,
        repack: None,
        max_batch: 8,
        max_delay: Duration::ZERO,
        versions: VersionPolicy::All,
        labels: Arc::default(),
        cache: false,
        load_duration: Duration::ZERO,
    };
    let model = Arc::new(Model { loaded, key });
    let kicker = tokio::spawn(Arc::clone(&device).kick_lanes());
    Fixture { device, control, model, drain: Drain::new(), telemetry, _lanes: lanes, kicker }
}

fn options_of(payload: PayloadKind) -> SessionOptions {
    SessionOptions {
        payload,
        pcm: PcmOptions::default(),
        order: Order::InOrder,
        window_items: 4,
        window_bytes: 1 << 20,
        max_item_bytes: 1 << 10,
        idle_timeout: None,
        default_deadline: None,
        overflow: OverflowPolicy::Block,
        max_age: None,
        ends_at: Timestamp::NEVER,
        when_full: WhenFull::Wait,
        on_drain: OnDrain::Stop,
        allowance: None,
    }
}

type TestSession = Session<ReceiverStream<Result<Inbound, Fault>>>;
type Sender = mpsc::Sender<Result<Inbound, Fault>>;

impl Fixture {
    fn session(&self, options: SessionOptions) -> (Sender, TestSession) {
        let (sender, inbound) = mpsc::channel(64);
        let items_max = match options.overflow {
            OverflowPolicy::Block => None,
            OverflowPolicy::DropOldest => Some(options.window_items),
            OverflowPolicy::Latest => Some(1),
        };
        let bytes_max = options.window_bytes;
        let overflow = items_max.map_or(Overflow::Block, |items_max| Overflow::DropOldest { items_max, bytes_max });
        let stream = StreamOptions { overflow, ..StreamOptions::of(self.model.key) };
        let handle = self.device.open(stream).expect("the model is there");
        let metrics = SessionMetrics::open(Arc::new(self.telemetry.method("feed")));
        let guard = self.drain.session().expect("not draining");
        let (model, drain) = (Arc::clone(&self.model), self.drain.clone());
        let inbound = ReceiverStream::new(inbound);
        (sender, Session::new(inbound, handle, model, options, drain, metrics, guard).expect("a sound session"))
    }

    fn ledger(&self) -> Ledger {
        self.device.status(self.model.key).expect("the model is there").ledger
    }

    /// The answer to an item that is queued behind all others has been given, so theirs have been too.
    fn hold_lane(&self) {
        self.control.wait_until_held(1, PATIENCE).expect("a call at the gate");
    }
}

fn item(id: &str, first: f32) -> Inbound {
    let data: Vec<u8> = [first, 1.0, 2.0, 3.0, 4.0, 5.0].iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    let tensor = NamedTensor { name: "in".to_owned(), datatype: None, shape: vec![6], data: data.into() };
    Inbound::Item(ItemRequest { id: id.to_owned(), tensors: Ok(vec![tensor]), deadline: None })
}

fn with_deadline(inbound: Inbound, deadline: Duration) -> Inbound {
    match inbound {
        Inbound::Item(item) => Inbound::Item(ItemRequest { deadline: Some(deadline), ..item }),
        other => other,
    }
}

fn bad_item(id: &str) -> Inbound {
    Inbound::Item(ItemRequest { id: id.to_owned(), tensors: Ok(Vec::new()), deadline: None })
}

async fn send(sender: &Sender, inbound: Inbound) {
    sender.send(Ok(inbound)).await.expect("the session reads");
}

#[expect(clippy::panic, reason = "a helper of tests complains by panicking")]
fn outcome_of(event: &Event) -> (String, Result<f32, FaultKind>) {
    let Event::Result(result) = event else { panic!("expected a result, got {event:?}") };
    let value = result.outcome.as_ref().map(|outputs| outputs[0].iter_f32().expect("FP32").next().expect("elements"));
    (result.id.clone(), value.map_err(Fault::kind))
}

/// Runs a session to its end, and returns its results by id in the order in which they came.
async fn results(session: TestSession) -> Vec<(String, Result<f32, FaultKind>)> {
    let events: Vec<_> = session.collect().await;
    let (last, results) = events.split_last().expect("at least the end");
    assert!(matches!(last, Ok(Event::Completed(_))), "{last:?}");
    results.iter().map(|event| outcome_of(event.as_ref().expect("an event"))).collect()
}

fn ok(id: &str, value: f32) -> (String, Result<f32, FaultKind>) {
    (id.to_owned(), Ok(value))
}

fn err(id: &str, kind: FaultKind) -> (String, Result<f32, FaultKind>) {
    (id.to_owned(), Err(kind))
}

#[tokio::test]
async fn results_come_in_order_with_their_ids_and_a_bad_item_is_answered_in_its_place() {
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("a", 10.0)).await;
    send(&sender, bad_item("b")).await;
    send(&sender, item("c", 30.0)).await;
    drop(sender);
    assert_eq!(results(session).await, [ok("a", 20.0), err("b", FaultKind::Invalid), ok("c", 60.0)]);
    let ledger = fixture.ledger();
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Ok), ledger.outcome(Outcome::Refused)), (3, 2, 1));
}

fn backlog_of(session: TestSession, policy: Unread) -> Backlog<ReceiverStream<Result<Inbound, Fault>>> {
    Backlog::new(Box::new(session), policy).ok().expect("a policy that goes on")
}

#[tokio::test]
async fn a_session_that_nobody_reads_goes_on_to_its_end_and_reports_it_last() {
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options_of(PayloadKind::Tensors));
    let mut backlog = backlog_of(session, Unread::Latest);
    for id in ["a", "b", "c"] {
        send(&sender, item(id, 1.0)).await;
    }
    let skipped = || fixture.telemetry.render().contains("tidemill_results_skipped_total{method=\"feed\"} 2");
    let unread = std::future::poll_fn(|cx| if skipped() { Poll::Ready(()) } else { backlog.poll_unread(cx) });
    tokio::time::timeout(PATIENCE, unread).await.expect("it goes on");
    fixture.drain.begin();
    assert_eq!(std::future::poll_fn(|cx| Poll::Ready(backlog.poll_unread(cx))).await, Poll::Pending);
    let events: Vec<_> = backlog.collect().await;
    let [Ok(Event::Skipped { first_seq: 0, results: 2 }), Ok(newest), Err(fault)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((outcome_of(newest), fault.kind()), (ok("c", 2.0), FaultKind::Unavailable));
    let text = fixture.telemetry.render();
    assert!(text.contains("tidemill_streams_ended_total{method=\"feed\",reason=\"drained\"} 1"), "{text}");
    assert!(text.contains("tidemill_sent_bytes_total{method=\"feed\"} 24"), "what is skipped is not sent: {text}");
}

#[tokio::test]
async fn a_backlog_keeps_a_bounded_number_of_events_that_cannot_be_given_up() {
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options_of(PayloadKind::Tensors));
    let mut backlog = backlog_of(session, Unread::Latest);
    let mut sent = 0;
    loop {
        while sender.try_send(Ok(Inbound::Flush(sent.to_string()))).is_ok() {
            sent += 1;
        }
        // A task that has used up its share of the processor has to wait, as if nothing had come.
        tokio::task::yield_now().await;
        assert_eq!(std::future::poll_fn(|cx| Poll::Ready(backlog.poll_unread(cx))).await, Poll::Pending);
        if sender.capacity() == 0 {
            break;
        }
    }
    assert!((1_024..1_200).contains(&sent), "{sent} flushes were taken in, and nobody reads");
    drop(sender);
    let events: Vec<_> = backlog.collect().await;
    let flushes = events.iter().filter_map(|event| match event {
        Ok(Event::Flushed { id, .. }) => Some(id.clone()),
        _ => None,
    });
    assert!(flushes.eq((0..sent).map(|id| id.to_string())), "in order, and all of them");
    assert!(matches!(events.last(), Some(Ok(Event::Completed(_)))));
}

#[tokio::test]
async fn as_ready_does_not_hold_an_answer_back() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(SessionOptions { order: Order::AsReady, ..options_of(PayloadKind::Tensors) });
    send(&sender, item("slow", 1.0)).await;
    send(&sender, bad_item("quick")).await;
    drop(sender);
    let first = session.next().await.expect("an event").expect("no end");
    assert_eq!(outcome_of(&first), err("quick", FaultKind::Invalid));
    fixture.control.open_gate();
    assert_eq!(results(session).await, [ok("slow", 2.0)]);
}

#[tokio::test]
async fn a_full_window_stops_the_reading() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    for value in 0..10_u8 {
        send(&sender, item("", value.into())).await;
    }
    assert!(futures::poll!(session.next()).is_pending());
    assert_eq!(sender.max_capacity() - sender.capacity(), 6, "four of ten are in the window, six are not read");
    fixture.control.open_gate();
    drop(sender);
    assert_eq!(results(session).await.len(), 10);
}

#[tokio::test]
async fn flushes_that_wait_for_their_turn_fill_the_window_too() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("", 1.0)).await;
    for flush in 0..10_u8 {
        send(&sender, Inbound::Flush(flush.to_string())).await;
    }
    assert!(futures::poll!(session.next()).is_pending());
    assert_eq!(sender.max_capacity() - sender.capacity(), 6, "an item and four of ten flushes are taken in");
    fixture.control.open_gate();
    drop(sender);
    assert_eq!(session.collect::<Vec<_>>().await.len(), 12, "a result, ten confirmations and the end");
}

#[tokio::test]
async fn raw_chunks_become_windows_and_a_flush_is_confirmed_after_its_padded_rest() {
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options_of(PayloadKind::PcmS16le));
    let samples: Vec<u8> = (0..6_i16).flat_map(|sample| (sample * 1024).to_le_bytes()).collect();
    for chunk in samples.chunks(5) {
        send(&sender, Inbound::Chunk(Bytes::copy_from_slice(chunk))).await;
    }
    send(&sender, Inbound::Flush("f".to_owned())).await;
    drop(sender);
    let events: Vec<_> = session.map(|event| event.expect("no fault")).collect().await;
    let windows: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Result(result) = event { result.window } else { None })
        .map(|window| (window.index, window.start_sample, window.end_sample))
        .collect();
    assert_eq!(windows, [(0, 0, 4), (1, 4, 6)]);
    assert_eq!(events[2], Event::Flushed { id: "f".to_owned(), items: 2 });
    let Event::Completed(summary) = events[3] else { panic!("{events:?}") };
    assert_eq!((summary.items, summary.ok, summary.samples, summary.payload_bytes), (2, 2, 6, 12));
}

#[tokio::test]
async fn a_stop_and_a_drain_answer_the_sound_that_the_filter_still_holds() {
    let options = || {
        let pcm = PcmOptions { sample_rate_hz: Some(48_000), ..PcmOptions::default() };
        SessionOptions { pcm, ..options_of(PayloadKind::PcmS16le) }
    };
    // Twenty samples at the model's rate: more windows than may be in flight.
    let chunk = || Inbound::Chunk(vec![0; 2 * 60].into());
    let ends = |events: &[Result<Event, Fault>]| -> Vec<u64> {
        let result = |event: &Result<Event, Fault>| if let Ok(Event::Result(result)) = event { result.window } else { None };
        events.iter().filter_map(result).map(|window| window.end_sample).collect()
    };
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options());
    send(&sender, chunk()).await;
    send(&sender, Inbound::Stop(Fault::invalid("x", "enough"))).await;
    let events: Vec<_> = session.collect().await;
    assert_eq!(ends(&events), [4, 8, 12, 16, 20]);
    assert!(matches!(events.last(), Some(Err(fault)) if fault.message() == "enough"), "{events:?}");

    let (sender, mut session) = fixture.session(options());
    send(&sender, chunk()).await;
    assert!(futures::poll!(session.next()).is_pending(), "the filter waits for more");
    fixture.drain.begin();
    let events: Vec<_> = session.collect().await;
    assert_eq!(ends(&events), [4, 8, 12, 16, 20]);
    assert!(matches!(events.last(), Some(Err(fault)) if fault.kind() == FaultKind::Unavailable), "{events:?}");
}

#[tokio::test]
async fn half_a_sample_at_the_end_is_reported_after_all_answers() {
    let fixture = fixture(false, 100);
    let (sender, session) = fixture.session(options_of(PayloadKind::PcmS16le));
    send(&sender, Inbound::Chunk(Bytes::from_static(&[0; 9]))).await;
    drop(sender);
    let events: Vec<_> = session.collect().await;
    assert!(matches!(events[0], Ok(Event::Result(_))));
    let fault = events[1].as_ref().expect_err("an odd number of bytes");
    assert_eq!((fault.kind(), events.len()), (FaultKind::Invalid, 2));
}

#[tokio::test]
async fn chunks_on_a_stream_of_tensors_end_it_and_so_do_items_among_chunks() {
    let fixture = fixture(false, 100);
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, Inbound::Chunk(Bytes::from_static(&[0; 8]))).await;
    let fault = session.next().await.expect("an end").expect_err("a chunk has no place here");
    assert_eq!(fault.field(), Some("chunk"));
    let (sender, mut session) = fixture.session(options_of(PayloadKind::PcmS16le));
    send(&sender, item("x", 1.0)).await;
    let fault = session.next().await.expect("an end").expect_err("an item has no place here");
    assert_eq!(fault.field(), Some("item"));
}

#[tokio::test]
async fn an_item_expires_while_every_lane_is_busy() {
    let fixture = fixture(false, 100);
    let _timekeeper = Timekeeper::start(&fixture.device, &Vitals::new(&fixture.telemetry)).expect("a thread");
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("runs", 1.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    fixture.hold_lane();
    send(&sender, with_deadline(item("late", 1.0), Duration::from_millis(5))).await;
    send(&sender, item("waits", 2.0)).await;
    drop(sender);
    let mut session = session;
    assert!(futures::poll!(session.next()).is_pending());
    // The ledger shows it: the item has expired although the lane is still held.
    while fixture.ledger().outcome(Outcome::Expired) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(fixture.control.calls(), 1);
    fixture.control.open_gate();
    assert_eq!(results(session).await, [ok("runs", 2.0), err("late", FaultKind::Expired), ok("waits", 4.0)]);
}

/// The outcomes of ten items that come while the first one runs.
async fn ten_while_one_runs(overflow: OverflowPolicy) -> (Fixture, Vec<(String, Result<f32, FaultKind>)>) {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(SessionOptions { overflow, ..options_of(PayloadKind::Tensors) });
    send(&sender, item("0", 0.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    fixture.hold_lane();
    for value in 1..10_u8 {
        send(&sender, item(&value.to_string(), value.into())).await;
    }
    drop(sender);
    assert!(futures::poll!(session.next()).is_pending(), "all ten are read, though the window is four");
    let ledger = fixture.ledger();
    assert_eq!(ledger.received(), 10);
    fixture.control.open_gate();
    let results = results(session).await;
    (fixture, results)
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_window_and_answers_the_others() {
    let (fixture, results) = ten_while_one_runs(OverflowPolicy::DropOldest).await;
    let expected: Vec<_> = (0..10_u8)
        .map(|value| {
            let id = value.to_string();
            if (1..=5).contains(&value) { err(&id, FaultKind::Dropped) } else { ok(&id, 2.0 * f32::from(value)) }
        })
        .collect();
    assert_eq!(results, expected);
    let ledger = fixture.ledger();
    assert_eq!((ledger.outcome(Outcome::Dropped), ledger.outcome(Outcome::Ok), ledger.open()), (5, 5, 0));
}

#[tokio::test]
async fn latest_keeps_only_the_newest_item() {
    let (fixture, results) = ten_while_one_runs(OverflowPolicy::Latest).await;
    let given: Vec<_> = results.iter().filter(|(_, value)| value.is_ok()).map(|(id, _)| id.as_str()).collect();
    assert_eq!(given, ["0", "9"]);
    assert_eq!(results.len(), 10);
    assert_eq!(fixture.ledger().outcome(Outcome::Dropped), 8);
}

#[tokio::test]
async fn an_item_older_than_the_max_age_is_dropped_not_expired() {
    let fixture = fixture(false, 100);
    let _timekeeper = Timekeeper::start(&fixture.device, &Vitals::new(&fixture.telemetry)).expect("a thread");
    fixture.control.close_gate();
    let max_age = Some(Duration::from_millis(5));
    let (sender, mut session) = fixture.session(SessionOptions { max_age, ..options_of(PayloadKind::Tensors) });
    let (first, mut running) = fixture.session(options_of(PayloadKind::Tensors));
    send(&first, item("runs", 1.0)).await;
    drop(first);
    assert!(futures::poll!(running.next()).is_pending());
    fixture.hold_lane();
    send(&sender, item("stale", 1.0)).await;
    drop(sender);
    assert!(futures::poll!(session.next()).is_pending());
    assert_eq!(results(session).await, [err("stale", FaultKind::Dropped)], "though the lane is still held");
    fixture.control.open_gate();
    assert_eq!(results(running).await, [ok("runs", 2.0)]);
}

#[tokio::test]
async fn a_poison_item_and_a_panicking_item_fail_alone() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (first, head) = fixture.session(options_of(PayloadKind::Tensors));
    send(&first, item("head", 1.0)).await;
    drop(first);
    let mut head = head;
    assert!(futures::poll!(head.next()).is_pending());
    fixture.hold_lane();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    for (id, value) in [("a", 1.0), ("poison", FAIL), ("b", 2.0), ("panic", PANIC)] {
        send(&sender, item(id, value)).await;
    }
    drop(sender);
    assert!(futures::poll!(session.next()).is_pending());
    fixture.control.open_gate();
    let expected = [ok("a", 2.0), err("poison", FaultKind::Failed), ok("b", 4.0), err("panic", FaultKind::Failed)];
    assert_eq!(results(session).await, expected);
    assert_eq!(results(head).await.len(), 1);
}

#[tokio::test]
async fn dropping_a_session_cancels_what_is_queued_and_frees_its_stream() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("", 1.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    fixture.hold_lane();
    send(&sender, item("", 2.0)).await;
    send(&sender, item("", 3.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    drop(session);
    assert_eq!((fixture.ledger().outcome(Outcome::Cancelled), fixture.device.streams()), (2, 1));
    fixture.control.open_gate();
    let (sender, session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("after", 1.0)).await;
    drop(sender);
    assert_eq!(results(session).await.len(), 1);
    let ledger = fixture.ledger();
    assert_eq!((ledger.outcome(Outcome::Cancelled), ledger.open(), fixture.device.streams()), (3, 0, 0));
    assert_eq!(fixture.drain.sessions_open(), 0);
}

#[tokio::test]
async fn a_full_queue_refuses_or_holds_back_as_the_session_wants() {
    let fixture = fixture(false, 1);
    fixture.control.close_gate();
    let (sender, mut running) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("runs", 1.0)).await;
    assert!(futures::poll!(running.next()).is_pending());
    fixture.hold_lane();
    send(&sender, item("queued", 2.0)).await;
    drop(sender);
    assert!(futures::poll!(running.next()).is_pending());

    let (sender, mut refused) =
        fixture.session(SessionOptions { when_full: WhenFull::Refuse, ..options_of(PayloadKind::Tensors) });
    send(&sender, item("refused", 3.0)).await;
    let event = refused.next().await.expect("an event").expect("no end");
    let Event::Result(result) = &event else { panic!("{event:?}") };
    let fault = result.outcome.as_ref().expect_err("the queue is full");
    assert_eq!(fault.limit().map(|limit| limit.name), Some("scheduler.max_queued_items"));
    assert!(fault.retry_after().is_some());

    let (sender, mut waits) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("waits", 4.0)).await;
    send(&sender, item("waits too", 5.0)).await;
    drop(sender);
    assert!(futures::poll!(waits.next()).is_pending());
    fixture.control.open_gate();
    assert_eq!(results(running).await, [ok("runs", 2.0), ok("queued", 4.0)]);
    assert_eq!(results(waits).await, [ok("waits", 8.0), ok("waits too", 10.0)]);
    assert_eq!(fixture.ledger().open(), 0);
}

#[tokio::test]
async fn a_drain_answers_what_is_in_flight_and_names_the_reason() {
    let fixture = fixture(false, 100);
    fixture.control.close_gate();
    let (sender, mut session) = fixture.session(options_of(PayloadKind::Tensors));
    send(&sender, item("in flight", 1.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    fixture.drain.begin();
    fixture.device.nudge_all();
    send(&sender, item("too late", 1.0)).await;
    fixture.control.open_gate();
    let first = session.next().await.expect("an event").expect("no end");
    assert_eq!(outcome_of(&first), ok("in flight", 2.0));
    let fault = session.next().await.expect("an end").expect_err("a drain is an end");
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(session.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_and_a_keepalive_breaks_it() {
    let fixture = fixture(false, 100);
    let idle = SessionOptions { idle_timeout: Some(Duration::from_secs(60)), ..options_of(PayloadKind::Tensors) };
    let (sender, mut session) = fixture.session(idle);
    let started = tokio::time::Instant::now();
    let keepalives = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        send(&sender, Inbound::KeepAlive).await;
    };
    let (event, ()) = tokio::join!(session.next(), keepalives);
    let fault = event.expect("an end").expect_err("silence is an end");
    assert_eq!(fault.limit().map(|limit| limit.name), Some("session.idle_timeout_s"));
    let lasted = started.elapsed();
    assert!((Duration::from_secs(110)..Duration::from_secs(111)).contains(&lasted), "{lasted:?}");
}

/// What the holder of a key with this quota may use.
fn allowance(quota: &str) -> Allowance {
    let text = format!("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nquotas.{quota}");
    let keys = Keys::parse(&text).expect("sound");
    let entry = &keys.entries()[0];
    Allowance::of(entry, Tenants::default().account(entry.tenant(), keys.quotas_of_tenant(entry.tenant())))
}

/// The same, with a debt of an hour.
fn debt() -> Allowance {
    let allowance = allowance("items_per_s = 1");
    allowance.force(3_600, 0, clock::now());
    allowance
}

#[tokio::test]
async fn a_session_in_debt_reads_nothing_is_not_silent_and_ends_with_a_drain() {
    let fixture = fixture(false, 100);
    let idle_timeout = Some(Duration::from_nanos(1));
    let options = SessionOptions { allowance: Some(debt()), idle_timeout, ..options_of(PayloadKind::Tensors) };
    let (sender, mut session) = fixture.session(options);
    send(&sender, item("kept back", 1.0)).await;
    assert!(futures::poll!(session.next()).is_pending());
    assert_eq!(fixture.ledger().received(), 0);
    fixture.drain.begin();
    fixture.device.nudge_all();
    let fault = session.next().await.expect("an end").expect_err("a drain is an end");
    assert_eq!(fault.kind(), FaultKind::Unavailable);
}

#[tokio::test]
async fn a_session_in_debt_reads_on_once_its_limit_is_lifted() {
    let (fixture, allowance) = (fixture(false, 100), debt());
    let options = SessionOptions { allowance: Some(allowance.clone()), ..options_of(PayloadKind::Tensors) };
    let (sender, mut session) = fixture.session(options);
    send(&sender, item("waits", 1.0)).await;
    drop(sender);
    assert!(futures::poll!(session.next()).is_pending());
    allowance.set_quotas(&Quotas::default());
    assert_eq!(results(session).await, [ok("waits", 2.0)]);
}

#[tokio::test]
async fn a_session_that_drops_has_items_refused_that_come_too_soon() {
    let fixture = fixture(false, 100);
    let allowance = Some(allowance("items_per_s = 1"));
    let options = SessionOptions { allowance, overflow: OverflowPolicy::Latest, ..options_of(PayloadKind::Tensors) };
    let (sender, session) = fixture.session(options);
    send(&sender, item("in time", 1.0)).await;
    send(&sender, item("too soon", 2.0)).await;
    drop(sender);
    let too_soon = ("too soon".to_owned(), Err(FaultKind::Overloaded));
    assert_eq!(results(session).await, [ok("in time", 2.0), too_soon]);
}

#[tokio::test]
async fn states_do_not_leak_between_streams_that_share_batches() {
    let fixture = fixture(true, 1000);
    let mut running = Vec::new();
    for stream in 1..=8_u8 {
        let (sender, session) = fixture.session(options_of(PayloadKind::Tensors));
        running.push(async move {
            let feeding = async move {
                for step in 0..50_u8 {
                    send(&sender, item(&step.to_string(), f32::from(stream))).await;
                }
            };
            let (results, ()) = tokio::join!(results(session), feeding);
            (stream, results)
        });
    }
    let alone: BTreeMap<u8, Vec<_>> = futures::future::join_all(running).await.into_iter().collect();
    for (stream, results) in alone {
        // The synthetic state adds up its inputs; an item's output is twice the input plus the state before or after it.
        let sum = f32::from(stream) + 15.0;
        let values: Vec<f32> = results.into_iter().map(|(_, outcome)| outcome.expect("a result")).collect();
        let steps: Vec<f32> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(values.len(), 50);
        assert!(steps.iter().all(|step| (step - sum).abs() < 1e-3), "stream {stream}: {steps:?}");
    }
}

#[tokio::test]
async fn an_upload_checks_what_was_declared() {
    let fixture = fixture(false, 100);
    let run = |expect: tidemill::codec::PayloadExpectation, finish: Option<tidemill::codec::PayloadExpectation>| {
        let options =
            UploadOptions { expect, include_results: true, max_results: 10, max_result_bytes: 100_000, max_bytes: 1000 };
        let parts = [UploadPart::Chunk(Bytes::from_static(&[1; 10])), UploadPart::Chunk(Bytes::from_static(&[2; 6]))];
        let parts: Vec<_> = parts.into_iter().chain(finish.map(UploadPart::Finish)).map(Ok).collect();
        let parts = UploadParts::new(futures::stream::iter(parts), &options);
        let handle = fixture.device.open(StreamOptions::of(fixture.model.key)).expect("the model is there");
        let metrics = SessionMetrics::open(Arc::new(fixture.telemetry.method("upload")));
        let guard = fixture.drain.session().expect("not draining");
        let (model, drain) = (Arc::clone(&fixture.model), fixture.drain.clone());
        let session_options = options_of(PayloadKind::PcmS16le);
        let session = Session::new(parts, handle, model, session_options, drain, metrics, guard).expect("a sound session");
        async move { collect_upload(session, &options).await }
    };
    let total = |bytes| tidemill::codec::PayloadExpectation { total_bytes: Some(bytes), ..Default::default() };
    let upload = run(total(16), None).await.expect("as declared");
    assert_eq!((upload.results.len(), upload.summary.items, upload.received.total_bytes), (2, 2, 16));
    for (expect, finish) in [(total(15), None), (total(17), None), (Default::default(), Some(total(17)))] {
        let fault = run(expect, finish).await.expect_err("not as declared");
        assert_eq!(fault.kind(), FaultKind::DataLoss, "{fault}");
    }
    let wrong_crc = tidemill::codec::PayloadExpectation { crc32c: Some(1), ..Default::default() };
    assert_eq!(run(Default::default(), Some(wrong_crc)).await.expect_err("a wrong checksum").kind(), FaultKind::DataLoss);
}
