//! How a lane gets its batches, and gives them back.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{
    after::After,
    hosted::Job,
    live::LiveBatch,
    state::{Device, LaneState, Shared},
};
use crate::{
    clock,
    domain::{Outcome, Timestamp},
    scheduler::{CallReport, Executed, StreamKey},
    vitals::Pulse,
};

/// What a lane finds when it looks for work.
pub(super) enum Look {
    Found(Job),
    Idle,
    Closed,
}

impl Shared {
    /// Takes the next batch for an idle lane.
    pub(super) fn take_batch(&mut self, now: Timestamp, after: &mut After) -> Option<Job> {
        let batch = self.queue.next_batch(now, &mut after.ended);
        self.job_of(batch, after)
    }

    /// What the queue gave, if anything, with what runs it; and what else the decision calls for.
    pub(super) fn job_of(&mut self, batch: Option<LiveBatch>, after: &mut After) -> Option<Job> {
        self.queue.take_unblocked(&mut after.nudged);
        after.repaired = self.take_repaired();
        let batch = batch?;
        self.last_batch = batch.entries.len();
        let runtime = Arc::clone(&self.models.get(batch.model)?.runtime);
        Some(Job { batch, runtime })
    }

    /// Looks for work for a lane, once. `None` if it should look again after what this has found is done.
    fn look(&mut self, lane: usize, now: Timestamp, after: &mut After) -> Option<Look> {
        let job = self.take_batch_of_two(now, after);
        if let Some(job) = job.and_then(|job| self.pass_on(job, after)) {
            after.wake = self.lane_to_wake(1);
            return Some(Look::Found(job));
        }
        if !after.is_nothing() {
            return None;
        }
        if self.closed {
            return Some(Look::Closed);
        }
        self.lanes[lane] = LaneState::Idle;
        self.idle.push(lane);
        after.rearm = self.wakes_earlier(now);
        Some(Look::Idle)
    }

    /// Notes that a lane is awake and looking.
    fn arrive(&mut self, lane: usize) {
        match self.lanes[lane] {
            LaneState::Waking => self.waking -= 1,
            LaneState::Idle => self.idle.retain(|idle| *idle != lane),
            LaneState::Busy | LaneState::Lent => {}
        }
        self.lanes[lane] = LaneState::Busy;
    }
}

impl Device {
    /// Waits for work and takes it. `None` once the queue is closed and empty. The lane's pulse rests while it waits.
    pub(super) fn next_batch(&self, lane: usize, pulse: &Pulse) -> Option<Job> {
        let mut shared = self.shared.lock();
        loop {
            let now = clock::now();
            pulse.begin(now);
            match self.look(&mut shared, lane, now) {
                Look::Found(job) => return Some(job),
                Look::Closed => return None,
                Look::Idle => {}
            }
            pulse.rest();
            while matches!(shared.lanes[lane], LaneState::Idle | LaneState::Lent) && !shared.closed {
                self.lane_wakes[lane].wait(&mut shared);
            }
        }
    }

    /// Takes work without waiting. `None` if nothing may run now.
    pub(super) fn try_batch(&self, lane: usize) -> Option<Job> {
        match self.look(&mut self.shared.lock(), lane, clock::now()) {
            Look::Found(job) => Some(job),
            Look::Idle | Look::Closed => None,
        }
    }

    /// Takes work for a lane, or notes that it is idle and ensures that it is woken when anything held back may run.
    pub(super) fn look(&self, shared: &mut MutexGuard<'_, Shared>, lane: usize, now: Timestamp) -> Look {
        shared.arrive(lane);
        loop {
            if let Some(look) = self.act_within(shared, |shared, after| shared.look(lane, now, after)) {
                return look;
            }
        }
    }

    /// Gives the items of a call back to the queue, learns from the call, and adds what it took to the model's statistics.
    pub(super) fn finish(&self, report: &CallReport, items: impl Iterator<Item = (StreamKey, Outcome)>, executed: &Executed) {
        self.act(|shared, after| {
            // Before the model may go with its last stream.
            shared.queue.account(report.model, executed);
            shared.queue.finish(report, items);
            after.gone = shared.remove_spent(report.model);
        });
    }
}
