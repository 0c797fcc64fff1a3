//! What a model's calls and items took: counts and times that add up.
//!
//! Plain data next to the [`Ledger`](super::ledger::Ledger), which says how items ended for their clients. Here they count by
//! what was done with them: an item whose client left while it ran still cost its part of a call. Knows no clock and no protocol.
//!
//! # What adds up
//! Only calls that gave results are kept, by their size, so everything about them follows from one table: their number, their
//! items and their times. A batch that fails is not a call here, and each of its items that is run again and succeeds is one of
//! size 1.

use std::{ops::AddAssign, time::Duration};

use smallvec::SmallVec;
use tidemill_domain::Timestamp;

/// The parts of a model call, or sums of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallTimes {
    /// Putting the items together.
    pub gather: Duration,
    /// The engine.
    pub compute: Duration,
    /// Taking the results apart.
    pub scatter: Duration,
}

impl CallTimes {
    fn times(self, count: u32) -> Self {
        Self { gather: self.gather * count, compute: self.compute * count, scatter: self.scatter * count }
    }
}

impl AddAssign for CallTimes {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.gather += other.gather;
        self.compute += other.compute;
        self.scatter += other.scatter;
    }
}

/// A number of things, and the time that they took together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// How many.
    pub count: u64,
    /// How long.
    pub time: Duration,
}

impl Spent {
    /// Counts one more.
    #[inline]
    pub fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

impl AddAssign for Spent {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.time += other.time;
    }
}

/// A call that gave results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelCall {
    /// Its items; at least one.
    pub items: usize,
    /// Total time they had waited for it.
    pub waited: Duration,
    /// Its parts.
    pub times: CallTimes,
}

/// What became of a batch on its lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Executed {
    /// The calls that gave results: the batch, or those of its items that were run again alone.
    pub calls: SmallVec<[ModelCall; 1]>,
    /// Items without a result, with their times from arrival to end.
    pub failed: Spent,
    /// When the last of the calls ended.
    pub finished: Timestamp,
}

/// Calls of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeStatistics {
    /// Items in each.
    pub size: usize,
    /// How many there were.
    pub calls: u64,
    /// Their parts, counted once a call.
    pub times: CallTimes,
}

/// What one model's calls and items took, since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// By size, from 1 up to the largest call so far.
    sizes: Vec<SizeStatistics>,
    waited: Duration,
    failed: Spent,
    last_call: Option<Timestamp>,
}

impl Statistics {
    /// The calls so far by size, smallest first.
    pub fn sizes(&self) -> impl Iterator<Item = &SizeStatistics> {
        self.sizes.iter().filter(|size| size.calls > 0)
    }

    /// Number of calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.sizes().map(|size| size.calls).sum()
    }

    /// Items in these calls.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.sizes().map(|size| size.calls * size.size as u64).sum()
    }

    /// Parts of the calls as their items saw them: each item adds its whole call.
    #[must_use]
    pub fn item_times(&self) -> CallTimes {
        let mut sum = CallTimes::default();
        for size in self.sizes() {
            sum += size.times.times(u32::try_from(size.size).unwrap_or(u32::MAX));
        }
        sum
    }

    /// Total time that the items waited for their call.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Items that were refused, expired or dropped, or whose call failed, with their times from arrival to end.
    #[must_use]
    pub const fn failed(&self) -> Spent {
        self.failed
    }

    /// When the last call ended.
    #[must_use]
    pub const fn last_call(&self) -> Option<Timestamp> {
        self.last_call
    }

    #[inline]
    pub(super) fn add(&mut self, executed: &Executed) {
        for call in &executed.calls {
            self.add_call(call);
            self.last_call = self.last_call.max(Some(executed.finished));
        }
        self.failed += executed.failed;
    }

    pub(super) fn add_failed(&mut self, time: Duration) {
        self.failed.add(time);
    }

    fn add_call(&mut self, call: &ModelCall) {
        let Some(index) = call.items.checked_sub(1) else { return };
        for size in self.sizes.len() + 1..=call.items {
            self.sizes.push(SizeStatistics { size, ..SizeStatistics::default() });
        }
        let size = &mut self.sizes[index];
        size.calls += 1;
        size.times += call.times;
        self.waited += call.waited;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(value: u32) -> Duration {
        Duration::from_nanos(value.into())
    }

    fn calls() -> impl Strategy<Value = Vec<(ModelCall, u64)>> {
        let parts = (1_usize..=64, any::<[u32; 4]>(), 0_u64..1_000);
        let call = parts.prop_map(|(items, [waited, gather, compute, scatter], finished)| {
            let times = CallTimes { gather: nanos(gather), compute: nanos(compute), scatter: nanos(scatter) };
            (ModelCall { items, waited: nanos(waited), times }, finished)
        });
        proptest::collection::vec(call, 0..50)
    }

    proptest! {
        #[test]
        fn everything_follows_from_the_calls(calls in calls(), failures in proptest::collection::vec(any::<u32>(), 0..20)) {
            let mut statistics = Statistics::default();
            for (call, finished) in &calls {
                let finished = Timestamp::from_nanos(*finished);
                statistics.add(&Executed { calls: SmallVec::from_slice(&[*call]), failed: Spent::default(), finished });
            }
            failures.iter().for_each(|failure| statistics.add_failed(nanos(*failure)));
            let mut item_times = CallTimes::default();
            for (call, _) in &calls {
                (0..call.items).for_each(|_| item_times += call.times);
            }
            prop_assert_eq!(statistics.calls(), calls.len() as u64);
            prop_assert_eq!(statistics.items(), calls.iter().map(|(call, _)| call.items as u64).sum::<u64>());
            prop_assert_eq!(statistics.item_times(), item_times);
            prop_assert_eq!(statistics.waited(), calls.iter().map(|(call, _)| call.waited).sum::<Duration>());
            prop_assert_eq!(statistics.failed().count, failures.len() as u64);
            prop_assert_eq!(statistics.failed().time, failures.iter().map(|failure| nanos(*failure)).sum::<Duration>());
            prop_assert_eq!(statistics.last_call(), calls.iter().map(|(_, finished)| Timestamp::from_nanos(*finished)).max());
            prop_assert!(statistics.sizes().map(|size| size.size).is_sorted());
        }
    }

    #[test]
    fn a_failed_batch_does_not_count_as_a_call() {
        let mut statistics = Statistics::default();
        let failed = Spent { count: 3, time: nanos(30) };
        statistics.add(&Executed { calls: SmallVec::new(), failed, finished: Timestamp::from_nanos(9) });
        assert_eq!((statistics.calls(), statistics.items(), statistics.last_call()), (0, 0, None));
        assert_eq!(statistics.failed(), failed);
    }
}
