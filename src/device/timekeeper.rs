//! The one timer: it answers expired items while all lanes are busy, and ends the wait of batches held back.
//!
//! A thread rather than a task: the runtime's timers count whole milliseconds, and a batch may be held back for less. It sleeps
//! until there is something to do.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::state::Device;
use crate::{
    clock, threads,
    vitals::{Part, Pulse, Vitals},
};

/// The thread. Dropping it ends it.
pub struct Timekeeper {
    device: Arc<Device>,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Timekeeper {
    /// Starts the thread; `vitals` learns when it ends.
    ///
    /// # Errors
    /// The system's error if it cannot be started.
    pub fn start(device: &Arc<Device>, vitals: &Vitals) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (device, ends, vitals) = (Arc::clone(device), Arc::clone(&ends), vitals.clone());
            let keep_time = move || {
                let pulse = Arc::<Pulse>::default();
                let vital = vitals.watch_steps(Part::Timekeeper, &pulse);
                threads::wake_on_time();
                while !ends.load(Ordering::Acquire) {
                    let now = clock::now();
                    pulse.begin(now);
                    let next = device.expire(now);
                    Part::Timekeeper.may_fail();
                    pulse.rest_until(next);
                    device.rearm.sleep_until(next);
                }
                vital.end();
            };
            thread::Builder::new().name("timekeeper".to_owned()).spawn(keep_time)?
        };
        Ok(Self { device: Arc::clone(device), ends, thread: Some(thread) })
    }
}

impl Drop for Timekeeper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.device.rearm.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the timekeeper's thread panicked");
        }
    }
}
