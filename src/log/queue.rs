//! Lines waiting to be written: bounded, and putting one in never waits for the writer's file.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Lines that may wait.
pub(super) const LINES_MAX: usize = 4_096;
/// Bytes that may wait.
const BYTES_MAX: usize = 4 << 20;

/// For all logs in the process, for the metric.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that have been lost since the process began.
#[must_use]
pub fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The lines on their way to the file.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lost lines that have not been reported yet.
    lost: u64,
    /// A line was taken and has not been written yet.
    writing: bool,
}

/// What the writer has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Lost lines to report.
    pub(super) lost: u64,
    /// The next line. `None` if there is none, but lost ones have to be reported.
    pub(super) line: Option<Vec<u8>>,
}

impl Queue {
    /// Puts a line in, or counts it as lost.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state.lock();
        if state.lines.len() >= LINES_MAX || state.bytes + line.len() > BYTES_MAX {
            state.lost += 1;
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for something to write. Lost lines are reported when there are others to write, or when `reports` says that they can
    /// be: while writing fails, the report would only fail too.
    pub(super) fn take(&self, reports: bool) -> Job {
        let mut state = self.state.lock();
        state.writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return Job { lost: std::mem::take(&mut state.lost), line: Some(line) };
            }
            if reports && state.lost > 0 {
                state.writing = true;
                return Job { lost: std::mem::take(&mut state.lost), line: None };
            }
            self.written.notify_all();
            self.filled.wait(&mut state);
        }
    }

    /// Counts lines that could not be written.
    pub(super) fn lose(&self, lines: u64) {
        self.state.lock().lost += lines;
        LOST.fetch_add(lines, Ordering::Relaxed);
    }

    /// Puts back lost lines that were counted but could not be reported.
    pub(super) fn report_later(&self, lost: u64) {
        self.state.lock().lost += lost;
    }

    /// Waits until nothing is left to write, or the time is up.
    pub(super) fn wait_written(&self, limit: Duration) {
        let mut state = self.state.lock();
        self.written.wait_while_for(&mut state, |state| state.writing || !state.lines.is_empty(), limit);
    }
}
