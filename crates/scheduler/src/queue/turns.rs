//! Which priority goes first: the highest, unless a lower one has waited too long or is owed lane time.
//!
//! A higher priority goes before a lower one whichever client sends it; otherwise it would mean nothing. So that no client can
//! take all lanes by calling all of its work urgent, a lower priority with work of *others* is owed an eighth of the lane time
//! that the higher ones get. It goes first once as soon as it is owed anything, and pays with the lane time of its items in that
//! call. A few items are hardly delayed by this; many get an eighth on top of what the higher priorities leave. Between the
//! priorities of one connection or address nothing is owed.

use tidemill_domain::{Priority, Timestamp};
use tidemill_shares::Owner;

use super::{Queue, STARVATION_MAX, model::CLASSES};
use crate::{batch::Entry, fair::Work};

/// Lower priorities of other clients are owed the lane time of higher ones divided by this.
const OWED_PART: Work = 8;

/// Models that one search for work of others looks at. Bounds its time.
const MODELS_LOOKED_AT: usize = 64;

/// What the priorities seen so far took of a call, from the highest on.
#[derive(Debug, Default)]
pub(super) struct Higher {
    work: Work,
    /// The owner of the first item taken.
    owner: Option<Owner>,
}

impl<H: Clone, P> Queue<H, P> {
    /// The priority to look at first for work.
    pub(super) fn first_priority(&self, now: Timestamp) -> Priority {
        let waits = |class: &usize| !self.turns[*class].is_empty();
        let overdue = |class: &usize| now.since(self.passed_over_since[*class]) > STARVATION_MAX && waits(class);
        let first = (1..CLASSES).filter(overdue).min_by_key(|class| self.passed_over_since[*class]);
        let owed = |class: &usize| self.owed[*class] > 0 && waits(class);
        let first = first.or_else(|| (1..CLASSES).filter(owed).max_by_key(|class| self.owed[*class]));
        Priority::ALL[first.unwrap_or(0)]
    }

    /// Books the `taken` items that a priority has in a call, `work` each, after those of higher ones.
    pub(super) fn settle_turn(
        &mut self,
        priority: Priority,
        (taken, work): (Work, Work),
        entries: &[Entry<H, P>],
        higher: &mut Higher,
        now: Timestamp,
    ) {
        let class = priority as usize;
        let waits = !self.turns[class].is_empty();
        if taken == 0 && !waits && self.owed[class] == 0 {
            return;
        }
        if taken > 0 {
            self.passed_over_since[class] = Timestamp::NEVER;
        } else if higher.owner.is_some() && waits {
            // Not since its own last turn: if calls take longer than the bound, the lowest priority would be overdue whenever a
            // lane is free.
            self.passed_over_since[class] = self.passed_over_since[class].min(now);
        }
        if let Some(owner) = higher.owner {
            let owed = self.owed[class].saturating_add_unsigned(higher.work / OWED_PART);
            let by_others = taken == 0 && waits && self.has_others(priority, owner);
            self.owed[class] = if by_others { owed } else { owed.min(self.owed[class].max(0)) };
        }
        if self.owed[class] > 0 {
            self.owed[class] = self.owed[class].saturating_sub_unsigned(work * taken);
        }
        if higher.owner.is_none() && taken > 0 {
            let first = entries.iter().find(|entry| entry.priority == priority);
            higher.owner = first.map(|entry| self.streams[entry.stream].flow.owner());
        }
        higher.work += work * taken;
    }

    /// Whether work of this priority is waiting that belongs to someone else.
    fn has_others(&self, priority: Priority, owner: Owner) -> bool {
        let models = self.turns[priority as usize].iter().take(MODELS_LOOKED_AT);
        models.map(|(_, key)| &self.models[key]).any(|model| model.ready.has_others(priority, owner))
    }
}
