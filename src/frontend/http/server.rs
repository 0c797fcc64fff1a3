//! The HTTP port: accepts connections and serves them until told to stop.
//!
//! # SHUTDOWN
//! As [`Shutdown`] says: requests that have begun are answered, with `connection: close`; connections without one are closed.

use axum::Router;
use tokio::net::TcpListener;

use super::{
    connection::{Limits, converse},
    routes::{Api, router},
};
use crate::{
    config::HttpConfig,
    frontend::{
        Bounds,
        listener::{Listener, Shutdown, Surroundings},
        transfer::Transfer,
        web::WebRules,
    },
    open_inference::OpenInference,
    vitals::Part,
};

/// An HTTP server on a listener that is bound already.
pub struct HttpServer {
    listener: Listener,
    router: Router,
    limits: Limits,
    transfer: Transfer,
    web: WebRules,
    shutdown: Shutdown,
}

impl HttpServer {
    /// Puts the routes together.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        open_inference: OpenInference,
        config: HttpConfig,
        bounds: Bounds,
        shutdown: Shutdown,
    ) -> Self {
        let limits = Limits {
            header_bytes_max: config.max_header_bytes,
            header_timeout: config.header_timeout(),
            idle_timeout: config.idle_timeout(),
            unread_timeout: open_inference.service().config().unread_timeout(),
        };
        let (metrics, transfer) = (bounds.metrics.clone(), bounds.transfer.clone());
        let listener = Listener {
            listener,
            part: Part::HttpPort,
            port: open_inference.service().connections().port(config.max_connections, metrics.clone()),
            metrics,
            shutdown: shutdown.clone(),
            surroundings: Surroundings::unlimited(),
        };
        let router = router(Api::new(open_inference, config, bounds));
        Self { listener, router, limits, transfer, web: WebRules::default(), shutdown }
    }

    /// The same with rules for web pages that settings have made; without, only the server's own pages and names are answered.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
    }

    /// The same server, in a process with these surroundings.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.listener.surroundings = surroundings;
        self
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        let Self { listener, router, limits, transfer, web, shutdown } = self;
        listener
            .serve(|stream, place| {
                let service = web.on(&stream).guard(router.clone());
                let account = transfer.connection(place.peer());
                converse(stream, place, service, limits, account, shutdown.clone())
            })
            .await;
    }
}
