//! What a decision made under the lock wants done after the lock is released, and the one place that does it.

use std::{sync::Arc, task::Waker};

use parking_lot::MutexGuard;

use super::{
    hosted::{Hosted, Job, Repaired},
    live::LiveEnded,
    mailbox::Mailbox,
    state::{Device, Shared},
    unrun::unrun_answer,
};
use crate::{clock, domain::ItemInputs, scheduler::Cancelled};

/// What to do after the lock is released. Allocates nothing while it is empty.
#[derive(Default)]
#[must_use = "a decision is nothing until it is carried out"]
pub(super) struct After {
    /// An idle lane to wake.
    pub(super) wake: Option<usize>,
    /// A long lane that has been given a batch.
    pub(super) wake_long: Option<usize>,
    /// Whether the kicker should wake a lane once others have had time to push.
    pub(super) kick: bool,
    /// Whether the timekeeper would sleep too long.
    pub(super) rearm: bool,
    /// Items that ended without a call.
    pub(super) ended: Vec<LiveEnded>,
    /// Sessions that have to look again.
    pub(super) nudged: Vec<Arc<Mailbox>>,
    /// A queue that contradicted itself.
    pub(super) repaired: Option<Repaired>,
    /// A model to drop: freeing its weights takes time.
    pub(super) gone: Option<Hosted>,
    /// Items of a closed stream: freeing their tensors takes time.
    pub(super) cancelled: Option<Cancelled<ItemInputs>>,
    /// A call to run on this very thread.
    pub(super) loan: Option<Loan>,
}

/// A call on a borrowed lane.
pub(super) struct Loan {
    pub(super) lane: usize,
    pub(super) job: Job,
}

impl After {
    /// Whether there is nothing to do.
    pub(super) const fn is_nothing(&self) -> bool {
        self.wake.is_none()
            && self.wake_long.is_none()
            && !self.kick
            && !self.rearm
            && self.ended.is_empty()
            && self.nudged.is_empty()
            && self.repaired.is_none()
            && self.gone.is_none()
            && self.cancelled.is_none()
            && self.loan.is_none()
    }

    /// Does all of it. Threads are woken first, because they take longest to start; a call for this thread comes last.
    ///
    /// Takes each thing out in place: most are empty, and moving the whole value would cost more than everything else here.
    fn carry_out(&mut self, device: &Device) {
        if let Some(lane) = self.wake.take() {
            device.lane_wakes[lane].notify_one();
        }
        if let Some(lane) = self.wake_long.take() {
            device.long_lane_wakes[lane].notify_one();
        }
        if std::mem::take(&mut self.kick) {
            device.kick.set();
        }
        if std::mem::take(&mut self.rearm) {
            device.rearm.ring();
        }
        if let Some(repaired) = self.repaired.take() {
            repaired.report();
        }
        if !self.ended.is_empty() {
            answer(std::mem::take(&mut self.ended));
        }
        if !self.nudged.is_empty() {
            wake_all(self.nudged.drain(..).filter_map(|mailbox| mailbox.nudge()));
        }
        self.gone = None;
        self.cancelled = None;
        if let Some(loan) = self.loan.take() {
            device.run_loan(loan);
        }
    }
}

impl Device {
    /// Makes a decision under the lock, then carries it out.
    pub(super) fn act<R>(&self, decide: impl FnOnce(&mut Shared, &mut After) -> R) -> R {
        let mut after = After::default();
        let decided = decide(&mut self.shared.lock(), &mut after);
        after.carry_out(self);
        decided
    }

    /// The same under a lock already held, which is released only if there is something to carry out.
    pub(super) fn act_within<R>(
        &self,
        shared: &mut MutexGuard<'_, Shared>,
        decide: impl FnOnce(&mut Shared, &mut After) -> R,
    ) -> R {
        let mut after = After::default();
        let decided = decide(shared, &mut after);
        if !after.is_nothing() {
            MutexGuard::unlocked(shared, || after.carry_out(self));
        }
        decided
    }
}

/// Answers items that ended without a call.
fn answer(ended: Vec<LiveEnded>) {
    let now = clock::now();
    let deliver = |ended: &LiveEnded| ended.handle.deliver([unrun_answer(&ended.item, ended.reason, now)]);
    // All answers are in place before the first session is woken.
    wake_all(ended.iter().filter_map(deliver).collect::<Vec<_>>());
}

/// Wakes the sessions that are waiting for an answer.
pub(super) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
