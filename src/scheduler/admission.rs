//! How much may be queued, and what a refusal says.

use std::time::Duration;

use super::cost::CostModel;

/// Limits on what may be queued, all models together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Items, all models together.
    pub items: usize,
    /// Input bytes, all models together.
    pub bytes: usize,
    /// Items of one model.
    pub model_items: usize,
    /// Input bytes of one model.
    pub model_bytes: usize,
}

/// The limit that a push ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Configuration key of the limit.
    pub limit: &'static str,
    /// Its value.
    pub value: usize,
    /// When there should be room, from the cost of what is queued.
    pub retry_after: Duration,
}

/// What is queued already, all models together or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub(super) items: usize,
    pub(super) bytes: usize,
}

impl Held {
    pub(super) const fn add(&mut self, bytes: usize) {
        self.items += 1;
        self.bytes += bytes;
    }

    pub(super) const fn remove(&mut self, items: usize, bytes: usize) {
        self.items -= items;
        self.bytes -= bytes;
    }
}

impl Admission {
    /// The limit that one more item of `bytes` bytes would break. An item of any size fits an empty queue.
    pub(super) fn refuses(&self, all: Held, model: Held, bytes: usize) -> Option<(&'static str, usize)> {
        let over = |held: Held, limit: usize| held.bytes > 0 && held.bytes.saturating_add(bytes) > limit;
        if all.items >= self.items {
            Some(("scheduler.max_queued_items", self.items))
        } else if over(all, self.bytes) {
            Some(("scheduler.max_queued_bytes", self.bytes))
        } else if model.items >= self.model_items {
            Some(("scheduler.max_queued_items_per_model", self.model_items))
        } else if over(model, self.model_bytes) {
            Some(("scheduler.max_queued_bytes_per_model", self.model_bytes))
        } else {
            None
        }
    }

    /// Whether a stream that waits may try again.
    pub(super) const fn room(&self, all: Held) -> usize {
        if all.bytes >= self.bytes { 0 } else { self.items.saturating_sub(all.items) }
    }
}

/// How long `items` queued items keep `lanes` lanes busy.
pub(super) fn time_to_drain(items: usize, cost: &CostModel, lanes: usize) -> Duration {
    let calls = items.max(1).div_ceil(cost.cap() * lanes);
    cost.call(cost.cap()).saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX))
}
