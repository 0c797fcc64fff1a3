//! Long lanes: threads for calls that are long beside others.
//!
//! A call cannot be interrupted, but the system can take its core away. A lane that comes upon a long call gives it to an idle long lane,
//! whose thread leaves its core to whatever else wants it, and looks on for work of its own. A long lane that has ended a call
//! looks for the next one by itself.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{Handoff, LiveEnded, Shared, Taken, answer_ended, models::Repaired, nudge};
use crate::{
    clock,
    domain::Timestamp,
    scheduler::{batch::LaneKind, mailbox::Mailbox},
};

/// What the long lanes are given.
pub(super) struct LongLanes {
    idle: Vec<usize>,
    /// By lane: what it was given and has not taken.
    given: Box<[Option<Taken>]>,
}

impl LongLanes {
    pub(super) fn new(lanes: usize) -> Self {
        Self { idle: Vec::with_capacity(lanes), given: (0..lanes).map(|_| None).collect() }
    }

    /// Gives a batch that is for a long lane to an idle one, which is to be woken. Others stay with whoever took them.
    pub(super) fn give(&mut self, taken: Option<Taken>) -> (Option<Taken>, Option<usize>) {
        let Some((batch, _)) = &taken else { return (None, None) };
        if batch.lane == LaneKind::Ordinary {
            return (taken, None);
        }
        let Some(lane) = self.idle.pop() else { return (taken, None) };
        self.given[lane] = taken;
        (None, Some(lane))
    }
}

impl Shared {
    /// As [`Shared::take_batch`], but the batch may be for a long lane, if one is idle.
    pub(super) fn take_batch_of_two(
        &mut self,
        now: Timestamp,
        ended: &mut Vec<LiveEnded>,
        unblocked: &mut Vec<Arc<Mailbox>>,
    ) -> Option<Taken> {
        // Once the queue is closed, long lanes end as soon as they are idle.
        if self.long_lanes.idle.is_empty() || self.closed {
            return self.take_batch(now, ended, unblocked);
        }
        let batch = self.scheduler.next_batch_of_two(now, ended);
        self.scheduler.take_unblocked(unblocked);
        self.with_runtime(batch?)
    }
}

impl Handoff {
    /// Waits for a long call and takes it. `None` once the queue is closed.
    pub(in crate::scheduler) fn next_long_batch(&self, lane: usize) -> Option<Taken> {
        let mut shared = self.shared.lock();
        // A lane may have left its core to the call that is over now.
        let wake = shared.lanes_to_wake(1);
        MutexGuard::unlocked(&mut shared, || self.wake_lanes(wake));
        loop {
            if let Some(taken) = self.look_for_long(&mut shared, clock::now()) {
                return Some(taken);
            }
            if shared.closed {
                return None;
            }
            shared.long_lanes.idle.push(lane);
            while shared.long_lanes.given[lane].is_none() && !shared.closed {
                self.long_lane_wakes[lane].wait(&mut shared);
            }
            if let Some(taken) = shared.long_lanes.given[lane].take() {
                return Some(taken);
            }
            shared.long_lanes.idle.retain(|idle| *idle != lane);
        }
    }

    fn look_for_long(&self, shared: &mut MutexGuard<'_, Shared>, now: Timestamp) -> Option<Taken> {
        while !shared.closed {
            let (mut ended, mut unblocked) = (Vec::new(), Vec::new());
            let batch = shared.scheduler.next_long_batch(now, &mut ended);
            shared.scheduler.take_unblocked(&mut unblocked);
            let taken = batch.and_then(|batch| shared.with_runtime(batch));
            let repaired = shared.take_repaired();
            if taken.is_none() && ended.is_empty() && unblocked.is_empty() && repaired.is_none() {
                break;
            }
            MutexGuard::unlocked(shared, || {
                answer_ended(ended, now);
                nudge(&unblocked);
                Repaired::report(repaired);
            });
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    pub(super) fn wake_long_lane(&self, lane: Option<usize>) {
        if let Some(lane) = lane {
            self.long_lane_wakes[lane].notify_one();
        }
    }
}
