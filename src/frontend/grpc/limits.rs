//! The message limit of calls whose message tonic reads before any of our code runs.
//!
//! tonic answers a message over the limit with OUT_OF_RANGE, which nothing else here uses, and a sentence that does not say
//! which setting it was. This layer gives the same answer that streams give.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::status::{status_of, too_large};

/// Wraps the services; see the module's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameMessageLimit {
    pub(super) max_message_bytes: usize,
}

impl<S> Layer<S> for NameMessageLimit {
    type Service = NamedMessageLimit<S>;

    fn layer(&self, inner: S) -> NamedMessageLimit<S> {
        NamedMessageLimit { inner, max_message_bytes: self.max_message_bytes }
    }
}

/// A service under [`NameMessageLimit`].
#[derive(Debug, Clone)]
pub(super) struct NamedMessageLimit<S> {
    inner: S,
    max_message_bytes: usize,
}

impl<S, B> Service<Request<B>> for NamedMessageLimit<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = NamedLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        NamedLimitFuture { inner: Box::pin(self.inner.call(request)), max_message_bytes: self.max_message_bytes }
    }
}

/// The answer on its way.
pub(super) struct NamedLimitFuture<F> {
    inner: Pin<Box<F>>,
    max_message_bytes: usize,
}

impl<F, E> Future for NamedLimitFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let response = ready!(self.inner.as_mut().poll(cx))?;
        let named = Status::from_header_map(response.headers())
            .filter(|status| status.code() == Code::OutOfRange)
            .map(|status| status_of(&too_large(self.max_message_bytes, status.message())).into_http());
        Poll::Ready(Ok(named.unwrap_or(response)))
    }
}
