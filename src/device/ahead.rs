//! Work done on the lanes' compute threads before the lanes start to serve.

use std::{io, thread};

use parking_lot::Mutex;

use crate::engine::LaneThreads;

/// Runs `work` once for each lane except long ones, with the lane's number and on its compute thread, all at the same time;
/// returns when all have finished. Without lanes it runs once, on the caller's thread.
///
/// # Errors
/// The system's error if it refuses a thread; nothing has run in that case.
pub fn on_each_lane(lanes: &[LaneThreads], work: impl Fn(usize) + Sync) -> io::Result<()> {
    if lanes.is_empty() {
        work(0);
        return Ok(());
    }
    let lanes = lanes.iter().filter(|lane| !lane.is_long_lane());
    // Locked until every thread exists: if only some could be started, they might wait for the others for ever.
    let all_are_there = Mutex::new(false);
    thread::scope(|scope| {
        let mut counted = all_are_there.lock();
        for (lane, compute) in lanes.enumerate() {
            let (work, all_are_there) = (&work, &all_are_there);
            thread::Builder::new().spawn_scoped(scope, move || {
                // The lock is released at once, so that the lanes work at the same time.
                let begins = *all_are_there.lock();
                if begins {
                    compute.run(|| work(lane));
                }
            })?;
        }
        *counted = true;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn lanes_work_at_the_same_time_and_without_lanes_the_caller_does() {
        let done = Mutex::new(Vec::new());
        let together = Barrier::new(3);
        on_each_lane(&LaneThreads::device(3), |lane| {
            // If the lanes ran one after another, none would get past this.
            together.wait();
            done.lock().push(lane);
        })
        .expect("threads");
        on_each_lane(&[], |lane| done.lock().push(lane)).expect("no thread is needed");
        let mut done = done.into_inner();
        done.sort_unstable();
        assert_eq!(done, [0, 0, 1, 2]);
    }
}
