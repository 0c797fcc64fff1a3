//! How requests arrive, before tonic sees anything of them.
//!
//! tonic allocates as many bytes as a message announces, keeps them for as long as the stream lives, inflates on the spot, and
//! waits for ever. So this stands between it and HTTP/2, and reads gRPC's frames itself:
//!
//! ```text
//!  DATA frame ─► whole messages, not compressed, and the beginnings of small ones ───────────► tonic, untouched
//!           └──► others ─► gathered as they come, charged ─► inflated, counted ─► a parcel ──► tonic, which gets a ticket
//!                          clock: grpc.body_timeout_s        aside, if it is slow
//! ```
//! A message is refused at its first five bytes if it announces more than is allowed, and when its time is up if it is not
//! complete.
//!
//! # CLOCKS
//! A request of one message must be complete within `grpc.body_timeout_s` of its headers, a message of a stream within that time of
//! its first byte; a reflection stream ends when it is silent for that long. `grpc-timeout` also ends the wait for a request.
//! Complete messages belong to the session, which has its own clocks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::future::{BoxFuture, Either, Ready, ready as done};
use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::{Body as HttpBody, Frame};
use prost::DecodeError;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    calls::{Calls, ConnectionCalls},
    deadline,
    reader::{Admitted, Reader},
    shapes::{MethodShape, Shapes, UNCOUNTED_BYTES_MAX},
    status::{announced_too_large, status_of, status_with},
};
use crate::{
    config::{GrpcConfig, MessageConfig},
    domain::{Fault, FaultKind, Peer},
    frontend::{
        Bounds,
        inflate::{Encoding, InflateLimits, NotInflated, inflate},
    },
    proto::{DESCRIPTORS, parcel},
    side::{INLINE_BYTES_MAX, SideThreads},
    telemetry::CallKind,
    transport::{Account, Charge, PIECE_BYTES_MAX, Pieces},
};

/// Precedes each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Bytes that may be allocated for a stream, and in addition for each byte that has arrived.
const ROOM_FOR_A_STREAM: usize = 2 << 10;
const ROOM_FOR_A_BYTE: usize = 8;

/// How much is inflated where it arrives, which takes up to a millisecond. Whatever turns out to be longer is inflated again
/// elsewhere.
const INFLATED_HERE_MAX: usize = 128 << 10;

/// Services whose messages are small: nobody needs more than a few words of them.
const SMALL_SERVICES: [&str; 3] = ["/grpc.health.v1.", "/grpc.reflection.v1", "/tidemill.v1.ModelService/"];

/// The part that all connections share. Clones share it too.
#[derive(Clone)]
pub(super) struct Arrivals {
    shared: Arc<Shared>,
}

struct Shared {
    shapes: Shapes,
    calls: Calls,
    limits: MessageConfig,
    message_bytes_max: usize,
    small_message_bytes_max: usize,
    body_timeout: Duration,
    bounds: Bounds,
}

impl Arrivals {
    /// # Errors
    /// If the descriptors of the services are broken.
    pub(super) fn new(config: &GrpcConfig, bounds: Bounds) -> Result<Self, DecodeError> {
        let shared = Shared {
            shapes: Shapes::new(DESCRIPTORS)?,
            calls: Calls::new(config, &bounds.metrics),
            limits: bounds.message.clone(),
            message_bytes_max: config.max_message_bytes,
            small_message_bytes_max: config.max_small_message_bytes.min(config.max_message_bytes),
            body_timeout: config.body_timeout(),
            bounds,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The layer of one connection.
    pub(super) fn connection(&self, peer: Peer) -> ArrivalLayer {
        let shared = Arc::clone(&self.shared);
        ArrivalLayer { account: shared.bounds.transfer.connection(peer), calls: shared.calls.connection(peer), shared }
    }
}

impl Shared {
    /// Counts what a message holds; messages of other services hold a few words.
    fn count(&self, input: Option<usize>, message: &[u8]) -> Result<(), Fault> {
        input.map_or(Ok(()), |input| self.shapes.count(input, message, &self.limits))
    }
}

/// Counts the calls of one connection, and puts an [`ArrivingBody`] under each.
#[derive(Clone)]
pub(super) struct ArrivalLayer {
    shared: Arc<Shared>,
    account: Account,
    calls: ConnectionCalls,
}

impl<S> Layer<S> for ArrivalLayer {
    type Service = ArrivalService<S>;

    fn layer(&self, inner: S) -> ArrivalService<S> {
        ArrivalService { inner, layer: self.clone() }
    }
}

/// A service under an [`ArrivalLayer`].
#[derive(Clone)]
pub(super) struct ArrivalService<S> {
    inner: S,
    layer: ArrivalLayer,
}

impl<S, B> Service<Request<B>> for ArrivalService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.admit(&request, Reader::current()) {
            Ok(call) => Either::Right(self.inner.call(request.map(|body| Body::new(ArrivingBody::new(body, call))))),
            Err(fault) => Either::Left(done(Ok(status_of(&fault).into_http()))),
        }
    }
}

impl ArrivalLayer {
    /// Counts a call.
    ///
    /// # Errors
    /// Those of [`ConnectionCalls::begin`].
    fn admit<B>(&self, request: &Request<B>, reader: Arc<Reader>) -> Result<Call, Fault> {
        let Self { shared, account, calls } = self;
        let path = request.uri().path();
        let method = shared.shapes.method(path);
        let kind = kind(path, method);
        let guard = calls.begin(kind)?;
        reader.admit(Admitted::new(guard, account.clone()));
        let is_small = SMALL_SERVICES.iter().any(|service| path.starts_with(service));
        let client_streams = method.is_some_and(|method| method.client_streams);
        Ok(Call {
            shared: Arc::clone(shared),
            account: account.clone(),
            reader: (!client_streams).then_some(reader),
            input: method.map(|method| method.input),
            is_whole: !client_streams && kind != CallKind::Reflection,
            kind,
            bytes_max: if is_small { shared.small_message_bytes_max } else { shared.message_bytes_max },
            encoding: encoding(request.headers()),
            timeout: deadline::timeout(request.headers()),
        })
    }
}

/// Which kind of call a path is; reflection is tonic's and not one of our methods.
fn kind(path: &str, method: Option<MethodShape>) -> CallKind {
    match method {
        Some(_) if path == "/grpc.health.v1.Health/Watch" => CallKind::Watch,
        Some(method) if method.client_streams || method.server_streams => CallKind::Stream,
        None if path.starts_with("/grpc.reflection.v1") => CallKind::Reflection,
        Some(_) | None => CallKind::Unary,
    }
}

/// How the messages of a call may be compressed; tonic refuses encodings that the service does not take.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    match headers.get(ENCODING)?.as_bytes() {
        b"gzip" => Some(Encoding::Gzip),
        b"deflate" => Some(Encoding::Deflate),
        b"zstd" => Some(Encoding::Zstd),
        _ => None,
    }
}

/// What is known about a call before its body arrives.
struct Call {
    shared: Arc<Shared>,
    account: Account,
    /// `None` for our own streams, whose reader may hold the session that holds this.
    reader: Option<Arc<Reader>>,
    /// The message that its method takes; `None` for methods that are not ours, which take no parcels either.
    input: Option<usize>,
    /// Only one message comes.
    is_whole: bool,
    kind: CallKind,
    bytes_max: usize,
    encoding: Option<Encoding>,
    timeout: Option<Duration>,
}

/// The body of a request; tonic gets complete messages only.
struct ArrivingBody<B> {
    body: B,
    call: Call,
    state: State,
    /// The rest of a DATA frame.
    rest: Bytes,
    /// For the last message, as long as its receiver may be using it.
    handed_on: Option<Charge>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum State {
    /// Between two messages.
    Between,
    /// A message has begun that is passed on as it comes: it needs no work, and tonic keeps no more of it than has come.
    Passing { announced: usize, left: usize },
    /// A message has begun.
    Gathering(Box<Gathering>),
    /// It is complete, and is being inflated, joined and counted.
    Working(BoxFuture<'static, Result<(Bytes, Charge), Fault>>),
    /// All is over.
    Over,
}

/// A message, as far as it has come.
struct Gathering {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    pieces: Pieces,
}

impl Gathering {
    fn is_compressed(&self) -> bool {
        self.prefix[0] == 1
    }

    fn announced(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }
}

impl<B> ArrivingBody<B> {
    const fn new(body: B, call: Call) -> Self {
        Self { body, call, state: State::Between, rest: Bytes::new(), handed_on: None, timer: None }
    }

    /// The part of `data` that goes to tonic, if there is any yet.
    fn take(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Fault> {
        match &mut self.state {
            State::Between => {
                let whole = self.whole_messages(&data)?;
                if whole == data.len() {
                    return Ok(Some(data));
                }
                if let Some(passing) = self.passing(&data[whole..]) {
                    self.state = passing;
                    return Ok(Some(data));
                }
                self.rest = data;
                if whole > 0 {
                    return Ok(Some(self.rest.split_to(whole)));
                }
                let pieces = Pieces::new(self.call.account.charge());
                self.state = State::Gathering(Box::new(Gathering { prefix: [0; PREFIX_BYTES], prefix_bytes: 0, pieces }));
            }
            State::Passing { left, .. } => {
                let passed = data.split_to(data.len().min(*left));
                *left -= passed.len();
                if *left == 0 {
                    self.state = State::Between;
                    self.restart_clock();
                }
                self.rest = data;
                return Ok(Some(passed));
            }
            State::Gathering(_) | State::Working(_) | State::Over => self.rest = data,
        }
        self.gather()
    }

    /// The state for passing on the message that begins with `data` as it comes, if it may be.
    fn passing(&self, data: &[u8]) -> Option<State> {
        let ([0, length @ ..], rest) = data.split_first_chunk::<PREFIX_BYTES>()? else { return None };
        let announced = u32::from_be_bytes(*length) as usize;
        self.call.passes(announced, rest).then(|| State::Passing { announced, left: announced - rest.len() })
    }

    /// Bytes of the messages at the beginning of `data` that need no work.
    fn whole_messages(&self, data: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some((prefix, rest)) = data[at..].split_first_chunk::<PREFIX_BYTES>() {
            let [flag, length @ ..] = *prefix;
            let length = u32::from_be_bytes(length) as usize;
            if flag != 0 || length > rest.len() {
                break;
            }
            if length > self.call.bytes_max {
                return Err(announced_too_large(length, self.call.bytes_max, self.call.bytes_key()));
            }
            self.call.shared.count(self.call.input, &rest[..length])?;
            at += PREFIX_BYTES + length;
        }
        Ok(at)
    }

    /// Goes on with a message that has begun.
    fn gather(&mut self) -> Result<Option<Bytes>, Fault> {
        let State::Gathering(message) = &mut self.state else { return Ok(None) };
        if message.prefix_bytes < PREFIX_BYTES {
            let bytes = self.rest.len().min(PREFIX_BYTES - message.prefix_bytes);
            let prefix = self.rest.split_to(bytes);
            message.prefix[message.prefix_bytes..][..bytes].copy_from_slice(&prefix);
            message.prefix_bytes += bytes;
            if message.prefix_bytes < PREFIX_BYTES {
                return Ok(None);
            }
            let is_broken = message.prefix[0] > 1 || (message.is_compressed() && self.call.encoding.is_none());
            if is_broken {
                // tonic has its own error for that.
                let prefix = Bytes::copy_from_slice(&message.prefix);
                self.state = State::Over;
                return Ok(Some(prefix));
            }
            if message.announced() > self.call.bytes_max {
                return Err(announced_too_large(message.announced(), self.call.bytes_max, self.call.bytes_key()));
            }
            let (announced, prefix) = (message.announced(), message.prefix);
            if prefix[0] == 0 && announced > 0 && self.call.passes(announced, &self.rest) {
                self.state = State::Passing { announced, left: announced };
                return Ok(Some(Bytes::copy_from_slice(&prefix)));
            }
        }
        let left = message.announced() - message.pieces.len();
        let data = self.rest.split_to(self.rest.len().min(left));
        message.pieces.push(&data, left)?;
        if data.len() < left {
            return Ok(None);
        }
        let State::Gathering(message) = std::mem::replace(&mut self.state, State::Between) else { return Ok(None) };
        self.restart_clock();
        self.finish(*message)
    }

    /// A message is complete: passes it on, or starts the work that it needs first.
    fn finish(&mut self, message: Gathering) -> Result<Option<Bytes>, Fault> {
        let encoding = self.call.encoding.filter(|_| message.is_compressed());
        let is_long = message.pieces.len() > if encoding.is_some() { INLINE_BYTES_MAX } else { PIECE_BYTES_MAX };
        let work = Work {
            input: self.call.input,
            limits: InflateLimits {
                what: "message",
                bytes_max: self.call.bytes_max,
                bytes_key: self.call.bytes_key(),
                ratio_max: self.call.shared.limits.max_inflate_ratio,
            },
            shared: Arc::clone(&self.call.shared),
            account: self.call.account.clone(),
            encoding,
        };
        let pieces = if is_long {
            message.pieces
        } else {
            let (joined, charge) = message.pieces.join()?;
            match work.do_here(&joined, charge) {
                Ok((ready, charge)) => return Ok(Some(self.hand_on(ready, charge))),
                Err(NotInflated::Refused(fault)) => return Err(fault),
                Err(NotInflated::Long) => {
                    // Charged again for as long as it waits: the first charge went with what was inflated.
                    let mut pieces = Pieces::new(self.call.account.charge());
                    pieces.push(&joined, joined.len())?;
                    pieces
                }
            }
        };
        let side: SideThreads = self.call.shared.bounds.side.clone();
        self.state = State::Working(Box::pin(async move { side.run(move || work.do_aside(pieces)).await }));
        Ok(None)
    }

    /// What tonic gets instead of a message.
    fn hand_on(&mut self, message: Bytes, charge: Charge) -> Bytes {
        if self.call.is_whole {
            // The call keeps it until it ends.
            if let Some(reader) = &self.call.reader {
                reader.hold_request(charge);
            }
        } else {
            self.handed_on = Some(charge);
        }
        let takes_parcels = self.call.input.is_some();
        let ticket;
        let body: &[u8] = if takes_parcels {
            ticket = parcel::send(message);
            &ticket
        } else {
            &message
        };
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + body.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        frame.put_slice(body);
        frame.freeze()
    }

    /// A message of a stream is complete, so the next one gets its full time.
    fn restart_clock(&mut self) {
        if !self.call.is_whole {
            self.timer = None;
        }
    }

    /// No more data for now. `Ready` if the client's time is up.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let Call { shared, is_whole, kind, timeout, .. } = &self.call;
        let waits = *is_whole || *kind == CallKind::Reflection || !matches!(self.state, State::Between | State::Over);
        if !waits {
            return Poll::Pending;
        }
        // A stream's deadline is its session's, except for streams without a session.
        let timeout = timeout.filter(|_| *is_whole || *kind == CallKind::Reflection);
        let limit = timeout.map_or(shared.body_timeout, |timeout| timeout.min(shared.body_timeout));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(if timeout == Some(limit) {
            Fault::new(FaultKind::Expired, "the deadline of the whole call (grpc-timeout) passed before its request arrived")
        } else {
            let seconds = limit.as_secs();
            let what = if matches!(self.state, State::Between) { "no request" } else { "a message that was not complete" };
            let message = format!("{what} within the {seconds} s that grpc.body_timeout_s allows");
            Fault::new(FaultKind::Expired, message).with_limit("grpc.body_timeout_s", seconds)
        })
    }

    /// The end of what the client sends.
    fn end(&mut self) -> Result<(), Fault> {
        let (came, announced) = match std::mem::replace(&mut self.state, State::Over) {
            State::Passing { announced, left } => (announced - left, announced),
            State::Gathering(message) if message.prefix_bytes < PREFIX_BYTES => {
                return Err(Fault::invalid("message", "the message breaks off before its length"));
            }
            State::Gathering(message) => (message.pieces.len(), message.announced()),
            State::Between | State::Working(_) | State::Over => return Ok(()),
        };
        Err(Fault::invalid("message", format!("the message breaks off after {came} of its {announced} bytes")))
    }
}

impl Call {
    /// Whether an uncompressed message that begins like this is passed on as it comes: it is small enough to be neither counted nor
    /// charged, and enough of it has arrived that what tonic allocates for all of it is in proportion.
    fn passes(&self, announced: usize, begins: &[u8]) -> bool {
        let room = ROOM_FOR_A_STREAM + ROOM_FOR_A_BYTE * begins.len();
        announced <= UNCOUNTED_BYTES_MAX.min(self.bytes_max) && announced <= room
    }

    fn bytes_key(&self) -> &'static str {
        if self.bytes_max == self.shared.message_bytes_max { "grpc.max_message_bytes" } else { "grpc.max_small_message_bytes" }
    }
}

/// What a complete message needs done.
struct Work {
    shared: Arc<Shared>,
    account: Account,
    input: Option<usize>,
    encoding: Option<Encoding>,
    limits: InflateLimits,
}

impl Work {
    /// [`NotInflated::Long`] if that takes too long to do here.
    fn do_here(&self, message: &Bytes, charge: Charge) -> Result<(Bytes, Charge), NotInflated> {
        let (message, charge) = match self.encoding {
            Some(encoding) => inflate(encoding, message, INFLATED_HERE_MAX, &self.limits, &self.account)?,
            None => (message.clone(), charge),
        };
        self.shared.count(self.input, &message)?;
        Ok((message, charge))
    }

    fn do_aside(self, pieces: Pieces) -> Result<(Bytes, Charge), Fault> {
        let (message, charge) = pieces.join()?;
        let (message, charge) = match self.encoding {
            Some(encoding) => match inflate(encoding, &message, usize::MAX, &self.limits, &self.account) {
                Ok(inflated) => inflated,
                Err(NotInflated::Refused(fault)) => return Err(fault),
                // Without a limit it cannot be too long.
                Err(NotInflated::Long) => return Err(Fault::new(FaultKind::Failed, "the message was not inflated")),
            },
            None => (message, charge),
        };
        self.shared.count(self.input, &message)?;
        Ok((message, charge))
    }
}

impl<B> HttpBody for ArrivingBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // More is asked for, so the last message has been used up.
        this.handed_on = None;
        loop {
            let taken = match &mut this.state {
                State::Over => return Poll::Ready(None),
                State::Working(working) => match working.as_mut().poll(cx) {
                    Poll::Ready(Ok((message, charge))) => {
                        this.state = State::Between;
                        this.restart_clock();
                        Ok(Some(this.hand_on(message, charge)))
                    }
                    Poll::Ready(Err(fault)) => Err(fault),
                    Poll::Pending => Err(ready!(this.poll_clock(cx))),
                },
                State::Between | State::Passing { .. } | State::Gathering(_) if this.rest.has_remaining() => {
                    let rest = std::mem::take(&mut this.rest);
                    this.take(rest)
                }
                State::Between | State::Passing { .. } | State::Gathering(_) => match Pin::new(&mut this.body).poll_frame(cx) {
                    Poll::Pending => Err(ready!(this.poll_clock(cx))),
                    Poll::Ready(None) => match this.end() {
                        Ok(()) => return Poll::Ready(None),
                        Err(fault) => Err(fault),
                    },
                    Poll::Ready(Some(Err(error))) => {
                        this.state = State::Over;
                        return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            // A clock that ran out while nobody polled says nothing about a client that sends.
                            if !this.call.is_whole {
                                this.timer.take_if(|timer| timer.is_elapsed() || matches!(this.state, State::Between));
                            }
                            this.take(data)
                        }
                        Err(trailers) => match this.end() {
                            Ok(()) => return Poll::Ready(Some(Ok(trailers))),
                            Err(fault) => Err(fault),
                        },
                    },
                },
            };
            match taken {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(fault) => {
                    (this.state, this.timer) = (State::Over, None);
                    if this.call.kind == CallKind::Reflection
                        && let Some(reader) = &this.call.reader
                    {
                        reader.break_request(fault.clone());
                    }
                    return Poll::Ready(Some(Err(status_with(fault))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Between) && self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
