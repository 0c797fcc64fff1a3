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
use crate::{clock, threads};

/// The thread. Dropping it ends it.
pub struct Timekeeper {
    handoff: Arc<Handoff>,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Timekeeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, if it cannot be started.
    pub fn start(handoff: &Arc<Handoff>) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (handoff, ends) = (Arc::clone(handoff), Arc::clone(&ends));
            let keep_time = move || {
                threads::wake_on_time();
                while !ends.load(Ordering::Acquire) {
                    let next = handoff.expire(clock::now());
                    handoff.sleep_until(next);
                }
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
