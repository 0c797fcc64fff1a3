//! How bytes come and go: ports, connections, the loops that speak HTTP/1.1 and HTTP/2, and the limits that apply there.
//!
//! Knows no messages: neither protobuf nor JSON, no path, no session and no model. A front end plugs in a tower service and, as
//! bytes, what to answer where there is no longer an HTTP server to answer. Which of two front ends serves a connection, TLS settles
//! or its first bytes do ([`talk`]).
//!
//! ```text
//!  Accept ──► Listener ── Admit: its place ──► http1 or http2 ─► the front end's service
//!  a socket   one loop    or the one that     both read through Lingering, wait for a client
//!  or a pipe  a port      makes room          only as long as is allowed, and then end it
//! ```
//!
//! Anything that is an [`Io`] is a connection; only the ports' own sockets know of TCP and of files.

mod admit;
mod clients;
mod ending;
mod first;
pub(crate) mod http1;
pub(crate) mod http2;
mod io;
mod linger;
mod listener;
mod local;
mod pieces;
pub(crate) mod probes;
mod proxied;
mod shutdown;
mod talk;
mod tls;
mod transfer;

pub use clients::Surroundings;
pub use io::{Accept, Agreed, Io, Protocol};
pub use local::LocalListener;
pub use shutdown::Shutdown;
pub use tls::{BoundSocket, Gate, GateLimits, Socket};

pub(crate) use clients::{Client, Clients};
pub(crate) use listener::Listener;
pub(crate) use pieces::{PIECE_BYTES_MAX, Pieces};
pub(crate) use talk::Talk;
pub(crate) use transfer::{Account, Charge, SMALL_BYTES_MAX, Transfer};

#[cfg(test)]
mod tests;
