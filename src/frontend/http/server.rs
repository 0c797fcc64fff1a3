//! The HTTP port: accepts connections and serves them until asked to stop. What it does with one, [`HttpDoor`], another port can do too.
//!
//! # SHUTDOWN
//! As [`Shutdown`] says: requests that have begun are answered, with `connection: close`; idle connections are closed.

use std::time::Duration;

use axum::Router;

use super::{api::Api, breach, routes::router};
use crate::{
    config::HttpConfig,
    frontend::{Bounds, Front, Rest, WebRules},
    open_inference::OpenInference,
    transport::{
        Accept, Client, Clients, Io, Listener, Protocol, Shutdown, Surroundings, Talk,
        http1::{Limits, Plug, RequestBody, converse},
    },
    vitals::Part,
};

/// An HTTP server on a socket that is bound already.
pub struct HttpServer<A> {
    listener: Listener<A, Clients>,
    door: HttpDoor,
}

/// What serves the connections of HTTP/1.1, on whichever port. Clones share it.
#[derive(Clone)]
pub struct HttpDoor {
    rest: Rest,
    plug: Plug,
}

impl HttpDoor {
    /// Builds the routes. `others` are those of other front ends that speak HTTP.
    #[must_use]
    pub fn new(open_inference: OpenInference, config: HttpConfig, bounds: Bounds, others: Router) -> Self {
        let limits = Limits {
            header_bytes_max: config.max_header_bytes,
            header_timeout: config.header_timeout(),
            idle_timeout: config.idle_timeout(),
            unread_timeout: open_inference.service().config().unread_timeout(),
        };
        let (transfer, drain) = (bounds.transfer.clone(), open_inference.service().drain().clone());
        let router = router(Api::new(open_inference, config, bounds), others);
        let plug = Plug { limits, refusal: breach::answer };
        Self { rest: Rest::new(limits.header_bytes_max, router, transfer, drain), plug }
    }

    /// What answers its requests, for connections of another protocol.
    #[must_use]
    pub const fn rest(&self) -> &Rest {
        &self.rest
    }

    /// The same with configured rules for web pages.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { rest: self.rest.with_web_rules(web), ..self }
    }

    /// The same, and some requests are for what stands ahead of the routes.
    #[must_use]
    pub fn behind(self, front: Front) -> Self {
        Self { rest: self.rest.behind(front), ..self }
    }
}

impl Talk for HttpDoor {
    const PROTOCOL: Protocol = Protocol::Http1;

    fn first_within(&self) -> Duration {
        self.plug.limits.header_timeout
    }

    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let service = self.rest.on::<_, RequestBody>(&io, client.peer());
        converse(io, client, service, self.plug, shutdown)
    }
}

impl<A: Accept> HttpServer<A> {
    /// Builds the routes, as [`HttpDoor::new`] does.
    #[must_use]
    pub fn new(
        socket: A,
        open_inference: OpenInference,
        config: HttpConfig,
        bounds: Bounds,
        others: Router,
        shutdown: Shutdown,
    ) -> Self {
        let metrics = bounds.metrics.clone();
        let port = open_inference.service().connections().port(config.max_connections, metrics.clone());
        let listener = Listener::for_clients(socket, Part::HttpPort, port, metrics, shutdown);
        Self { listener, door: HttpDoor::new(open_inference, config, bounds, others) }
    }

    /// The same with configured rules for web pages; without them, only the server's own pages and names are answered.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { door: self.door.with_web_rules(web), ..self }
    }

    /// The same, and some requests are for what stands ahead of the routes.
    #[must_use]
    pub fn behind(self, front: Front) -> Self {
        Self { door: self.door.behind(front), ..self }
    }

    /// The same server, in a process with these surroundings.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.listener = self.listener.within(surroundings);
        self
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        self.listener.talk(self.door, None::<HttpDoor>).await;
    }

    /// What serves its connections.
    #[must_use]
    pub const fn door(&self) -> &HttpDoor {
        &self.door
    }

    /// The same, with another front end for connections that speak its protocol.
    pub(crate) async fn serve_with(self, other: impl Talk) {
        self.listener.talk(self.door, Some(other)).await;
    }
}
