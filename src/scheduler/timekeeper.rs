//! The one timer, which answers expired items while all lanes are busy and ends what holds batches back.
//!
//! A thread of its own and no task: the runtime's timers count whole milliseconds, and a batch may be held back for less than one. It
//! sleeps until there is something to do.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::handoff::Handoff;
use crate::{
    clock, threads,
    vitals::{Part, Pulse, Vitals},
};

/// The thread. Dropping it ends it.
pub struct Timekeeper {
    handoff: Arc<Handoff>,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Timekeeper {
    /// Starts the thread; `vitals` is told if it ends.
    ///
    /// # Errors
    /// The system's, if it cannot be started.
    pub fn start(handoff: &Arc<Handoff>, vitals: &Vitals) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (handoff, ends, vitals) = (Arc::clone(handoff), Arc::clone(&ends), vitals.clone());
            let keep_time = move || {
                let pulse = Arc::<Pulse>::default();
                let vital = vitals.watch_steps(Part::Timekeeper, &pulse);
                threads::wake_on_time();
                while !ends.load(Ordering::Acquire) {
                    let now = clock::now();
                    pulse.begin(now);
                    let next = handoff.expire(now);
                    Part::Timekeeper.may_fail();
                    pulse.rest_until(next);
                    handoff.sleep_until(next);
                }
                vital.end();
            };
            thread::Builder::new().name("timekeeper".to_owned()).spawn(keep_time)?
        };
        Ok(Self { handoff: Arc::clone(handoff), ends, thread: Some(thread) })
    }
}

impl Drop for Timekeeper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.handoff.rearm();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the timekeeper ended by a panic");
        }
    }
}
