//! Releases items when they are due.

use std::{sync::Arc, thread, time::Duration};

use tidemill::{clock, domain::Timestamp, threads};

use crate::feed::Valve;

/// Time between opening the streams and the first item.
pub(crate) const LEAD: Duration = Duration::from_millis(500);

/// Shortest time from one wake-up to the next, well below what counts as a late send. A wake-up for each of 15,000 items a second took so
/// much of the two cores that a sixth fewer streams passed. Latency still counts from an item's own moment.
const TICK: Duration = Duration::from_micros(500);

/// Waits on this thread, to some tens of microseconds: the runtime's timers tick in milliseconds, too coarse for what is measured.
pub(crate) fn wait_until(due: Timestamp) {
    loop {
        let left = due.since(clock::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Releases each item at its moment, or within [`TICK`] plus the time that the system takes to wake this thread, and closes the streams
/// after the last one.
pub(crate) fn pace(agenda: &[(Timestamp, usize)], valves: &[Arc<Valve>]) {
    threads::take_cores();
    let mut woke = Timestamp::ZERO;
    for (due, stream) in agenda {
        if *due > clock::now() {
            wait_until((*due).max(woke + TICK));
            woke = clock::now();
        }
        valves[*stream].let_through(1);
    }
    // A released item may not have been sent yet.
    wait_until(clock::now() + LEAD);
    for valve in valves {
        valve.close();
    }
}
