//! A device in virtual time, without threads or a runtime: lanes, kicker and timekeeper are moved by hand.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
    task::{Context, Waker},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use proptest::prelude::*;

use super::{
    Device, ModelRuntime, Staged, StreamHandle, Submitted, hosted::Job, live::LiveBatch, pulling::Look, state::LaneState,
    waking::EXPIRY_STEP,
};
use crate::{
    domain::{Datatype, ItemInputs, Outcome, Signature, TensorSpec, Timestamp},
    engine::{
        Executable, LaneThreads,
        synthetic::{Script, SyntheticEngine},
    },
    scheduler::{Admission, CostCurve, Executed, Item, ModelOptions, ShapeKey, StreamKey, StreamOptions},
    telemetry::Telemetry,
};

const MS: Duration = Duration::from_millis(1);
const LOTS: Admission = Admission { items: 1000, bytes: 1 << 30, model_items: 1000, model_bytes: 1 << 30 };
const STREAMS: usize = 4;

/// Required, but never called.
static EXECUTABLE: LazyLock<Arc<Executable>> = LazyLock::new(|| {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(1)], batch_axis: Some(0) };
    let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
    let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
    Arc::new(Executable::new(Arc::new(engine), signature, &LaneThreads::device(1)).expect("a sound signature"))
});

#[derive(Debug, Clone)]
struct Arrival {
    gap_us: u64,
    stream: usize,
    deadline_ms: Option<u64>,
    shape: u64,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let gap_us = prop_oneof![Just(0), 0_u64..10, 0_u64..4_000];
    let arrival = (gap_us, 0..STREAMS, proptest::option::weighted(0.2, 1_u64..60), 1_u64..3)
        .prop_map(|(gap_us, stream, deadline_ms, shape)| Arrival { gap_us, stream, deadline_ms, shape });
    proptest::collection::vec(arrival, 1..60)
}

struct World {
    device: Arc<Device>,
    kicker: BoxFuture<'static, ()>,
    streams: Vec<StreamHandle>,
    /// What each lane is running.
    lanes: Vec<Option<LiveBatch>>,
    /// When the timekeeper wakes on its own.
    timer: Timestamp,
    now: Timestamp,
    /// Queued items, by stream and ticket.
    waiting: BTreeMap<(usize, u64), Item<ItemInputs>>,
}

impl World {
    fn new(lanes: usize, max_delay: Duration, stateful: bool) -> Self {
        let telemetry = Telemetry::new();
        let device = Device::new(lanes, LOTS, &telemetry);
        let options = ModelOptions {
            curve: CostCurve::new([1_u32, 2, 4].map(|batch| MS + MS / 4 * batch).to_vec()),
            item_bytes: 100,
            max_batch: 4,
            max_delay,
            max_call_bytes: 1 << 20,
            stateful,
            padding_waste_max: None,
            wide_ratio: None,
        };
        let metrics = telemetry.model("test", "1");
        let runtime = ModelRuntime { executable: Arc::clone(&EXECUTABLE), metrics, costs: Vec::new() };
        let model = device.add_model(("test", "1"), options, runtime);
        let streams = (0..STREAMS).map(|_| device.open(StreamOptions::of(model)).expect("the model is there")).collect();
        let kicker = Arc::clone(&device).kick_lanes().boxed();
        let (lanes, timer, now) = ((0..lanes).map(|_| None).collect(), Timestamp::NEVER, Timestamp::ZERO);
        let mut world = Self { device, kicker, streams, lanes, timer, now, waiting: BTreeMap::new() };
        (0..world.lanes.len()).for_each(|lane| world.look(lane));
        world
    }

    fn submit(&mut self, stream: usize, item: Item<ItemInputs>) {
        self.waiting.insert((stream, item.ticket), item.clone());
        assert_eq!(self.streams[stream].submit(&mut Staged::from_iter([item]), true), Submitted::All);
    }

    fn look(&mut self, lane: usize) {
        let mut shared = self.device.shared.lock();
        if let Look::Found(Job { batch, .. }) = self.device.look(&mut shared, lane, self.now) {
            for entry in &batch.entries {
                let stream = self.streams.iter().position(|stream| stream.key == entry.stream).expect("an open stream");
                assert!(self.waiting.remove(&(stream, entry.item.ticket)).is_some(), "it runs once");
            }
            self.lanes[lane] = Some(batch);
        }
    }

    /// Ends the calls whose time has come, and lets everyone woken do their part.
    fn settle(&mut self) {
        for lane in 0..self.lanes.len() {
            if let Some(batch) = self.lanes[lane].take_if(|batch| batch.ends_at <= self.now) {
                let report = batch.report(Some(MS));
                let outcomes = batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok));
                self.device.finish(&report, outcomes, &Executed::default());
                self.look(lane);
            }
        }
        let mut cx = Context::from_waker(Waker::noop());
        // Once to see the signal, and once after letting the others go first.
        assert!((0..2).all(|_| self.kicker.poll_unpin(&mut cx).is_pending()));
        loop {
            let fires = self.device.rearm.heard() || self.timer <= self.now;
            if fires {
                self.timer = self.device.expire(self.now);
                assert!(self.timer > self.now, "the timekeeper would spin");
            }
            let woken = self.device.shared.lock().lanes.iter().position(|lane| *lane == LaneState::Waking);
            match woken {
                Some(lane) => self.look(lane),
                None if fires => {}
                None => break,
            }
        }
        let mut answers = VecDeque::new();
        for (stream, handle) in self.streams.iter().enumerate() {
            if handle.poll_answers(&mut cx, &mut answers).is_ready() {
                answers.drain(..).for_each(|answer| {
                    assert!(self.waiting.remove(&(stream, answer.seq)).is_some(), "it ends once");
                });
            }
        }
    }

    /// The streams with an item running.
    fn running(&self) -> BTreeSet<StreamKey> {
        self.lanes.iter().flatten().flat_map(|batch| &batch.entries).map(|entry| entry.stream).collect()
    }

    /// When something happens on its own.
    fn next_event(&self) -> Timestamp {
        self.lanes.iter().flatten().map(|batch| batch.ends_at).chain([self.timer]).min().unwrap_or(Timestamp::NEVER)
    }
}

proptest! {
    /// Nothing looks unless it was woken. Still, each item runs, or ends no later than a step after its deadline; and while a
    /// lane is idle no item waits longer than the delay, to the nanosecond.
    #[test]
    fn no_wake_up_is_lost(lanes in 1_usize..4, delay_us in prop_oneof![Just(0), 1_u64..8_000], stateful: bool, arrivals in arrivals()) {
        let delay = Duration::from_micros(delay_us);
        let mut world = World::new(lanes, delay, stateful);
        let mut comes_at = Timestamp::ZERO;
        let mut arrivals = (0..).zip(arrivals).peekable();
        loop {
            world.now = world.next_event().min(comes_at);
            if world.now == Timestamp::NEVER {
                break;
            }
            let now = world.now;
            while let Some((ticket, Arrival { stream, deadline_ms, shape, .. })) = arrivals.next_if(|_| comes_at <= now) {
                let deadline = deadline_ms.map_or(Timestamp::NEVER, |millis| now + Duration::from_millis(millis));
                let (shape, payload) = (ShapeKey(shape), ItemInputs::new());
                let stale_at = Timestamp::NEVER;
                world.submit(stream, Item { ticket, arrived: now, deadline, stale_at, bytes: 100, length: 0, shape, payload });
                comes_at = arrivals.peek().map_or(Timestamp::NEVER, |(_, next)| now + Duration::from_micros(next.gap_us));
            }
            world.settle();
            let (idle, running) = (world.lanes.iter().any(Option::is_none), world.running());
            for ((stream, ticket), item) in &world.waiting {
                prop_assert!(item.due() + EXPIRY_STEP > now, "{ticket} has no answer at {now}, though it was due at {}", item.due());
                let waits_for_lane = !idle || stateful && running.contains(&world.streams[*stream].key);
                prop_assert!(waits_for_lane || item.arrived + delay > now, "{ticket} has waited since {} at {now}", item.arrived);
            }
        }
        prop_assert!(world.waiting.is_empty(), "nothing more happens, yet these wait: {:?}", world.waiting.keys());
    }
}
