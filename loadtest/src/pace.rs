//! Lets what is due go at its moment.

use std::{sync::Arc, thread, time::Duration};

use tidemill::{clock, domain::Timestamp, threads};

use crate::feed::Valve;

/// Time between opening the streams and the first item.
pub(crate) const LEAD: Duration = Duration::from_millis(500);

/// Waits on this thread, to some tens of microseconds: the runtime's timers tick in milliseconds, too coarse beside what is measured.
pub(crate) fn wait_until(due: Timestamp) {
    loop {
        let left = due.since(clock::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Lets each item go at its moment, and closes the streams after the last.
pub(crate) fn pace(agenda: &[(Timestamp, usize)], valves: &[Arc<Valve>]) {
    threads::take_cores();
    for (due, stream) in agenda {
        wait_until(*due);
        valves[*stream].let_through(1);
    }
    // What has been let through may not have been sent yet.
    wait_until(clock::now() + LEAD);
    for valve in valves {
        valve.close();
    }
}
