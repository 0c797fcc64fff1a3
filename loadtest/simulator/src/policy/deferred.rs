//! Batches are held back until they cannot grow any more without losing their head, as in Symphony. Knows the true curve.

use super::ready::{Order, Ready};
use crate::{
    workload::{NEVER, Workload},
    world::Policy,
};

/// Margin for noise, relative to a call.
const MARGIN: f64 = 1.1;

pub(crate) struct Deferred<'a> {
    workload: &'a Workload,
    ready: Ready<'a>,
    arrived: u32,
}

impl<'a> Deferred<'a> {
    /// For a workload with one model.
    pub(crate) fn new(workload: &'a Workload) -> Self {
        Self { workload, ready: Ready::new(workload, 0, Order::Deadline), arrived: 0 }
    }

    fn nanos(&self, batch: usize) -> u64 {
        (self.workload.models[0].curve.call(batch) * MARGIN) as u64
    }

    /// When one more item would begin to cost the head its deadline.
    fn starts(&self, deadline: u64) -> u64 {
        let more = self.ready.len() + 1;
        if more > self.workload.models[0].batch_max { 0 } else { deadline.saturating_sub(self.nanos(more)) }
    }
}

impl Policy for Deferred<'_> {
    fn arrive(&mut self, item: u32) {
        self.arrived = item + 1;
        self.ready.arrive(item);
    }

    fn next_batch(&mut self, now: u64, _lane: usize, batch: &mut Vec<u32>) {
        let deadline = loop {
            let Some(head) = self.ready.first() else { return };
            let deadline = self.workload.item(head).deadline;
            if now + self.nanos(1) <= deadline {
                break deadline;
            }
            self.ready.take_first();
            self.ready.done(head, self.arrived);
        };
        if now < self.starts(deadline) {
            return;
        }
        while batch.len() < self.workload.models[0].batch_max
            && (batch.is_empty() || now + self.nanos(batch.len() + 1) <= deadline)
            && let Some(item) = self.ready.take_first()
        {
            batch.push(item);
        }
    }

    fn finish(&mut self, _lane: usize, batch: &[u32], _nanos: u64) {
        for item in batch {
            self.ready.done(*item, self.arrived);
        }
    }

    fn next_wakeup(&self, _now: u64, lane_is_idle: bool) -> u64 {
        let head = self.ready.first().filter(|_| lane_is_idle);
        head.map_or(NEVER, |head| self.starts(self.workload.item(head).deadline))
    }
}
