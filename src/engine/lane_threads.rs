//! The threads that the lanes of a device compute on.

use std::sync::{Arc, OnceLock};

use super::CallThreads;

/// The compute threads of one lane: a pool of one, in which the lane's own loop runs, and a pool that all lanes of the device share
/// for a call that may have the whole device to itself.
///
/// rten computes inside a rayon pool, and entering a foreign pool costs two context switches a call. A lane that already runs
/// inside its pool enters it for free; the shared pool is foreign to it, which only a call of some length is worth.
#[derive(Debug, Clone)]
pub struct LaneThreads {
    own: Arc<rten::ThreadPool>,
    shared: Arc<SharedThreads>,
}

/// Threads as many as lanes, started when they are first needed.
#[derive(Debug)]
struct SharedThreads {
    lanes: usize,
    pool: OnceLock<Arc<rten::ThreadPool>>,
}

impl LaneThreads {
    /// Threads for a device of one lane.
    #[must_use]
    pub fn new() -> Self {
        Self::of(&Arc::new(SharedThreads { lanes: 1, pool: OnceLock::new() }))
    }

    /// Threads for each of the `lanes` lanes of one device.
    #[must_use]
    pub fn device(lanes: usize) -> Vec<Self> {
        let shared = Arc::new(SharedThreads { lanes, pool: OnceLock::new() });
        (0..lanes).map(|_| Self::of(&shared)).collect()
    }

    fn of(shared: &Arc<SharedThreads>) -> Self {
        Self { own: Arc::new(rten::ThreadPool::with_num_threads(1)), shared: Arc::clone(shared) }
    }

    /// Runs `work` on the lane's compute thread, and returns when it is done.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.own.run(work)
    }

    /// The pool for a call. With a single lane, its own thread is all that there is.
    pub(super) fn pool(&self, threads: CallThreads) -> Arc<rten::ThreadPool> {
        match threads {
            CallThreads::All if self.shared.lanes > 1 => {
                let start = || Arc::new(rten::ThreadPool::with_num_threads(self.shared.lanes));
                Arc::clone(self.shared.pool.get_or_init(start))
            }
            CallThreads::One | CallThreads::All => Arc::clone(&self.own),
        }
    }
}

impl Default for LaneThreads {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn lanes_of_a_device_share_one_wide_pool_that_is_none_of_their_own() {
        let lanes = LaneThreads::device(2);
        let [own, other] = [0, 1].map(|lane: usize| lanes[lane].pool(CallThreads::One));
        let wide = lanes[0].pool(CallThreads::All);
        assert!(!Arc::ptr_eq(&own, &other) && !Arc::ptr_eq(&wide, &own));
        assert!(Arc::ptr_eq(&wide, &lanes[1].pool(CallThreads::All)));
    }

    #[test]
    fn work_for_the_wide_pool_leaves_the_lanes_thread() {
        let lanes = LaneThreads::device(2);
        let here = || thread::current().id();
        let (lane, own, wide) =
            lanes[0].run(|| (here(), lanes[0].pool(CallThreads::One).run(here), lanes[0].pool(CallThreads::All).run(here)));
        assert_eq!(own, lane);
        assert_ne!(wide, lane);
    }

    #[test]
    fn a_lone_lane_starts_no_other_threads() {
        let lane = LaneThreads::new();
        assert!(Arc::ptr_eq(&lane.pool(CallThreads::One), &lane.pool(CallThreads::All)));
    }
}
