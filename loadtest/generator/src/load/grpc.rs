//! The part that the gRPC protocols share: the client's side of a stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
use tidemill_client::wire::code_name;
use tonic::Code;

use super::line::Line;

/// How a line that ended too early is answered.
pub(crate) const ENDED_EARLY: &str = "STREAM_ENDED";

/// Makes the messages of a stream.
pub(crate) trait Source: Send + Unpin + 'static {
    type Message: Send + Unpin + 'static;

    /// Item number `seq`.
    fn item(&self, seq: u64) -> Self::Message;

    /// What to send after the last of `sent` items, before ending the stream; not counted.
    fn last(&self, sent: u64) -> Option<Self::Message> {
        let _ = sent;
        None
    }
}

/// The client's side of a stream: `first`, then an item whenever one may go, then the source's last message.
pub(crate) struct Outbound<S: Source> {
    first: Option<S::Message>,
    source: S,
    line: Arc<Line>,
    is_over: bool,
}

impl<S: Source> Outbound<S> {
    pub(crate) const fn new(first: Option<S::Message>, source: S, line: Arc<Line>) -> Self {
        Self { first, source, line, is_over: false }
    }
}

impl<S: Source> Stream for Outbound<S> {
    type Item = S::Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Message>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.line.poll_send(cx)) {
            Some(seq) => Some(this.source.item(seq)),
            None => {
                this.is_over = true;
                this.source.last(this.line.sent())
            }
        })
    }
}

/// Ends a line in accordance with how its stream ended.
pub(crate) fn end(line: &Line, code: Option<Code>) {
    line.broke(code.map_or(ENDED_EARLY, code_name).into());
}
