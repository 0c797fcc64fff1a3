//! Whether any part that has work is hanging, found out on request. Nothing watches in between.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use tokio::runtime::RuntimeMetrics;

use super::Vitals;
use crate::domain::Timestamp;

/// No step shorter than this is too long.
const PATIENCE_MIN: Duration = Duration::from_secs(30);
/// Nor is one shorter than this many times the longest model call, as far as known.
const CALLS_MAX: u32 = 10;

/// Finds out which part is hanging: a lane in a call, the timekeeper, or a thread of the runtime in one poll.
///
/// It does not matter how busy the server is: lanes that are always at work still take one step after another.
pub struct Liveness {
    vitals: Vitals,
    runtime: RuntimeMetrics,
    /// `None` if that cannot be determined now without waiting.
    longest_call: Box<dyn Fn() -> Option<Duration> + Send + Sync>,
    seen: Mutex<Seen>,
}

/// What was seen the last time this was asked.
#[derive(Debug, Default)]
struct Seen {
    longest_call: Duration,
    workers: Vec<(Signs, Timestamp)>,
}

/// What the runtime reports about one of its threads; it changes with every turn and every few dozen polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signs {
    /// Odd while it sleeps.
    turns: u64,
    busy: Duration,
}

/// Something that is hanging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Which part.
    pub part: String,
    /// For how long.
    pub lasts: Duration,
    /// The longest it may take.
    pub limit: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has made no progress for {:.0?}, more than {:.0?}", self.part, self.lasts, self.limit)
    }
}

impl Liveness {
    /// For these parts and the threads of this runtime; `longest_call` says, without waiting, how long a model's call may take.
    #[must_use]
    pub fn new(
        vitals: Vitals,
        runtime: RuntimeMetrics,
        longest_call: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self { vitals, runtime, longest_call: Box::new(longest_call), seen: Mutex::default() }
    }

    /// What is hanging now.
    #[must_use]
    pub fn stall(&self, now: Timestamp) -> Option<Stall> {
        let signs = |worker| Signs {
            turns: self.runtime.worker_park_unpark_count(worker),
            busy: self.runtime.worker_total_busy_duration(worker),
        };
        let workers: Vec<Signs> = (0..self.runtime.num_workers()).map(signs).collect();
        self.stall_among(now, &workers)
    }

    fn stall_among(&self, now: Timestamp, workers: &[Signs]) -> Option<Stall> {
        let mut seen = self.seen.lock();
        seen.longest_call = (self.longest_call)().unwrap_or(seen.longest_call);
        let limit = PATIENCE_MIN.max(CALLS_MAX * seen.longest_call);
        seen.workers.resize(workers.len(), (Signs { turns: 1, busy: Duration::ZERO }, now));
        for (before, signs) in seen.workers.iter_mut().zip(workers) {
            let sleeps = signs.turns % 2 == 1;
            if sleeps || before.0 != *signs {
                *before = (*signs, now);
            }
        }
        let mut steps: Vec<(String, Duration)> =
            self.vitals.inner.pulses.lock().iter().map(|(part, pulse)| (part.to_string(), pulse.lasts(now))).collect();
        steps.extend(seen.workers.iter().enumerate().map(|(index, (_, since))| (format!("worker-{index}"), now.since(*since))));
        let (part, lasts) = steps.into_iter().max_by_key(|(_, lasts)| *lasts)?;
        (lasts > limit).then_some(Stall { part, lasts, limit })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        telemetry::Telemetry,
        vitals::{Part, Pulse, Vital},
    };

    struct World {
        liveness: Liveness,
        lanes: Vec<(Arc<Pulse>, Vital)>,
        longest_ms: Arc<AtomicU64>,
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn asleep() -> Signs {
        Signs { turns: 7, busy: Duration::from_secs(1) }
    }

    fn at_work(busy_ms: u64) -> Signs {
        Signs { turns: 8, busy: Duration::from_millis(busy_ms) }
    }

    impl World {
        fn new() -> Self {
            let (vitals, longest_ms) = (Vitals::new(&Telemetry::new()), Arc::new(AtomicU64::new(10)));
            let lane = |index| {
                let pulse = Arc::<Pulse>::default();
                let vital = vitals.watch_steps(Part::Lane(index), &pulse);
                (pulse, vital)
            };
            let lanes = (0..2).map(lane).collect();
            let asked = Arc::clone(&longest_ms);
            // Like the queue while its lock is taken.
            let longest = move || Some(asked.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Duration::from_millis);
            Self { liveness: Liveness::new(vitals, Handle::current().metrics(), longest), lanes, longest_ms }
        }

        fn stalled(&self, seconds: u64, workers: &[Signs]) -> Option<String> {
            self.liveness.stall_among(at(seconds), workers).map(|stall| stall.part)
        }
    }

    #[tokio::test]
    async fn a_call_that_lasts_far_longer_than_any_is_a_stall_and_only_then() {
        let world = World::new();
        world.lanes[1].0.begin(at(100));
        assert_eq!(world.stalled(130, &[asleep()]), None);
        assert_eq!(world.stalled(131, &[asleep()]).as_deref(), Some("lane-cpu-1"));
        world.longest_ms.store(10_000, Ordering::Relaxed);
        assert_eq!(world.stalled(200, &[asleep()]), None);
        world.longest_ms.store(0, Ordering::Relaxed);
        assert_eq!(world.stalled(200, &[asleep()]), None, "what was known before holds while nothing new is known");
        assert_eq!(world.stalled(201, &[asleep()]).as_deref(), Some("lane-cpu-1"));
        world.lanes[1].0.rest();
        assert_eq!(world.stalled(1_000, &[asleep()]), None);
    }

    #[tokio::test]
    async fn lanes_that_are_in_one_long_call_after_another_stay_alive_for_ever() {
        let world = World::new();
        world.longest_ms.store(10_000, Ordering::Relaxed);
        for call in 1..1_000 {
            for (pulse, _) in &world.lanes {
                pulse.begin(at(call * 10));
            }
            assert_eq!(world.stalled(call * 10 + 9, &[at_work(call), at_work(call)]), None);
        }
    }

    #[tokio::test]
    async fn a_timer_that_does_not_go_off_is_a_stall() {
        let world = World::new();
        world.lanes[0].0.rest_until(at(500));
        assert_eq!(world.stalled(530, &[]), None);
        assert_eq!(world.stalled(531, &[]).as_deref(), Some("lane-cpu-0"));
    }

    #[tokio::test]
    async fn a_worker_is_stalled_since_it_was_first_seen_in_the_same_poll() {
        let world = World::new();
        let hangs = at_work(5);
        assert_eq!(world.stalled(1_000, &[asleep(), hangs]), None);
        assert_eq!(world.stalled(1_030, &[asleep(), hangs]), None);
        assert_eq!(world.stalled(1_031, &[asleep(), hangs]).as_deref(), Some("worker-1"));
        assert_eq!(world.stalled(1_032, &[asleep(), at_work(6)]), None, "it polls again");
        assert_eq!(world.stalled(2_000, &[asleep(), asleep()]), None);
    }

    #[tokio::test]
    async fn a_part_that_has_ended_is_not_a_stall() {
        let mut world = World::new();
        let (pulse, vital) = world.lanes.remove(0);
        pulse.begin(at(1));
        vital.end();
        assert_eq!(world.stalled(1_000, &[]), None);
    }

    #[tokio::test]
    async fn it_asks_the_runtime() {
        assert_eq!(World::new().liveness.stall(at(1)), None);
    }
}
