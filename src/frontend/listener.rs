//! A port for clients: accepts connections, as many as are allowed and have descriptors, until told to stop. Knows no protocol.
//!
//! A panic while a connection is accepted ends neither the port nor its connections: accepting begins again.
//!
//! # SHUTDOWN
//! [`Shutdown::graceful`] tells the open connections to finish: their calls go on. New connections are still served, so that
//! whoever asks hears that the server drains, until [`Shutdown::close`] closes the port. [`Shutdown::abort`] drops what is left.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
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
    /// More wait in the kernel's backlog.
    pub(super) connections_max: usize,
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
    /// Gives each connection to `converse`, in a task of its own. Returns when all have ended after [`Shutdown::close`], or at
    /// once after [`Shutdown::abort`].
    pub(super) async fn serve<F>(self, converse: impl Fn(TcpStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.connections_max));
        let mut restarts = self.surroundings.vitals.restarts(self.part);
        while AssertUnwindSafe(self.accept(&connections, &places, &converse)).catch_unwind().await.is_err() {
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
    async fn accept<F>(&self, connections: &TaskTracker, places: &Arc<Semaphore>, converse: &impl Fn(TcpStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let failures = Seldom::default();
        loop {
            let connection = tokio::select! {
                connection = self.next(places, &failures) => connection,
                () = self.shutdown.close.cancelled() => return,
            };
            let Some((stream, place)) = connection else { return };
            self.part.may_fail();
            self.metrics.connections.increment(1);
            let open = GaugeGuard::new(&self.metrics.connections_open);
            let conversation = converse(stream);
            connections.spawn(async move {
                conversation.await;
                drop((place, open));
            });
        }
    }

    /// The next connection, and what it takes. Place and descriptor come first, so that without them it waits in the backlog. `None` if
    /// there will be no more.
    async fn next(&self, places: &Arc<Semaphore>, failures: &Seldom) -> Option<(TcpStream, (OwnedSemaphorePermit, Descriptor))> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        let descriptor = self.surroundings.descriptors.take().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return Some((stream, (place, descriptor))),
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
