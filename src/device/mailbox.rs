//! Holds a stream's answers until its session fetches them, and keeps the stream's state.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::{
    domain::{Answer, Fault, ItemOutputs, data_bytes},
    engine::StreamState,
};

/// Shared by one session, which reads, and the lanes, which write. Delivery neither waits nor fails: a session never has more
/// items in flight than its window, so the mailbox never holds more either. Answers before an item's last have their own limit.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    /// Whether the session is gone.
    closed: AtomicBool,
    pub(super) state: StreamState,
}

/// How many of one stream's answers, not counting each item's last, may wait for its client at once. An item that would add one
/// more ends.
pub(super) const PARTS_WAITING_MAX: usize = 16_384;
/// Their output bytes; a single answer may be larger.
pub(super) const PART_BYTES_WAITING_MAX: usize = 64 << 20;

fn output_bytes(outcome: &Result<ItemOutputs, Fault>) -> usize {
    outcome.as_ref().map_or(0, |outputs| data_bytes(outputs))
}

/// As many answers are waiting as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Debug, Default)]
struct Inner {
    answers: VecDeque<Answer>,
    /// Answers before an item's last that were put in and have not yet left for the client.
    parts: usize,
    /// Their output bytes.
    part_bytes: usize,
    nudged: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Puts answers in. Returns the waker of a waiting session, for the caller to wake once all answers are in place.
    pub(super) fn deliver(&self, answers: impl IntoIterator<Item = Answer>) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.answers.extend(answers);
        inner.waker.take()
    }

    /// Puts in an answer that is not its item's last, or drops it if too many of these are waiting to be read.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn deliver_part(&self, answer: Answer) -> Result<Option<Waker>, NoRoom> {
        let bytes = output_bytes(&answer.outcome);
        let mut inner = self.inner.lock();
        if inner.parts >= PARTS_WAITING_MAX || (inner.parts > 0 && inner.part_bytes + bytes > PART_BYTES_WAITING_MAX) {
            return Err(NoRoom);
        }
        inner.parts += 1;
        inner.part_bytes += bytes;
        inner.answers.push_back(answer);
        Ok(inner.waker.take())
    }

    /// One of these answers has left for the client, or was given up.
    pub(super) fn part_taken(&self, outcome: &Result<ItemOutputs, Fault>) {
        let mut inner = self.inner.lock();
        inner.parts -= 1;
        inner.part_bytes -= output_bytes(outcome);
    }

    /// Nobody will fetch anything from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Makes the session look again, though there is no answer.
    pub(super) fn nudge(&self) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.nudged = true;
        inner.waker.take()
    }

    /// Moves all answers to the end of `answers`; `Ready` if there were any, or if the session was nudged.
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
