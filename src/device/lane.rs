//! A lane apart from its thread, and how it makes a model call. Knows nothing of queues.

use std::sync::Arc;

use super::{hosted::ModelRuntime, live::LiveEntry, parts::Delivery};
use crate::{
    clock,
    domain::Timestamp,
    engine::{CallThreads, EngineError, ItemCall, Milestones, PaddingCount, Ran, RunError},
    scheduler::CallTimes,
    telemetry::{LaneMetrics, ModelMetrics, Seldom},
    vitals::Pulse,
};

/// A place to run calls; it has its own instance of each model's engine.
pub(super) struct Lane {
    pub(super) index: usize,
    metrics: LaneMetrics,
    /// Decides which failures are logged; all are counted.
    failures: Seldom,
    /// Its steps: model calls, and everything it does between being woken and waiting again.
    pub(super) pulse: Arc<Pulse>,
}

/// When a call ran, and how many items it had.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallTiming {
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    pub(super) batch_size: u32,
}

impl CallTiming {
    /// How long each part of the call took.
    pub(super) const fn times(self, Milestones { gathered, computed }: Milestones) -> CallTimes {
        CallTimes {
            gather: gathered.since(self.started),
            compute: computed.since(gathered),
            scatter: self.finished.since(computed),
        }
    }
}

/// A call that was made.
pub(super) struct Made<'a> {
    pub(super) outcome: Result<Ran, RunError>,
    pub(super) timing: CallTiming,
    /// What its items were given before the call ended.
    pub(super) delivery: Delivery<'a>,
}

impl Lane {
    pub(super) fn new(index: usize, metrics: LaneMetrics) -> Self {
        Self { index, metrics, failures: Seldom::default(), pulse: Arc::default() }
    }

    /// Runs the model on these items.
    pub(super) fn call<'a>(&self, runtime: &ModelRuntime, entries: &'a [LiveEntry], threads: CallThreads) -> Made<'a> {
        let calls: Vec<ItemCall<'_>> =
            entries.iter().map(|entry| ItemCall { inputs: &entry.item.payload, state: Some(&entry.handle.state) }).collect();
        let started = clock::now();
        self.pulse.begin(started);
        let mut delivery = Delivery::new(entries, started);
        let outcome = runtime.executable.run_in_parts(self.index, &calls, threads, &mut delivery);
        let finished = clock::now();
        let timing = CallTiming { started, finished, batch_size: u32::try_from(entries.len()).unwrap_or(u32::MAX) };
        self.count(&runtime.metrics, timing);
        if let Ok(ran) = &outcome {
            count_padding(&runtime.metrics, ran.padding);
        }
        Made { outcome, timing, delivery }
    }

    /// Logs a failed call of `items` items, now and then, unless the client that sent them is the cause.
    pub(super) fn warn_of(&self, error: &RunError, items: usize, at: Timestamp) {
        // What a client sends is not the operator's concern.
        if matches!(error, RunError::Engine(EngineError::Input(_))) {
            return;
        }
        let Some(left_out) = self.failures.due(at) else { return };
        if items == 1 {
            tracing::warn!(%error, left_out, "a model call failed");
        } else {
            tracing::warn!(%error, items, left_out, "a batch failed; its items are run again one by one");
        }
    }

    fn count(&self, metrics: &ModelMetrics, timing: CallTiming) {
        let compute = timing.finished.since(timing.started);
        metrics.compute.record(compute);
        metrics.batch_size.record(timing.batch_size);
        self.metrics.busy.record(compute);
    }
}

fn count_padding(metrics: &ModelMetrics, padding: PaddingCount) {
    if padding.elements > 0 {
        metrics.input_elements.increment(padding.elements as u64);
        metrics.padding_elements.increment(padding.padded as u64);
    }
}
