//! Which connections a port accepts.

use std::net::IpAddr;

use crate::domain::Peer;

/// A port's rule, as its accept loop applies it.
pub(crate) trait Admit: Send + Sync + 'static {
    /// What a connection takes from the process before it is accepted; until there is one, connections wait in the system's
    /// backlog.
    type Permit: Send;
    /// Its place on the port, held for as long as it is open.
    type Place: Send + 'static;

    /// Waits until another connection may be accepted.
    fn permit(&self) -> impl Future<Output = Self::Permit> + Send;

    /// The place of a connection from that address, after waiting if another has to leave first. `None` if it must be closed.
    fn admit(&self, permit: Self::Permit, ip: Option<IpAddr>) -> impl Future<Output = Option<Self::Place>> + Send;

    /// A connection could not be accepted, perhaps because too many are open.
    fn not_accepted(&self) {}

    /// The client that holds this place.
    fn peer(place: &Self::Place) -> Peer;
}
