//! The body of a request, read whole, inflated, and within limits.

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::{api::Api, error::Refusal};
use crate::{
    config::HttpConfig,
    domain::{Fault, FaultKind, Peer},
    frontend::{
        Bounds,
        inflate::{Encoding, InflateLimits, NotInflated, inflate},
    },
    memory::Memory,
    side::{INLINE_BYTES_MAX, SideThreads},
    transport::{Account, Charge, PIECE_BYTES_MAX, Pieces},
};

/// How much is inflated where it arrives, which takes up to a millisecond. Whatever turns out to be longer is inflated again
/// elsewhere.
const INFLATED_HERE_MAX: usize = 128 << 10;

/// A request whose body is yet to be read.
pub(super) struct Sent {
    headers: HeaderMap,
    body: Body,
    account: Account,
}

impl FromRequest<Api> for Sent {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let account = parts.extensions.remove::<Account>().unwrap_or_else(|| api.bounds.transfer.connection(Peer::default()));
        Ok(Self { headers: parts.headers, body, account })
    }
}

/// A request whose body has arrived, and is charged for as long as it may be held.
pub(super) struct Arrived {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) charge: Charge,
}

impl Sent {
    /// Reads all of the body. One that comes in one piece is not copied.
    ///
    /// # Errors
    /// 413 over `http.max_body_bytes` or `message.max_inflate_ratio`, 429 over `memory.transfer_bytes` or if it is long while memory is
    /// short, 408 after `http.body_timeout_s`, 400 if it breaks off or cannot be inflated.
    pub(super) async fn read(self, api: &Api) -> Result<Arrived, Refusal> {
        let Self { headers, body, account } = self;
        let bytes = announced(&headers).and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        let memory = api.open_inference.service().memory();
        memory.admit_bytes(bytes).map_err(no_room)?;
        let (body, charge) = read(&headers, body, &account, &api.config, &api.bounds, memory).await?;
        Ok(Arrived { headers, body, charge })
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// Bytes that have arrived.
type Charged = (Bytes, Charge);

async fn read(
    headers: &HeaderMap,
    body: Body,
    account: &Account,
    config: &HttpConfig,
    bounds: &Bounds,
    memory: &Memory,
) -> Result<Charged, Refusal> {
    let announced = announced(headers);
    if announced.is_some_and(|length| length > config.max_body_bytes as u64) {
        return Err(too_large(config));
    }
    let arriving = async {
        let arrived = collect(body, announced, account, config, memory, &bounds.side).await?;
        match encoding(headers) {
            Some(encoding) => inflated(encoding, arrived, account, config, bounds).await.map_err(Refusal::from),
            None => Ok(arrived),
        }
    };
    tokio::time::timeout(config.body_timeout(), arriving).await.unwrap_or_else(|_| {
        let seconds = config.body_timeout_s;
        let message = format!("the body did not arrive within the {seconds} s that http.body_timeout_s allows");
        let fault = Fault::new(FaultKind::Expired, message).with_limit("http.body_timeout_s", seconds);
        Err(Refusal::with_status(fault, StatusCode::REQUEST_TIMEOUT).closing())
    })
}

/// In lower case, as the layer that checks encodings leaves it.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    match headers.get(header::CONTENT_ENCODING)?.as_bytes() {
        b"gzip" => Some(Encoding::Gzip),
        b"deflate" => Some(Encoding::Deflate),
        _ => None,
    }
}

async fn collect(
    mut body: Body,
    announced: Option<u64>,
    account: &Account,
    config: &HttpConfig,
    memory: &Memory,
    side: &SideThreads,
) -> Result<Charged, Refusal> {
    let mut charge = account.charge();
    let mut pieces: Option<Pieces> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let fault = Fault::invalid("body", format!("the body cannot be read: {}", innermost(&*error.into_inner())));
            Refusal::from(fault).closing()
        })?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let known = pieces.as_ref().map_or(0, Pieces::len);
        if known + data.len() > config.max_body_bytes {
            return Err(too_large(config));
        }
        // A body with a known length has already been let in.
        if announced.is_none() {
            memory.admit_bytes(known + data.len()).map_err(no_room)?;
        }
        if known == 0 && (body.is_end_stream() || announced == Some(data.len() as u64)) {
            charge.grow(data.len()).map_err(no_room)?;
            return Ok((data, charge));
        }
        let left =
            announced.map_or(config.max_body_bytes, |length| usize::try_from(length).unwrap_or(usize::MAX)).saturating_sub(known);
        pieces.get_or_insert_with(|| Pieces::new(account.charge())).push(&data, left).map_err(no_room)?;
    }
    match pieces {
        Some(pieces) => side.run_long(pieces.len(), PIECE_BYTES_MAX, move || pieces.join()).await.map_err(no_room),
        None => Ok((Bytes::new(), charge)),
    }
}

/// The contents of a compressed body.
async fn inflated(
    encoding: Encoding,
    arrived: Charged,
    account: &Account,
    config: &HttpConfig,
    bounds: &Bounds,
) -> Result<Charged, Fault> {
    let limits = InflateLimits {
        what: "body",
        bytes_max: config.max_body_bytes,
        bytes_key: "http.max_body_bytes",
        ratio_max: bounds.message.max_inflate_ratio,
    };
    if arrived.0.len() <= INLINE_BYTES_MAX {
        match inflate(encoding, &arrived.0, INFLATED_HERE_MAX, &limits, account) {
            Ok(inflated) => return Ok(inflated),
            Err(NotInflated::Refused(fault)) => return Err(fault),
            Err(NotInflated::Long) => {}
        }
    }
    let account = account.clone();
    let work = move || match inflate(encoding, &arrived.0, usize::MAX, &limits, &account) {
        Ok(inflated) => Ok(inflated),
        Err(NotInflated::Refused(fault)) => Err(fault),
        // Without a limit it cannot be too long.
        Err(NotInflated::Long) => Err(Fault::new(FaultKind::Failed, "the body was not inflated")),
    };
    bounds.side.run(work).await
}

/// The rest of the request is not read.
fn no_room(fault: Fault) -> Refusal {
    Refusal::from(fault).closing()
}

fn too_large(config: &HttpConfig) -> Refusal {
    let limit = config.max_body_bytes;
    let message = format!("the body is larger than the {limit} bytes that http.max_body_bytes allows, counted after inflating");
    Refusal::from(Fault::new(FaultKind::TooLarge, message).with_limit("http.max_body_bytes", limit as u64)).closing()
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
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::{config::Config, telemetry::Telemetry};

    fn pieces(pieces: &'static [&'static str]) -> Body {
        let frames = pieces.iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    fn limited(bytes: usize) -> HttpConfig {
        HttpConfig { max_body_bytes: bytes, ..HttpConfig::default() }
    }

    fn announcing(length: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.parse().expect("a value"))])
    }

    fn bounds() -> Bounds {
        Bounds::new(&Config::default(), Telemetry::off().server())
    }

    async fn read_body(headers: &HeaderMap, body: Body, config: &HttpConfig) -> Result<Bytes, Refusal> {
        let bounds = bounds();
        let arrived =
            read(headers, body, &bounds.transfer.connection(Peer::default()), config, &bounds, &Memory::unlimited()).await;
        let body = arrived.map(|(body, charge)| {
            assert!(charge.bytes() >= body.len());
            body
        });
        assert_eq!(bounds.transfer.bytes(), 0, "all of it is given back");
        body
    }

    async fn read_pieces(headers: &HeaderMap, parts: &'static [&'static str], limit: usize) -> Result<Bytes, FaultKind> {
        read_body(headers, pieces(parts), &limited(limit)).await.map_err(|refusal| refusal.fault.kind())
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
        let whole = Bytes::from_static(b"abc");
        let read = read_body(&HeaderMap::new(), Body::from(whole.clone()), &limited(3)).await.expect("within the limit");
        assert_eq!(read.as_ptr(), whole.as_ptr());
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused_announced_or_not() {
        assert!(read_pieces(&HeaderMap::new(), &["ab", "c"], 3).await.is_ok());
        assert_eq!(read_pieces(&HeaderMap::new(), &["ab", "cd"], 3).await, Err(FaultKind::TooLarge));
        assert_eq!(read_pieces(&announcing("4"), &[], 3).await, Err(FaultKind::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let endless = Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()));
        let refusal = read_body(&HeaderMap::new(), endless, &HttpConfig::default()).await.expect_err("it never ends");
        assert_eq!(refusal.fault.limit().expect("a limit").name, "http.body_timeout_s");
    }

    #[tokio::test]
    async fn bodies_in_arrival_are_charged_as_they_come() {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let body = Body::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)));
        let config = HttpConfig::default();
        let headers = announcing("16000000");
        let memory = Memory::unlimited();
        let mut reading = Box::pin(read(&headers, body, &account, &config, &bounds, &memory));
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
            Body::from(encoder.finish().expect("into memory"))
        };
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().expect("a value"))]);
        for bytes in [0, 10, INFLATED_HERE_MAX, INFLATED_HERE_MAX + 1, 1 << 20] {
            let read = read_body(&headers, gzip(bytes), &HttpConfig::default()).await.expect("within the limits");
            assert_eq!(read.len(), bytes);
        }
        for (bytes, limit, key) in [(1_001, 1_000, "http.max_body_bytes"), (2 << 20, 4 << 20, "message.max_inflate_ratio")] {
            let refusal = read_body(&headers, gzip(bytes), &limited(limit)).await.expect_err("too much");
            assert_eq!(refusal.fault.limit().expect("a limit").name, key);
        }
    }
}
