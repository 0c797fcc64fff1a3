//! The body of a response whose end has a consequence.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// A body that calls `at_end` when it is dropped: it has been sent, or never will be.
pub(super) struct EndingBody<F: FnOnce()> {
    body: Body,
    at_end: Option<F>,
}

impl<F: FnOnce()> EndingBody<F> {
    pub(super) const fn new(body: Body, at_end: F) -> Self {
        Self { body, at_end: Some(at_end) }
    }
}

impl<F: FnOnce()> Drop for EndingBody<F> {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }
}

impl<F: FnOnce() + Unpin> HttpBody for EndingBody<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
