//! Which threads may take a core from which others.
//!
//! A lane computes for as long as it may. A thread of the runtime has a few microseconds of work, a few thousand times a second
//! under load. Under Linux's default policy, each time it wakes it takes the core from a lane, finds the caches full of the
//! model, does that work, and leaves them empty for the lane. With SCHED_BATCH it takes an idle core just as fast, but where all
//! cores are computing, it waits for the lane's turn to end (a millisecond or two), and then has more to do at once. On two
//! cores, with Silero VAD saturated, this gave a tenth of the context switches, and a quarter more items.

use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use tokio::runtime::{Builder, Runtime};

/// A runtime whose threads let computing threads finish their turns.
///
/// # Errors
/// The system's error if it refuses threads.
pub fn runtime() -> io::Result<Runtime> {
    refusable(|| Builder::new_multi_thread().enable_all().on_thread_start(give_way).build())
        .unwrap_or_else(|_| Err(io::Error::other("it lets the process have too few (ulimit -u, or pids.max of its cgroup)")))
}

/// Why work was not done on another thread.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// There is no thread for it.
    #[error("the system refuses a thread (ulimit -u, ulimit -v, or pids.max of the cgroup)")]
    Refused,
    /// It panicked.
    #[error("the work panicked")]
    Panicked,
}

/// Does work that blocks or takes long, on one of the current runtime's threads for such work.
///
/// # Errors
/// [`AsideError`]; if the system refuses a thread, nothing was started.
pub async fn aside<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, AsideError> {
    let started = refusable(|| tokio::task::spawn_blocking(work));
    started.map_err(|_| AsideError::Refused)?.await.map_err(|_| AsideError::Panicked)
}

thread_local! {
    static MAY_BE_REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is tokio's way of saying that the system refuses a thread: then it is an error, not to be
/// reported as a panic.
pub fn may_be_refused() -> bool {
    MAY_BE_REFUSED.get()
}

/// Makes tokio start threads; it panics if it gets none.
fn refusable<R>(start: impl FnOnce() -> R) -> thread::Result<R> {
    MAY_BE_REFUSED.set(true);
    let started = catch_unwind(AssertUnwindSafe(start));
    MAY_BE_REFUSED.set(false);
    started
}

/// From now on this thread takes a core only if the core is idle, or in its turn. Threads it starts begin the same way.
pub fn give_way() {
    set_policy(Policy::Batch);
}

/// From now on this thread takes a core as soon as it wakes, as threads do by default.
pub fn take_cores() {
    set_policy(Policy::Other);
}

/// From now on this thread takes a core as soon as it wakes, and wakes when its time has come: by default the system may prolong
/// a sleep by 50 µs, to end several at once.
#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "no safe call sets the slack of a thread's timers"))]
pub fn wake_on_time() {
    take_cores();
    #[cfg(target_os = "linux")]
    {
        let nanos: libc::c_ulong = 1;
        // SAFETY: this changes a number belonging to the calling thread, and passes no pointer.
        let _refused = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanos) };
    }
}

/// From now on this thread computes only while a core has nothing else to do, and leaves it to any thread that wakes. This is
/// permanent: the system does not let every process undo it.
pub fn stand_back() {
    set_policy(Policy::Idle);
}

#[derive(Debug, Clone, Copy)]
enum Policy {
    Other,
    Batch,
    Idle,
}

/// Does nothing if the system refuses (a sandbox may) or knows no such policy: then all threads stay alike.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe call sets the policy by which a thread is given cores")]
fn set_policy(policy: Policy) {
    let policy = match policy {
        Policy::Other => libc::SCHED_OTHER,
        Policy::Batch => libc::SCHED_BATCH,
        Policy::Idle => libc::SCHED_IDLE,
    };
    // SAFETY: the structure is plain numbers, and zeros are the only parameters that any of these policies takes.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread, and the parameters live until the call returns.
    let _refused = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}

#[cfg(not(target_os = "linux"))]
const fn set_policy(_: Policy) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "no safe call tells a thread's policy")]
    fn policy() -> i32 {
        // SAFETY: 0 is the calling thread; no pointer is passed.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn threads_of_the_runtime_give_way_and_those_that_compute_do_not() {
        let runtime = runtime().expect("threads");
        let worker = runtime.block_on(async { tokio::spawn(async { policy() }).await.expect("no panic") });
        assert_eq!(worker, libc::SCHED_BATCH);
        let computing = || {
            take_cores();
            policy()
        };
        let blocking = runtime.block_on(async { tokio::task::spawn_blocking(computing).await.expect("no panic") });
        assert_eq!(blocking, libc::SCHED_OTHER);
    }

    #[test]
    fn a_thread_that_stands_back_leaves_the_others_as_they_are() {
        let before = policy();
        let standing_back = || {
            stand_back();
            policy()
        };
        let runtime = runtime().expect("threads");
        let stood_back = runtime.block_on(async { tokio::task::spawn_blocking(standing_back).await.expect("no panic") });
        assert_eq!((stood_back, policy()), (libc::SCHED_IDLE, before));
    }
}
