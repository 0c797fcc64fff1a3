//! Encrypted connections: a [`Socket`] whose connections begin with a handshake of TLS, if it has a [`Gate`].
//!
//! Knows rustls, but neither files nor settings. The handshake is the first thing that a connection's own task does, so a slow one
//! holds up nobody, and by then the connection has its place on the port: one that never finishes goes when others need the place,
//! like any that is silent.
//!
//! ```text
//!  Listener ── Admit: its place ──► its task ── Handshakes: its turn ──► handshake ── ALPN ──► http1 or http2
//!                                               max_handshakes           handshake_timeout
//! ```

mod channel;
mod client;
mod gate;
mod handshakes;

pub use channel::{BoundSocket, Socket};
pub use gate::{Gate, GateLimits};

#[cfg(test)]
mod tests;
