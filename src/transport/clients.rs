//! The rule for client ports: as many connections as there are places and descriptors.

use std::net::IpAddr;

use super::{admit::Admit, listener::Listener, shutdown::Shutdown};
use crate::{
    connections::{Connection, Port},
    descriptors::{Descriptor, Descriptors},
    domain::Peer,
    telemetry::{GaugeGuard, ServerMetrics, Telemetry},
    vitals::{Part, Vitals},
};

/// What a port shares with the rest of its process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Each connection takes one of these.
    pub descriptors: Descriptors,
    /// Where an accept loop that panics is reported.
    pub vitals: Vitals,
}

/// The places of a client port. One connection waits for a place; more wait in the system's backlog.
pub(crate) struct Clients {
    port: Port,
    descriptors: Descriptors,
    metrics: ServerMetrics,
}

/// A client's connection, for as long as it is open.
pub(crate) struct Client {
    pub(super) connection: Connection,
    _descriptor: Descriptor,
    _open: GaugeGuard,
}

impl<A> Listener<A, Clients> {
    /// A port with these places, alone in its process.
    pub(crate) fn for_clients(socket: A, part: Part, port: Port, metrics: ServerMetrics, shutdown: Shutdown) -> Self {
        let places = Clients { port, descriptors: Descriptors::unlimited(), metrics };
        Self { socket, part, places, vitals: Vitals::new(&Telemetry::off()), shutdown }
    }

    /// The same port, in a process with these surroundings.
    pub(crate) fn within(mut self, surroundings: Surroundings) -> Self {
        (self.places.descriptors, self.vitals) = (surroundings.descriptors, surroundings.vitals);
        self
    }
}

impl Admit for Clients {
    type Permit = Descriptor;
    type Place = Client;

    async fn permit(&self) -> Descriptor {
        self.descriptors.take().await
    }

    async fn admit(&self, permit: Descriptor, ip: Option<IpAddr>) -> Option<Client> {
        self.metrics.connections.increment(1);
        let connection = self.port.admit(ip).await.ok()?;
        let open = GaugeGuard::new(&self.metrics.connections_open);
        Some(Client { connection, _descriptor: permit, _open: open })
    }

    fn peer(place: &Client) -> Peer {
        place.peer()
    }
}

impl Client {
    /// Which client this is.
    pub(crate) fn peer(&self) -> Peer {
        self.connection.peer()
    }
}
