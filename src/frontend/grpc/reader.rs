//! What the task of a stream knows about its call: whether the client reads, what the call holds, and why it ended.
//!
//! [`WatchedBody`] notes in the stream's [`Reader`] what the transport does with the response. [`Reading`] is the transport's half of it.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use super::{calls::CallGuard, status::status_of};
use crate::{
    domain::{Fault, Timestamp},
    proto::parcel,
    session::{Backlog, Inbound},
    telemetry::{MethodMetrics, StreamEnd},
    transport::{
        Account, Charge,
        http2::{Exchange, PollUnread, Reading},
    },
};

tokio::task_local! {
    static READER: Arc<Reader>;
}

/// The client's end of one stream or call, as its task, its body and its handler know it. All of them run in the one task, so
/// nothing here is ever waited for.
#[derive(Default)]
pub(super) struct Reader {
    reading: Reading,
    admitted: OnceLock<Admitted>,
    /// Why the request ended, where its handler would not say.
    broken: OnceLock<Box<Fault>>,
}

/// What a call holds, from its headers until nothing refers to it any more.
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

impl<I> PollUnread for Mutex<Backlog<I>>
where
    I: futures::Stream<Item = Result<Inbound, Fault>> + Unpin + Send,
{
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().poll_unread(cx)
    }
}

impl Exchange for Reader {
    type Within<F: Future<Output = ()> + Send + 'static> = tokio::task::futures::TaskLocalFuture<Arc<Self>, F>;

    fn around<F: Future<Output = ()> + Send + 'static>(self: Arc<Self>, stream: F) -> Self::Within<F> {
        READER.scope(self, stream)
    }

    fn reading(&self) -> &Reading {
        &self.reading
    }
}

impl Reader {
    /// The reader of the stream that is being polled; outside of any, one that is never read.
    pub(super) fn current() -> Arc<Self> {
        READER.try_get().unwrap_or_default()
    }

    /// Sets what the call holds. A second call changes nothing.
    pub(super) fn admit(&self, admitted: Admitted) {
        self.admitted.get_or_init(|| admitted);
    }

    /// Keeps the charge of the request for as long as the call may hold it.
    pub(super) fn hold_request(&self, charge: Charge) {
        if let Some(admitted) = self.admitted.get() {
            admitted.request.get_or_init(|| charge);
        }
    }

    /// Sets why the request ended, for a handler that would take it for a normal end.
    pub(super) fn break_request(&self, fault: Fault) {
        self.broken.get_or_init(|| Box::new(fault));
    }

    /// The charge for something to be sent; `None` for a stream without a connection.
    fn charge(&self) -> Option<Charge> {
        self.admitted.get().map(|admitted| admitted.account.charge())
    }

    /// Sets which call this is, and when it ends. A second call changes nothing.
    pub(super) fn begin_call(&self, metrics: &Arc<MethodMetrics>, ends_at: Timestamp) {
        self.reading.begin_call(metrics, ends_at);
    }

    /// Sets the session that goes on while nobody reads.
    pub(super) fn keep_polling(&self, backlog: Arc<dyn PollUnread>) {
        self.reading.keep_polling(backlog);
    }

    /// Why the stream is being reset, if it is.
    pub(super) fn given_up(&self) -> Option<StreamEnd> {
        self.reading.given_up()
    }
}

/// Largest frame that the transport gets at once. It takes a frame whole or not at all: with larger ones a slow client would
/// seem not to read, and the limit of the send buffer would hold only for small results.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Precedes a message: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// A response body whose reader learns what the transport does with it.
///
/// A [parcel] replaces its ticket in it. Whatever waits for the client beyond one frame is charged to its connection, and ends
/// the call if there is no room for it.
pub(super) struct WatchedBody {
    body: tonic::body::Body,
    /// The rest of a frame that was too large.
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

    /// The part of `data`, a new frame, that goes out now.
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

    /// The beginning of `data`; the rest stays here.
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

    /// There is no room for the answer, so only its status is sent.
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
        self.reader.reading.note_frame(is_data);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.is_over || self.body.is_end_stream())
    }
}

/// Calls whose stream is not HTTP/2's own: each has a reader all the same, for as long as its answer is open.
///
/// Where the stream that is being polled has one, it is that one.
#[derive(Clone)]
pub(super) struct WithReader<S> {
    services: S,
}

impl<S> WithReader<S> {
    pub(super) const fn new(services: S) -> Self {
        Self { services }
    }
}

impl<S, B> Service<Request<B>> for WithReader<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Held<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reader = Reader::current();
        let call = READER.sync_scope(Arc::clone(&reader), || self.services.call(request));
        Held { call, reader }
    }
}

pin_project! {
    /// Such a call.
    pub(super) struct Held<F> {
        #[pin]
        call: F,
        reader: Arc<Reader>,
    }
}

impl<F: Future<Output = Result<Response<tonic::body::Body>, E>>, E> Future for Held<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answered = READER.sync_scope(Arc::clone(this.reader), || this.call.poll(cx));
        let held = |body| tonic::body::Body::new(HeldBody { body, reader: Arc::clone(this.reader) });
        answered.map_ok(|response| response.map(held))
    }
}

/// The answer to such a call.
struct HeldBody {
    body: tonic::body::Body,
    reader: Arc<Reader>,
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, reader } = &mut *self;
        READER.sync_scope(Arc::clone(reader), || Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;

    use super::*;

    struct Frames(mpsc::Receiver<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn watched(frames: &[&Bytes]) -> WatchedBody {
        let (sender, receiver) = mpsc::channel(frames.len());
        for frame in frames {
            sender.try_send(Bytes::clone(frame)).expect("room");
        }
        WatchedBody::new(tonic::body::Body::new(Frames(receiver)))
    }

    #[tokio::test]
    async fn a_client_that_takes_its_time_over_a_large_frame_is_reading() {
        let mut body = watched(&[&Bytes::from(vec![0; 10 * FRAME_BYTES_MAX])]);
        for _ in 0..10 {
            assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some());
            assert!(body.reader.reading.is_unread() && body.reader.reading.took_anything());
        }
        assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
        assert!(!body.reader.reading.is_unread());
    }

    #[tokio::test]
    async fn a_large_frame_comes_in_pieces_and_whole() {
        let large: Bytes = (0..2 * FRAME_BYTES_MAX + 1).map(|index| index as u8).collect();
        let mut body = watched(&[&large, &large.slice(..10)]);
        let mut pieces = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            assert!(!body.is_end_stream());
            pieces.push(frame.expect("no error").into_data().expect("data"));
        }
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [FRAME_BYTES_MAX, FRAME_BYTES_MAX, 1, 10]);
        assert_eq!(pieces.concat(), [&large[..], &large[..10]].concat());
    }

    #[test]
    fn a_stream_that_is_read_costs_little_more_than_its_future() {
        assert!(size_of::<Reader>() <= 192, "{} bytes", size_of::<Reader>());
    }
}
