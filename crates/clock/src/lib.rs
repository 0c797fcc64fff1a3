//! The one place that reads the machine's clocks.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use tidemill_domain::Timestamp;

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
static ORIGIN: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// The current time; the origin is the first call in this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
#[inline]
pub fn now() -> Timestamp {
    let (origin, _) = *ORIGIN;
    Timestamp::ZERO + Instant::now().duration_since(origin)
}

/// A moment as time of day, since 1970. It is computed from the time of day at the origin, so it is the same whenever it is asked
/// for, and does not change when the clock is set.
#[must_use]
pub fn since_epoch(at: Timestamp) -> Duration {
    let (_, origin) = *ORIGIN;
    origin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + at.since(Timestamp::ZERO)
}

thread_local! {
    /// What Linux reports about this thread's time on the cores.
    static TURNS: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

/// How long this thread has been ready to run while others had the cores, since it began. Zero if the system does not report it.
#[must_use]
pub fn waited() -> Duration {
    TURNS
        .with(|turns| {
            let mut text = [0; 64];
            let length = turns.as_ref()?.read_at(&mut text, 0).ok()?;
            // Nanoseconds on a core, nanoseconds of waiting, and the number of turns.
            let nanos = std::str::from_utf8(&text[..length]).ok()?.split_whitespace().nth(1)?.parse().ok()?;
            Some(Duration::from_nanos(nanos))
        })
        .unwrap_or_default()
}

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// From beginning to end.
    pub passed: Duration,
    /// Of that, waiting for a core; see [`waited`].
    pub waited: Duration,
}

impl Spent {
    /// Without the waiting.
    #[must_use]
    #[inline]
    pub const fn computing(self) -> Duration {
        self.passed.saturating_sub(self.waited)
    }
}

/// Does a piece of work on this thread, and returns what it took.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Spent) {
    let (waited_before, begun) = (waited(), now());
    let result = work();
    let passed = now().since(begun);
    (result, Spent { passed, waited: waited().saturating_sub(waited_before) })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;

    #[test]
    fn with_more_threads_than_cores_one_waits() {
        if waited() == Duration::ZERO && TURNS.with(Option::is_none) {
            eprintln!("this system does not tell how long threads wait for a core");
            return;
        }
        let threads = 2 * thread::available_parallelism().map_or(1, usize::from) + 1;
        let (all, done) = (Barrier::new(threads), AtomicBool::new(false));
        thread::scope(|scope| {
            let computing = || {
                all.wait();
                let before = waited();
                while !done.load(Ordering::Relaxed) {
                    if waited() > before + Duration::from_millis(1) {
                        done.store(true, Ordering::Relaxed);
                    }
                }
            };
            (0..threads).for_each(|_| _ = scope.spawn(computing));
        });
    }

    #[test]
    fn the_time_of_day_follows_the_monotonic_clock() {
        let moment = now();
        assert!(since_epoch(moment) > Duration::from_secs(1_500_000_000), "this century");
        assert_eq!(since_epoch(moment + Duration::from_nanos(7)), since_epoch(moment) + Duration::from_nanos(7));
    }
}
