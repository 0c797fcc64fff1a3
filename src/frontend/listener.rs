//! A port for clients: accepts connections, as many as are allowed, until told to stop. Knows no protocol.
//!
//! # SHUTDOWN
//! [`Shutdown::graceful`] tells the open connections to finish: their calls go on. New connections are still served, so that
//! whoever asks hears that the server drains, until [`Shutdown::close`] closes the port. [`Shutdown::abort`] drops what is left.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    telemetry::{GaugeGuard, Seldom, ServerMetrics},
};

/// Accepting fails when descriptors run out; trying again at once would spin, and waiting lets others be closed.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Tells the ports for clients to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    graceful: CancellationToken,
    close: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// Tells the open connections to go away once their calls are over.
    pub fn graceful(&self) {
        self.graceful.cancel();
    }

    /// No new connections; all that are open are told to go away.
    pub fn close(&self) {
        self.graceful.cancel();
        self.close.cancel();
    }

    /// Drops all connections.
    pub fn abort(&self) {
        self.close();
        self.abort.cancel();
    }

    /// When a connection that is new now must go away: one that comes while the server drains is there to hear of it.
    pub(super) fn go_away(&self) -> &CancellationToken {
        if self.graceful.is_cancelled() { &self.close } else { &self.graceful }
    }

    /// When connections are dropped.
    pub(super) const fn aborted(&self) -> &CancellationToken {
        &self.abort
    }
}

/// A port that is bound already.
pub(super) struct Listener {
    pub(super) listener: TcpListener,
    /// More wait in the kernel's backlog.
    pub(super) connections_max: usize,
    pub(super) metrics: ServerMetrics,
    pub(super) shutdown: Shutdown,
}

impl Listener {
    /// Gives each connection to `converse`, in a task of its own. Returns when all have ended after [`Shutdown::close`], or at
    /// once after [`Shutdown::abort`].
    pub(super) async fn serve<F>(self, converse: impl Fn(TcpStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { listener, connections_max, metrics, shutdown } = self;
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(connections_max));
        let failures = Seldom::default();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = shutdown.close.cancelled() => break,
            };
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.close.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    metrics.connections.increment(1);
                    let open = GaugeGuard::new(&metrics.connections_open);
                    let conversation = converse(stream);
                    connections.spawn(async move {
                        conversation.await;
                        drop((permit, open));
                    });
                }
                Err(error) => {
                    if let Some(left_out) = failures.due(clock::now()) {
                        tracing::warn!(%error, left_out, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        connections.close();
        tokio::select! {
            () = connections.wait() => {}
            () = shutdown.abort.cancelled() => {}
        }
    }
}
