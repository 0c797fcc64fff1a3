//! How many items the next batch takes, and whether it passes over heads that cannot make it.
//!
//! A batch is never cut down to save one tight item: that lowers throughput, so that every next head is tight, and goodput
//! collapses. Heads that cannot make the chosen batch are skipped instead, and stay queued for a smaller one.

use std::time::Duration;

use tidemill_domain::{CloseReason, Timestamp};

use super::cost::CostModel;

/// To wake an idle lane takes about as long. A call that is over sooner is not cut up for it.
pub const WAKE_UP: Duration = Duration::from_micros(50);

/// What there is to choose from. `ready` and `running` count items of one model; a stateful stream counts one ready item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) now: Timestamp,
    pub(super) cost: &'a CostModel,
    pub(super) lanes: usize,
    pub(super) ready: usize,
    pub(super) running: usize,
    pub(super) earliest_deadline: Timestamp,
}

/// The batch to form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// Number of items.
    pub(super) size: usize,
    /// Items with a deadline before this are passed over; [`Timestamp::ZERO`] passes over none.
    pub(super) not_before: Timestamp,
    /// Why this size.
    pub(super) reason: CloseReason,
    /// Whether so much is ready that what is passed over now would be passed over again.
    pub(super) overloaded: bool,
}

impl Choice {
    /// Whether heads are passed over.
    pub(super) fn skips(&self) -> bool {
        self.not_before != Timestamp::ZERO
    }
}

/// Chooses for a lane that is idle. `at_least(n, deadline)` says whether `n` ready items have that deadline or a later one.
pub(super) fn choose(situation: &Situation<'_>, mut at_least: impl FnMut(usize, Timestamp) -> bool) -> Choice {
    let Situation { now, cost, lanes, ready, running, earliest_deadline } = *situation;
    let cap = cost.cap_for(ready);
    let plenty = cap.max(lanes);
    let overloaded = ready > 2 * plenty;
    let cap = if overloaded { cap.max(cost.peak()) } else { cap };
    // The more there is to choose from, the less it costs to leave out what might come late, and a late call loses all its items.
    let spreads = if overloaded {
        3.0
    } else if ready > plenty {
        2.0
    } else {
        1.0
    };
    let done_at = |size: usize| now + cost.call_with_margin(size, spreads);
    let sharing = if cost.call(cap.min(ready)) <= WAKE_UP { 1 } else { lanes.max(1) };
    let share = (ready + running).div_ceil(sharing);
    let wanted = share.min(cap).min(ready).max(1);

    let mut size = wanted;
    while size > 1 && done_at(size) > earliest_deadline && !at_least(size, done_at(size)) {
        size -= 1;
    }
    let skips = done_at(size) > earliest_deadline && at_least(size, done_at(size));
    let reason = if size < wanted {
        CloseReason::Deadline
    } else if size == ready {
        CloseReason::LaneFree
    } else if size >= cost.cap() {
        when_full(cost)
    } else {
        CloseReason::Share
    };
    Choice { size, not_before: if skips { done_at(size) } else { Timestamp::ZERO }, reason, overloaded }
}

/// Why a batch has as many items as a call takes.
pub(super) fn when_full(cost: &CostModel) -> CloseReason {
    if cost.cap_is_limit() { CloseReason::Full } else { CloseReason::Knee }
}

/// Before this moment a deadline is hopeless: not even a call with one item would make it.
#[inline]
pub(super) fn hopeless_before(now: Timestamp, cost: &CostModel) -> Timestamp {
    now + cost.call_with_margin(1, -1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cost::CostCurve;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    /// ℓ(b) = 1 ms + 0.25 ms·b, so that larger batches always gain.
    fn cost() -> CostModel {
        let micros = |batch: u64| Duration::from_micros(1000 + 250 * batch);
        CostModel::new(&CostCurve::new([1, 2, 4, 8, 16].map(micros).to_vec()), 16)
    }

    fn situation(cost: &CostModel, ready: usize, earliest_deadline: Timestamp) -> Situation<'_> {
        Situation { now: NOW, cost, lanes: 1, ready, running: 0, earliest_deadline }
    }

    #[test]
    fn without_deadlines_a_lane_takes_all_there_is_up_to_the_cap() {
        let cost = cost();
        assert_eq!(choose(&situation(&cost, 5, Timestamp::NEVER), |_, _| true).size, 5);
        let full = choose(&situation(&cost, 50, Timestamp::NEVER), |_, _| true);
        assert_eq!((full.size, full.reason), (16, CloseReason::Full));
    }

    #[test]
    fn lanes_share_what_there_is() {
        let cost = cost();
        let two = Situation { lanes: 2, ..situation(&cost, 8, Timestamp::NEVER) };
        let choice = choose(&two, |_, _| true);
        assert_eq!((choice.size, choice.reason), (4, CloseReason::Share));
        let other_lane_runs = Situation { running: 8, ..two };
        assert_eq!(choose(&other_lane_runs, |_, _| true).size, 8);
    }

    #[test]
    fn a_call_that_is_over_before_a_lane_is_awake_is_not_shared() {
        let micros = |batch: u64| Duration::from_micros(2 + batch);
        let cheap = CostModel::new(&CostCurve::new([1, 2, 4, 8, 16].map(micros).to_vec()), 16);
        let two = Situation { lanes: 2, ..situation(&cheap, 8, Timestamp::NEVER) };
        let choice = choose(&two, |_, _| true);
        assert_eq!((choice.size, choice.reason), (8, CloseReason::LaneFree));
    }

    #[test]
    fn a_tight_head_is_skipped_when_the_others_fill_the_batch() {
        let cost = cost();
        let tight = NOW + Duration::from_millis(2);
        let choice = choose(&situation(&cost, 17, tight), |_, _| true);
        assert_eq!(choice.size, 16);
        assert!(choice.not_before > tight);
    }

    #[test]
    fn a_batch_shrinks_when_all_are_tight() {
        let cost = cost();
        let tight = NOW + Duration::from_millis(3);
        let choice = choose(&situation(&cost, 8, tight), |_, deadline| deadline <= tight);
        assert!(choice.size < 8 && choice.size > 1, "{choice:?}");
        assert_eq!(choice.reason, CloseReason::Deadline);
        assert_eq!(choice.not_before, Timestamp::ZERO);
    }

    #[test]
    fn a_deadline_shorter_than_the_smallest_call_is_hopeless() {
        let cost = cost();
        assert!(hopeless_before(NOW, &cost) > NOW + Duration::from_millis(1));
        assert!(hopeless_before(NOW, &cost) < NOW + Duration::from_micros(1250));
    }
}
