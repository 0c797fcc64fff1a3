//! Log lines that clients can cause as often as they like: one a second is written, and the next one says how many were left out.
//!
//! Reads no clock: the caller gives the moment.

use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::Timestamp;

/// Shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Decides whether a line is due.
#[derive(Debug, Default)]
pub struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    due: Timestamp,
    left_out: u64,
}

impl Seldom {
    /// How many lines were left out before the one at `now`; `None` if that is left out too.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.state.lock();
        if now < state.due {
            state.left_out += 1;
            return None;
        }
        state.due = now + PAUSE;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_those_that_were_left_out() {
        let (seldom, begin) = (Seldom::default(), Timestamp::from_nanos(5));
        assert_eq!(seldom.due(begin), Some(0));
        for nanos in 0..1_000 {
            assert_eq!(seldom.due(begin + Duration::from_nanos(nanos)), None);
        }
        assert_eq!(seldom.due(begin + PAUSE), Some(1_000));
        assert_eq!(seldom.due(begin + 3 * PAUSE), Some(0));
    }
}
