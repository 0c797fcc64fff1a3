//! The accept loop of a port: takes connections as its [`Admit`] allows, until told to stop. Knows no protocol.
//!
//! If accepting a connection panics, neither the port nor its connections end: accepting starts over.
//!
//! # SHUTDOWN
//! [`Shutdown::graceful`] tells the open connections to finish: their calls go on. New connections are still served, so that
//! clients that ask learn that the server is draining, until [`Shutdown::close`] closes the port. [`Shutdown::abort`] drops what
//! is left.

use std::{net::IpAddr, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use tokio_util::task::TaskTracker;

use super::{admit::Admit, io::Accept, shutdown::Shutdown};
use crate::{
    clock,
    connections::with_peer,
    telemetry::Seldom,
    vitals::{Part, Vitals},
};

/// Accepting fails when descriptors run out; retrying at once would spin, while waiting lets other connections close.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A port that is already bound.
pub(crate) struct Listener<A, P> {
    /// Where its connections come from. More wait in the system's backlog.
    pub(crate) socket: A,
    /// The name of its accept loop.
    pub(crate) part: Part,
    /// Which connections it takes.
    pub(crate) places: P,
    /// Where a panic in the loop is reported.
    pub(crate) vitals: Vitals,
    pub(crate) shutdown: Shutdown,
}

impl<A: Accept, P: Admit> Listener<A, P> {
    /// Gives each connection with its place to `converse`, in its own task. Returns when all have ended after
    /// [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub(crate) async fn serve<F>(self, converse: impl Fn(A::Io, P::Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let mut restarts = self.vitals.restarts(self.part);
        while AssertUnwindSafe(self.accept(&tasks, &converse)).catch_unwind().await.is_err() {
            if !restarts.again(clock::now()) {
                break;
            }
        }
        let Self { socket, shutdown, .. } = self;
        drop(socket);
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = shutdown.aborted().cancelled() => {}
        }
    }

    /// Accepts connections until [`Shutdown::close`].
    async fn accept<F>(&self, tasks: &TaskTracker, converse: &impl Fn(A::Io, P::Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let failures = Seldom::default();
        loop {
            let next = async {
                let permit = self.places.permit().await;
                let (io, ip) = self.next(&failures).await;
                self.part.may_fail();
                (io, self.places.admit(permit, ip).await)
            };
            let (io, admitted) = tokio::select! {
                next = next => next,
                () = self.shutdown.closed().cancelled() => return,
            };
            // Without a place, the connection is closed.
            let Some(place) = admitted else { continue };
            tasks.spawn(with_peer(P::peer(&place), converse(io, place)));
        }
    }

    /// The next connection, and where it comes from.
    async fn next(&self, failures: &Seldom) -> (A::Io, Option<IpAddr>) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    self.places.not_accepted();
                    if let Some(left_out) = failures.due(clock::now()) {
                        tracing::warn!(%error, part = %self.part, left_out, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}
