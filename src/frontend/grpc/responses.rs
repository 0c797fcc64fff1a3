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
    frontend::messages::feed::{self, sample_rate_hz},
    native::Opened,
    proto::v1,
    registry::Model,
    session::{Backlog, Event, Inbound, Session, Unread},
};

/// A response message that can carry a session's events.
pub(super) trait Response: Sized {
    /// The first of a stream.
    fn opened(opened: v1::Opened) -> Self;

    /// An event of a stream on `model`; `None` for one that the method does not have.
    fn of(event: Event, model: &Model) -> Option<Self>;
}

impl Response for wire::FeedResponse {
    fn opened(opened: v1::Opened) -> Self {
        Self { event: Some(wire::feed_response::Event::Opened(opened)) }
    }

    fn of(event: Event, model: &Model) -> Option<Self> {
        Some(feed::response(event, model))
    }
}

impl Response for wire::ScanResponse {
    fn opened(opened: v1::Opened) -> Self {
        Self { event: Some(wire::scan_response::Event::Opened(opened)) }
    }

    fn of(event: Event, model: &Model) -> Option<Self> {
        use wire::scan_response::Event as Wire;
        let event = match event {
            Event::Result(result) => Wire::Result(ResultMessage::new(result, model.signature())),
            Event::SegmentStarted { index, start_sample } => {
                Wire::SegmentStarted(convert::segment_started(index, start_sample, sample_rate_hz(model)))
            }
            Event::Segment(segment) => Wire::Segment(convert::segment(&segment, sample_rate_hz(model))),
            // A single request has no flush in it, its results always wait to be read, and its client cannot hand it over.
            Event::Skipped { .. } | Event::Flushed { .. } | Event::ReconnectAdvised { .. } => return None,
            Event::Completed(summary) => Wire::Completed(convert::summary(&summary)),
        };
        Some(Self { event: Some(event) })
    }
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
    /// Serves; the session is boxed to keep a waiting stream small, the model is kept for its names.
    Open(Box<Session<I>>, Arc<Model>),
    /// As above, but shared with the stream's task, which polls it while the client does not read.
    Backlogged(Arc<Mutex<Backlog<I>>>, Arc<Model>),
}

impl<R, I> Responses<R, I> {
    /// The responses of the stream that `reader` reads.
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

    fn poll_response<R: Response>(&mut self, reader: &Reader, cx: &mut Context<'_>) -> Poll<Option<Result<R, Fault>>> {
        loop {
            let (event, model) = match self {
                Self::Opening(opening) => {
                    let opened = ready!(opening.as_mut().poll(cx))?;
                    let message = convert::opened(&opened);
                    let Opened { model, session, unread, .. } = opened;
                    *self = Self::open(session, unread, model, reader);
                    return Poll::Ready(Some(Ok(R::opened(message))));
                }
                Self::Open(session, model) => (ready!(Pin::new(&mut **session).poll_next(cx)), model),
                Self::Backlogged(backlog, model) => (ready!(Pin::new(&mut *backlog.lock()).poll_next(cx)), model),
            };
            let Some(event) = event.transpose()? else { return Poll::Ready(None) };
            if let Some(response) = R::of(event, model) {
                return Poll::Ready(Some(Ok(response)));
            }
        }
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
        if this.ended {
            return Poll::Ready(None);
        }
        let response = ready!(this.state.poll_response(&this.reader, cx));
        this.ended = !matches!(response, Some(Ok(_)));
        Poll::Ready(response.map(|response| response.map_err(|fault| status_of(&fault))))
    }
}
