//! The server's own scheduler, driven by virtual time: the very code that serves, with no setting.
//!
//! Nothing else here touches the scheduler.

use std::time::Duration;

use tidemill::{
    domain::{Outcome, Timestamp},
    scheduler::{Admission, CostCurve, Item, ModelKey, ModelOptions, Scheduler, ShapeKey, StreamKey, StreamOptions},
};

use crate::{
    curve::Conditions,
    random,
    workload::{NEVER, Workload},
    world::Policy,
};

/// Calls of which the warm-up takes the median, at each size.
const CALLS_MEASURED: usize = 9;

pub(crate) struct Tidemill<'a> {
    workload: &'a Workload,
    scheduler: Scheduler<(), u32>,
    models: Vec<ModelKey>,
    streams: Vec<StreamKey>,
}

impl<'a> Tidemill<'a> {
    /// A scheduler after its warm-up; `seed` draws the noise of the calls that it measured.
    pub(crate) fn new(workload: &'a Workload, conditions: Conditions, seed: u64) -> Self {
        let admission = Admission { items: usize::MAX, bytes: usize::MAX, model_items: usize::MAX, model_bytes: usize::MAX };
        let mut scheduler = Scheduler::new(workload.lanes, admission);
        let add = |(index, model): (usize, &crate::workload::Model)| {
            scheduler.add_model(ModelOptions {
                curve: measured(model.curve.grid(), conditions, &[seed, index as u64]),
                max_batch: model.batch_max,
                max_delay: Duration::ZERO,
                max_call_bytes: usize::MAX,
                stateful: model.stateful,
            })
        };
        let models: Vec<_> = workload.models.iter().enumerate().map(add).collect();
        let streams = workload
            .streams
            .iter()
            .map(|stream| scheduler.open(StreamOptions { model: models[stream.model] }, ()))
            .collect();
        Self { workload, scheduler, models, streams }
    }

    fn stream(&self, item: u32) -> StreamKey {
        self.streams[self.workload.item(item).stream as usize]
    }
}

/// What a warm-up finds: the median of a few noisy calls at each size.
fn measured(grid: &[f64], conditions: Conditions, labels: &[u64]) -> CostCurve {
    let mut rng = random::rng(0xCA11, labels);
    let mut median = |nanos: &f64| {
        let mut calls: Vec<f64> = (0..CALLS_MEASURED).map(|_| nanos * random::factor(&mut rng, conditions.noise)).collect();
        calls.sort_by(f64::total_cmp);
        Duration::from_nanos(calls[CALLS_MEASURED / 2] as u64)
    };
    CostCurve::new(grid.iter().map(&mut median).collect())
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
            bytes: item.bytes,
            shape: ShapeKey(item.shape),
            payload: index,
        };
        let pushed = self.scheduler.push(self.stream(index), queued);
        debug_assert!(pushed.is_ok(), "admission has no limit here");
    }

    fn next_batch(&mut self, now: u64, _lane: usize, batch: &mut Vec<u32>) {
        if let Some(formed) = self.scheduler.next_batch(timestamp(now), &mut Vec::new()) {
            batch.extend(formed.entries.iter().map(|entry| entry.item.payload));
        }
    }

    fn finish(&mut self, _lane: usize, batch: &[u32], nanos: u64) {
        let model = self.models[self.workload.model_of(batch[0])];
        self.scheduler.observe(model, batch.len(), Duration::from_nanos(nanos));
        let streams: Vec<_> = batch.iter().map(|item| (self.stream(*item), Outcome::Ok)).collect();
        self.scheduler.finish(model, streams);
    }

    fn next_wakeup(&self, _lane_is_idle: bool) -> u64 {
        self.scheduler.next_wakeup().map_or(NEVER, Timestamp::as_nanos)
    }

    fn wake(&mut self, now: u64) {
        self.scheduler.expire(timestamp(now), &mut Vec::new(), &mut Vec::new());
    }
}
