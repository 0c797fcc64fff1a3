//! Which threads are woken, and when.
//!
//! A push wakes a lane only if one is idle, and another only if more is queued than the waking lanes will take. While batches are
//! forming (the last had more than two items), the wake goes through the kicker, a task that first lets the other ready sessions
//! push: that makes batches a fifth larger. A lone item is not delayed by it. A lane that leaves work behind wakes the next. One
//! that becomes idle while something is held back makes sure that the timekeeper wakes a lane when the hold ends.

use std::{sync::Arc, time::Duration};

use super::{
    after::After,
    signal::yield_once,
    state::{Device, LaneState, Shared},
};
use crate::{
    domain::Timestamp,
    scheduler::{CostModel, ModelKey},
};

/// Batches larger than this show that items keep arriving, so that delaying a wake pays.
pub(super) const FLOWING_BATCH: usize = 2;

/// Items that expire within this long of each other are answered together. Under overload many expire, and each time the
/// timekeeper wakes it takes a core from a lane. The end of a hold is never delayed.
pub(super) const EXPIRY_STEP: Duration = Duration::from_millis(1);

impl Shared {
    /// Gets newly queued items of a model run, if a lane is idle.
    pub(super) fn call_lane(&mut self, model: ModelKey, after: &mut After) {
        if self.idle.is_empty() {
            return;
        }
        after.loan = self.borrow_lane(model, after);
        if after.loan.is_some() {
            return;
        }
        if self.last_batch > FLOWING_BATCH {
            after.kick = !std::mem::replace(&mut self.kicked, true);
        } else {
            let cap = self.queue.cost(model).map_or(1, CostModel::cap);
            after.wake = self.lane_to_wake(cap);
        }
    }

    /// Chooses an idle lane to wake if more is queued than the waking lanes will take, at `cap` items each.
    pub(super) fn lane_to_wake(&mut self, cap: usize) -> Option<usize> {
        if self.idle.is_empty() || self.queue.queued() <= cap * self.waking || !self.queue.has_ready() {
            return None;
        }
        let lane = self.idle.pop()?;
        self.lanes[lane] = LaneState::Waking;
        self.waking += 1;
        Some(lane)
    }

    /// Whether the timekeeper must be woken, because something is due before its sleep ends.
    pub(super) fn wakes_earlier(&self, now: Timestamp) -> bool {
        self.next_wakeup(now) < self.armed
    }

    /// When the timekeeper has something to do next.
    fn next_wakeup(&self, now: Timestamp) -> Timestamp {
        let expiry = self.queue.next_alarm().map_or(Timestamp::NEVER, |alarm| alarm.round_up(EXPIRY_STEP));
        expiry.min(self.queue.next_hold(now).unwrap_or(Timestamp::NEVER))
    }
}

impl Device {
    /// The kicker: run it as one task for as long as the server lives, and again if it panics.
    pub async fn kick_lanes(self: Arc<Self>) {
        // A signal that an earlier run took and did not act on.
        if std::mem::take(&mut self.shared.lock().kicked) {
            self.kick.set();
        }
        loop {
            self.kick.wait().await;
            yield_once().await;
            self.act(|shared, after| {
                shared.kicked = false;
                after.wake = shared.lane_to_wake(1);
            });
        }
    }

    /// Answers what has expired by `now`, wakes a lane for batches whose hold has ended, and returns when to call again;
    /// [`Timestamp::NEVER`] if only after a push.
    pub(super) fn expire(&self, now: Timestamp) -> Timestamp {
        self.act(|shared, after| {
            shared.queue.expire(now, &mut after.ended, &mut after.nudged);
            shared.queue.take_unblocked(&mut after.nudged);
            if shared.queue.hold_is_over(now) {
                after.wake = shared.lane_to_wake(1);
            }
            shared.armed = shared.next_wakeup(now);
            shared.armed
        })
    }

    /// Makes every session look again, though there is no answer.
    pub fn nudge_all(&self) {
        self.act(|shared, after| after.nudged.extend(shared.queue.handles().cloned()));
    }

    /// From now on, no batch waits for more items.
    pub fn drain(&self) {
        self.act(|shared, after| {
            shared.queue.drain();
            after.wake = shared.lane_to_wake(1);
        });
    }

    /// Lanes end once nothing is queued, and no batch waits for more items.
    pub(super) fn close(&self) {
        {
            let mut shared = self.shared.lock();
            shared.closed = true;
            shared.queue.drain();
            shared.queue.end_long_lanes();
        }
        for wake in self.lane_wakes.iter().chain(&self.long_lane_wakes) {
            wake.notify_all();
        }
    }
}
