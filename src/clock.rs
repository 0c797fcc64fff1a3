//! The one place that reads the machine's monotonic clock.

use std::{sync::LazyLock, time::Instant};

use crate::domain::Timestamp;

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The present moment; the origin is the first call in this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Timestamp {
    let origin = *ORIGIN;
    Timestamp::ZERO + Instant::now().duration_since(origin)
}
