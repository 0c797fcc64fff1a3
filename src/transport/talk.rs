//! Which front end serves a connection: the one whose protocol server and client have agreed on, or the client begins to speak;
//! the port's own if that is neither's.

use std::time::Duration;

use super::{
    clients::{Client, Clients},
    first::{Rewound, greeting, protocol},
    io::{Accept, Io, Protocol},
    listener::Listener,
    proxied::introduced,
    shutdown::Shutdown,
};
use crate::connections::{note_ageing, note_protection};

/// What a front end does with a connection.
pub(crate) trait Talk: Clone + Send + Sync + 'static {
    /// What it speaks.
    const PROTOCOL: Protocol;

    /// How long the client of a new connection may take to say which protocol it speaks.
    fn first_within(&self) -> Duration;

    /// Serves the connection until either side ends it.
    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static;
}

impl<A: Accept> Listener<A, Clients> {
    /// Serves connections as `own` does, and those that speak the protocol of `other` as that does. Returns when
    /// [`Listener::serve`] does.
    pub(crate) async fn talk<T: Talk, O: Talk>(self, own: T, other: Option<O>) {
        let shutdown = self.shutdown.clone();
        self.serve(|io, client| converse(io, client, own.clone(), other.clone(), shutdown.clone())).await;
    }
}

async fn converse<I: Io, T: Talk, O: Talk>(mut io: I, mut client: Client, own: T, other: Option<O>, shutdown: Shutdown) {
    if let Some(limit) = client.connection.header_timeout() {
        // In a box, for the same reason as below.
        let may_go_on = Box::pin(introduced(&mut io, &mut client, limit, &shutdown)).await;
        if !may_go_on {
            return;
        }
    }
    let agreed = tokio::select! {
        biased;
        agreed = io.agree() => agreed,
        _ = client.connection.asked_to_leave(None) => return,
        () = shutdown.aborted().cancelled() => return,
    };
    let agreed = match agreed {
        Ok(agreed) => agreed,
        // Not for the log of a quiet day: anybody may fail as often as they like. It is counted.
        Err(error) => return tracing::debug!(%error, "a connection ended before it began"),
    };
    note_protection(agreed.protection);
    if let Some(ageing) = client.connection.ageing() {
        note_ageing(ageing.clone());
    }
    // In boxes, so that the usual kind of connection is no larger for the other.
    let other = match (other, agreed.protocol) {
        (Some(other), Some(agreed)) if agreed == O::PROTOCOL => return Box::pin(other.talk(io, client, shutdown)).await,
        (Some(other), None) => other,
        (_, Some(_)) | (None, None) => return own.talk(io, client, shutdown).await,
    };
    let read = tokio::select! {
        read = greeting(&mut io, own.first_within()) => read,
        _ = client.connection.asked_to_leave(None) => return,
        // It has not asked for anything yet.
        () = shutdown.go_away().cancelled() => return,
    };
    let Some(read) = read else { return };
    let speaks_other = protocol(&read) == Some(O::PROTOCOL);
    let io = Rewound::new(read, io);
    if speaks_other {
        Box::pin(other.talk(io, client, shutdown)).await;
    } else {
        own.talk(io, client, shutdown).await;
    }
}
