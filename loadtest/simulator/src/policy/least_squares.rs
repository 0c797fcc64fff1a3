//! A straight line through the latest calls by least squares, and the largest batch that the head survives, as in BentoML.

use std::collections::VecDeque;

use super::ready::{Order, Ready};
use crate::{
    workload::{NEVER, Workload},
    world::Policy,
};

/// Calls through which the line is drawn.
const CALLS: usize = 50;

pub(crate) struct LeastSquares<'a> {
    workload: &'a Workload,
    ready: Ready<'a>,
    arrived: u32,
    calls: VecDeque<(f64, f64)>,
    base: f64,
    per_item: f64,
}

impl<'a> LeastSquares<'a> {
    /// For a workload with one model. Starts from the true curve's ends, as after a warm-up.
    pub(crate) fn new(workload: &'a Workload) -> Self {
        let model = &workload.models[0];
        let largest = model.batch_max;
        let calls = [1, largest].into_iter().map(|size| (size as f64, model.curve.call(size))).collect();
        let ready = Ready::new(workload, 0, Order::Arrival);
        let mut policy = Self { workload, ready, arrived: 0, calls, base: 0.0, per_item: 0.0 };
        policy.fit();
        policy
    }

    fn fit(&mut self) {
        let count = self.calls.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| self.calls.iter().map(value).sum::<f64>() / count;
        let (size, nanos) = (mean(|call| call.0), mean(|call| call.1));
        let variance: f64 = self.calls.iter().map(|call| (call.0 - size).powi(2)).sum();
        let covariance: f64 = self.calls.iter().map(|call| (call.0 - size) * (call.1 - nanos)).sum();
        // Calls of one size say nothing about the slope.
        if variance > 1e-9 {
            self.per_item = (covariance / variance).max(0.0);
        }
        self.base = (nanos - self.per_item * size).max(0.0);
    }

    fn ends(&self, now: u64, batch: usize) -> u64 {
        now + self.per_item.mul_add(batch as f64, self.base) as u64
    }
}

impl Policy for LeastSquares<'_> {
    fn arrive(&mut self, item: u32) {
        self.arrived = item + 1;
        self.ready.arrive(item);
    }

    fn next_batch(&mut self, now: u64, _lane: usize, batch: &mut Vec<u32>) {
        let mut earliest = NEVER;
        while batch.len() < self.workload.models[0].batch_max
            && let Some(head) = self.ready.first()
        {
            let deadline = self.workload.item(head).deadline;
            if self.ends(now, 1) > deadline {
                self.ready.take_first();
                self.ready.done(head, self.arrived);
                continue;
            }
            if !batch.is_empty() && self.ends(now, batch.len() + 1) > earliest.min(deadline) {
                return;
            }
            earliest = earliest.min(deadline);
            self.ready.take_first();
            batch.push(head);
        }
    }

    fn finish(&mut self, _lane: usize, batch: &[u32], nanos: u64) {
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back((batch.len() as f64, nanos as f64));
        self.fit();
        for item in batch {
            self.ready.done(*item, self.arrived);
        }
    }

    fn next_wakeup(&self, _now: u64, _lane_is_idle: bool) -> u64 {
        NEVER
    }
}
