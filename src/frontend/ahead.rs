//! What a port puts ahead of its own routes: for each connection, something that takes some of its requests.
//!
//! Front ends do not know one another, so one of them is handed to another in the forms below: the gRPC services of a connection as
//! a plain service, and whatever answers requests in their place as an [`Ahead`].

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{Router, response::IntoResponse as _, routing::future::RouteFuture};
use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderValue, Request, Response, Version, header, request::Parts};
use hyper::body::Body as HttpBody;
use tonic::body::Body;
use tower::{Service, util::BoxCloneSyncService};

use super::{
    heads::{header_bytes, too_large},
    web::WebCheck,
};
use crate::{domain::Peer, drain::Drain, transport::Account};

/// The gRPC services of one connection, with their limits, keys and checks.
pub(super) type Grpc = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Makes the gRPC services of a connection. Clones make the same.
#[derive(Clone)]
pub struct GrpcCalls(Arc<dyn Fn(Peer, WebCheck) -> Grpc + Send + Sync>);

impl GrpcCalls {
    pub(super) fn new(make: impl Fn(Peer, WebCheck) -> Grpc + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// The services of the connection of this client.
    pub(super) fn connection(&self, peer: Peer, web: WebCheck) -> Grpc {
        self.0(peer, web)
    }
}

/// Takes some of a connection's requests, and answers them.
pub(super) trait Ahead: Send + Sync {
    /// Whether the request is for this, going by its head alone.
    fn takes(&self, head: &Parts) -> bool;

    /// The answer to a request that is.
    fn answer(self: Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Makes what stands ahead of the routes on each connection. Clones make the same.
#[derive(Clone)]
pub struct Front(Arc<dyn Fn(Peer, WebCheck, Account) -> Arc<dyn Ahead> + Send + Sync>);

impl Front {
    pub(super) fn new(make: impl Fn(Peer, WebCheck, Account) -> Arc<dyn Ahead> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// What stands ahead on the connection of this client, which has this account.
    pub(super) fn connection(&self, peer: Peer, web: WebCheck, account: Account) -> Arc<dyn Ahead> {
        self.0(peer, web, account)
    }
}

/// The routes of one connection.
#[derive(Clone)]
pub(super) struct Behind {
    /// Bytes of a request's head. HTTP/1.1 has counted them as they came; HTTP/2 unpacks them, and has one limit for a whole connection.
    head_bytes_max: usize,
    ahead: Option<Arc<dyn Ahead>>,
    routes: Router,
    drain: Drain,
}

impl Behind {
    pub(super) const fn new(head_bytes_max: usize, ahead: Option<Arc<dyn Ahead>>, routes: Router, drain: Drain) -> Self {
        Self { head_bytes_max, ahead, routes, drain }
    }
}

impl<B> Service<Request<B>> for Behind
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<axum::body::Body>;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, BoxFuture<'static, Result<Response<axum::body::Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.version() >= Version::HTTP_2 && header_bytes(&request) > self.head_bytes_max {
            let refusal = too_large(self.head_bytes_max).into_response();
            return Either::Right(async { Ok(refusal) }.boxed());
        }
        let Some(ahead) = &self.ahead else { return Either::Left(self.routes.call(request)) };
        let (head, body) = request.into_parts();
        if !ahead.takes(&head) {
            return Either::Left(self.routes.call(Request::from_parts(head, body)));
        }
        let closes = (head.version < Version::HTTP_2).then(|| self.drain.clone());
        let answering = Arc::clone(ahead).answer(Request::from_parts(head, Body::new(body)));
        Either::Right(
            answering
                .map(move |response| {
                    let mut response = response.map(axum::body::Body::new);
                    if closes.is_some_and(|drain| drain.is_draining()) {
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok(response)
                })
                .boxed(),
        )
    }
}
