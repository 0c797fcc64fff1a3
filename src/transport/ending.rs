//! The body of a response whose end matters.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Frame, SizeHint};

/// A body that calls `at_end` when it is dropped: it has been sent, or never will be.
pub(super) struct EndingBody<B, F: FnOnce()> {
    body: B,
    at_end: Option<F>,
}

impl<B, F: FnOnce()> EndingBody<B, F> {
    pub(super) const fn new(body: B, at_end: F) -> Self {
        Self { body, at_end: Some(at_end) }
    }
}

impl<B, F: FnOnce()> Drop for EndingBody<B, F> {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }
}

impl<B: Body + Unpin, F: FnOnce() + Unpin> Body for EndingBody<B, F> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
