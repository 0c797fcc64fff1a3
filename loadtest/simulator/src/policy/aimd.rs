//! Batch size by additive increase and multiplicative decrease against the latency objective, as in Clipper.

use super::ready::{Order, Ready};
use crate::{
    workload::{NEVER, Workload},
    world::Policy,
};

pub(crate) struct Aimd<'a> {
    workload: &'a Workload,
    ready: Ready<'a>,
    arrived: u32,
    limit: f64,
}

impl<'a> Aimd<'a> {
    /// For a workload with one model.
    pub(crate) fn new(workload: &'a Workload) -> Self {
        Self { workload, ready: Ready::new(workload, 0, Order::Arrival), arrived: 0, limit: 1.0 }
    }
}

impl Policy for Aimd<'_> {
    fn arrive(&mut self, item: u32) {
        self.arrived = item + 1;
        self.ready.arrive(item);
    }

    fn next_batch(&mut self, _now: u64, _lane: usize, batch: &mut Vec<u32>) {
        while batch.len() < self.limit as usize
            && let Some(item) = self.ready.take_first()
        {
            batch.push(item);
        }
    }

    fn finish(&mut self, _lane: usize, batch: &[u32], nanos: u64) {
        let slack = |item: &u32| self.workload.item(*item).deadline - self.workload.item(*item).at;
        let objective = batch.iter().map(slack).min().unwrap_or(NEVER);
        if nanos > objective {
            self.limit = (self.limit * 0.9).max(1.0);
        } else if batch.len() == self.limit as usize {
            self.limit = (self.limit + 1.0).min(self.workload.models[0].batch_max as f64);
        }
        for item in batch {
            self.ready.done(*item, self.arrived);
        }
    }

    fn next_wakeup(&self, _now: u64, _lane_is_idle: bool) -> u64 {
        NEVER
    }
}
