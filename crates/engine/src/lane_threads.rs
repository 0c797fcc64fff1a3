//! The threads that the lanes of a device work on.
//!
//! Knows that an engine may have its own threads for lanes to work on, but not what it does there.

use std::{any::Any, fmt::Debug, sync::Arc};

/// What an engine keeps for one lane and shares between all its models there, with a thread for the lane to work on: then a call of
/// this engine need not leave the lane's thread.
pub trait LaneHost: Any + Debug + Send + Sync {
    /// Runs `work` on the thread, and returns when it is done.
    fn run(&self, work: &mut (dyn FnMut() + Send));
}

/// The threads of one lane, as the server and its engines share them.
///
/// A call that is made on the thread of another lane computes there, since the lane's own thread may be in its loop for good. So a model
/// can be tried while lanes are at work.
#[derive(Debug, Clone)]
pub struct LaneThreads {
    hosts: Arc<[Arc<dyn LaneHost>]>,
    is_long_lane: bool,
}

impl LaneThreads {
    /// The threads of a lane that works inside these hosts, outermost first.
    pub(super) fn within(hosts: Vec<Arc<dyn LaneHost>>, is_long_lane: bool) -> Self {
        Self { hosts: hosts.into(), is_long_lane }
    }

    /// Whether they belong to a lane for long calls only.
    #[must_use]
    pub const fn is_long_lane(&self) -> bool {
        self.is_long_lane
    }

    /// Runs `work` on the lane's compute thread, and returns when it is done.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let (mut work, mut result) = (Some(work), None);
        run_within(&self.hosts, &mut || result = work.take().map(|work| work()));
        result.unwrap_or_else(|| unreachable!("a host runs its work"))
    }

    /// What the engine with hosts of this type keeps for the lane.
    pub(super) fn host<H: LaneHost>(&self) -> Option<Arc<H>> {
        self.hosts.iter().find_map(|host| {
            let host: Arc<dyn LaneHost> = Arc::clone(host);
            (host as Arc<dyn Any + Send + Sync>).downcast().ok()
        })
    }
}

fn run_within(hosts: &[Arc<dyn LaneHost>], work: &mut (dyn FnMut() + Send)) {
    match hosts.split_first() {
        Some((host, inner)) => host.run(&mut || run_within(inner, work)),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use parking_lot::Mutex;

    use super::*;

    /// Notes its name, and hosts the lane on a new thread.
    #[derive(Debug)]
    struct Inn<const NUMBER: u8>(Arc<Mutex<Vec<u8>>>);

    impl<const NUMBER: u8> LaneHost for Inn<NUMBER> {
        fn run(&self, work: &mut (dyn FnMut() + Send)) {
            self.0.lock().push(NUMBER);
            thread::scope(|scope| scope.spawn(work).join().expect("no panic"));
        }
    }

    #[test]
    fn a_lane_works_inside_all_hosts_and_each_engine_finds_its_own() {
        let visited = Arc::<Mutex<Vec<u8>>>::default();
        let hosts: Vec<Arc<dyn LaneHost>> =
            vec![Arc::new(Inn::<1>(Arc::clone(&visited))), Arc::new(Inn::<2>(Arc::clone(&visited)))];
        let lane = LaneThreads::within(hosts, false);
        let here = || thread::current().id();
        assert_ne!(lane.run(here), here());
        assert_eq!(*visited.lock(), [1, 2]);
        assert!(lane.host::<Inn<2>>().is_some() && lane.host::<Inn<3>>().is_none());
    }

    #[test]
    fn without_hosts_a_lane_works_on_the_thread_that_asks() {
        let here = || thread::current().id();
        assert_eq!(LaneThreads::within(Vec::new(), false).run(here), here());
    }
}
