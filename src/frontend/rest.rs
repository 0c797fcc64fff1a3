//! What answers requests that are no gRPC calls, on whichever connection they come.

use std::convert::Infallible;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tower::{BoxError, Service, ServiceExt as _};

use super::{
    ahead::{Behind, Front},
    web::WebRules,
};
use crate::{
    domain::Peer,
    drain::Drain,
    transport::{Io, Transfer},
};

/// The routes of HTTP, and what stands ahead of them, for connections of any protocol. Clones share them.
#[derive(Clone)]
pub struct Rest {
    head_bytes_max: usize,
    routes: Router,
    front: Option<Front>,
    transfer: Transfer,
    drain: Drain,
    web: WebRules,
}

impl Rest {
    /// For requests with heads of at most `head_bytes_max`.
    pub(super) fn new(head_bytes_max: usize, routes: Router, transfer: Transfer, drain: Drain) -> Self {
        Self { head_bytes_max, routes, front: None, transfer, drain, web: WebRules::default() }
    }

    /// The same with configured rules for web pages.
    pub(super) fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
    }

    /// The same, and some requests are for what stands ahead of the routes.
    pub(super) fn behind(self, front: Front) -> Self {
        Self { front: Some(front), ..self }
    }

    /// Its service for the requests of one connection.
    pub(super) fn on<I, B>(
        &self,
        io: &I,
        peer: Peer,
    ) -> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static + use<I, B>
    where
        I: Io,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (account, web) = (self.transfer.connection(peer), self.web.on(io));
        let ahead = self.front.as_ref().map(|front| front.connection(peer, web.clone(), account.clone()));
        let service = web.guard_with_cors(Behind::new(self.head_bytes_max, ahead, self.routes.clone(), self.drain.clone()));
        service.map_request(move |mut request: Request<B>| {
            request.extensions_mut().insert(account.clone());
            request
        })
    }
}
