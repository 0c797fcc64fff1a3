//! Calls go to the services, and all other requests to whatever answers those.
//!
//! Clients of the latter are of all kinds, and some lose an answer that comes before their request is whole: see
//! [`leftover`](crate::frontend::leftover).

use std::{
    convert::Infallible,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tonic::body::Body;
use tower::Service;

use super::{entrance::is_call, reader::WatchedBody};
use crate::frontend::leftover::{Lasting, Leaving, leaving};

/// Two services for the requests of one connection.
#[derive(Clone)]
pub(super) struct Split<C, R> {
    pub(super) calls: C,
    /// Absent if calls are all there is; then `calls` says so.
    pub(super) rest: Option<R>,
}

impl<C, R, B> Service<Request<B>> for Split<C, R>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    C: Service<Request<B>, Response = Response<WatchedBody>, Error = Infallible>,
    R: Service<Request<Leaving<B>>, Response = Response<axum::body::Body>, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response<WatchedBody>;
    type Error = Infallible;
    type Future = Either<C::Future, BoxFuture<'static, Result<Response<WatchedBody>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.calls.poll_ready(cx))?;
        match &mut self.rest {
            Some(rest) => rest.poll_ready(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(rest) = self.rest.as_mut().filter(|_| !is_call(&request)) else {
            return Either::Left(self.calls.call(request));
        };
        let (head, body) = request.into_parts();
        let (body, left) = leaving(body);
        let answering = rest.call(Request::from_parts(head, body));
        let lasting =
            |answer: Response<axum::body::Body>| answer.map(|body| WatchedBody::new(Body::new(Lasting::new(body, left))));
        Either::Right(answering.map(|answer| answer.map(lasting)).boxed())
    }
}
