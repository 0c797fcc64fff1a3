//! WebSocket: live feeds for clients that have no gRPC, browsers first of all.
//!
//! ```text
//!  GET, upgrade ─► handshake ─► 101 ─► the connection's own task goes on here (transport::http1::Takeover)
//!                                       │
//!                                       └► socket::run ── polls ──► the wire: feed, …  ── Frame ──┐
//!                                            ▲    pings, clocks, the caller's right to go on      │
//!                                            └──────────────── Line: frames in, frames out ◄──────┘
//! ```
//!
//! A wire is a future over a [`Stream`](futures::Stream) and [`Sink`](futures::Sink) of [`Frame`](frame::Frame)s, and knows nothing of
//! masks, fragments and pings. The frames are read here and not by a library, because what arrives has to be counted and charged before room is
//! made for it.
//!
//! # CANCELLATION
//! Dropping is cancelling: when the client goes away, or may no longer call, the wire's future is dropped.

mod codec;
mod feed;
mod frame;
mod handshake;
mod line;
mod realtime;
mod socket;

use axum::Router;

use self::handshake::Sockets;
use super::Bounds;
use crate::{
    config::{Config, HttpConfig},
    service::Service,
};

/// The routes of all wires over WebSocket.
pub fn router(service: Service, config: &Config, http: &HttpConfig, bounds: Bounds) -> Router {
    let sockets = Sockets::new(&service, config.websocket.clone(), http, bounds);
    // Each wire is a module with a router of this form.
    feed::router(service.clone(), sockets.clone()).merge(realtime::router(service, sockets, config.realtime.clone()))
}
