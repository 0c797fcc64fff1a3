//! A port for clients: accepts connections, as many as are allowed and have descriptors, until told to stop. Knows no protocol.
//!
//! A panic while a connection is accepted ends neither the port nor its connections: accepting begins again.
//!
//! # SHUTDOWN
//! [`Shutdown::graceful`] tells the open connections to finish: their calls go on. New connections are still served, so that
//! whoever asks hears that the server drains, until [`Shutdown::close`] closes the port. [`Shutdown::abort`] drops what is left.

use std::{net::IpAddr, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    connections::{Connection, Port, with_peer},
    descriptors::{Descriptor, Descriptors},
    telemetry::{GaugeGuard, Seldom, ServerMetrics, Telemetry},
    vitals::{Part, Vitals},
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
    pub(super) part: Part,
    /// Its places. One connection waits for a place, and more wait in the kernel's backlog.
    pub(super) port: Port,
    pub(super) metrics: ServerMetrics,
    pub(super) shutdown: Shutdown,
    pub(super) surroundings: Surroundings,
}

/// What a port shares with the rest of its process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Of which each connection takes one.
    pub descriptors: Descriptors,
    /// What is told of an accept loop that panics.
    pub vitals: Vitals,
}

impl Surroundings {
    /// Those of a process that has nothing else to do.
    pub(super) fn unlimited() -> Self {
        Self { descriptors: Descriptors::unlimited(), vitals: Vitals::new(&Telemetry::off()) }
    }
}

impl Listener {
    /// Gives each connection with its place to `converse`, in a task of its own. Returns when all have ended after [`Shutdown::close`], or at
    /// once after [`Shutdown::abort`].
    pub(super) async fn serve<F>(self, converse: impl Fn(TcpStream, Connection) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        let mut restarts = self.surroundings.vitals.restarts(self.part);
        while AssertUnwindSafe(self.accept(&connections, &converse)).catch_unwind().await.is_err() {
            if !restarts.again(clock::now()) {
                break;
            }
        }
        let Self { listener, shutdown, .. } = self;
        drop(listener);
        connections.close();
        tokio::select! {
            () = connections.wait() => {}
            () = shutdown.abort.cancelled() => {}
        }
    }

    /// Accepts connections until [`Shutdown::close`].
    async fn accept<F>(&self, connections: &TaskTracker, converse: &impl Fn(TcpStream, Connection) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let failures = Seldom::default();
        loop {
            let next = async {
                let (stream, ip, descriptor) = self.next(&failures).await;
                self.part.may_fail();
                self.metrics.connections.increment(1);
                (stream, descriptor, self.port.admit(ip).await)
            };
            let (stream, descriptor, admitted) = tokio::select! {
                next = next => next,
                () = self.shutdown.close.cancelled() => return,
            };
            // One without a place is closed.
            let Ok(connection) = admitted else { continue };
            let open = GaugeGuard::new(&self.metrics.connections_open);
            let (peer, conversation) = (connection.peer(), converse(stream, connection));
            connections.spawn(with_peer(peer, async move {
                conversation.await;
                drop((descriptor, open));
            }));
        }
    }

    /// The next connection, where it comes from, and what it takes of the process. That comes first, so that without it connections wait
    /// in the backlog.
    async fn next(&self, failures: &Seldom) -> (TcpStream, IpAddr, Descriptor) {
        let descriptor = self.surroundings.descriptors.take().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (stream, address.ip(), descriptor),
                Err(error) => {
                    if let Some(left_out) = failures.due(clock::now()) {
                        tracing::warn!(%error, left_out, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}
