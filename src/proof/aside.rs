//! Threads for trial calls beside lanes that serve.

use std::time::Duration;

use crate::engine::LaneThreads;

/// Threads for trial calls beside lanes that serve: one that computes while a core has nothing else to do, so that no client waits for
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
    /// `stand_back` makes the thread that it is run on one that computes only while a core has nothing else to do.
    #[must_use]
    pub fn new(stand_back: impl FnOnce() + Send) -> Self {
        let aside = Self { yielding: LaneThreads::new(), pressing: LaneThreads::new() };
        aside.yielding.run(stand_back);
        aside
    }

    /// Runs work that is soon done on the thread that takes its share of the cores.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pressing.run(work)
    }

    /// The threads for the next call of a model that may take `budget` for all of them. Calls yield until that has passed, and no longer
    /// than a call that takes twice the longest so far should be over by then, as slowly as they go.
    pub(super) fn threads(&self, taken: Taken, budget: Duration) -> &LaneThreads {
        let slowness = taken.passed.as_secs_f64() / taken.calls.as_secs_f64().max(1e-9);
        let next = 2.0 * taken.longest.as_secs_f64() * slowness;
        if taken.passed.as_secs_f64() + next <= budget.as_secs_f64() { &self.yielding } else { &self.pressing }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn calls_yield_as_long_as_they_can_be_over_in_time_and_then_press() {
        let aside = Aside::new(|| ());
        let [yielding, pressing] = [&aside.yielding, &aside.pressing].map(|threads| threads.run(|| thread::current().id()));
        let chosen = |calls: u64, longest: u64, passed: u64| {
            let [calls, longest, passed] = [calls, longest, passed].map(Duration::from_millis);
            aside.threads(Taken { calls, longest, passed }, Duration::from_secs(2)).run(|| thread::current().id())
        };
        assert_eq!(chosen(0, 0, 0), yielding, "the first call");
        assert_eq!(chosen(500, 10, 600), yielding, "idle cores");
        assert_eq!(chosen(500, 10, 1_900), yielding, "busy ones");
        assert_eq!(chosen(500, 10, 2_000), pressing, "too late");
        assert_eq!(chosen(5, 1, 1_500), pressing, "cores with no time at all: the next call would take half a second");
    }
}
