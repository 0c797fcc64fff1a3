//! The response stream of `Feed` and `Scan`: one message to open, then the session's events.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
use parking_lot::Mutex;
use tonic::Status;

use super::{
    convert,
    reader::Reader,
    status::status_of,
    wire::{self, ResultMessage},
};
use crate::{
    domain::Fault,
    proto::v1,
    registry::Model,
    session::{Backlog, Event, Inbound, Session, Unread},
};

/// A session's event as a message.
pub(super) enum WireEvent {
    Opened(v1::Opened),
    Result(ResultMessage),
    SegmentStarted(v1::SegmentStarted),
    Segment(v1::Segment),
    Flushed(v1::Flushed),
    Completed(v1::Summary),
    Skipped(v1::Skipped),
}

/// A response message that can carry a session's events.
pub(super) trait Response: Sized {
    /// `None` for what the method does not tell.
    fn of(event: WireEvent) -> Option<Self>;
}

impl Response for wire::FeedResponse {
    fn of(event: WireEvent) -> Option<Self> {
        use wire::feed_response::Event;
        let event = match event {
            WireEvent::Opened(opened) => Event::Opened(opened),
            WireEvent::Result(result) => Event::Result(result),
            WireEvent::SegmentStarted(started) => Event::SegmentStarted(started),
            WireEvent::Segment(segment) => Event::Segment(segment),
            WireEvent::Flushed(flushed) => Event::Flushed(flushed),
            WireEvent::Completed(summary) => Event::Completed(summary),
            WireEvent::Skipped(skipped) => Event::Skipped(skipped),
        };
        Some(Self { event: Some(event) })
    }
}

impl Response for wire::ScanResponse {
    fn of(event: WireEvent) -> Option<Self> {
        use wire::scan_response::Event;
        let event = match event {
            WireEvent::Opened(opened) => Event::Opened(opened),
            WireEvent::Result(result) => Event::Result(result),
            WireEvent::SegmentStarted(started) => Event::SegmentStarted(started),
            WireEvent::Segment(segment) => Event::Segment(segment),
            // One request has no flush in it, and its results always wait to be read.
            WireEvent::Flushed(_) | WireEvent::Skipped(_) => return None,
            WireEvent::Completed(summary) => Event::Completed(summary),
        };
        Some(Self { event: Some(event) })
    }
}

/// A session that has opened, with what tells its client so.
pub(super) struct Opened<I> {
    pub(super) message: v1::Opened,
    pub(super) model: Arc<Model>,
    pub(super) session: Session<I>,
    pub(super) unread: Unread,
}

type Opening<I> = Pin<Box<dyn Future<Output = Result<Opened<I>, Fault>> + Send>>;

/// The stream of responses `R`. Its headers go out at once; while it opens, it waits for the client's first message.
///
/// The session is kept after its last event, until the transport has taken the whole response and drops it: for a drain, a client
/// that has not read to the end is still there.
pub(super) struct Responses<R, I> {
    state: State<I>,
    reader: Arc<Reader>,
    ended: bool,
    message: PhantomData<fn() -> R>,
}

enum State<I> {
    /// Waits for the first message.
    Opening(Opening<I>),
    /// Serves; the session is boxed so that a stream that waits is small, the model is kept for names.
    Open(Box<Session<I>>, Arc<Model>),
    /// The same, shared with the stream's task, which polls it while the client does not read.
    Backlogged(Arc<Mutex<Backlog<I>>>, Arc<Model>),
}

impl<R, I> Responses<R, I> {
    /// Those of the stream that `reader` reads.
    pub(super) fn new(reader: Arc<Reader>, opening: impl Future<Output = Result<Opened<I>, Fault>> + Send + 'static) -> Self {
        Self { state: State::Opening(Box::pin(opening)), reader, ended: false, message: PhantomData }
    }
}

impl<I: Stream<Item = Result<Inbound, Fault>> + Unpin + Send + 'static> State<I> {
    fn open(session: Session<I>, unread: Unread, model: Arc<Model>, reader: &Reader) -> Self {
        match Backlog::new(Box::new(session), unread) {
            Ok(backlog) => {
                let backlog = Arc::new(Mutex::new(backlog));
                reader.keep_polling(Arc::<Mutex<_>>::clone(&backlog));
                Self::Backlogged(backlog, model)
            }
            Err(session) => Self::Open(session, model),
        }
    }

    fn poll_event(&mut self, reader: &Reader, cx: &mut Context<'_>) -> Poll<Option<Result<WireEvent, Fault>>> {
        let (event, model) = match self {
            Self::Opening(opening) => {
                let Opened { message, model, session, unread } = ready!(opening.as_mut().poll(cx))?;
                *self = Self::open(session, unread, model, reader);
                return Poll::Ready(Some(Ok(WireEvent::Opened(message))));
            }
            Self::Open(session, model) => (ready!(Pin::new(&mut **session).poll_next(cx)), model),
            Self::Backlogged(backlog, model) => (ready!(Pin::new(&mut *backlog.lock()).poll_next(cx)), model),
        };
        Poll::Ready(event.map(|event| event.map(|event| encode(event, model))))
    }
}

impl<R, I> Drop for Responses<R, I> {
    fn drop(&mut self) {
        let Some(end) = self.reader.given_up() else { return };
        match &mut self.state {
            State::Opening(_) => {}
            State::Open(session, _) => session.abandon(end),
            State::Backlogged(backlog, _) => backlog.lock().abandon(end),
        }
    }
}

impl<R: Response, I: Stream<Item = Result<Inbound, Fault>> + Unpin + Send + 'static> Stream for Responses<R, I> {
    type Item = Result<R, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.ended {
            match ready!(this.state.poll_event(&this.reader, cx)) {
                Some(Ok(event)) => {
                    if let Some(response) = R::of(event) {
                        return Poll::Ready(Some(Ok(response)));
                    }
                }
                Some(Err(fault)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(status_of(&fault))));
                }
                None => this.ended = true,
            }
        }
        Poll::Ready(None)
    }
}

fn encode(event: Event, model: &Model) -> WireEvent {
    let sample_rate_hz = model.loaded.framing.map_or(1, |framing| framing.sample_rate_hz);
    match event {
        Event::Result(result) => WireEvent::Result(ResultMessage::new(result, model.loaded.executable.signature())),
        Event::SegmentStarted { index, start_sample } => {
            WireEvent::SegmentStarted(convert::segment_started(index, start_sample, sample_rate_hz))
        }
        Event::Segment(segment) => WireEvent::Segment(convert::segment(&segment, sample_rate_hz)),
        Event::Skipped { first_seq, results } => WireEvent::Skipped(v1::Skipped { first_seq, results }),
        Event::Flushed { id, items } => WireEvent::Flushed(v1::Flushed { id, items }),
        Event::Completed(summary) => WireEvent::Completed(convert::summary(&summary)),
    }
}
