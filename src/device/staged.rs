//! Items on their way into the queue.
//!
//! A stream may have a thousand of them waiting for room, and comes back for it after every batch. So what is asked of all of them each
//! time is kept, not looked for: that was done under the device's lock.

use std::collections::VecDeque;

use crate::{
    domain::{ItemInputs, Timestamp},
    scheduler::Item,
};

/// Items that a stream has yet to queue, in their order.
#[derive(Debug)]
pub struct Staged {
    items: VecDeque<Item<ItemInputs>>,
    /// None of them is due earlier. The one that was due then may have left.
    due: Timestamp,
    bytes: usize,
}

impl Staged {
    /// No items.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: VecDeque::new(), due: Timestamp::NEVER, bytes: 0 }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of all of them.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the newest.
    pub fn push(&mut self, item: Item<ItemInputs>) {
        self.due = self.due.min(item.due());
        self.bytes += item.bytes;
        self.items.push_back(item);
    }

    /// Removes those whose time is over.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Item<ItemInputs>> {
        if self.due > now {
            return Vec::new();
        }
        let (due, left): (Vec<_>, Vec<_>) = std::mem::take(self).items.into_iter().partition(|item| item.due() <= now);
        self.extend(left);
        due
    }

    /// Removes all of them.
    pub fn take_all(&mut self) -> impl Iterator<Item = Item<ItemInputs>> + use<> {
        std::mem::take(self).items.into_iter()
    }

    /// When to look for one whose time is over.
    pub(super) const fn due(&self) -> Timestamp {
        self.due
    }

    pub(super) fn newest(&self) -> Option<&Item<ItemInputs>> {
        self.items.back()
    }

    pub(super) fn take_oldest(&mut self) -> Option<Item<ItemInputs>> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes;
        if self.items.is_empty() {
            self.due = Timestamp::NEVER;
        }
        Some(item)
    }

    pub(super) fn put_back(&mut self, item: Item<ItemInputs>) {
        self.due = self.due.min(item.due());
        self.bytes += item.bytes;
        self.items.push_front(item);
    }
}

impl Default for Staged {
    fn default() -> Self {
        Self::new()
    }
}

impl Extend<Item<ItemInputs>> for Staged {
    fn extend<T: IntoIterator<Item = Item<ItemInputs>>>(&mut self, items: T) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

#[cfg(test)]
impl FromIterator<Item<ItemInputs>> for Staged {
    fn from_iter<T: IntoIterator<Item = Item<ItemInputs>>>(items: T) -> Self {
        let mut staged = Self::new();
        staged.extend(items);
        staged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::DropReason, scheduler::EndReason};

    fn item(ticket: u64, deadline: u64) -> Item<ItemInputs> {
        let at = Timestamp::from_nanos;
        Item {
            ticket,
            arrived: at(0),
            deadline: at(deadline),
            stale_at: Timestamp::NEVER,
            bytes: 10,
            length: 0,
            shape: Default::default(),
            payload: ItemInputs::new(),
        }
    }

    fn tickets(items: impl IntoIterator<Item = Item<ItemInputs>>) -> Vec<u64> {
        items.into_iter().map(|item| item.ticket).collect()
    }

    #[test]
    fn those_whose_time_is_over_leave_and_the_others_keep_their_order() {
        let at = Timestamp::from_nanos;
        let mut staged = Staged::from_iter([item(0, 50), item(1, 20), item(2, 30), item(3, 20)]);
        assert_eq!((staged.due(), staged.bytes()), (at(20), 40));
        assert!(staged.take_due(at(19)).is_empty());
        assert_eq!(tickets(staged.take_due(at(20))), [1, 3]);
        assert_eq!((staged.due(), staged.bytes()), (at(30), 20));
        assert_eq!(tickets(staged.take_all()), [0, 2]);
        assert!(staged.is_empty() && staged.bytes() == 0 && staged.due() == Timestamp::NEVER);
    }

    #[test]
    fn what_is_due_is_never_later_than_the_first_of_them() {
        let at = Timestamp::from_nanos;
        let mut staged = Staged::from_iter([item(0, 20), item(1, 30), item(2, 40)]);
        let oldest = staged.take_oldest().expect("there are three");
        assert_eq!((oldest.ticket, staged.due()), (0, at(20)), "it is not looked for");
        assert!(staged.take_due(at(20)).is_empty());
        assert_eq!(staged.due(), at(30), "now it was");
        staged.put_back(oldest);
        assert_eq!((staged.due(), staged.bytes(), staged.len()), (at(20), 30, 3));
        while staged.take_oldest().is_some() {}
        assert_eq!((staged.due(), staged.bytes()), (Timestamp::NEVER, 0));
    }

    #[test]
    fn an_item_that_is_too_old_is_due_as_well() {
        let stale = Item { stale_at: Timestamp::from_nanos(5), ..item(0, 50) };
        let mut staged = Staged::from_iter([stale]);
        let due = staged.take_due(Timestamp::from_nanos(5));
        assert_eq!(due[0].lateness(), EndReason::Dropped(DropReason::MaxAge));
    }
}
