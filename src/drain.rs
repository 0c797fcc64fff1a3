//! The phases of the server's life, and waiting for the last session to end.
//!
//! Knows no protocol and no listener: it says which phase the server is in, and others act on it.
//!
//! # SHUTDOWN
//! [`Drain::begin`] makes readiness fail, refuses new sessions and cancels [`Drain::token`]; open sessions then finish what is in
//! flight and end. [`Drain::wait_idle_for`] returns when the last has ended or the time is up; [`Drain::close`] says that
//! whatever is left is cut off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Where the server is in its life. Phases only advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Models are being loaded; nothing is served yet.
    Starting,
    /// Open for business.
    Serving,
    /// No new sessions; open ones finish what is in flight.
    Draining,
    /// Over; anything that has not ended is cut off.
    Closed,
}

/// The server's phase and its count of open sessions. Clones share them.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
    /// Whether draining has begun, for callers that ask with every item.
    begun: Arc<AtomicBool>,
    token: CancellationToken,
    sessions: TaskTracker,
}

/// One open session; dropping it means that the session has ended.
#[derive(Debug)]
#[must_use = "the session counts as ended when the guard is dropped"]
pub struct SessionGuard {
    _token: TaskTrackerToken,
}

/// This many sessions were still open when the time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} sessions were still open when the time to drain was up")]
pub struct SessionsLeft(pub usize);

impl Drain {
    /// A server that is [`Phase::Starting`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            begun: Arc::default(),
            token: CancellationToken::new(),
            sessions: TaskTracker::new(),
        }
    }

    /// Opens for business, unless draining has already begun.
    pub fn serve(&self) {
        self.advance(Phase::Serving);
    }

    /// Starts draining. Later calls do nothing.
    pub fn begin(&self) {
        if self.advance(Phase::Draining) {
            self.begun.store(true, Ordering::Release);
            self.sessions.close();
            self.token.cancel();
        }
    }

    /// Ends the server's life, after a drain or without one.
    pub fn close(&self) {
        self.begin();
        self.advance(Phase::Closed);
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether draining has begun; one load.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// The phase and its changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Cancelled when draining begins. A child token may be cancelled on its own.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Counts a new session; `None` once draining has begun.
    #[must_use]
    pub fn session(&self) -> Option<SessionGuard> {
        // Counted first and checked afterwards: a drain that begins in between waits for this guard, so it misses no session.
        let guard = SessionGuard { _token: self.sessions.token() };
        (self.phase() < Phase::Draining).then_some(guard)
    }

    /// Sessions that are open.
    #[must_use]
    pub fn sessions_open(&self) -> usize {
        self.sessions.len()
    }

    /// Waits until draining has begun and no session is open.
    pub async fn wait_idle(&self) {
        self.sessions.wait().await;
    }

    /// The same, for at most `limit`.
    ///
    /// # Errors
    /// [`SessionsLeft`] if the time was up first.
    pub async fn wait_idle_for(&self, limit: Duration) -> Result<(), SessionsLeft> {
        tokio::time::timeout(limit, self.wait_idle()).await.map_err(|_| SessionsLeft(self.sessions_open()))
    }

    /// Whether this call is the one that advanced to `phase`.
    fn advance(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|present| {
            let later = *present < phase;
            if later {
                *present = phase;
            }
            later
        })
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn phases_only_advance() {
        let drain = Drain::new();
        assert_eq!(drain.phase(), Phase::Starting);
        drain.serve();
        assert_eq!(drain.phase(), Phase::Serving);
        drain.begin();
        drain.serve();
        assert_eq!(drain.phase(), Phase::Draining);
        drain.close();
        drain.begin();
        assert_eq!(drain.phase(), Phase::Closed);
    }

    #[test]
    fn sessions_open_until_draining_begins() {
        let drain = Drain::new();
        let guard = drain.session().expect("starting");
        drain.serve();
        assert!(drain.session().is_some());
        assert!(!drain.token().is_cancelled());
        drain.clone().begin();
        assert!(drain.session().is_none());
        assert!(drain.token().is_cancelled());
        assert_eq!(drain.sessions_open(), 1);
        drop(guard);
        assert_eq!(drain.sessions_open(), 0);
    }

    #[test]
    fn is_idle_when_the_last_session_has_ended_and_not_before_the_drain() {
        let drain = Drain::new();
        drain.serve();
        assert_eq!(drain.wait_idle().now_or_never(), None);
        let (one, other) = (drain.session().expect("serving"), drain.session().expect("serving"));
        drain.begin();
        drop(one);
        assert_eq!(drain.wait_idle().now_or_never(), None);
        drop(other);
        assert_eq!(drain.wait_idle().now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_takes_too_long_says_how_many_are_left() {
        let drain = Drain::new();
        drain.serve();
        let _stuck = drain.session().expect("serving");
        drain.begin();
        assert_eq!(drain.wait_idle_for(Duration::from_secs(30)).await, Err(SessionsLeft(1)));
    }

    #[tokio::test]
    async fn watchers_see_the_phase() {
        let drain = Drain::new();
        let mut phase = drain.subscribe();
        let seen = tokio::spawn(async move { phase.wait_for(|phase| *phase == Phase::Draining).await.is_ok() });
        drain.begin();
        assert!(seen.await.expect("the watcher ends"));
    }

    #[test]
    fn closing_without_a_drain_cancels_too() {
        let drain = Drain::new();
        drain.close();
        assert!(drain.token().is_cancelled());
        assert_eq!(drain.wait_idle().now_or_never(), Some(()));
    }
}
