//! The event loop: virtual time, lanes that run calls, and a policy that is asked whenever a lane is idle.
//!
//! Events at the same moment happen in a fixed order: calls end (lane by lane), items arrive, the policy's timer fires, idle lanes ask.
//! Knows nothing about how a policy chooses.

use crate::{
    curve::Service,
    record::{Call, Recorder},
    workload::{NEVER, Workload},
};

/// Decides what an idle lane runs. Items are indices into the workload.
pub(crate) trait Policy {
    /// An item has arrived.
    fn arrive(&mut self, item: u32);

    /// Fills `batch` for an idle lane; leaves it empty if the lane has to wait.
    fn next_batch(&mut self, now: u64, lane: usize, batch: &mut Vec<u32>);

    /// The call of this lane has ended.
    fn finish(&mut self, lane: usize, batch: &[u32], nanos: u64);

    /// When, after `now`, the policy wants to be asked again at the latest; [`NEVER`] if only after the next event.
    fn next_wakeup(&self, now: u64, lane_is_idle: bool) -> u64;

    /// The moment of [`Policy::next_wakeup`] has come.
    fn wake(&mut self, _now: u64) {}
}

struct Lane {
    /// [`NEVER`] while idle.
    ends: u64,
    started: u64,
    batch: Vec<u32>,
}

/// Runs a workload to its end.
pub(crate) fn run(workload: &Workload, service: &Service, policy: &mut impl Policy, recorder: &mut Recorder<'_>) {
    let mut lanes: Vec<Lane> = (0..workload.lanes).map(|_| Lane { ends: NEVER, started: 0, batch: Vec::new() }).collect();
    let (mut busy, mut calls, mut arrived, mut now) = (0, 0, 0, 0);
    loop {
        let wakeup = policy.next_wakeup(now, busy < lanes.len());
        // A timer that has already fired has been handled.
        let wakeup = if wakeup > now { wakeup } else { NEVER };
        let arrival = workload.items.get(arrived).map_or(NEVER, |item| item.at);
        let end = lanes.iter().map(|lane| lane.ends).min().unwrap_or(NEVER);
        now = wakeup.min(arrival).min(end);
        if now >= workload.end || now == NEVER {
            return;
        }
        if end == now {
            for (index, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| lane.ends == now) {
                policy.finish(index, &lane.batch, lane.ends - lane.started);
                lane.ends = NEVER;
                lane.batch.clear();
                busy -= 1;
            }
        }
        while workload.items.get(arrived).is_some_and(|item| item.at <= now) {
            policy.arrive(arrived as u32);
            arrived += 1;
        }
        if wakeup == now {
            policy.wake(now);
        }
        while let Some(index) = lanes.iter().position(|lane| lane.ends == NEVER) {
            let lane = &mut lanes[index];
            policy.next_batch(now, index, &mut lane.batch);
            if lane.batch.is_empty() {
                break;
            }
            let nanos = service.duration(calls, workload.call_nanos(&lane.batch), now, busy);
            lane.started = now;
            lane.ends = now + nanos;
            busy += 1;
            calls += 1;
            recorder.call(workload, &Call { started: now, nanos, lane: index, items: &lane.batch });
        }
    }
}
