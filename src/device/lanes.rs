//! The threads of a device's lanes.

use std::{io, sync::Arc, thread};

use super::state::Device;
use crate::{
    engine::LaneThreads,
    vitals::{Part, Vitals},
};

/// The threads that run model calls. Dropping this lets them finish what is queued, and waits for them.
pub struct Lanes {
    device: Arc<Device>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Lanes {
    /// Starts a thread for each lane of `device`, with the compute threads in `compute`, where those of long lanes come last;
    /// from then on, idle lanes are lent. `vitals` learns when a thread ends.
    ///
    /// # Errors
    /// The system's error if a thread cannot be started.
    pub fn start(device: &Arc<Device>, compute: &[LaneThreads], vitals: &Vitals) -> io::Result<Self> {
        let mut started = Self { device: Arc::clone(device), threads: Vec::new() };
        device.lend_lanes();
        let (ordinary, long) = compute.split_at(compute.len().min(device.lanes()));
        for (index, compute) in ordinary.iter().enumerate() {
            let (device, compute, vitals) = (Arc::clone(device), compute.clone(), vitals.clone());
            let work = move || {
                let lane = &device.lanes[index];
                let vital = vitals.watch_steps(Part::Lane(index), &lane.pulse);
                compute.run(|| device.work(lane));
                vital.end();
            };
            started.threads.push(thread::Builder::new().name(format!("lane-cpu-{index}")).spawn(work)?);
        }
        for (number, compute) in long.iter().enumerate() {
            let (device, compute, vitals) = (Arc::clone(device), compute.clone(), vitals.clone());
            let work = move || {
                let lane = &device.lanes[device.lanes() + number];
                let vital = vitals.watch(Part::Lane(lane.index));
                compute.run(|| device.work_long(lane, number));
                vital.end();
            };
            started.threads.push(thread::Builder::new().name(format!("lane-long-{number}")).spawn(work)?);
        }
        Ok(started)
    }

    /// Lets the lanes finish what is queued, and waits for them.
    pub fn join(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.device.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a lane's thread panicked");
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop();
    }
}
