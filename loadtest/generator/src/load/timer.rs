//! A timer with the kernel's resolution: the runtime's tick in milliseconds, too coarse for what is measured.
//!
//! It wakes the thread that waits for sockets, so that pacing needs no separate thread and no wake-up across threads.

use std::{io, os::fd::OwnedFd};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tidemill::{clock, domain::Timestamp};
use tokio::io::unix::AsyncFd;

pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// For the runtime that it is called on.
    #[expect(unsafe_code, reason = "for descriptors that it does not know, the runtime relies on their owner's word")]
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is open and owned by the value that is registered, which lends it and never gives it away.
        Ok(Self(unsafe { AsyncFd::register(timer) }?))
    }

    /// Waits until then, or not at all if that is past.
    pub(crate) async fn until(&mut self, due: Timestamp) -> io::Result<()> {
        let left = due.since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut expirations = [0; 8];
        loop {
            let mut ready = self.0.readable().await?;
            // Setting the timer overwrites what an earlier, dropped wait has left behind.
            match ready.try_io(|timer| rustix::io::read(timer, &mut expirations).map_err(io::Error::from)) {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_wakes_before_its_time() {
        let mut timer = Timer::new().expect("a timer");
        for micros in [0, 1, 50, 300, 2_000] {
            let due = clock::now() + Duration::from_micros(micros);
            timer.until(due).await.expect("it waits");
            assert!(clock::now() >= due, "{micros} µs");
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_shorten_the_next() {
        let mut timer = Timer::new().expect("a timer");
        for _ in 0..20 {
            let given_up = clock::now() + Duration::from_micros(200);
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                _ = timer.until(given_up) => {}
            }
            let due = clock::now() + Duration::from_micros(500);
            timer.until(due).await.expect("it waits");
            assert!(clock::now() >= due);
        }
    }
}
