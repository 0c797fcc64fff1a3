//! The one place that reads the machine's clocks.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use crate::domain::Timestamp;

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
static ORIGIN: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// The present moment; the origin is the first call in this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Timestamp {
    let (origin, _) = *ORIGIN;
    Timestamp::ZERO + Instant::now().duration_since(origin)
}

/// The time of day of a moment, since 1970. It follows from the one at the origin, so it is the same whenever it is asked for, and
/// does not follow a clock that is set.
#[must_use]
pub fn since_epoch(at: Timestamp) -> Duration {
    let (_, origin) = *ORIGIN;
    origin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + at.since(Timestamp::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_goes_with_the_monotonic_clock() {
        let moment = now();
        assert!(since_epoch(moment) > Duration::from_secs(1_500_000_000), "this century");
        assert_eq!(since_epoch(moment + Duration::from_nanos(7)), since_epoch(moment) + Duration::from_nanos(7));
    }
}
