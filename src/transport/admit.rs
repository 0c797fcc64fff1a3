//! Which connections a port takes.

use std::net::IpAddr;

use crate::domain::Peer;

/// The rule of a port, as its accept loop follows it.
pub(crate) trait Admit: Send + Sync + 'static {
    /// What a connection takes of the process before it is accepted: without it, connections wait where the system keeps them.
    type Permit: Send;
    /// Its place on the port, for as long as it is there.
    type Place: Send + 'static;

    /// Waits until another connection may be accepted.
    fn permit(&self) -> impl Future<Output = Self::Permit> + Send;

    /// The place of a connection from that address, waited for if another has to leave first. `None` if it is to be closed.
    fn admit(&self, permit: Self::Permit, ip: Option<IpAddr>) -> impl Future<Output = Option<Self::Place>> + Send;

    /// A connection could not be accepted, perhaps because too many are open.
    fn not_accepted(&self) {}

    /// The client that has this place.
    fn peer(place: &Self::Place) -> Peer;
}
