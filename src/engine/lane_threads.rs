//! The threads that the lanes of a device compute on.

use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
};

use super::CallThreads;

thread_local! {
    /// The pool whose only thread this is, while it runs a lane's work.
    static HERE: RefCell<Option<Arc<rten::ThreadPool>>> = const { RefCell::new(None) };
}

/// The compute threads of one lane: a pool of one, in which the lane's own loop runs, and a pool that all lanes of the device share for
/// calls that may have the whole device to themselves.
///
/// rten computes inside a rayon pool, and entering a foreign pool costs two context switches per call. A lane that already runs inside its
/// pool enters it for free; the shared pool is foreign to it, so only a call of some length is worth it.
///
/// A call that is made on the thread of another lane computes there, since the lane's own thread may be in its loop for good. So a model
/// can be tried while lanes are at work.
#[derive(Debug, Clone)]
pub struct LaneThreads {
    own: Arc<rten::ThreadPool>,
    shared: Arc<SharedThreads>,
    is_long_lane: bool,
}

/// As many threads as lanes, started when they are first needed.
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
        Self::device_with_long_lanes(lanes, 0)
    }

    /// The same, and behind them those of long lanes.
    #[must_use]
    pub fn device_with_long_lanes(lanes: usize, long_lanes: usize) -> Vec<Self> {
        let shared = Arc::new(SharedThreads { lanes, pool: OnceLock::new() });
        let long = |lane: Self| Self { is_long_lane: true, ..lane };
        (0..lanes).map(|_| Self::of(&shared)).chain((0..long_lanes).map(|_| long(Self::of(&shared)))).collect()
    }

    fn of(shared: &Arc<SharedThreads>) -> Self {
        let own = Arc::new(rten::ThreadPool::with_num_threads(1));
        Self { own, shared: Arc::clone(shared), is_long_lane: false }
    }

    /// Whether they are those of a lane only for long calls.
    #[must_use]
    pub const fn is_long_lane(&self) -> bool {
        self.is_long_lane
    }

    /// Runs `work` on the lane's compute thread, and returns when it is done.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.own.run(|| {
            let _here = Here { before: HERE.replace(Some(Arc::clone(&self.own))) };
            work()
        })
    }

    /// The pool for a call. With a single lane, its own thread is all there is.
    pub(super) fn pool(&self, threads: CallThreads) -> Arc<rten::ThreadPool> {
        match threads {
            CallThreads::All if self.shared.lanes > 1 => {
                let start = || Arc::new(rten::ThreadPool::with_num_threads(self.shared.lanes));
                Arc::clone(self.shared.pool.get_or_init(start))
            }
            CallThreads::One | CallThreads::All => HERE.with_borrow(|here| Arc::clone(here.as_ref().unwrap_or(&self.own))),
        }
    }
}

/// Clears [`HERE`] again; otherwise the pool's thread would keep its own pool alive.
struct Here {
    before: Option<Arc<rten::ThreadPool>>,
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(self.before.take());
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
    fn lanes_of_a_device_share_one_wide_pool_that_is_not_their_own() {
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
    fn a_call_on_the_thread_of_another_lane_computes_there() {
        let [busy, beside] = [(); 2].map(|()| LaneThreads::new());
        let here = || thread::current().id();
        let (mine, computed) = beside.run(|| (here(), busy.pool(CallThreads::One).run(here)));
        assert_eq!(computed, mine);
        assert_ne!(busy.pool(CallThreads::One).run(here), mine, "elsewhere, the lane's own thread computes");
        assert_eq!(Arc::strong_count(&beside.own), 1, "a thread that has nothing to do keeps no pool alive");
    }

    #[test]
    fn a_lone_lane_starts_no_other_threads() {
        let lane = LaneThreads::new();
        assert!(Arc::ptr_eq(&lane.pool(CallThreads::One), &lane.pool(CallThreads::All)));
    }
}
