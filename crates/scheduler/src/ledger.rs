//! The account of items: what came in, and how each item ended.

use tidemill_domain::Outcome;

/// Counts for one model version. Each item received is waiting, running, or has ended in exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    received: u64,
    outcomes: [u64; Outcome::ALL.len()],
}

impl Ledger {
    /// Items brought by sessions, including refused ones.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Items that ended this way.
    #[must_use]
    pub const fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Items that have ended.
    #[must_use]
    #[inline]
    pub fn ended(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Items that have not ended.
    #[must_use]
    #[inline]
    pub fn open(&self) -> u64 {
        self.received - self.ended()
    }

    pub(super) const fn receive(&mut self) {
        self.received += 1;
    }

    pub(super) const fn end(&mut self, outcome: Outcome, items: u64) {
        self.outcomes[outcome as usize] += items;
    }
}
