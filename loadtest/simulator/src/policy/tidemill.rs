//! The server's own scheduler, driven by virtual time: the very code that serves, with no setting.
//!
//! Nothing else here touches the scheduler.

use std::time::Duration;

use tidemill_domain::{Outcome, Peer, Priority, Timestamp};
use tidemill_scheduler::{
    Admission, CallReport, CostCurve, Item, ModelOptions, Overflow, Queue, ShapeKey, StreamKey, StreamOptions, TenantKey,
};

use crate::{
    curve::Conditions,
    random,
    workload::{Model, NEVER, Stream, Urgency, Workload},
    world::Policy,
};

/// Calls on each lane, at each size; the warm-up takes their median.
const CALLS_MEASURED: usize = 9;

/// How many items a stream that sheds may have waiting.
const QUEUED_MAX: usize = 64;

/// Why a stream can always be opened.
const NEVER_RETIRED: &str = "no model of a simulation is retired";

pub(crate) struct Tidemill<'a> {
    workload: &'a Workload,
    queue: Queue<(), u32>,
    options: Vec<StreamOptions>,
    streams: Vec<StreamKey>,
    /// By item: the stream of an item that is a separate call.
    calls: Vec<StreamKey>,
    /// By lane: the call that runs there.
    running: Vec<Option<CallReport>>,
    ended: Vec<tidemill_scheduler::Ended<(), u32>>,
}

impl<'a> Tidemill<'a> {
    /// A scheduler after its warm-up; `seed` draws the noise of the calls that it measured.
    pub(crate) fn new(workload: &'a Workload, conditions: Conditions, seed: u64) -> Self {
        let admission = Admission { items: usize::MAX, bytes: usize::MAX, model_items: usize::MAX, model_bytes: usize::MAX };
        let mut queue = Queue::new(workload.lanes, admission);
        let add = |(index, model): (usize, &Model)| {
            queue.add_model(ModelOptions {
                curve: measured(model.curve.grid(), conditions, workload.lanes * CALLS_MEASURED, &[seed, index as u64]),
                item_bytes: model.item_bytes,
                max_batch: model.batch_max,
                max_delay: Duration::ZERO,
                max_call_bytes: usize::MAX,
                stateful: model.stateful,
                padding_waste_max: None,
                wide_ratio: None,
            })
        };
        let models: Vec<_> = workload.models.iter().enumerate().map(add).collect();
        let options = |stream: &Stream| StreamOptions {
            model: models[stream.model],
            peer: Peer::default(),
            tenant: TenantKey(stream.tenant),
            weight: 1,
            priority: priority(stream.urgency),
            overflow: if stream.sheds {
                Overflow::DropOldest { items_max: QUEUED_MAX, bytes_max: usize::MAX }
            } else {
                Overflow::Block
            },
        };
        let options: Vec<StreamOptions> = workload.streams.iter().map(options).collect();
        let streams = options.iter().map(|options| queue.open(*options, ()).expect(NEVER_RETIRED)).collect();
        let calls = vec![StreamKey::default(); workload.items.len()];
        Self { workload, queue, options, streams, calls, running: vec![None; workload.lanes], ended: Vec::new() }
    }

    fn is_call(&self, item: u32) -> bool {
        self.workload.streams[self.workload.item(item).stream as usize].calls
    }

    fn stream(&self, item: u32) -> StreamKey {
        if self.is_call(item) { self.calls[item as usize] } else { self.streams[self.workload.item(item).stream as usize] }
    }

    /// A call whose item has been answered ends.
    fn end_call(&mut self, item: u32) {
        if self.is_call(item) {
            self.queue.close(self.calls[item as usize]).for_each(drop);
        }
    }

    fn end_calls(&mut self) {
        for ended in std::mem::take(&mut self.ended) {
            self.end_call(ended.item.payload);
        }
    }
}

/// The result of a warm-up: the median of a few noisy calls at each size.
fn measured(grid: &[f64], conditions: Conditions, calls: usize, labels: &[u64]) -> CostCurve {
    let mut rng = random::rng(0xCA11, labels);
    let mut median = |nanos: &f64| {
        let mut durations: Vec<f64> = (0..calls).map(|_| nanos * random::factor(&mut rng, conditions.noise)).collect();
        durations.sort_by(f64::total_cmp);
        Duration::from_nanos(durations[calls / 2] as u64)
    };
    CostCurve::new(grid.iter().map(&mut median).collect())
}

const fn priority(urgency: Urgency) -> Priority {
    match urgency {
        Urgency::High => Priority::High,
        Urgency::Normal => Priority::Normal,
        Urgency::Low => Priority::Low,
    }
}

fn timestamp(nanos: u64) -> Timestamp {
    if nanos == NEVER { Timestamp::NEVER } else { Timestamp::from_nanos(nanos) }
}

impl Policy for Tidemill<'_> {
    fn arrive(&mut self, index: u32) {
        let item = self.workload.item(index);
        let queued = Item {
            ticket: u64::from(index),
            arrived: timestamp(item.at),
            deadline: timestamp(item.deadline),
            stale_at: Timestamp::NEVER,
            bytes: item.bytes,
            length: 0,
            shape: ShapeKey(item.shape),
            payload: index,
        };
        if self.is_call(index) {
            let options = self.options[item.stream as usize];
            self.calls[index as usize] = self.queue.open(options, ()).expect(NEVER_RETIRED);
        }
        let pushed = self.queue.push(self.stream(index), queued, &mut self.ended);
        debug_assert!(pushed.is_ok(), "admission has no limit here");
        self.end_calls();
    }

    fn next_batch(&mut self, now: u64, lane: usize, batch: &mut Vec<u32>) {
        if let Some(formed) = self.queue.next_batch(timestamp(now), &mut self.ended) {
            batch.extend(formed.entries.iter().map(|entry| entry.item.payload));
            self.running[lane] = Some(formed.report(None));
        }
        self.end_calls();
    }

    fn finish(&mut self, lane: usize, batch: &[u32], nanos: u64) {
        let Some(report) = self.running[lane].take() else { return };
        let report = CallReport { took: Some(Duration::from_nanos(nanos)), ..report };
        let streams: Vec<_> = batch.iter().map(|item| (self.stream(*item), Outcome::Ok)).collect();
        self.queue.finish(&report, streams);
        batch.iter().for_each(|item| self.end_call(*item));
    }

    fn next_wakeup(&self, now: u64, _lane_is_idle: bool) -> u64 {
        self.queue.next_wakeup(timestamp(now)).map_or(NEVER, Timestamp::as_nanos)
    }

    fn wake(&mut self, now: u64) {
        self.queue.expire(timestamp(now), &mut self.ended, &mut Vec::new());
        self.end_calls();
    }
}
