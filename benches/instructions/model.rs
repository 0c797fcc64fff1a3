//! From an item's check to its answer, without a session: the hand-off, the lane, the model call.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use tidemill::{
    device::{Staged, StreamHandle, Submitted},
    domain::{Answer, ItemInputs, Priority, Signature, Timestamp},
    engine::{CallThreads, ItemCall, StreamState},
    scheduler::{Item, ShapeKey},
    telemetry::{ModelMetrics, Telemetry},
};

use crate::{
    BATCH, BYTES, TURNS,
    device::{Bench, data, executable},
    identity::tensor,
    meter::{case, counted},
};

pub(crate) fn run() {
    check_and_submit();
    for (name, items, stateful) in
        [("model_call_1_item", 1, false), ("model_call_16_items", BATCH, false), ("model_call_16_stateful_items", BATCH, true)]
    {
        model_call(name, items, stateful);
    }
    for (name, items, stateful) in
        [("lane_turn_1_item", 1, false), ("lane_turn_16_items", BATCH, false), ("lane_turn_16_stateful_items", BATCH, true)]
    {
        lane_turn(name, items, stateful);
    }
    metrics();
}

fn checked(signature: &Signature, data: &Bytes) -> ItemInputs {
    signature.check(vec![tensor(data)]).expect("a sound item")
}

fn item(ticket: u64, payload: ItemInputs) -> Item<ItemInputs> {
    Item {
        ticket,
        arrived: tidemill::clock::now(),
        deadline: Timestamp::NEVER,
        stale_at: Timestamp::NEVER,
        bytes: BYTES,
        length: 0,
        shape: ShapeKey::default(),
        payload,
    }
}

/// A device with open streams, and a way to send an item of each through it.
struct Streams {
    bench: Bench,
    handles: Vec<StreamHandle>,
    data: Bytes,
    staged: Staged,
    answers: VecDeque<Answer>,
    ticket: u64,
}

impl Streams {
    fn new(streams: usize, stateful: bool) -> Self {
        let bench = Bench::new(stateful);
        let handles = (0..streams).map(|_| bench.open()).collect();
        Self { bench, handles, data: data(), staged: Staged::new(), answers: VecDeque::new(), ticket: 0 }
    }

    fn submit(&mut self) {
        self.ticket += 1;
        for handle in &self.handles {
            self.staged.push(item(self.ticket, checked(self.bench.model.signature(), &self.data)));
            assert_eq!(handle.submit(&mut self.staged, false), Submitted::All);
        }
    }

    fn fetch(&mut self) {
        for handle in &self.handles {
            assert!(handle.poll_answers(&mut Context::from_waker(Waker::noop()), &mut self.answers).is_ready());
        }
        let size = u32::try_from(self.handles.len()).expect("a small batch");
        let all = self.answers.drain(..).all(|answer| answer.outcome.is_ok() && answer.timing.batch_size == size);
        assert!(all, "one batch of {size} that worked");
    }
}

fn check_and_submit() {
    let mut streams = Streams::new(BATCH, false);
    case("check_and_submit", BATCH, TURNS, || {
        counted(|| streams.submit());
        streams.bench.turn();
        streams.fetch();
    });
}

/// Choose, gather, call, scatter, finish, leave the answers.
fn lane_turn(name: &str, items: usize, stateful: bool) {
    let mut streams = Streams::new(items, stateful);
    case(name, items, TURNS, || {
        streams.submit();
        counted(|| streams.bench.turn());
        streams.fetch();
    });
}

/// Gather, copy, scatter.
fn model_call(name: &str, items: usize, stateful: bool) {
    let executable = executable(stateful);
    let inputs: Vec<ItemInputs> = (0..items).map(|_| checked(executable.signature(), &data())).collect();
    let states: Vec<StreamState> = (0..items).map(|_| StreamState::default()).collect();
    let calls: Vec<_> = inputs.iter().zip(&states).map(|(inputs, state)| ItemCall { inputs, state: Some(state) }).collect();
    case(name, items, TURNS, || {
        let ran = counted(|| executable.run(0, &calls, CallThreads::One).expect("a sound call"));
        assert_eq!(ran.outputs.len(), items);
    });
}

/// The counters kept about a batch and its items along the way.
fn metrics() {
    fn record(metrics: &ModelMetrics, items: usize) {
        metrics.batch(tidemill::domain::CloseReason::Full).increment(1);
        metrics.batch_occupancy.record(1.0);
        metrics.batch_size.record(16.0);
        metrics.compute.record(Duration::from_millis(1));
        metrics.queue_wait(Priority::Normal).record_all((0..items).map(|_| Duration::from_micros(300)));
        for _ in 0..items {
            metrics.item_time.record(Duration::from_micros(1_400));
        }
    }
    let telemetry = Telemetry::new();
    let metrics = telemetry.model("identity", "1");
    for (name, items) in [("metrics_batch_of_1", 1), ("metrics_batch_of_16", BATCH)] {
        case(name, items, TURNS, || counted(|| record(&metrics, items)));
    }
}
