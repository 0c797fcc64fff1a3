//! Long lanes: threads for calls that are long compared with others.
//!
//! A call cannot be interrupted, but the system can take its core away. A lane that takes a long call hands it to an idle long
//! lane, whose thread yields its core to anything else that wants it, and goes on looking for work of its own. A long lane that
//! finishes a call looks for the next one itself.

use parking_lot::MutexGuard;

use super::{
    after::After,
    hosted::Job,
    state::{Device, Shared},
};
use crate::{clock, domain::Timestamp};

impl Shared {
    /// As [`Shared::take_batch`], except that the batch may be for a long lane if one is idle.
    pub(super) fn take_batch_of_two(&mut self, now: Timestamp, after: &mut After) -> Option<Job> {
        // Once the queue is closed, long lanes end as soon as they are idle.
        if self.long_lanes.idle.is_empty() || self.closed {
            return self.take_batch(now, after);
        }
        let batch = self.queue.next_batch_of_two(now, &mut after.ended);
        self.job_of(batch, after)
    }

    /// Passes a batch meant for a long lane on to an idle one. Any other is returned.
    pub(super) fn pass_on(&mut self, job: Job, after: &mut After) -> Option<Job> {
        match self.long_lanes.give(job) {
            Ok(lane) => {
                after.wake_long = Some(lane);
                None
            }
            Err(job) => Some(job),
        }
    }

    fn take_long_batch(&mut self, now: Timestamp, after: &mut After) -> Option<Job> {
        let batch = self.queue.next_long_batch(now, &mut after.ended);
        self.job_of(batch, after)
    }
}

impl Device {
    /// Waits for a long call and takes it. `None` once the queue is closed.
    pub(super) fn next_long_batch(&self, lane: usize) -> Option<Job> {
        let mut shared = self.shared.lock();
        // A lane may have left its core to the call that has just ended.
        self.act_within(&mut shared, |shared, after| after.wake = shared.lane_to_wake(1));
        loop {
            if let Some(job) = self.look_for_long(&mut shared, clock::now()) {
                return Some(job);
            }
            if shared.closed {
                return None;
            }
            shared.long_lanes.idle.push(lane);
            while shared.long_lanes.given[lane].is_none() && !shared.closed {
                self.long_lane_wakes[lane].wait(&mut shared);
            }
            if let Some(job) = shared.long_lanes.given[lane].take() {
                return Some(job);
            }
            shared.long_lanes.idle.retain(|idle| *idle != lane);
        }
    }

    fn look_for_long(&self, shared: &mut MutexGuard<'_, Shared>, now: Timestamp) -> Option<Job> {
        while !shared.closed {
            let (job, again) = self.act_within(shared, |shared, after| {
                let job = shared.take_long_batch(now, after);
                (job, !after.is_nothing())
            });
            if job.is_some() || !again {
                return job;
            }
        }
        None
    }
}
