//! Large answers: compressed where nobody has to wait, and charged until the client has taken them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody as _},
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::executor::block_on;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use super::error::Refusal;
use crate::{
    domain::{Fault, FaultKind},
    frontend::Bounds,
    transport::{Account, Charge, SMALL_BYTES_MAX},
};

/// Largest frame that hyper gets at once: it holds the one that it is writing.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Length of an answer before it was compressed.
#[derive(Debug, Clone, Copy)]
struct Length(usize);

/// Notes the answer's length, before the layer that compresses it hides that.
pub(super) fn with_length(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        response.extensions_mut().insert(Length(usize::try_from(length).unwrap_or(usize::MAX)));
    }
    response
}

/// The answer as it goes out. A large one is refused if its client has left too much of other answers unread.
pub(super) async fn hand_out(bounds: &Bounds, account: &Account, response: Response) -> Response {
    match response.extensions().get() {
        Some(Length(bytes)) if *bytes > SMALL_BYTES_MAX => {
            let bytes = *bytes;
            let charged = charged(bounds, account, bytes, response).await;
            charged.unwrap_or_else(|fault| Refusal::from(fault).into_response())
        }
        // Small, or produced as it is read.
        _ => response,
    }
}

async fn charged(bounds: &Bounds, account: &Account, bytes: usize, response: Response) -> Result<Response, Fault> {
    let mut charge = account.charge();
    charge.grow(bytes)?;
    let (mut parts, mut body) = response.into_parts();
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        let whole = bounds.side.run(move || compressed(body)).await?;
        // A body that compresses badly may become longer.
        charge.grow(whole.len().saturating_sub(bytes))?;
        charge.shrink_to(whole.len());
        parts.headers.insert(header::CONTENT_LENGTH, whole.len().into());
        body = Body::from(whole);
    }
    Ok(Response::from_parts(parts, Body::new(Outgoing { body, rest: Bytes::new(), charge })))
}

/// All of a body whose parts are all there already.
fn compressed(body: Body) -> Result<Bytes, Fault> {
    let whole = block_on(body.collect());
    whole
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Fault::new(FaultKind::Failed, format!("the response cannot be compressed: {error}")))
}

/// A body that is charged for the part of it not yet taken.
struct Outgoing {
    body: Body,
    rest: Bytes,
    charge: Charge,
}

impl Outgoing {
    fn piece_of(&mut self, mut data: Bytes) -> Frame<Bytes> {
        self.rest = data.split_off(data.len().min(FRAME_BYTES_MAX));
        self.charge.shrink_to(self.charge.bytes().saturating_sub(data.len()));
        Frame::data(data)
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece_of(rest))));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_ok(|frame| match frame.into_data() {
            Ok(data) => self.piece_of(data),
            Err(trailers) => trailers,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        hint.exact().map_or(hint, |length| SizeHint::with_exact(length + self.rest.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http, routing::get};
    use tower::{ServiceExt as _, util::MapResponseLayer};
    use tower_http::compression::CompressionLayer;

    use super::*;
    use crate::{config::Config, domain::Peer, telemetry::Telemetry};

    const LARGE: usize = 1 << 20;

    fn bounds() -> Bounds {
        let mut config = Config::default();
        config.memory.transfer_bytes = 8 << 20;
        Bounds::new(&config, Telemetry::off().server())
    }

    async fn answer(bytes: usize, encoding: &str) -> Response {
        let router = Router::new()
            .route("/", get(move || async move { vec![b'7'; bytes] }))
            .layer(MapResponseLayer::new(with_length))
            .layer(CompressionLayer::new());
        let request = http::Request::get("/").header(header::ACCEPT_ENCODING, encoding).body(Body::empty()).expect("a request");
        router.oneshot(request).await.expect("no error")
    }

    #[tokio::test]
    async fn a_large_answer_is_charged_until_it_is_taken() {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let response = hand_out(&bounds, &account, answer(LARGE, "identity").await).await;
        assert_eq!((bounds.transfer.bytes(), response.body().size_hint().exact()), (LARGE, Some(LARGE as u64)));
        let mut body = response.into_body();
        let mut left = LARGE;
        while let Some(frame) = body.frame().await {
            let data = frame.expect("no error").into_data().expect("data");
            assert!(data.len() <= FRAME_BYTES_MAX && data.iter().all(|byte| *byte == b'7'));
            left -= data.len();
            assert_eq!(bounds.transfer.bytes(), left);
        }
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn a_large_answer_is_compressed_whole_and_says_how_long_it_is() {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let response = hand_out(&bounds, &account, answer(LARGE, "gzip").await).await;
        let length: usize = response.headers()[header::CONTENT_LENGTH].to_str().expect("text").parse().expect("a number");
        assert_eq!(
            (&response.headers()[header::CONTENT_ENCODING], bounds.transfer.bytes()),
            (&http::HeaderValue::from_static("gzip"), length)
        );
        let whole = response.into_body().collect().await.expect("no error").to_bytes();
        assert_eq!(whole.len(), length);
        let mut inflated = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*whole), &mut inflated).expect("gzip");
        assert_eq!(inflated, vec![b'7'; LARGE]);
        assert_eq!(bounds.transfer.bytes(), 0);
    }

    #[tokio::test]
    async fn an_answer_without_room_is_refused_with_the_limit() {
        let bounds = bounds();
        let account = bounds.transfer.connection(Peer::default());
        let _held = hand_out(&bounds, &account, answer(7 * LARGE, "identity").await).await;
        let response = hand_out(&bounds, &account, answer(LARGE, "identity").await).await;
        assert_eq!(response.status(), http::StatusCode::TOO_MANY_REQUESTS);
        let said = response.into_body().collect().await.expect("no error").to_bytes();
        assert!(String::from_utf8_lossy(&said).contains("memory.transfer_bytes"));
        let small = hand_out(&bounds, &account, answer(100, "identity").await).await;
        assert_eq!(small.status(), http::StatusCode::OK);
    }
}
