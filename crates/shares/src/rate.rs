//! How much may be taken a second.
//!
//! A [`Rate`] is a generic cell rate algorithm. It keeps one number: the moment until which what was taken is paid for, if the limit
//! pays for it steadily. Up to a second's worth may be taken ahead of time, the burst. It is given the limit with each call, so
//! that a limit that changes applies at once.
//!
//! What is larger than the burst passes once nothing is owed, and then runs as debt, as does what is forced: nothing else passes
//! until it is paid off. So no amount is too large for ever, and the limit holds in the long run all the same.

use std::time::Duration;

use tidemill_domain::Timestamp;

/// The part of a nanosecond that is counted, so that a byte at a high rate costs something.
const PARTS: u128 = 1 << 32;
const SECOND: u128 = 1_000_000_000 * PARTS;
/// How far ahead of time may be taken.
const BURST: u128 = SECOND;

/// What has been taken of something that is limited by the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Until when all that was taken is paid for, in parts of a nanosecond.
    paid_at: u128,
    /// The limit that it is paid at; 0 before the first.
    limit: u64,
}

impl Rate {
    /// Takes `amount`, of which there are `limit` a second.
    ///
    /// # Errors
    /// How long to wait before it may be taken, if nobody else takes anything by then. Nothing has been taken.
    pub fn take(&mut self, limit: u64, amount: u64, now: Timestamp) -> Result<(), Duration> {
        let (owed, cost) = (self.owed(limit, now), cost(limit, amount));
        match owed.saturating_add(cost.min(BURST)).checked_sub(BURST) {
            Some(excess) if excess > 0 => Err(duration(excess)),
            _ => {
                self.owe(owed.saturating_add(cost), now);
                Ok(())
            }
        }
    }

    /// Takes `amount` whether or not it is there; what is not runs as debt.
    pub fn force(&mut self, limit: u64, amount: u64, now: Timestamp) {
        let owed = self.owed(limit, now);
        self.owe(owed.saturating_add(cost(limit, amount)), now);
    }

    /// Gives back what was taken a moment ago and is not needed.
    pub fn give_back(&mut self, limit: u64, amount: u64) {
        self.paid_at = self.paid_at.saturating_sub(cost(limit, amount));
    }

    /// When the debt is paid off; `None` if there is none.
    pub fn ready_in(&mut self, limit: u64, now: Timestamp) -> Option<Duration> {
        let debt = self.owed(limit, now).saturating_sub(BURST);
        (debt > 0).then(|| duration(debt))
    }

    /// The time that it takes to pay for what was taken.
    fn owed(&mut self, limit: u64, now: Timestamp) -> u128 {
        let (limit, before) = (limit.max(1), self.limit);
        let owed = self.paid_at.saturating_sub(parts(now));
        self.limit = limit;
        if before == 0 || limit <= before {
            // With a lower limit, what has been taken is not paid off later than before.
            return owed;
        }
        // With a higher limit, it is paid off sooner.
        let owed = owed / u128::from(limit) * u128::from(before);
        self.owe(owed, now);
        owed
    }

    const fn owe(&mut self, owed: u128, now: Timestamp) {
        self.paid_at = parts(now).saturating_add(owed);
    }
}

const fn parts(moment: Timestamp) -> u128 {
    moment.as_nanos() as u128 * PARTS
}

/// The time that it takes to pay for `amount`, rounded up. At most 2^126 parts.
fn cost(limit: u64, amount: u64) -> u128 {
    (u128::from(amount) * SECOND).div_ceil(u128::from(limit.max(1)))
}

fn duration(parts: u128) -> Duration {
    Duration::from_nanos(u64::try_from(parts.div_ceil(PARTS)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_seconds_worth_passes_at_once_and_then_the_rate() {
        let mut rate = Rate::default();
        for _ in 0..10 {
            assert_eq!(rate.take(10, 1, at(5_000)), Ok(()));
        }
        assert_eq!(rate.take(10, 1, at(5_000)), Err(SECOND / 10));
        assert_eq!(rate.take(10, 1, at(5_099)), Err(Duration::from_millis(1)));
        assert_eq!(rate.take(10, 1, at(5_100)), Ok(()));
        assert_eq!(rate.take(10, 1, at(5_100)), Err(SECOND / 10));
        assert_eq!(rate.take(10, 10, at(6_100)), Ok(()));
    }

    #[test]
    fn more_than_a_burst_passes_once_nothing_is_owed_and_runs_as_debt() {
        let mut rate = Rate::default();
        assert_eq!(rate.take(10, 1, at(0)), Ok(()));
        assert_eq!(rate.take(10, 100, at(0)), Err(SECOND / 10));
        assert_eq!(rate.take(10, 100, at(100)), Ok(()));
        assert_eq!(rate.ready_in(10, at(100)), Some(SECOND * 9));
        assert_eq!(rate.take(10, 1, at(9_100)), Err(SECOND / 10));
        assert_eq!(rate.take(10, 1, at(9_200)), Ok(()));
        assert_eq!(rate.ready_in(10, at(9_200)), None);
    }

    #[test]
    fn what_is_forced_is_owed_and_what_is_given_back_is_not() {
        let mut rate = Rate::default();
        rate.force(10, 25, at(0));
        assert_eq!(rate.ready_in(10, at(0)), Some(SECOND * 3 / 2));
        rate.give_back(10, 15);
        assert_eq!((rate.ready_in(10, at(0)), rate.take(10, 1, at(0))), (None, Err(SECOND / 10)));
    }

    #[test]
    fn a_higher_limit_pays_a_debt_sooner_and_a_lower_one_makes_it_no_longer() {
        let mut rate = Rate::default();
        rate.force(10, 110, at(0));
        let mut lowered = rate;
        assert_eq!(rate.ready_in(10, at(0)), Some(SECOND * 10));
        assert_eq!(rate.ready_in(110, at(0)), None);
        assert_eq!(rate.take(110, 1, at(10)), Ok(()));
        assert_eq!(lowered.ready_in(1, at(0)), Some(SECOND * 10));
    }

    proptest! {
        /// Whatever is asked for and when, no span of time has more than the limit allows in it and a second more.
        #[test]
        fn no_span_has_more_than_the_limit_and_one_burst(
            limit in 1_u64..5_000,
            asked in vec((0_u64..400_000_000, 1_u64..5_000), 1..60),
        ) {
            let (mut rate, mut now, mut taken) = (Rate::default(), Timestamp::ZERO, Vec::new());
            for (passed, amount) in asked {
                now = now + Duration::from_nanos(passed);
                let amount = amount.min(limit);
                match rate.take(limit, amount, now) {
                    Ok(()) => taken.push((now, amount)),
                    // What it says is when it passes, and no later than that.
                    Err(wait) => {
                        let mut later = rate;
                        prop_assert_eq!(later.take(limit, amount, now + wait), Ok(()));
                    }
                }
            }
            for (first, (begun, _)) in taken.iter().enumerate() {
                let mut sum = 0_u128;
                for (moment, amount) in &taken[first..] {
                    sum += u128::from(*amount);
                    let allowed = u128::from(limit) * (moment.since(*begun) + SECOND).as_nanos();
                    prop_assert!(sum * 1_000_000_000 <= allowed, "{sum} since {begun}, limit {limit}");
                }
            }
        }

        /// Nor does a change clear what is owed at the limit that is in force in the end.
        #[test]
        fn a_change_of_the_limit_never_adds_to_a_debt(
            limits in vec(1_u64..1_000_000, 1..20),
            amount in 1_u64..1_000_000,
        ) {
            let mut rate = Rate::default();
            rate.force(limits[0], amount, Timestamp::ZERO);
            let mut owed = rate.ready_in(limits[0], Timestamp::ZERO).unwrap_or_default();
            for limit in limits {
                let now_owed = rate.ready_in(limit, Timestamp::ZERO).unwrap_or_default();
                prop_assert!(now_owed <= owed);
                owed = now_owed;
            }
            let highest = 1_000_000;
            rate.force(highest, 2 * highest, Timestamp::ZERO);
            prop_assert!(rate.ready_in(highest, Timestamp::ZERO) >= Some(SECOND));
        }

        #[test]
        fn no_number_is_too_large(
            steps in vec((any::<u64>(), any::<u64>(), any::<u64>(), 0_u8..4), 0..40),
        ) {
            let mut rate = Rate::default();
            for (limit, amount, nanos, what) in steps {
                let now = Timestamp::from_nanos(nanos);
                match what {
                    0 => _ = rate.take(limit, amount, now),
                    1 => rate.force(limit, amount, now),
                    2 => rate.give_back(limit, amount),
                    _ => _ = rate.ready_in(limit, now),
                }
            }
        }
    }
}
