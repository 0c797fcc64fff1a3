//! The body of a request, read whole and within limits.

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use super::error::Refusal;
use crate::{
    config::HttpConfig,
    domain::{Fault, FaultKind},
    memory::Memory,
};

/// What is set aside at once for a body that says how long it is; the rest as it comes.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// Whether a body may come: a long one only while memory is not short.
///
/// # Errors
/// 429, of one that says how long it is.
pub(super) fn admit(headers: &HeaderMap, memory: &Memory) -> Result<(), Refusal> {
    let bytes = announced(headers).and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    memory.admit_bytes(bytes).map_err(|fault| Refusal::from(fault).closing())
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// Reads all of `body`, which is inflated already. One that comes in one piece is not copied.
///
/// # Errors
/// 413 over `http.max_body_bytes`, 408 after `http.body_timeout_s`, 400 if it breaks off or cannot be inflated.
pub(super) async fn read(headers: &HeaderMap, body: Body, config: &HttpConfig) -> Result<Bytes, Refusal> {
    let announced = announced(headers);
    if announced.is_some_and(|length| length > config.max_body_bytes as u64) {
        return Err(too_large(config));
    }
    tokio::time::timeout(config.body_timeout(), collect(body, announced, config)).await.unwrap_or_else(|_| {
        let seconds = config.body_timeout_s;
        let message = format!("the body did not arrive within the {seconds} s that http.body_timeout_s allows");
        let fault = Fault::new(FaultKind::Expired, message).with_limit("http.body_timeout_s", seconds);
        Err(Refusal::with_status(fault, StatusCode::REQUEST_TIMEOUT).closing())
    })
}

async fn collect(mut body: Body, announced: Option<u64>, config: &HttpConfig) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let fault = Fault::invalid("body", format!("the body cannot be read: {}", innermost(&*error.into_inner())));
            Refusal::from(fault).closing()
        })?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > config.max_body_bytes {
            return Err(too_large(config));
        }
        if whole.is_empty() {
            if body.is_end_stream() || announced == Some(data.len() as u64) {
                return Ok(data);
            }
            let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
            whole.reserve(announced.clamp(data.len(), RESERVED_BYTES_MAX.max(data.len())));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn too_large(config: &HttpConfig) -> Refusal {
    let limit = config.max_body_bytes;
    let message = format!("the body is larger than the {limit} bytes that http.max_body_bytes allows, counted after inflating");
    Refusal::from(Fault::new(FaultKind::TooLarge, message).with_limit("http.max_body_bytes", limit as u64)).closing()
}

/// What went wrong first: the errors around it only say that something did.
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

    async fn read_pieces(headers: &HeaderMap, parts: &'static [&'static str], limit: usize) -> Result<Bytes, FaultKind> {
        read(headers, pieces(parts), &limited(limit)).await.map_err(|refusal| refusal.fault.kind())
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
        let read = read(&HeaderMap::new(), Body::from(whole.clone()), &limited(3)).await.expect("within the limit");
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
        let refusal = read(&HeaderMap::new(), endless, &HttpConfig::default()).await.expect_err("it never ends");
        assert_eq!(refusal.fault.limit().expect("a limit").name, "http.body_timeout_s");
    }
}
