//! The HTTP port: accepts connections and serves them until asked to stop.
//!
//! # SHUTDOWN
//! As [`Shutdown`] says: requests that have begun are answered, with `connection: close`; idle connections are closed.

use axum::{Router, http::Request};
use tower::ServiceExt as _;

use super::{api::Api, breach, routes::router};
use crate::{
    config::HttpConfig,
    frontend::{Bounds, web::WebRules},
    open_inference::OpenInference,
    transport::{
        Accept, Clients, Io as _, Listener, Shutdown, Surroundings, Transfer,
        http1::{Limits, Plug, RequestBody, converse},
    },
    vitals::Part,
};

/// An HTTP server on a socket that is bound already.
pub struct HttpServer<A> {
    listener: Listener<A, Clients>,
    router: Router,
    plug: Plug,
    transfer: Transfer,
    web: WebRules,
    shutdown: Shutdown,
}

impl<A: Accept> HttpServer<A> {
    /// Builds the routes.
    #[must_use]
    pub fn new(socket: A, open_inference: OpenInference, config: HttpConfig, bounds: Bounds, shutdown: Shutdown) -> Self {
        let limits = Limits {
            header_bytes_max: config.max_header_bytes,
            header_timeout: config.header_timeout(),
            idle_timeout: config.idle_timeout(),
            unread_timeout: open_inference.service().config().unread_timeout(),
        };
        let (metrics, transfer) = (bounds.metrics.clone(), bounds.transfer.clone());
        let port = open_inference.service().connections().port(config.max_connections, metrics.clone());
        let listener = Listener::for_clients(socket, Part::HttpPort, port, metrics, shutdown.clone());
        let router = router(Api::new(open_inference, config, bounds));
        let plug = Plug { limits, refusal: breach::answer };
        Self { listener, router, plug, transfer, web: WebRules::default(), shutdown }
    }

    /// The same with configured rules for web pages; without them, only the server's own pages and names are answered.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
    }

    /// The same server, in a process with these surroundings.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.listener = self.listener.within(surroundings);
        self
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        let Self { listener, router, plug, transfer, web, shutdown } = self;
        listener
            .serve(|io, client| {
                let account = transfer.connection(client.peer());
                let service = web.on(io.local_ip()).guard(router.clone());
                let service = service.map_request(move |mut request: Request<RequestBody>| {
                    request.extensions_mut().insert(account.clone());
                    request
                });
                converse(io, client, service, plug, shutdown.clone())
            })
            .await;
    }
}
