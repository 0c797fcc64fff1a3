//! Threads for trial calls beside lanes that serve.

use std::time::Duration;

use crate::engine::LaneThreads;

/// This share of a model's time may pass while its calls stand back; the rest is for calls that take their share of the cores.
const STANDING_SHARE: f64 = 0.5;
/// So many times as long as on a core of its own a call is taken to last while it stands back, until so many have shown better: where
/// all cores are at work it gets three parts in a thousand of one, and nothing can call it back.
const SLOWNESS_UNKNOWN: f64 = 100.0;
const CALLS_KNOWN: u32 = 8;

/// Threads for trial calls beside lanes that serve: one that computes while a core has nothing else to do, so that no client waits for
/// it, and one that takes its share of the cores, for calls that would else not be over in time.
#[derive(Debug)]
pub struct Aside {
    standing_back: LaneThreads,
    pressing: LaneThreads,
}

/// What the trial calls of a model have taken so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// Computing.
    pub(super) calls: Duration,
    /// Longest call among them.
    pub(super) longest: Duration,
    /// The calls among them that stood back: how many, what they took, and what passed until they were over.
    stood_back: u32,
    stood_back_took: Duration,
    stood_back_passed: Duration,
}

impl Aside {
    /// `stand_back` makes the thread that it is run on one that computes only while a core has nothing else to do.
    #[must_use]
    pub fn new(stand_back: impl FnOnce() + Send) -> Self {
        let aside = Self { standing_back: LaneThreads::new(), pressing: LaneThreads::new() };
        aside.standing_back.run(stand_back);
        aside
    }

    /// Runs work on the thread that takes its share of the cores.
    pub fn press<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pressing.run(work)
    }

    /// Runs work on the thread that stands back.
    pub(super) fn stand_back<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.standing_back.run(work)
    }
}

impl Taken {
    /// Notes a call.
    pub(super) fn add(&mut self, took: Duration) {
        self.calls += took;
        self.longest = self.longest.max(took);
    }

    /// Notes a call that stood back, and was over after `passed`.
    pub(super) fn add_standing_back(&mut self, took: Duration, passed: Duration) {
        self.add(took);
        self.stood_back += 1;
        self.stood_back_took += took;
        self.stood_back_passed += passed.max(took);
    }

    /// What calls that stood back have waited for a core.
    pub(super) fn waited(self) -> Duration {
        self.stood_back_passed.saturating_sub(self.stood_back_took)
    }

    /// Whether the next call stands back, of a model that may take `budget` for all of them: if one of twice the longest so far is over
    /// before their share of that time is, as slowly as they go. The first one, of unknown length, does not.
    pub(super) fn stands_back(self, budget: Duration) -> bool {
        let known = self.stood_back_passed.as_secs_f64() / self.stood_back_took.as_secs_f64().max(1e-9);
        let slowness = if self.stood_back < CALLS_KNOWN { known.max(SLOWNESS_UNKNOWN) } else { known };
        let next = 2.0 * self.longest.as_secs_f64() * slowness;
        !self.calls.is_zero() && self.stood_back_passed.as_secs_f64() + next <= budget.as_secs_f64() * STANDING_SHARE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const BUDGET: Duration = Duration::from_secs(2);

    /// After calls that took so many microseconds each, and were over after so many.
    fn after(calls: u32, took: u64, passed: u64) -> Taken {
        let [took, passed] = [took, passed].map(Duration::from_micros);
        let mut taken = Taken::default();
        taken.add(took);
        (0..calls).for_each(|_| taken.add_standing_back(took, passed));
        taken
    }

    #[test]
    fn the_first_call_takes_its_share_and_short_ones_stand_back() {
        assert!(!Taken::default().stands_back(BUDGET));
        assert!(after(0, 4_000, 0).stands_back(BUDGET));
        assert!(!after(0, 6_000, 0).stands_back(BUDGET), "on a machine at work it might last for seconds");
    }

    #[test]
    fn how_they_go_decides_about_longer_ones() {
        assert!(after(8, 100, 150).stands_back(BUDGET));
        let mut quiet = after(8, 100, 150);
        quiet.add_standing_back(Duration::from_millis(50), Duration::from_millis(60));
        assert!(quiet.stands_back(BUDGET), "cores have time");
        assert!(!after(8, 1_000, 110_000).stands_back(BUDGET), "the next one would take too long");
        assert!(!after(1, 100, 1_000_000).stands_back(BUDGET), "their share is over");
        assert_eq!(after(4, 100, 1_100).waited(), Duration::from_millis(4));
    }

    #[test]
    fn one_thread_stands_back_and_another_does_not() {
        let mut stood_back = None;
        let aside = Aside::new(|| stood_back = Some(thread::current().id()));
        let here = || thread::current().id();
        assert_eq!(stood_back, Some(aside.stand_back(here)));
        assert_ne!(stood_back, Some(aside.press(here)));
        assert_eq!(stood_back, Some(aside.press(|| aside.stand_back(here))));
    }
}
