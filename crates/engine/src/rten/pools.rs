//! rten's thread pools: for each lane one of a single thread, in which the lane's own loop runs, and one that all lanes of a device
//! share, for a call that may have the whole device to itself. All models of a lane use the same pools.
//!
//! rten computes inside a rayon pool, and entering a foreign pool costs two context switches a call. A lane that already runs inside its
//! pool enters it for free; the shared pool is foreign to it, which only a call of some length is worth.

use std::{
    cell::RefCell,
    sync::{Arc, OnceLock},
};

use rten::ThreadPool;

use crate::{CallThreads, LaneHost, LaneThreads};

thread_local! {
    /// The pool whose only thread this is, while it runs a lane's work.
    static HERE: RefCell<Option<Arc<ThreadPool>>> = const { RefCell::new(None) };
}

/// The pools of one lane.
#[derive(Debug)]
pub(super) struct Pools {
    own: Arc<ThreadPool>,
    shared: Arc<SharedPool>,
}

/// As many threads as lanes, started when they are first needed.
#[derive(Debug)]
struct SharedPool {
    lanes: usize,
    pool: OnceLock<Arc<ThreadPool>>,
}

impl Pools {
    /// Pools for the `lanes` lanes of one device, followed by those of as many long lanes.
    pub(super) fn of_device(lanes: usize, long_lanes: usize) -> impl Iterator<Item = Self> {
        let shared = Arc::new(SharedPool { lanes, pool: OnceLock::new() });
        (0..lanes + long_lanes).map(move |_| {
            let own = Arc::new(ThreadPool::with_num_threads(1));
            Self { own, shared: Arc::clone(&shared) }
        })
    }

    /// The pools that a lane works in. A lane that works in none gets new ones.
    pub(super) fn of(threads: &LaneThreads) -> Arc<Self> {
        let lone = || Self {
            own: Arc::new(ThreadPool::with_num_threads(1)),
            shared: Arc::new(SharedPool { lanes: 1, pool: OnceLock::new() }),
        };
        threads.host().unwrap_or_else(|| Arc::new(lone()))
    }

    /// The pool for a call. With a single lane, its own thread is all that there is.
    pub(super) fn pool(&self, threads: CallThreads) -> Arc<ThreadPool> {
        match threads {
            CallThreads::All if self.shared.lanes > 1 => {
                let start = || Arc::new(ThreadPool::with_num_threads(self.shared.lanes));
                Arc::clone(self.shared.pool.get_or_init(start))
            }
            CallThreads::One | CallThreads::All => HERE.with_borrow(|here| Arc::clone(here.as_ref().unwrap_or(&self.own))),
        }
    }
}

impl LaneHost for Pools {
    fn run(&self, work: &mut (dyn FnMut() + Send)) {
        self.own.run(|| {
            let _here = Here { before: HERE.replace(Some(Arc::clone(&self.own))) };
            work();
        });
    }
}

/// Clears [`HERE`], or the pool's thread would keep its own pool alive.
struct Here {
    before: Option<Arc<ThreadPool>>,
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn pools(lane: &LaneThreads) -> Arc<Pools> {
        Pools::of(lane)
    }

    #[test]
    fn lanes_of_a_device_share_one_wide_pool_that_is_none_of_their_own() {
        let lanes = LaneThreads::device(2);
        let [one, other] = [0, 1].map(|lane: usize| pools(&lanes[lane]));
        let [own, others] = [&one, &other].map(|pools| pools.pool(CallThreads::One));
        let wide = one.pool(CallThreads::All);
        assert!(!Arc::ptr_eq(&own, &others) && !Arc::ptr_eq(&wide, &own));
        assert!(Arc::ptr_eq(&wide, &other.pool(CallThreads::All)));
    }

    #[test]
    fn all_models_of_a_lane_compute_in_the_same_pool() {
        let lane = LaneThreads::new();
        let [one, other] = [(); 2].map(|()| pools(&lane).pool(CallThreads::One));
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn work_for_the_wide_pool_leaves_the_lanes_thread() {
        let lanes = LaneThreads::device(2);
        let mine = pools(&lanes[0]);
        let here = || thread::current().id();
        let (lane, own, wide) =
            lanes[0].run(|| (here(), mine.pool(CallThreads::One).run(here), mine.pool(CallThreads::All).run(here)));
        assert_eq!(own, lane);
        assert_ne!(wide, lane);
    }

    #[test]
    fn a_call_on_the_thread_of_another_lane_computes_there() {
        let [busy, beside] = [(); 2].map(|()| LaneThreads::new());
        let busy = pools(&busy);
        let here = || thread::current().id();
        let (mine, computed) = beside.run(|| (here(), busy.pool(CallThreads::One).run(here)));
        assert_eq!(computed, mine);
        assert_ne!(busy.pool(CallThreads::One).run(here), mine, "elsewhere, the lane's own thread computes");
        assert_eq!(Arc::strong_count(&pools(&beside).own), 1, "a thread that has nothing to do keeps no pool alive");
    }

    #[test]
    fn a_lone_lane_starts_no_other_threads() {
        let lane = pools(&LaneThreads::new());
        assert!(Arc::ptr_eq(&lane.pool(CallThreads::One), &lane.pool(CallThreads::All)));
    }
}
