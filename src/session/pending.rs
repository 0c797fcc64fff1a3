//! Items between arrival and answer, in the order of the stream.

use std::{collections::VecDeque, time::Duration};

use super::event::ItemResult;
use crate::{codec::WindowPosition, domain::Answer};

/// An item that has arrived.
#[derive(Debug)]
pub(super) struct PendingItem {
    pub(super) id: String,
    pub(super) window: Option<WindowPosition>,
    pub(super) bytes: usize,
    /// Answers before its last, waiting for its turn.
    pub(super) parts: Vec<Answer>,
    pub(super) answer: PendingAnswer,
}

impl PendingItem {
    /// An answer to it, as its client gets it. The last answer takes the id with it.
    pub(super) fn result(&mut self, answer: Answer) -> ItemResult {
        let Answer { seq, part, outcome, timing } = answer;
        let id = if part.last { std::mem::take(&mut self.id) } else { self.id.clone() };
        ItemResult { seq, part, id, window: self.window, outcome, timing, age: Duration::ZERO }
    }
}

/// Whether the last answer is ready.
#[derive(Debug)]
pub(super) enum PendingAnswer {
    /// Not yet.
    Waiting,
    /// Yes, and it waits for its turn.
    Ready(Answer),
    /// Yes, and the client already has it; kept for its place in the order, with its post-processing value.
    Given(Option<f32>),
}

/// The window: a ring from the oldest item whose turn has not come up to the newest.
#[derive(Debug, Default)]
pub(super) struct PendingItems {
    ring: VecDeque<PendingItem>,
    first_seq: u64,
    bytes: usize,
}

impl PendingItems {
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of the oldest item in the ring, or else of the next one.
    pub(super) const fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Number of the next item.
    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.ring.len() as u64
    }

    pub(super) fn push(&mut self, item: PendingItem) {
        self.bytes += item.bytes;
        self.ring.push_back(item);
    }

    /// Stops counting the bytes of an item's inputs.
    pub(super) fn release_bytes(&mut self, seq: u64) {
        let bytes = self.get_mut(seq).map_or(0, |item| std::mem::take(&mut item.bytes));
        self.bytes -= bytes;
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut PendingItem> {
        let index = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        self.ring.get_mut(index)
    }

    /// Takes the oldest item's answers before its last.
    pub(super) fn take_first_parts(&mut self) -> impl Iterator<Item = ItemResult> {
        self.ring.front_mut().into_iter().flat_map(|item| {
            let parts = std::mem::take(&mut item.parts).into_iter();
            parts.map(|part| item.result(part))
        })
    }

    /// Takes the oldest item if it has been answered.
    pub(super) fn pop_answered(&mut self) -> Option<PendingItem> {
        if matches!(self.ring.front()?.answer, PendingAnswer::Waiting) {
            return None;
        }
        let item = self.ring.pop_front()?;
        self.bytes -= item.bytes;
        self.first_seq += 1;
        Some(item)
    }
}
