//! Answers of a running call before each item's last: they reach their sessions while the engine goes on.

use std::ops::ControlFlow;

use super::{
    live::LiveEntry,
    mailbox::{PART_BYTES_WAITING_MAX, PARTS_WAITING_MAX},
};
use crate::{
    clock,
    domain::{Answer, AnswerPart, Fault, FaultKind, ItemOutputs, ItemTiming, Timestamp},
    engine::ItemParts,
};

/// Delivers them to the items of a call.
pub(super) struct Delivery<'a> {
    entries: &'a [LiveEntry],
    started: Timestamp,
    /// What has been delivered, by item; empty until the first delivery, since most calls make none.
    items: Vec<Delivered>,
    /// Whether the engine was told to end the call early.
    broken_off: bool,
}

/// What has been delivered of one item's answers.
#[derive(Debug, Clone, Default)]
struct Delivered {
    count: u32,
    /// Why no more will come, other than that the last was delivered.
    over: Option<Fault>,
}

impl<'a> Delivery<'a> {
    pub(super) const fn new(entries: &'a [LiveEntry], started: Timestamp) -> Self {
        Self { entries, started, items: Vec::new(), broken_off: false }
    }

    /// Whether any item has had an answer.
    pub(super) fn has_begun(&self) -> bool {
        self.items.iter().any(|item| item.count > 0)
    }

    /// Whether the call ended early, so that its duration says nothing about the model.
    pub(super) const fn was_broken_off(&self) -> bool {
        self.broken_off
    }

    /// The last answer to an item, given those already delivered.
    pub(super) fn last<T>(&self, item: usize, outcome: Result<T, Fault>) -> (AnswerPart, Result<T, Fault>) {
        let Some(Delivered { count, over }) = self.items.get(item) else { return (AnswerPart::ONLY, outcome) };
        let outcome = over.clone().map_or(outcome, Err);
        (AnswerPart { number: *count, last: true }, outcome)
    }

    fn deliver(&mut self, item: usize, outputs: ItemOutputs) -> Result<(), Fault> {
        let entry = &self.entries[item];
        let (now, arrived) = (clock::now(), entry.item.arrived);
        let number = self.items[item].count;
        if entry.item.deadline <= now {
            let allowed = entry.item.deadline.since(arrived);
            let message = format!("the item's deadline of {allowed:.1?} passed after {number} answers; the rest were not made");
            return Err(Fault::new(FaultKind::Expired, message));
        }
        let batch_size = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let timing = ItemTiming { arrived, started: self.started, finished: now, batch_size };
        let part = AnswerPart { number, last: false };
        let answer = Answer { seq: entry.item.ticket, part, outcome: Ok(outputs), timing };
        let waker = entry.handle.deliver_part(answer).map_err(|_| unread())?;
        self.items[item].count += 1;
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl ItemParts for Delivery<'_> {
    fn give(&mut self, outputs: Vec<ItemOutputs>) -> ControlFlow<()> {
        self.items.resize_with(self.entries.len(), Delivered::default);
        for (item, outputs) in outputs.into_iter().enumerate().take(self.entries.len()) {
            if self.items[item].over.is_none() {
                self.items[item].over = self.deliver(item, outputs).err();
            }
        }
        let goes_on = |(entry, item): (&LiveEntry, &Delivered)| item.over.is_none() && !entry.handle.is_closed();
        if self.entries.iter().zip(&self.items).any(goes_on) {
            return ControlFlow::Continue(());
        }
        self.broken_off = true;
        ControlFlow::Break(())
    }
}

fn unread() -> Fault {
    let message = format!(
        "the item gave more answers than may wait to be read: {PARTS_WAITING_MAX} or {PART_BYTES_WAITING_MAX} bytes a stream; read answers as they arrive"
    );
    Fault::new(FaultKind::Overloaded, message)
}
