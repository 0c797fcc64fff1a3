//! Threads for loading and trying models while lanes serve others.

use std::{hint::black_box, time::Duration};

use parking_lot::Mutex;

use crate::{
    clock::{self, Spent},
    domain::Timestamp,
    engine::LaneThreads,
};

/// Share of a model's time that may pass while its calls give way; the rest is for calls that take their share of the cores.
const STANDING_SHARE: f64 = 0.5;
/// After this many calls that gave way, they show better how much time the cores have than what was found before.
const CALLS_KNOWN: u32 = 8;
/// Cores have time to spare if work that gives way takes at most this many times as long as on a free core. If all cores are at
/// work it takes some hundreds of times as long, and nothing can call it back.
const SLOWNESS_SPARE: f64 = 8.0;
/// Steps of the work that shows how much time there is: a quarter of a millisecond on a free core.
const PROBE_STEPS: u64 = 1 << 18;
/// Work that takes at least this long, and waits for most of it, was not merely unlucky: the cores have no time to spare.
const CROWDED_LEAST: Duration = Duration::from_millis(250);
/// For this long afterwards, no other work gives way. Otherwise each of many reloads would take seconds.
const CROWDED_FOR: Duration = Duration::from_secs(60);

/// Threads for work done while lanes serve: one that computes only while a core has nothing else to do, so that no client waits for it, and
/// one that takes its share of the cores, for what would otherwise not be over in time.
#[derive(Debug)]
pub struct Aside {
    standing_back: LaneThreads,
    pressing: LaneThreads,
    /// When work that gave way was last seen to get hardly any time on the cores.
    crowded: Mutex<Option<Timestamp>>,
}

/// The time that a model's trial calls have taken so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// Computing.
    pub(super) calls: Duration,
    /// Longest call among them.
    pub(super) longest: Duration,
    /// The calls among them that gave way: how many, what they took, and how much time passed until they were over.
    stood_back: u32,
    stood_back_took: Duration,
    stood_back_passed: Duration,
}

impl Aside {
    /// `stand_back` turns the thread that runs it into one that computes only while a core has nothing else to do.
    #[must_use]
    pub fn new(stand_back: impl FnOnce() + Send) -> Self {
        let (standing_back, pressing) = (LaneThreads::new(), LaneThreads::new());
        let aside = Self { standing_back, pressing, crowded: Mutex::new(None) };
        aside.standing_back.run(stand_back);
        aside
    }

    /// Whether the cores have time to spare.
    #[must_use]
    pub fn has_time(&self) -> bool {
        self.slowness() <= SLOWNESS_SPARE
    }

    /// How many times as long as on a free core work that gives way takes now.
    pub(super) fn slowness(&self) -> f64 {
        let crowded = *self.crowded.lock();
        if crowded.is_some_and(|at| clock::now().since(at) < CROWDED_FOR) {
            return f64::INFINITY;
        }
        let work = || black_box((0..PROBE_STEPS).fold(1_u64, |number, step| black_box(number.rotate_left(7) ^ step)));
        slowness_of(self.timed(work).1)
    }

    /// Runs work that gives way, and says what it took on its thread.
    pub(super) fn timed<R: Send>(&self, work: impl FnOnce() -> R + Send) -> (R, Spent) {
        let (result, spent) = self.standing_back.run(|| clock::timed(work));
        if is_crowded(spent) {
            *self.crowded.lock() = Some(clock::now());
        }
        (result, spent)
    }

    /// Runs work on the thread that takes its share of the cores.
    pub fn press<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pressing.run(work)
    }

    /// Runs work on the thread that gives way. If all cores become busy before it is over, it takes hundreds of times as long.
    pub fn stand_back<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.timed(work).0
    }
}

fn slowness_of(spent: Spent) -> f64 {
    spent.passed.as_secs_f64() / spent.computing().as_secs_f64().max(1e-9)
}

fn is_crowded(spent: Spent) -> bool {
    spent.passed >= CROWDED_LEAST && slowness_of(spent) > SLOWNESS_SPARE
}

impl Taken {
    /// Notes a call.
    pub(super) fn add(&mut self, took: Duration) {
        self.calls += took;
        self.longest = self.longest.max(took);
    }

    /// Notes a call that gave way and was over after `passed`.
    pub(super) fn add_standing_back(&mut self, took: Duration, passed: Duration) {
        self.add(took);
        self.stood_back += 1;
        self.stood_back_took += took;
        self.stood_back_passed += passed.max(took);
    }

    /// How long calls that gave way have waited for a core.
    pub(super) fn waited(self) -> Duration {
        self.stood_back_passed.saturating_sub(self.stood_back_took)
    }

    /// Whether the next call of a model that may take `budget` for all of them gives way: if cores have time to spare, and a call of twice
    /// the longest so far would be over before the share for such calls is used up, at the present pace. `slowness_before` is that of other
    /// work before the first.
    pub(super) fn stands_back(self, slowness_before: f64, budget: Duration) -> bool {
        let known = self.stood_back_passed.as_secs_f64() / self.stood_back_took.as_secs_f64().max(1e-9);
        let slowness = if self.stood_back < CALLS_KNOWN { slowness_before } else { known };
        let next = 2.0 * self.longest.as_secs_f64() * slowness;
        slowness <= SLOWNESS_SPARE && self.stood_back_passed.as_secs_f64() + next <= budget.as_secs_f64() * STANDING_SHARE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const BUDGET: Duration = Duration::from_secs(2);

    /// After calls that each took `took` microseconds and were over after `passed`.
    fn after(calls: u32, took: u64, passed: u64) -> Taken {
        let [took, passed] = [took, passed].map(Duration::from_micros);
        let mut taken = Taken::default();
        taken.add(took);
        (0..calls).for_each(|_| taken.add_standing_back(took, passed));
        taken
    }

    const QUIET: f64 = 1.5;
    const BUSY: f64 = 100.0;

    #[test]
    fn calls_stand_back_if_cores_have_time_and_they_will_be_over_soon() {
        assert!(Taken::default().stands_back(QUIET, BUDGET));
        assert!(!Taken::default().stands_back(BUSY, BUDGET));
        assert!(after(0, 300_000, 0).stands_back(QUIET, BUDGET));
        assert!(!after(0, 400_000, 0).stands_back(QUIET, BUDGET), "the next one may last for longer than their share");
        assert!(!after(1, 100, 1_000_000).stands_back(QUIET, BUDGET), "their share is over");
        assert_eq!(after(4, 100, 1_100).waited(), Duration::from_millis(4));
    }

    #[test]
    fn how_they_go_decides_about_later_ones() {
        assert!(after(7, 100, 20_000).stands_back(QUIET, BUDGET), "a few may have been unlucky");
        assert!(!after(8, 100, 20_000).stands_back(QUIET, BUDGET), "cores have no time any more");
        assert!(after(8, 100, 150).stands_back(BUSY, BUDGET));
    }

    #[test]
    fn work_that_got_hardly_any_of_the_cores_lets_others_press_for_a_while() {
        let of = |passed, waited| {
            let [passed, waited] = [passed, waited].map(Duration::from_millis);
            is_crowded(Spent { passed, waited })
        };
        assert!(of(1_000, 990) && of(250, 225));
        assert!(!of(1_000, 800), "some time was left");
        assert!(!of(100, 99), "an unlucky moment");
        let aside = Aside::new(|| ());
        *aside.crowded.lock() = Some(clock::now());
        assert!(!aside.has_time());
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
