//! A port for clients: accepts connections, as many as are allowed, until told to stop. Knows no protocol.
//!
//! # SHUTDOWN
//! [`Shutdown::graceful`] tells the open connections to finish: their calls go on. New connections are still served, so that
//! whoever asks hears that the server drains, until [`Shutdown::close`] closes the port. [`Shutdown::abort`] drops what is left.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    connections::{Connection, Port, with_peer},
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
    /// Its places. One connection waits for a place, and more wait in the kernel's backlog.
    pub(super) port: Port,
    pub(super) metrics: ServerMetrics,
    pub(super) shutdown: Shutdown,
}

impl Listener {
    /// Gives each connection with its place to `converse`, in a task of its own. Returns when all have ended after [`Shutdown::close`], or at
    /// once after [`Shutdown::abort`].
    pub(super) async fn serve<F>(self, converse: impl Fn(TcpStream, Connection) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { listener, port, metrics, shutdown } = self;
        let connections = TaskTracker::new();
        let failures = Seldom::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.close.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    metrics.connections.increment(1);
                    let admitted = tokio::select! {
                        admitted = port.admit(address.ip()) => admitted,
                        () = shutdown.close.cancelled() => break,
                    };
                    // One without a place is closed.
                    let Ok(connection) = admitted else { continue };
                    let open = GaugeGuard::new(&metrics.connections_open);
                    let (peer, conversation) = (connection.peer(), converse(stream, connection));
                    connections.spawn(with_peer(peer, async move {
                        conversation.await;
                        drop(open);
                    }));
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
