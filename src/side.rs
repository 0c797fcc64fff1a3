//! Threads for work that takes too long for the streams that would have to wait for it.
//!
//! A thread of the runtime serves thousands of streams in turn. Anything that takes a millisecond there makes all of them a
//! millisecond late, so it is done here, on a few threads set aside for it, and work beyond what they can do waits its turn.
//!
//! # CANCELLATION
//! Work waiting for its turn is called off when its future is dropped. Work that has begun runs to its end, and counts until
//! then.

use std::{num::NonZeroUsize, sync::Arc, thread::available_parallelism};

use tokio::sync::Semaphore;

use crate::{
    domain::{Fault, FaultKind},
    threads::{self, AsideError},
};

/// How many bytes may be decoded, encoded or copied in place: that takes most of a millisecond at worst.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// Cores for each thread, if the settings do not give a number.
const CORES_PER_THREAD: usize = 4;

/// Runs long work on a bounded number of threads. Clones share them.
#[derive(Debug, Clone)]
pub struct SideThreads {
    permits: Arc<Semaphore>,
}

impl SideThreads {
    /// As many threads at once as `threads`; 0 means a quarter as many as there are cores, and at least one.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if threads == 0 { (cores() / CORES_PER_THREAD).max(1) } else { threads };
        Self { permits: Arc::new(Semaphore::new(threads)) }
    }

    /// Does `work` when its turn comes.
    ///
    /// # Errors
    /// Those of `work`; [`FaultKind::Overloaded`] if the system refuses a thread, [`FaultKind::Failed`] if it panics, or if the
    /// runtime ends before it began.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Fault> + Send + 'static,
    {
        let fault =
            |kind, error: &dyn std::fmt::Display| Fault::new(kind, format!("the request could not be processed: {error}"));
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|error| fault(FaultKind::Failed, &error))?;
        let working = threads::aside(move || {
            let done = work();
            drop(permit);
            done
        });
        working.await.unwrap_or_else(|error| {
            let kind = match error {
                // There may be a thread later.
                AsideError::Refused => FaultKind::Overloaded,
                AsideError::Panicked => FaultKind::Failed,
            };
            Err(fault(kind, &error))
        })
    }

    /// Does `work` on something of `bytes` bytes: in place, or on one of the threads if that is more than `here_max`,
    /// usually [`INLINE_BYTES_MAX`].
    ///
    /// # Errors
    /// As [`SideThreads::run`].
    pub async fn run_long<T, F>(&self, bytes: usize, here_max: usize, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Fault> + Send + 'static,
    {
        if bytes <= here_max { work() } else { self.run(work).await }
    }
}

impl Default for SideThreads {
    fn default() -> Self {
        Self::new(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_runs_at_once_than_there_are_threads() {
        let side = SideThreads::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // The first two meet, which shows that two run at once.
        let meeting = Arc::new((Mutex::new(0), Condvar::new()));
        let work = |_| {
            let (now, most, meeting) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&meeting));
            side.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (count, changed) = &*meeting;
                let mut arrived = count.lock().expect("no panic");
                *arrived += 1;
                changed.notify_all();
                while *arrived < 2 {
                    arrived = changed.wait(arrived).expect("no panic");
                }
                drop(arrived);
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        for done in join_all((0..20).map(work)).await {
            done.expect("no panic");
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn work_that_panics_is_a_fault_and_gives_its_thread_back() {
        let side = SideThreads::new(1);
        let fault = side.run(|| -> Result<(), Fault> { std::panic::panic_any("on purpose") }).await.expect_err("it panics");
        assert_eq!(fault.kind(), FaultKind::Failed);
        assert_eq!(side.run(|| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn short_work_is_done_at_once() {
        let here = std::thread::current().id();
        let side = SideThreads::new(1);
        let where_is = |bytes| side.run_long(bytes, 10, || Ok(std::thread::current().id()));
        assert_eq!(where_is(10).await, Ok(here));
        assert_ne!(where_is(11).await, Ok(here));
    }

    #[test]
    fn without_a_number_there_is_at_least_one() {
        assert!(SideThreads::new(0).permits.available_permits() >= 1);
        assert_eq!(SideThreads::new(3).permits.available_permits(), 3);
    }
}
