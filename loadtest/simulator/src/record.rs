//! The figures of a run: answers in time, waits, batch sizes, lane time and, on request, a line for each call.

use std::fmt::Write as _;

use serde::Serialize;

use crate::workload::{NEVER, Workload};

/// A call as it starts; its end is known by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) started: u64,
    pub(crate) nanos: u64,
    pub(crate) lane: usize,
    pub(crate) items: &'a [u32],
}

/// Collects calls.
#[derive(Default)]
pub(crate) struct Recorder<'a> {
    on_time: usize,
    answered: usize,
    calls: usize,
    batched: usize,
    busy: u64,
    /// When the last call ends.
    ends: u64,
    waits: Vec<u64>,
    log: Option<&'a mut dyn FnMut(&str)>,
}

/// A run in numbers. Items that did not arrive within the counted time are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Answers within their deadline, as a share of the items offered.
    pub(crate) goodput: f64,
    /// Items that were run at all, as a share of those offered.
    pub(crate) answered: f64,
    pub(crate) wait_p50_ms: f64,
    pub(crate) wait_p99_ms: f64,
    pub(crate) mean_batch: f64,
    /// Share of all lanes' time during which calls ran.
    pub(crate) lane_time: f64,
}

impl<'a> Recorder<'a> {
    /// Passes each call as a line to `log`.
    pub(crate) fn with_log(log: &'a mut dyn FnMut(&str)) -> Self {
        Self { log: Some(log), ..Self::default() }
    }

    pub(crate) fn call(&mut self, workload: &Workload, call: &Call<'_>) {
        let ends = call.started + call.nanos;
        let mut late = 0;
        for item in call.items.iter().map(|index| workload.item(*index)) {
            let in_time = item.deadline == NEVER || ends <= item.deadline;
            late += usize::from(!in_time);
            if workload.counted.contains(&item.at) {
                self.answered += 1;
                self.on_time += usize::from(in_time);
                self.waits.push(call.started - item.at);
            }
        }
        self.ends = self.ends.max(ends);
        self.calls += 1;
        self.batched += call.items.len();
        self.busy += call.nanos.min(workload.end.saturating_sub(call.started));
        if let Some(log) = &mut self.log {
            log(&line(call, late));
        }
    }

    pub(crate) fn outcome(mut self, workload: &Workload) -> Outcome {
        let offered = workload.counted_items().max(1) as f64;
        self.waits.sort_unstable();
        let quantile = |share: f64| {
            let at = (self.waits.len() as f64 * share) as usize;
            self.waits.get(at.min(self.waits.len().saturating_sub(1))).map_or(0.0, |nanos| *nanos as f64 / 1e6)
        };
        Outcome {
            goodput: self.on_time as f64 / offered,
            answered: self.answered as f64 / offered,
            wait_p50_ms: quantile(0.5),
            wait_p99_ms: quantile(0.99),
            mean_batch: self.batched as f64 / self.calls.max(1) as f64,
            lane_time: self.busy as f64 / (workload.end.min(self.ends).max(1) as f64 * workload.lanes as f64),
        }
    }
}

fn line(call: &Call<'_>, late: usize) -> String {
    let (size, lane) = (call.items.len(), call.lane);
    let mut line = format!("at_ns={} lane={lane} size={size} took_ns={} late={late} items=", call.started, call.nanos);
    for (index, item) in call.items.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(line, "{comma}{item}");
    }
    line
}
