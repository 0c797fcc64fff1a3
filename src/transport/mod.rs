//! How bytes come and go: ports, connections, the loops that HTTP/1.1 and HTTP/2 are spoken in, and the limits that hold there.
//!
//! Knows no messages: neither protobuf nor JSON, no path, no session and no model. A front end plugs in a tower service, and what it
//! has to say where HTTP has no server behind it any more, as bytes.
//!
//! ```text
//!  Accept ──► Listener ── Admit: its place ──► http1 or http2 ─► the front end's service
//!  a socket   one loop    or the one that     both read through Lingering, keep a client that does
//!  or a pipe  a port      makes room          nothing waiting for as long as is allowed, and end it
//! ```
//!
//! A connection is whatever is an [`Io`]; nothing below the ports' own sockets says TCP.

mod admit;
mod clients;
mod ending;
pub(crate) mod http1;
pub(crate) mod http2;
mod io;
mod linger;
mod listener;
mod pieces;
pub(crate) mod probes;
mod shutdown;
mod transfer;

pub use clients::Surroundings;
pub use io::{Accept, Io};
pub use shutdown::Shutdown;

pub(crate) use clients::Clients;
pub(crate) use listener::Listener;
pub(crate) use pieces::{PIECE_BYTES_MAX, Pieces};
pub(crate) use transfer::{Account, Charge, SMALL_BYTES_MAX, Transfer};

#[cfg(test)]
mod tests;
