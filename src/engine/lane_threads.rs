//! The threads that one lane computes on.

use std::sync::Arc;

/// The compute threads of one lane: a pool of one, in which the lane's own loop runs.
///
/// rten computes inside a rayon pool, and entering a foreign pool costs two context switches a call. A lane that already runs
/// inside its pool enters it for free.
#[derive(Debug, Clone)]
pub struct LaneThreads {
    pool: Arc<rten::ThreadPool>,
}

impl LaneThreads {
    /// Threads for one lane.
    #[must_use]
    pub fn new() -> Self {
        Self { pool: Arc::new(rten::ThreadPool::with_num_threads(1)) }
    }

    /// Runs `work` on the lane's compute thread, and returns when it is done.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.run(work)
    }

    pub(super) fn pool(&self) -> Arc<rten::ThreadPool> {
        Arc::clone(&self.pool)
    }
}

impl Default for LaneThreads {
    fn default() -> Self {
        Self::new()
    }
}
