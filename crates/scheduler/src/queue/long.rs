//! Calls that are long compared with others: which those are, and when they may have an ordinary lane or its core.

use std::time::Duration;

use tidemill_domain::{Priority, Timestamp};

use super::{Queue, STARVATION_MAX, model::ModelQueue};
use crate::keys::{ModelKey, StreamKey};

/// A call is long if others take less than its own time divided by this.
const LONG_CALL: u32 = 10;

/// How long after a short call's item the lanes are kept from all being given to long calls.
pub(super) const SHORT_CALLS_MEMORY: Duration = Duration::from_secs(1);

impl<H: Clone, P> Queue<H, P> {
    /// Items of a model that run on long lanes: they keep no lane busy.
    pub(super) fn on_long_lanes(&self, model: ModelKey) -> usize {
        self.calls.on_long_lanes().iter().filter(|call| call.model == model).map(|call| call.items).sum()
    }

    /// Whether this model's next call would make items of others wait many times as long as their own call takes.
    pub(super) fn is_long(&self, model: &ModelQueue, priority: Priority, now: Timestamp) -> bool {
        if self.lanes == 1 && self.long_lanes == 0 {
            return false;
        }
        let shortest = self.models.values().filter_map(|model| model.costs.shortest_since(now - SHORT_CALLS_MEMORY)).min();
        shortest.is_some_and(|shortest| self.first_is_long(model, priority, shortest).is_some())
    }

    /// The first stream of this priority, if a call of its head is long compared with one that takes `shortest`.
    pub(super) fn first_is_long(&self, model: &ModelQueue, priority: Priority, shortest: Duration) -> Option<StreamKey> {
        let (_, stream) = model.ready.first(priority)?;
        let head = self.head(stream)?;
        (model.costs.of(head.shape).call(1) > shortest * LONG_CALL).then_some(stream)
    }

    /// Whether a lane may run a long call. The last one may not. If there are long lanes, none may, unless all lanes have been
    /// busy for a while and the long calls get less than half a core each.
    pub(super) fn may_fill_lane(&self, now: Timestamp) -> bool {
        let long_ones = self.calls.on_lanes().iter().filter(|call| call.long).count();
        if self.lanes > 1 && long_ones + 1 >= self.lanes {
            return false;
        }
        let is_squeezed = || self.calls.on_long_lanes().iter().any(|call| now > call.late_at());
        self.long_lanes == 0 || self.lanes_are_never_idle(now) && is_squeezed()
    }

    /// Whether a lane must leave its core to a call on a long lane that has waited too long for one.
    pub(super) fn owes_a_core(&self, now: Timestamp) -> bool {
        if self.long_lanes == 0 {
            return false;
        }
        let overdue = self.calls.on_long_lanes().iter().filter(|call| now > call.overdue_at()).count();
        let at_least = if self.lanes > 1 { 1 } else { 0 };
        overdue > 0
            && self.lanes_are_never_idle(now)
            && self.calls.on_lanes().len() >= self.lanes.saturating_sub(overdue).max(at_least)
    }

    /// Whether anything ready has a call that is not long.
    pub(super) fn leaves_short(&self, now: Timestamp) -> bool {
        let is_short = |(priority, key): (Priority, ModelKey)| {
            let model = &self.models[key];
            !self.is_long(model, priority, now) || self.stands_before_shorter(model, priority, now).is_some()
        };
        let ready = |priority: Priority| self.turns[priority as usize].iter().map(move |(_, key)| (priority, key));
        Priority::ALL.into_iter().flat_map(ready).any(is_short)
    }

    pub(super) fn lanes_are_never_idle(&self, now: Timestamp) -> bool {
        now.since(self.idle_at) > STARVATION_MAX
    }

    /// The first stream of this priority, if its head's call is long compared with others in demand for the same model, and
    /// others are ready.
    pub(super) fn stands_before_shorter(&self, model: &ModelQueue, priority: Priority, now: Timestamp) -> Option<StreamKey> {
        let shortest = model.costs.shortest_since(now - SHORT_CALLS_MEMORY).filter(|_| model.ready.len() > 1)?;
        self.first_is_long(model, priority, shortest)
    }

    /// Takes a ready stream out for the length of a decision, so that those behind it can be seen.
    pub(super) fn set_aside(&mut self, key: StreamKey) {
        let stream = &mut self.streams[key];
        let (model, priority, seat) = (stream.options.model, stream.options.priority, stream.seat(key));
        self.models[model].ready.leave(&mut stream.flow, seat);
        self.follow(model, priority, false);
    }
}
