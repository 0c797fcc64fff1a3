//! Whether the client of a stream reads, and what is to be done if it does not.
//!
//! HTTP/2 flow control is hyper's alone: while a client's window is full, hyper keeps the one frame that it cannot send and does
//! not poll the response body. So a body whose last frame went out is read, and one that was not polled again since it gave a
//! frame is not. [`WatchedBody`] notes that in the stream's [`Reader`], [`StreamTask`](super::stream_task::StreamTask) asks it.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;

use super::{calls::CallGuard, status::status_of};
use crate::{
    domain::{Fault, Timestamp},
    frontend::transfer::{Account, Charge},
    proto::parcel,
    session::{Backlog, Inbound},
    telemetry::{GaugeGuard, MethodMetrics, StreamEnd},
};

tokio::task_local! {
    static READER: Arc<Reader>;
}

/// A future in which [`Reader::current`] gives its stream's reader.
pub(super) type WithReader<F> = tokio::task::futures::TaskLocalFuture<Arc<Reader>, F>;

/// The client's end of one stream or call, as its task, its body and its handler know it. All of them run in the one task, so
/// nothing here is ever waited for.
#[derive(Default)]
pub(super) struct Reader {
    /// The transport has a frame in hand that it could not send yet.
    holds_frame: AtomicBool,
    /// The body was polled since somebody asked.
    took: AtomicBool,
    call: OnceLock<Call>,
    backlog: OnceLock<Arc<dyn PollUnread>>,
    given_up: OnceLock<StreamEnd>,
    admitted: OnceLock<Admitted>,
    /// Why the request ended, where its handler would not say.
    broken: OnceLock<Box<Fault>>,
}

/// What a call holds from its headers on, until nobody knows of it any more.
pub(super) struct Admitted {
    account: Account,
    request: OnceLock<Charge>,
    _counted: CallGuard,
}

impl Admitted {
    /// A call of the connection that has this account.
    pub(super) const fn new(counted: CallGuard, account: Account) -> Self {
        Self { account, request: OnceLock::new(), _counted: counted }
    }
}

struct Call {
    metrics: Arc<MethodMetrics>,
    ends_at: Timestamp,
}

/// A session that goes on while nobody reads.
pub(super) trait PollUnread: Send + Sync {
    /// `Ready` if the stream is to be reset.
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<I> PollUnread for Mutex<Backlog<I>>
where
    I: futures::Stream<Item = Result<Inbound, Fault>> + Unpin + Send,
{
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().poll_unread(cx)
    }
}

impl Reader {
    /// The reader of the stream that is being polled; one that nobody asks, outside of any.
    pub(super) fn current() -> Arc<Self> {
        READER.try_get().unwrap_or_default()
    }

    pub(super) fn scope<F: Future>(self: Arc<Self>, future: F) -> WithReader<F> {
        READER.scope(self, future)
    }

    /// Says what the call holds. A second time changes nothing.
    pub(super) fn admit(&self, admitted: Admitted) {
        self.admitted.get_or_init(|| admitted);
    }

    /// Keeps the charge of the request for as long as the call may hold it.
    pub(super) fn hold_request(&self, charge: Charge) {
        if let Some(admitted) = self.admitted.get() {
            admitted.request.get_or_init(|| charge);
        }
    }

    /// Says why the request ended, for a handler that takes it for a good end.
    pub(super) fn break_request(&self, fault: Fault) {
        self.broken.get_or_init(|| Box::new(fault));
    }

    /// The charge of something that is to be sent; `None` for a stream of no connection.
    fn charge(&self) -> Option<Charge> {
        self.admitted.get().map(|admitted| admitted.account.charge())
    }

    /// Says which call this is, and when it ends. A second time changes nothing.
    pub(super) fn begin_call(&self, metrics: &Arc<MethodMetrics>, ends_at: Timestamp) {
        self.call.get_or_init(|| Call { metrics: Arc::clone(metrics), ends_at });
    }

    /// Names the session that goes on while nobody reads.
    pub(super) fn keep_polling(&self, backlog: Arc<dyn PollUnread>) {
        self.backlog.get_or_init(|| backlog);
    }

    /// Whether the transport waits for the client to read.
    pub(super) fn is_unread(&self) -> bool {
        self.holds_frame.load(Ordering::Relaxed)
    }

    /// Whether the transport took anything since the last time this was asked.
    pub(super) fn took_anything(&self) -> bool {
        self.took.swap(false, Ordering::Relaxed)
    }

    /// Counts the stream as unread for as long as the guard lives; none for calls that nobody counts.
    pub(super) fn count_unread(&self) -> Option<GaugeGuard> {
        self.call.get().map(|call| GaugeGuard::new(&call.metrics.streams_unread))
    }

    /// When the whole call ends.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.call.get().map_or(Timestamp::NEVER, |call| call.ends_at)
    }

    /// Lets a session that keeps a backlog go on. `Ready` if the stream is to be reset.
    pub(super) fn poll_backlog(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.backlog.get().map_or(Poll::Pending, |backlog| backlog.poll_unread(cx))
    }

    /// Says why the stream is about to be reset.
    pub(super) fn give_up(&self, end: StreamEnd) {
        self.given_up.get_or_init(|| end);
    }

    /// Why the stream is being reset, if it is.
    pub(super) fn given_up(&self) -> Option<StreamEnd> {
        self.given_up.get().copied()
    }

    fn note_frame(&self, holds_frame: bool) {
        self.took.store(true, Ordering::Relaxed);
        self.holds_frame.store(holds_frame, Ordering::Relaxed);
    }
}

/// Largest frame that the transport is given at once: it takes a frame whole or not at all, so with larger ones a slow client
/// would seem not to read, and the limit of the send buffer would hold for small results alone.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 10;

/// What comes before a message: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// A response body whose reader learns what the transport does with it.
///
/// A [parcel] in it takes the place of its ticket. What waits for the client beyond one frame is charged to its connection, and
/// ends the call if there is no room for it.
pub(super) struct WatchedBody {
    body: tonic::body::Body,
    /// What is left of a frame that is too large.
    rest: Bytes,
    charge: Option<Charge>,
    is_over: bool,
    reader: Arc<Reader>,
}

impl WatchedBody {
    /// Belongs to the stream that is being polled.
    pub(super) fn new(body: tonic::body::Body) -> Self {
        Self { body, rest: Bytes::new(), charge: None, is_over: false, reader: Reader::current() }
    }

    /// What goes out of `data`, which is new.
    fn begin(&mut self, data: Bytes) -> Result<Frame<Bytes>, Status> {
        let parcel = (data.len() == PREFIX_BYTES + parcel::TICKET_BYTES).then(|| parcel::receive(&data[PREFIX_BYTES..]));
        if let Some(message) = parcel.flatten() {
            let mut prefix = [0; PREFIX_BYTES];
            prefix[1..].copy_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.rest = message;
            return self
                .charge_rest()
                .map_or_else(|fault| self.give_up(&fault), |()| Ok(Frame::data(Bytes::copy_from_slice(&prefix))));
        }
        let piece = self.piece_of(data);
        if self.rest.is_empty() {
            return Ok(piece);
        }
        self.charge_rest().map_or_else(|fault| self.give_up(&fault), |()| Ok(piece))
    }

    /// The beginning of `data`; what is over stays here.
    fn piece_of(&mut self, mut data: Bytes) -> Frame<Bytes> {
        self.rest = data.split_off(data.len().min(FRAME_BYTES_MAX));
        if let Some(charge) = &mut self.charge {
            charge.shrink_to(self.rest.len());
        }
        Frame::data(data)
    }

    fn charge_rest(&mut self) -> Result<(), Fault> {
        self.charge = self.reader.charge();
        self.charge.as_mut().map_or(Ok(()), |charge| charge.grow(self.rest.len()))
    }

    /// There is no room for the answer, so its status is all of it.
    fn give_up(&mut self, fault: &Fault) -> Result<Frame<Bytes>, Status> {
        (self.rest, self.charge, self.is_over) = (Bytes::new(), None, true);
        self.body = tonic::body::Body::empty();
        trailers_of(fault)
    }
}

fn trailers_of(fault: &Fault) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status_of(fault).add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let rest = std::mem::take(&mut self.rest);
        let frame = if rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(match frame.into_data() {
                    Ok(data) => self.begin(data),
                    Err(trailers) => self.reader.broken.get().map_or(Ok(trailers), |fault| trailers_of(fault)),
                })),
                other => other,
            }
        } else {
            Poll::Ready(Some(Ok(self.piece_of(rest))))
        };
        // Trailers are never held back.
        let is_data = matches!(&frame, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        self.reader.note_frame(is_data);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.is_over || self.body.is_end_stream())
    }
}
