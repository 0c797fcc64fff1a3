//! Calls go to the services, and all other requests to whatever answers those.

use std::{
    convert::Infallible,
    task::{Context, Poll, ready},
};

use futures::{TryFutureExt as _, future::Either};
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{entrance::is_call, reader::WatchedBody};

/// Two services for the requests of one connection.
#[derive(Clone)]
pub(super) struct Split<C, R> {
    pub(super) calls: C,
    /// Absent if calls are all there is; then `calls` says so.
    pub(super) rest: Option<R>,
}

impl<C, R, B> Service<Request<B>> for Split<C, R>
where
    C: Service<Request<B>, Response = Response<WatchedBody>, Error = Infallible>,
    R: Service<Request<B>, Response = Response<axum::body::Body>, Error = Infallible>,
{
    type Response = Response<WatchedBody>;
    type Error = Infallible;
    type Future = Either<C::Future, futures::future::MapOk<R::Future, fn(R::Response) -> Response<WatchedBody>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.calls.poll_ready(cx))?;
        match &mut self.rest {
            Some(rest) => rest.poll_ready(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match &mut self.rest {
            Some(rest) if !is_call(&request) => {
                Either::Right(rest.call(request).map_ok(|response| response.map(|body| WatchedBody::new(Body::new(body)))))
            }
            _ => Either::Left(self.calls.call(request)),
        }
    }
}
