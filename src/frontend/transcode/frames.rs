//! Messages in frames, as gRPC, gRPC-Web and Connect write them: a byte of flags, four of length, and the message.
//!
//! Bytes in, messages out, whatever pieces the bytes come in. What has arrived of a message is charged to its connection, never what
//! is announced, and a message that announces more than is allowed is refused at its fifth byte.

use std::{iter, pin::Pin, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::{
    domain::{Fault, FaultKind},
    frontend::grpc_status::status_with,
    side::SideThreads,
    transport::{Account, Charge, PIECE_BYTES_MAX, Pieces},
};

/// Precedes a message: flags and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Largest piece that is handed on at once, as on the wire: what is beyond it waits here, where it is charged.
pub(super) const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// Bytes, and what they are charged to for as long as somebody holds them.
#[derive(Debug)]
pub(super) struct Charged {
    pub(super) bytes: Bytes,
    pub(super) charge: Charge,
}

/// A whole frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) flags: u8,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// It came in one piece.
    Whole(Charged),
    Gathered(Pieces),
}

impl Frame {
    /// Length of the message.
    pub(super) const fn len(&self) -> usize {
        match &self.held {
            Held::Whole(whole) => whole.bytes.len(),
            Held::Gathered(pieces) => pieces.len(),
        }
    }

    /// The message in one piece. A long one is put together where nobody has to wait.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if there is no room for it.
    pub(super) async fn message(self, side: &SideThreads) -> Result<Charged, Fault> {
        let length = self.len();
        match self.held {
            Held::Whole(whole) => Ok(whole),
            Held::Gathered(pieces) => {
                let join = move || pieces.join().map(|(bytes, charge)| Charged { bytes, charge });
                side.run_long(length, PIECE_BYTES_MAX, join).await
            }
        }
    }
}

/// What is allowed of the frames that are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameLimits {
    /// Bytes of a message, and the key that sets them.
    pub(super) bytes_max: usize,
    pub(super) bytes_key: &'static str,
    /// For a message that has begun to be complete, and the key that sets it; `None` for what this server says itself.
    pub(super) timeout: Option<(Duration, &'static str)>,
}

impl FrameLimits {
    /// For what the services of this server answer.
    pub(super) const OWN: Self = Self { bytes_max: u32::MAX as usize, bytes_key: "", timeout: None };
}

/// Cuts bytes into frames.
struct Cutter {
    account: Account,
    limits: FrameLimits,
    /// What has arrived and has not been looked at.
    rest: Bytes,
    begun: Option<Begun>,
}

/// A frame that has begun.
struct Begun {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    pieces: Pieces,
}

impl Begun {
    fn length(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }

    const fn has_prefix(&self) -> bool {
        self.prefix_bytes == PREFIX_BYTES
    }
}

impl Cutter {
    const fn new(account: Account, limits: FrameLimits) -> Self {
        Self { account, limits, rest: Bytes::new(), begun: None }
    }

    /// Adds what has arrived. Whatever came before has been taken by then, so nothing is copied.
    fn push(&mut self, data: Bytes) {
        self.rest = data;
    }

    /// The next frame that is complete.
    fn next(&mut self) -> Result<Option<Frame>, Fault> {
        if self.begun.is_none()
            && let Some(frame) = self.whole()?
        {
            return Ok(Some(frame));
        }
        if self.rest.is_empty() && self.begun.as_ref().is_none_or(|begun| !begun.has_prefix()) {
            return Ok(None);
        }
        let pieces = || Pieces::new(self.account.charge());
        let begun = self.begun.get_or_insert_with(|| Begun { prefix: [0; PREFIX_BYTES], prefix_bytes: 0, pieces: pieces() });
        if !begun.has_prefix() {
            let bytes = self.rest.len().min(PREFIX_BYTES - begun.prefix_bytes);
            self.rest.copy_to_slice(&mut begun.prefix[begun.prefix_bytes..][..bytes]);
            begun.prefix_bytes += bytes;
            if !begun.has_prefix() {
                return Ok(None);
            }
            self.limits.check(begun.length())?;
        }
        let left = begun.length() - begun.pieces.len();
        let data = self.rest.split_to(self.rest.len().min(left));
        begun.pieces.push(&data, left)?;
        if data.len() < left {
            return Ok(None);
        }
        Ok(self.begun.take().map(|begun| Frame { flags: begun.prefix[0], held: Held::Gathered(begun.pieces) }))
    }

    /// A frame that is all there, without a copy.
    fn whole(&mut self) -> Result<Option<Frame>, Fault> {
        let Some(([flags, length @ ..], message)) = self.rest.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let (flags, length) = (*flags, u32::from_be_bytes(*length) as usize);
        self.limits.check(length)?;
        if message.len() < length {
            return Ok(None);
        }
        let mut charge = self.account.charge();
        charge.grow(length)?;
        self.rest.advance(PREFIX_BYTES);
        Ok(Some(Frame { flags, held: Held::Whole(Charged { bytes: self.rest.split_to(length), charge }) }))
    }

    /// Says whether the bytes may end here.
    fn end(&self) -> Result<(), Fault> {
        match &self.begun {
            None => Ok(()),
            Some(begun) if !begun.has_prefix() => Err(Fault::invalid("message", "the message breaks off before its length")),
            Some(begun) => {
                let (came, length) = (begun.pieces.len(), begun.length());
                Err(Fault::invalid("message", format!("the message breaks off after {came} of its {length} bytes")))
            }
        }
    }
}

impl FrameLimits {
    fn check(&self, bytes: usize) -> Result<(), Fault> {
        let Self { bytes_max, bytes_key, .. } = *self;
        if bytes <= bytes_max {
            return Ok(());
        }
        let message = format!("the message is larger than the {bytes_max} bytes that {bytes_key} allows: it has {bytes} bytes");
        Err(Fault::new(FaultKind::TooLarge, message).with_limit(bytes_key, bytes_max as u64))
    }
}

/// Reads the frames of a body.
pub(super) struct FrameReader<B> {
    body: B,
    cutter: Cutter,
    trailers: Option<HeaderMap>,
    /// When the message that has begun must be complete.
    timer: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl<B: HttpBody<Data = Bytes> + Unpin> FrameReader<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) const fn new(body: B, account: Account, limits: FrameLimits) -> Self {
        Self { body, cutter: Cutter::new(account, limits), trailers: None, timer: None, is_over: false }
    }

    /// The next frame; `None` at the end of the body. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The status of a frame that is too large, too slow, cut short or without room, or that of the body. Nothing follows.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Status> {
        if self.is_over {
            return Ok(None);
        }
        let next = self.read().await;
        self.is_over = !matches!(next, Ok(Some(_)));
        next
    }

    async fn read(&mut self) -> Result<Option<Frame>, Status> {
        loop {
            if let Some(frame) = self.cutter.next().map_err(status_with)? {
                self.timer = None;
                return Ok(Some(frame));
            }
            let frame = match self.cutter.limits.timeout.filter(|_| self.cutter.begun.is_some()) {
                None => self.body.frame().await,
                Some((limit, key)) => {
                    let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
                    tokio::select! {
                        biased;
                        frame = self.body.frame() => frame,
                        () = timer.as_mut() => return Err(status_with(late(limit, key))),
                    }
                }
            };
            let Some(frame) = frame else {
                self.cutter.end().map_err(status_with)?;
                return Ok(None);
            };
            match frame.map_err(|error| Status::from_error(error.into()))?.into_data() {
                Ok(data) => self.cutter.push(data),
                Err(other) => self.trailers = other.into_trailers().ok(),
            }
        }
    }

    /// What came after the body, once it is over.
    pub(super) const fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }
}

fn late(limit: Duration, key: &'static str) -> Fault {
    let seconds = limit.as_secs();
    let message = format!("a message that was not complete within the {seconds} s that {key} allows");
    Fault::new(FaultKind::Expired, message).with_limit(key, seconds)
}

/// A message as a frame, in pieces of at most [`CHUNK_BYTES_MAX`] and a prefix. Only the first of them is copied.
pub(super) fn framed(flags: u8, mut message: Bytes) -> impl Iterator<Item = Bytes> + Send {
    let mut prefix = BytesMut::with_capacity(PREFIX_BYTES + message.len().min(CHUNK_BYTES_MAX));
    prefix.put_u8(flags);
    prefix.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    prefix.put_slice(&message.split_to(message.len().min(CHUNK_BYTES_MAX)));
    let rest = iter::from_fn(move || {
        let piece = message.split_to(message.len().min(CHUNK_BYTES_MAX));
        (!piece.is_empty()).then_some(piece)
    });
    iter::once(prefix.freeze()).chain(rest)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame as HttpFrame;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{domain::Peer, telemetry::Gauge, transport::Transfer};

    const LIMITS: FrameLimits = FrameLimits {
        bytes_max: 1 << 20,
        bytes_key: "grpc.max_message_bytes",
        timeout: Some((Duration::from_secs(60), "grpc.body_timeout_s")),
    };

    fn transfer() -> Transfer {
        Transfer::new(64 << 20, Gauge::noop())
    }

    fn body(pieces: Vec<Bytes>) -> impl HttpBody<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok(HttpFrame::data(piece)))))
    }

    /// All frames up to the end or the first error.
    async fn read(pieces: Vec<Bytes>, limits: FrameLimits) -> (Vec<(u8, Bytes)>, Option<Status>) {
        let transfer = transfer();
        let mut reader = FrameReader::new(body(pieces), transfer.connection(Peer::default()), limits);
        let mut found = Vec::new();
        let error = loop {
            match reader.next().await {
                Ok(Some(frame)) => {
                    let flags = frame.flags;
                    let message = frame.message(&SideThreads::new(1)).await.expect("room");
                    assert!(message.charge.bytes() >= message.bytes.len());
                    found.push((flags, message.bytes));
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        drop(reader);
        assert_eq!(transfer.bytes(), 0, "all of it is given back");
        (found, error)
    }

    /// The same bytes in pieces of these lengths, over and over.
    fn cut(mut bytes: Bytes, lengths: &[usize]) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        for length in lengths.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            pieces.push(bytes.split_to(bytes.len().min(*length)));
        }
        pieces
    }

    fn joined(pieces: impl Iterator<Item = Bytes>) -> Bytes {
        pieces.collect::<Vec<_>>().concat().into()
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_at_its_fifth_byte() {
        let limits = FrameLimits { bytes_max: 10, ..LIMITS };
        assert_eq!(read(vec![Bytes::from_static(&[0, 0, 0, 0, 2, 7, 7])], limits).await.0.len(), 1);
        for pieces in [vec![Bytes::from_static(&[0, 0, 0, 0, 11])], cut(Bytes::from_static(&[0, 0, 0, 0, 11]), &[1])] {
            let (found, error) = read(pieces, limits).await;
            let status = error.expect("it is too large");
            assert_eq!((found.len(), status.code()), (0, tonic::Code::ResourceExhausted));
            assert!(status.message().contains("grpc.max_message_bytes"), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_has_begun_has_its_time_and_a_pause_has_none() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<HttpFrame<Bytes>, Infallible>>(4);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let mut reader = FrameReader::new(body, transfer().connection(Peer::default()), LIMITS);
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, reader.next()).await.is_err(), "nothing has begun");
        sender.send(Ok(HttpFrame::data(Bytes::from_static(&[0, 0])))).await.expect("room");
        let status = reader.next().await.expect_err("it is late");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("grpc.body_timeout_s"), "{status}");
        assert!(reader.next().await.is_ok_and(|frame| frame.is_none()), "nothing follows");
    }

    #[tokio::test]
    async fn a_message_that_is_all_there_is_not_copied() {
        let bytes = joined(framed(2, Bytes::from_static(b"abc")));
        let (found, _) = read(vec![bytes.clone()], LIMITS).await;
        assert_eq!((found[0].0, found[0].1.as_ptr()), (2, bytes[PREFIX_BYTES..].as_ptr()));
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_their_bytes_come(
            messages in vec((any::<u8>(), vec(any::<u8>(), 0..300), 1_usize..700), 0..6),
            lengths in vec(1_usize..3_000, 1..5),
            missing in 0_usize..3,
        ) {
            let messages: Vec<_> = messages.into_iter().map(|(flags, some, times)| (flags, Bytes::from(some.repeat(times)))).collect();
            let mut bytes = joined(messages.iter().flat_map(|(flags, message)| framed(*flags, message.clone())));
            bytes.truncate(bytes.len().saturating_sub(missing));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (found, error) = runtime.block_on(read(cut(bytes.clone(), &lengths), LIMITS));
            if missing == 0 || messages.is_empty() {
                prop_assert!(error.is_none());
                prop_assert_eq!(found, messages);
            } else {
                prop_assert_eq!(error.map(|status| status.code()), Some(tonic::Code::InvalidArgument));
                prop_assert_eq!(found.as_slice(), &messages[..found.len()]);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..60), lengths in vec(1_usize..20, 1..5)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(read(cut(bytes.into(), &lengths), LIMITS));
        }
    }
}
