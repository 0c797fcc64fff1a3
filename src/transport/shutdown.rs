//! How ports are told to stop.

use tokio_util::sync::CancellationToken;

/// Tells ports to stop. Clones reach the same ports.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    graceful: CancellationToken,
    close: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// Tells the open connections to go away once their calls have ended.
    pub fn graceful(&self) {
        self.graceful.cancel();
    }

    /// Accepts no new connections; all open ones are told to go away.
    pub fn close(&self) {
        self.graceful.cancel();
        self.close.cancel();
    }

    /// Drops all connections.
    pub fn abort(&self) {
        self.close();
        self.abort.cancel();
    }

    /// When a connection made now must go away: one that arrives during a drain is served until the port closes, so that its
    /// client learns of the drain.
    pub(super) fn go_away(&self) -> &CancellationToken {
        if self.graceful.is_cancelled() { &self.close } else { &self.graceful }
    }

    /// When the port stops accepting connections.
    pub(super) const fn closed(&self) -> &CancellationToken {
        &self.close
    }

    /// When connections are dropped.
    pub(super) const fn aborted(&self) -> &CancellationToken {
        &self.abort
    }
}
