//! Where a stream's answers lie until its session fetches them, and where its state is kept.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::domain::{Answer, StateSlot};

/// Shared by one session, which reads, and the lanes, which write. Delivery neither waits nor fails: a session never has more
/// items in flight than its window, so neither has the mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    /// Answers before an item's last that were put in and have not left for the client yet.
    parts: AtomicUsize,
    pub(super) state: StateSlot,
}

/// As many answers wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug, Default)]
struct Inner {
    answers: VecDeque<Answer>,
    nudged: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Puts answers in. The waker, if the session waits, is for the caller to wake once all answers are in place.
    pub(super) fn deliver(&self, answers: impl IntoIterator<Item = Answer>) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.answers.extend(answers);
        inner.waker.take()
    }

    /// Puts in an answer that is not its item's last, unless `parts_max` of them wait to be read already: then it is dropped.
    ///
    /// # Errors
    /// That there is no room.
    pub(super) fn deliver_part(&self, answer: Answer, parts_max: usize) -> Result<Option<Waker>, NoRoom> {
        let counted = |parts: usize| (parts < parts_max).then_some(parts + 1);
        self.parts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).map_err(|_| NoRoom)?;
        Ok(self.deliver([answer]))
    }

    /// Such an answer has left for the client.
    pub(super) fn part_taken(&self) {
        self.parts.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes the session look again, without an answer.
    pub(super) fn nudge(&self) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.nudged = true;
        inner.waker.take()
    }

    /// Moves all answers to the end of `answers`; `Ready` if there were any, or the session was nudged.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>, answers: &mut VecDeque<Answer>) -> Poll<()> {
        let mut inner = self.inner.lock();
        let nudged = std::mem::take(&mut inner.nudged);
        if inner.answers.is_empty() {
            if nudged {
                return Poll::Ready(());
            }
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                empty => *empty = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        if answers.is_empty() {
            std::mem::swap(answers, &mut inner.answers);
        } else {
            answers.append(&mut inner.answers);
        }
        Poll::Ready(())
    }
}
