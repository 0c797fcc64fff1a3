//! The messages of `Feed`, whatever carries them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};

use super::{
    convert,
    wire::{self, ResultMessage},
};
use crate::{
    connections::{self, Ageing},
    domain::{Fault, FaultKind, Signature},
    native,
    proto::{duration_to_wire, v1},
    registry::Model,
    session::{Event, Inbound},
};

/// What a message after the first says; `None` if it is the last.
///
/// # Errors
/// [`FaultKind::Invalid`] for a second `open`, and for a message that is empty.
pub(in crate::frontend) fn inbound(request: wire::FeedRequest) -> Result<Option<Inbound>, Fault> {
    use wire::feed_request::Message;
    let inbound = match request.message {
        Some(Message::Item(item)) => Inbound::Item(item.into_request()),
        Some(Message::Chunk(chunk)) => Inbound::Chunk(chunk),
        Some(Message::Flush(flush)) => Inbound::Flush(native::check_id("flush.id", flush.id)?),
        Some(Message::Keepalive(_)) => Inbound::KeepAlive,
        Some(Message::Finish(_)) => return Ok(None),
        Some(Message::Open(_)) => return Err(native::open_twice()),
        None => return Err(empty()),
    };
    Ok(Some(inbound))
}

/// The fault of a message that says nothing.
pub(in crate::frontend) fn empty() -> Fault {
    Fault::invalid("message", "the message is empty, or of a kind that this server does not know")
}

/// The response with an event of a stream on `model`.
pub(in crate::frontend) fn response(event: Event, model: &Model) -> wire::FeedResponse {
    response_of(event, model.signature(), sample_rate_hz(model))
}

/// The same for a model with this signature and rate.
pub(in crate::frontend) fn response_of(event: Event, signature: &Arc<Signature>, sample_rate_hz: u32) -> wire::FeedResponse {
    use wire::feed_response::Event as Wire;
    let event = match event {
        Event::Result(result) => Wire::Result(ResultMessage::new(result, signature)),
        Event::SegmentStarted { index, start_sample } => {
            Wire::SegmentStarted(convert::segment_started(index, start_sample, sample_rate_hz))
        }
        Event::Segment(segment) => Wire::Segment(convert::segment(&segment, sample_rate_hz)),
        Event::Skipped { first_seq, results } => Wire::Skipped(v1::Skipped { first_seq, results }),
        Event::Flushed { id, items } => Wire::Flushed(v1::Flushed { id, items }),
        Event::ReconnectAdvised { remaining } => {
            Wire::ReconnectAdvised(v1::ReconnectAdvised { remaining: Some(duration_to_wire(remaining)) })
        }
        Event::Completed(summary) => Wire::Completed(convert::summary(&summary)),
    };
    wire::FeedResponse { event: Some(event) }
}

/// The rate of the model's raw payload; 1 if it takes none.
pub(in crate::frontend) fn sample_rate_hz(model: &Model) -> u32 {
    model.loaded.framing.map_or(1, |framing| framing.sample_rate_hz)
}

/// The input of a feed's session: what its client says, and what the age of its connection has to say.
pub(in crate::frontend) struct FeedInput<M> {
    messages: M,
    /// `None` where connections do not age.
    warnings: Option<BoxStream<'static, Inbound>>,
    is_finished: bool,
}

impl<M> FeedInput<M> {
    /// `messages` are those after the one that opens, as [`inbound`] has them. It belongs to the connection whose task this is.
    pub(in crate::frontend) fn new(messages: M) -> Self {
        Self { messages, warnings: connections::ageing().map(warnings), is_finished: false }
    }
}

/// What a feed learns when its connection ages.
fn warnings(ageing: Ageing) -> BoxStream<'static, Inbound> {
    let later = ageing.clone();
    let first = async move { Inbound::Leaving(ageing.begun().await) };
    let last = async move {
        later.over().await;
        Inbound::Stop(Fault::new(
            FaultKind::Unavailable,
            "the connection is older than server.connection_max_age_s and server.connection_grace_s allow; everything that \
             was read has been answered; connect again",
        ))
    };
    stream::once(first).chain(stream::once(last)).boxed()
}

impl<M: Stream<Item = Result<Option<Inbound>, Fault>> + Unpin> Stream for FeedInput<M> {
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { messages, warnings, is_finished } = self.get_mut();
        if *is_finished {
            return Poll::Ready(None);
        }
        if let Some(warnings) = warnings
            && let Poll::Ready(Some(warning)) = warnings.poll_next_unpin(cx)
        {
            return Poll::Ready(Some(Ok(warning)));
        }
        let next = ready!(messages.poll_next_unpin(cx)).transpose().map(Option::flatten);
        *is_finished = matches!(next, Ok(None));
        Poll::Ready(next.transpose())
    }
}
