//! The HTTP port: accepts connections and serves them until told to stop.
//!
//! # SHUTDOWN
//! As [`Shutdown`] says: requests that have begun are answered, with `connection: close`; connections without one are closed.

use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

use super::{
    connection::{Limits, converse},
    routes::{Api, router},
};
use crate::{
    config::HttpConfig,
    frontend::listener::{Listener, Shutdown},
    open_inference::OpenInference,
    telemetry::ServerMetrics,
};

/// An HTTP server on a listener that is bound already.
pub struct HttpServer {
    listener: Listener,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
}

impl HttpServer {
    /// Puts the routes together.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        open_inference: OpenInference,
        config: HttpConfig,
        metrics: ServerMetrics,
        shutdown: Shutdown,
    ) -> Self {
        let limits = Limits {
            header_bytes_max: config.max_header_bytes,
            header_timeout: config.header_timeout(),
            idle_timeout: config.idle_timeout(),
            unread_timeout: open_inference.service().config().unread_timeout(),
        };
        let port = open_inference.service().connections().port(config.max_connections, metrics.clone());
        let listener = Listener { listener, port, metrics, shutdown: shutdown.clone() };
        let router = router(Api { open_inference, config: Arc::new(config) });
        Self { listener, router, limits, shutdown }
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        let Self { listener, router, limits, shutdown } = self;
        listener.serve(|stream, place| converse(stream, place, router.clone(), limits, shutdown.clone())).await;
    }
}
