//! What answers requests that are no gRPC calls, on whichever connection they come.

use std::convert::Infallible;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tower::{BoxError, Service, ServiceExt as _};

use super::web::WebRules;
use crate::{
    domain::Peer,
    transport::{Io, Transfer},
};

/// The REST API, for connections of any protocol. Clones share it.
#[derive(Clone)]
pub struct Rest {
    router: Router,
    transfer: Transfer,
    web: WebRules,
}

impl Rest {
    pub(super) fn new(router: Router, transfer: Transfer) -> Self {
        Self { router, transfer, web: WebRules::default() }
    }

    /// The same with configured rules for web pages.
    pub(super) fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
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
        let account = self.transfer.connection(peer);
        self.web.on(io).guard_with_cors(self.router.clone()).map_request(move |mut request: Request<B>| {
            request.extensions_mut().insert(account.clone());
            request
        })
    }
}
