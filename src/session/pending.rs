//! Items between arrival and answer, in the order of the stream.

use std::collections::{BTreeMap, VecDeque};

use super::event::ItemResult;
use crate::{codec::WindowPosition, domain::Answer};

/// An item that has arrived.
#[derive(Debug)]
pub(super) struct PendingItem {
    pub(super) id: String,
    pub(super) window: Option<WindowPosition>,
    pub(super) bytes: usize,
    pub(super) answer: PendingAnswer,
}

/// Whether the last answer is ready.
#[derive(Debug)]
pub(super) enum PendingAnswer {
    /// Not yet.
    Waiting,
    /// Yes, and it waits for its turn. Boxed, because most answers never wait, and every item has this room in the ring.
    Ready(Box<Answer>),
    /// Yes, and the client already has it; kept for its place in the order, with its post-processing value.
    Given(Option<f32>),
}

/// The window: a ring from the oldest item whose turn has not come up to the newest.
#[derive(Debug, Default)]
pub(super) struct PendingItems {
    ring: VecDeque<PendingItem>,
    first_seq: u64,
    bytes: usize,
    /// Answers before their items' last that wait for the items' turns, by item. Few streams ever have any.
    parts: BTreeMap<u64, Vec<Answer>>,
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

    pub(super) fn get(&self, seq: u64) -> Option<&PendingItem> {
        self.ring.get(self.index_of(seq)?)
    }

    fn index_of(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first_seq)?).ok()
    }

    /// Notes what has become of an item's last answer.
    pub(super) fn settle(&mut self, seq: u64, failed: bool, answer: PendingAnswer) -> Option<&mut PendingItem> {
        let index = self.index_of(seq)?;
        let item = self.ring.get_mut(index)?;
        item.answer = answer;
        if failed {
            // Its inputs are gone already.
            self.bytes -= std::mem::take(&mut item.bytes);
        }
        Some(item)
    }

    /// Keeps an answer that is not its item's last until the item's turn.
    pub(super) fn keep_part(&mut self, part: Answer) {
        self.parts.entry(part.seq).or_default().push(part);
    }

    /// The answers kept for the oldest item.
    pub(super) fn take_first_parts(&mut self) -> Vec<ItemResult> {
        let Some(parts) = self.parts.first_entry().filter(|first| *first.key() == self.first_seq) else { return Vec::new() };
        let Some(item) = self.ring.front() else { return Vec::new() };
        parts.remove().into_iter().map(|part| ItemResult::new(item.id.clone(), item.window, part)).collect()
    }

    /// Takes the oldest item if it has been answered.
    pub(super) fn pop_answered(&mut self) -> Option<PendingItem> {
        if matches!(self.ring.front()?.answer, PendingAnswer::Waiting) {
            return None;
        }
        self.pop_first()
    }

    /// Takes the oldest item.
    pub(super) fn pop_first(&mut self) -> Option<PendingItem> {
        let item = self.ring.pop_front()?;
        self.bytes -= item.bytes;
        self.first_seq += 1;
        Some(item)
    }
}
