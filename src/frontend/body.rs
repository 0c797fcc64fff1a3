//! The body of a request, read whole, inflated, and within limits, whatever it says.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Body;

use super::{
    Bounds,
    inflate::{Encoding, InflateLimits, NotInflated, inflate},
};
use crate::{
    domain::{Fault, FaultKind},
    memory::Memory,
    side::{INLINE_BYTES_MAX, SideThreads},
    transport::{Account, Charge, PIECE_BYTES_MAX, Pieces},
};

/// How much is inflated where it arrives, which takes up to a millisecond. Whatever turns out to be longer is inflated again
/// elsewhere.
const INFLATED_HERE_MAX: usize = 128 << 10;

/// How long a body may be, and how long it may take, with the keys that set both.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) bytes_max: usize,
    pub(super) bytes_key: &'static str,
    pub(super) timeout: Duration,
    pub(super) timeout_key: &'static str,
}

/// Bytes that have arrived, charged for as long as they may be held.
pub(super) type Charged = (Bytes, Charge);

/// Why there is no body.
#[derive(Debug)]
pub(super) enum NotRead {
    /// The rest of it has not been read, so nothing else can be on its connection.
    Unfinished(Fault),
    /// All of it has arrived, and it is not what it says.
    Unusable(Fault),
}

impl NotRead {
    pub(super) fn into_fault(self) -> Fault {
        match self {
            Self::Unfinished(fault) | Self::Unusable(fault) => fault,
        }
    }
}

/// Reads all of a body. One that comes in one piece is not copied.
///
/// # Errors
/// [`FaultKind::TooLarge`] over the limit or `message.max_inflate_ratio`, [`FaultKind::Overloaded`] over `memory.transfer_bytes` or if
/// it is long while memory is short, [`FaultKind::Expired`] if it takes too long, [`FaultKind::Invalid`] if it breaks off or cannot be
/// inflated.
pub(super) async fn read<B>(
    encoding: Option<Encoding>,
    (headers, body): (&HeaderMap, B),
    account: &Account,
    limits: &BodyLimits,
    (bounds, memory): (&Bounds, &Memory),
) -> Result<Charged, NotRead>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.bytes_max as u64) {
        return Err(NotRead::Unfinished(too_large(limits)));
    }
    let bytes = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    memory.admit_bytes(bytes).map_err(NotRead::Unfinished)?;
    let arriving = async {
        let arrived = collect(body, announced, account, limits, (memory, &bounds.side)).await.map_err(NotRead::Unfinished)?;
        match encoding {
            Some(encoding) => inflated(encoding, arrived, account, limits, bounds).await.map_err(NotRead::Unusable),
            None => Ok(arrived),
        }
    };
    tokio::time::timeout(limits.timeout, arriving).await.unwrap_or_else(|_| {
        let (seconds, key) = (limits.timeout.as_secs(), limits.timeout_key);
        let message = format!("the body did not arrive within the {seconds} s that {key} allows");
        Err(NotRead::Unfinished(Fault::new(FaultKind::Expired, message).with_limit(key, seconds)))
    })
}

async fn collect<B>(
    mut body: B,
    announced: Option<u64>,
    account: &Account,
    limits: &BodyLimits,
    (memory, side): (&Memory, &SideThreads),
) -> Result<Charged, Fault>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut charge = account.charge();
    let mut pieces: Option<Pieces> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let error = error.into();
            Fault::invalid("body", format!("the body cannot be read: {}", innermost(&*error)))
        })?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let known = pieces.as_ref().map_or(0, Pieces::len);
        if known + data.len() > limits.bytes_max {
            return Err(too_large(limits));
        }
        // A body with a known length has already been let in.
        if announced.is_none() {
            memory.admit_bytes(known + data.len())?;
        }
        if known == 0 && (body.is_end_stream() || announced == Some(data.len() as u64)) {
            charge.grow(data.len())?;
            return Ok((data, charge));
        }
        let left =
            announced.map_or(limits.bytes_max, |length| usize::try_from(length).unwrap_or(usize::MAX)).saturating_sub(known);
        pieces.get_or_insert_with(|| Pieces::new(account.charge())).push(&data, left)?;
    }
    match pieces {
        Some(pieces) => side.run_long(pieces.len(), PIECE_BYTES_MAX, move || pieces.join()).await,
        None => Ok((Bytes::new(), charge)),
    }
}

/// The contents of a compressed body.
async fn inflated(
    encoding: Encoding,
    arrived: Charged,
    account: &Account,
    limits: &BodyLimits,
    bounds: &Bounds,
) -> Result<Charged, Fault> {
    let BodyLimits { bytes_max, bytes_key, .. } = *limits;
    let limits = InflateLimits { what: "body", bytes_max, bytes_key, ratio_max: bounds.message.max_inflate_ratio };
    inflate_wherever(encoding, arrived, &limits, account, bounds).await
}

/// What has arrived compressed: a short one is inflated here, a long one where nobody has to wait.
///
/// # Errors
/// Those of [`inflate`].
pub(super) async fn inflate_wherever(
    encoding: Encoding,
    arrived: Charged,
    limits: &InflateLimits,
    account: &Account,
    bounds: &Bounds,
) -> Result<Charged, Fault> {
    if arrived.0.len() <= INLINE_BYTES_MAX {
        match inflate(encoding, &arrived.0, INFLATED_HERE_MAX, limits, account) {
            Ok(inflated) => return Ok(inflated),
            Err(NotInflated::Refused(fault)) => return Err(fault),
            Err(NotInflated::Long) => {}
        }
    }
    let (account, limits) = (account.clone(), *limits);
    let work = move || match inflate(encoding, &arrived.0, usize::MAX, &limits, &account) {
        Ok(inflated) => Ok(inflated),
        Err(NotInflated::Refused(fault)) => Err(fault),
        // Without a limit it cannot be too long.
        Err(NotInflated::Long) => Err(Fault::new(FaultKind::Failed, format!("the {} was not inflated", limits.what))),
    };
    bounds.side.run(work).await
}

fn too_large(limits: &BodyLimits) -> Fault {
    let BodyLimits { bytes_max, bytes_key, .. } = *limits;
    let message = format!("the body is larger than the {bytes_max} bytes that {bytes_key} allows, counted after inflating");
    Fault::new(FaultKind::TooLarge, message).with_limit(bytes_key, bytes_max as u64)
}

/// The root cause: the errors around it only say that something went wrong.
fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
    use hyper::body::Frame;

    use super::*;
    use crate::{config::Config, domain::Peer, telemetry::Telemetry};

    type BoxBody = UnsyncBoxBody<Bytes, Infallible>;

    fn pieces(pieces: &'static [&'static str]) -> BoxBody {
        let frames = pieces.iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    }

    fn whole(bytes: impl Into<Bytes>) -> BoxBody {
        Full::new(bytes.into()).boxed_unsync()
    }

    fn limited(bytes: usize) -> BodyLimits {
        let (bytes_key, timeout_key) = ("http.max_body_bytes", "http.body_timeout_s");
        BodyLimits { bytes_max: bytes, bytes_key, timeout: Duration::from_secs(60), timeout_key }
    }

    fn announcing(length: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.parse().expect("a value"))])
    }

    fn bounds() -> Bounds {
        Bounds::new(&Config::default(), Telemetry::off().server())
    }

    async fn read_body(
        headers: &HeaderMap,
        body: BoxBody,
        encoding: Option<Encoding>,
        limits: &BodyLimits,
    ) -> Result<Bytes, Fault> {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let arrived = read(encoding, (headers, body), &account, limits, (&bounds, &Memory::unlimited())).await;
        let body = arrived.map(|(body, charge)| {
            assert!(charge.bytes() >= body.len());
            body
        });
        assert_eq!(bounds.transfer.bytes(), 0, "all of it is given back");
        body.map_err(NotRead::into_fault)
    }

    async fn read_pieces(headers: &HeaderMap, parts: &'static [&'static str], limit: usize) -> Result<Bytes, FaultKind> {
        read_body(headers, pieces(parts), None, &limited(limit)).await.map_err(|fault| fault.kind())
    }

    #[tokio::test]
    async fn a_body_is_read_whole_however_it_comes() {
        let none = HeaderMap::new();
        assert_eq!(read_pieces(&none, &[], 8).await, Ok(Bytes::new()));
        assert_eq!(read_pieces(&none, &["ab", "", "c"], 8).await, Ok(Bytes::from("abc")));
        assert_eq!(read_pieces(&announcing("3"), &["abc"], 8).await, Ok(Bytes::from("abc")));
        assert_eq!(read_pieces(&announcing("4"), &["a", "bcd"], 8).await, Ok(Bytes::from("abcd")));
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from_static(b"abc");
        let read = read_body(&HeaderMap::new(), whole(bytes.clone()), None, &limited(3)).await.expect("within the limit");
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused_announced_or_not() {
        assert!(read_pieces(&HeaderMap::new(), &["ab", "c"], 3).await.is_ok());
        assert_eq!(read_pieces(&HeaderMap::new(), &["ab", "cd"], 3).await, Err(FaultKind::TooLarge));
        assert_eq!(read_pieces(&announcing("4"), &[], 3).await, Err(FaultKind::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let endless = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()).boxed_unsync();
        let fault = read_body(&HeaderMap::new(), endless, None, &limited(9)).await.expect_err("it never ends");
        assert_eq!((fault.kind(), fault.limit().expect("a limit").name), (FaultKind::Expired, "http.body_timeout_s"));
    }

    #[tokio::test]
    async fn bodies_in_arrival_are_charged_as_they_come() {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let limits = limited(32_000_000);
        let headers = announcing("16000000");
        let memory = Memory::unlimited();
        let mut reading = Box::pin(read(None, (&headers, body), &account, &limits, (&bounds, &memory)));
        sender.send(Ok(Frame::data(Bytes::from(vec![0; 10_000])))).await.expect("it is read");
        assert!(futures::poll!(reading.as_mut()).is_pending());
        assert_eq!(bounds.transfer.bytes(), 10_000, "not what is announced");
        drop(reading);
        assert_eq!(bounds.transfer.bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_compressed_is_inflated_within_the_limits() {
        use std::io::Write as _;
        let gzip = |bytes: usize| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(&vec![b' '; bytes]).expect("into memory");
            whole(encoder.finish().expect("into memory"))
        };
        let (headers, encoding) = (HeaderMap::new(), Some(Encoding::Gzip));
        for bytes in [0, 10, INFLATED_HERE_MAX, INFLATED_HERE_MAX + 1, 1 << 20] {
            let read = read_body(&headers, gzip(bytes), encoding, &limited(64 << 20)).await.expect("within the limits");
            assert_eq!(read.len(), bytes);
        }
        for (bytes, limit, key) in [(1_001, 1_000, "http.max_body_bytes"), (2 << 20, 4 << 20, "message.max_inflate_ratio")] {
            let fault = read_body(&headers, gzip(bytes), encoding, &limited(limit)).await.expect_err("too much");
            assert_eq!(fault.limit().expect("a limit").name, key);
        }
    }
}
