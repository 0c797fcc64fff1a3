//! Work on the lanes' compute threads before the lanes start to serve.

use std::thread;

use crate::engine::LaneThreads;

/// Runs `work` with the number of each lane, but for long ones, on that lane's compute thread, all at the same time, and returns when
/// all are done. Without lanes it runs once, on the caller's thread.
pub fn on_each_lane(lanes: &[LaneThreads], work: impl Fn(usize) + Sync) {
    if lanes.is_empty() {
        return work(0);
    }
    let lanes = lanes.iter().filter(|lane| !lane.is_long_lane());
    thread::scope(|scope| {
        for (lane, compute) in lanes.enumerate() {
            let work = &work;
            scope.spawn(move || compute.run(|| work(lane)));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn lanes_work_at_the_same_time_and_without_lanes_the_caller_does() {
        let done = Mutex::new(Vec::new());
        let together = Barrier::new(3);
        on_each_lane(&LaneThreads::device(3), |lane| {
            // No lane would get past this if they ran one after the other.
            together.wait();
            done.lock().push(lane);
        });
        on_each_lane(&[], |lane| done.lock().push(lane));
        let mut done = done.into_inner();
        done.sort_unstable();
        assert_eq!(done, [0, 0, 1, 2]);
    }
}
