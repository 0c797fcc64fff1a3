//! Threads for trial calls beside lanes that serve.

use std::time::Duration;

use crate::engine::LaneThreads;

/// Threads for trial calls beside lanes that serve: one that stands back behind threads that wake, so that no client waits for
/// it, and one that takes its share of the cores, for a model that would else never be done.
#[derive(Debug)]
pub struct Aside {
    yielding: LaneThreads,
    pressing: LaneThreads,
}

/// What the trial calls of a model have taken so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// Computing.
    pub(super) calls: Duration,
    /// Longest call among them.
    pub(super) longest: Duration,
    /// From the beginning until now.
    pub(super) passed: Duration,
}

impl Aside {
    /// `stand_back` makes the thread that it is run on one that takes no core from a thread at work.
    #[must_use]
    pub fn new(stand_back: impl FnOnce() + Send) -> Self {
        let aside = Self { yielding: LaneThreads::new(), pressing: LaneThreads::new() };
        aside.yielding.run(stand_back);
        aside
    }

    /// Runs work that is soon done on the thread that takes its share of the cores.
    pub fn press<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pressing.run(work)
    }

    /// Runs work on the thread that stands back.
    pub(super) fn stand_back<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.yielding.run(work)
    }
}

impl Taken {
    /// Whether the next call has to press, of a model that may take `budget` for all of them: calls stand back until that has passed, and
    /// only if one that takes twice the longest so far should be over by then, as slowly as they go.
    pub(super) fn presses(self, budget: Duration) -> bool {
        let slowness = self.passed.as_secs_f64() / self.calls.as_secs_f64().max(1e-9);
        let next = 2.0 * self.longest.as_secs_f64() * slowness;
        self.passed.as_secs_f64() + next > budget.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn calls_stand_back_as_long_as_they_can_be_over_in_time() {
        let presses = |calls: u64, longest: u64, passed: u64| {
            let [calls, longest, passed] = [calls, longest, passed].map(Duration::from_millis);
            Taken { calls, longest, passed }.presses(Duration::from_secs(2))
        };
        assert!(!presses(0, 0, 0), "the first call");
        assert!(!presses(500, 10, 600), "cores with time");
        assert!(!presses(500, 10, 1_900), "cores with little time");
        assert!(presses(500, 10, 2_000), "too late");
        assert!(presses(5, 1, 1_500), "cores with hardly any time: the next call would take half a second");
    }

    #[test]
    fn one_thread_stands_back_and_another_does_not() {
        let mut stood_back = None;
        let aside = Aside::new(|| stood_back = Some(thread::current().id()));
        let here = || thread::current().id();
        assert_eq!(stood_back, Some(aside.stand_back(here)));
        assert_ne!(stood_back, Some(aside.press(here)));
        assert_ne!(stood_back, Some(aside.stand_back(|| aside.press(here))));
    }
}
