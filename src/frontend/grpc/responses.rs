//! The response stream of `Feed` and `Scan`: one message to open, then the session's events.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
use tonic::Status;

use super::{convert, status::status_of};
use crate::{
    domain::Fault,
    proto::v1,
    registry::Model,
    session::{Event, Inbound, Session},
};

/// A response message that can carry a session's events.
pub(super) trait Response: Sized {
    fn opened(opened: v1::Opened) -> Self;
    fn result(result: v1::ItemResult) -> Self;
    fn segment_started(started: v1::SegmentStarted) -> Self;
    fn segment(segment: v1::Segment) -> Self;
    /// `None` where the method has no flush.
    fn flushed(flushed: v1::Flushed) -> Option<Self>;
    fn completed(summary: v1::Summary) -> Self;
}

macro_rules! impl_response {
    ($message:ident, $event:path, $flushed:expr) => {
        impl Response for v1::$message {
            fn opened(opened: v1::Opened) -> Self {
                use $event as Event;
                Self { event: Some(Event::Opened(opened)) }
            }
            fn result(result: v1::ItemResult) -> Self {
                use $event as Event;
                Self { event: Some(Event::Result(result)) }
            }
            fn segment_started(started: v1::SegmentStarted) -> Self {
                use $event as Event;
                Self { event: Some(Event::SegmentStarted(started)) }
            }
            fn segment(segment: v1::Segment) -> Self {
                use $event as Event;
                Self { event: Some(Event::Segment(segment)) }
            }
            fn flushed(flushed: v1::Flushed) -> Option<Self> {
                let wrap: fn(v1::Flushed) -> Option<Self> = $flushed;
                wrap(flushed)
            }
            fn completed(summary: v1::Summary) -> Self {
                use $event as Event;
                Self { event: Some(Event::Completed(summary)) }
            }
        }
    };
}

impl_response!(FeedResponse, v1::feed_response::Event, |flushed| Some(Self {
    event: Some(v1::feed_response::Event::Flushed(flushed))
}));
impl_response!(ScanResponse, v1::scan_response::Event, |_| None);

/// A session that has opened, with what tells its client so.
pub(super) struct Opened<I> {
    pub(super) message: v1::Opened,
    pub(super) model: Arc<Model>,
    pub(super) session: Session<I>,
}

type Opening<I> = Pin<Box<dyn Future<Output = Result<Opened<I>, Fault>> + Send>>;

/// The stream. Its headers go out at once; while it opens, it waits for the client's first message.
pub(super) enum Responses<I> {
    /// Waits for the first message.
    Opening(Opening<I>),
    /// Open.
    Open {
        /// The session, boxed so that a waiting stream is small.
        session: Box<Session<I>>,
        /// The model, for names.
        model: Arc<Model>,
    },
    /// Over.
    Ended,
}

impl<I> Responses<I> {
    pub(super) fn new(opening: impl Future<Output = Result<Opened<I>, Fault>> + Send + 'static) -> Self {
        Self::Opening(Box::pin(opening))
    }
}

impl<I: Stream<Item = Result<Inbound, Fault>> + Unpin> Responses<I> {
    fn poll_event<R: Response>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<R, Fault>>> {
        loop {
            match self {
                Self::Ended => return Poll::Ready(None),
                Self::Opening(opening) => {
                    let Opened { message, model, session } = ready!(opening.as_mut().poll(cx))?;
                    *self = Self::Open { session: Box::new(session), model };
                    return Poll::Ready(Some(Ok(R::opened(message))));
                }
                Self::Open { session, model } => {
                    let Some(event) = ready!(Pin::new(&mut **session).poll_next(cx)) else { return Poll::Ready(None) };
                    if let Some(response) = encode(event?, model) {
                        return Poll::Ready(Some(Ok(response)));
                    }
                }
            }
        }
    }
}

/// A [`Responses`] that knows its message type.
pub(super) struct ResponsesOf<R, I> {
    responses: Responses<I>,
    message: std::marker::PhantomData<fn() -> R>,
}

impl<R, I> ResponsesOf<R, I> {
    pub(super) const fn new(responses: Responses<I>) -> Self {
        Self { responses, message: std::marker::PhantomData }
    }
}

impl<R: Response, I: Stream<Item = Result<Inbound, Fault>> + Unpin> Stream for ResponsesOf<R, I> {
    type Item = Result<R, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let event = ready!(this.responses.poll_event(cx));
        if !matches!(event, Some(Ok(_))) {
            this.responses = Responses::Ended;
        }
        Poll::Ready(event.map(|event| event.map_err(|fault| status_of(&fault))))
    }
}

fn encode<R: Response>(event: Event, model: &Model) -> Option<R> {
    let sample_rate_hz = model.loaded.framing.map_or(1, |framing| framing.sample_rate_hz);
    match event {
        Event::Result(result) => Some(R::result(convert::item_result(result, model))),
        Event::SegmentStarted { index, start_sample } => {
            Some(R::segment_started(convert::segment_started(index, start_sample, sample_rate_hz)))
        }
        Event::Segment(segment) => Some(R::segment(convert::segment(&segment, sample_rate_hz))),
        Event::Flushed { id, items } => R::flushed(v1::Flushed { id, items }),
        Event::Completed(summary) => Some(R::completed(convert::summary(&summary))),
    }
}
