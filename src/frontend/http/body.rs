//! The body of a request: read whole, inflated, and within the port's limits.

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;

use super::{api::Api, error::Refusal};
use crate::{
    config::HttpConfig,
    domain::{FaultKind, Peer},
    frontend::{
        body::{BodyLimits, NotRead, read},
        inflate::Encoding,
    },
    service::Method,
    transport::{Account, Charge, http1::Reader},
};

/// A request whose body is yet to be read.
pub(super) struct Sent {
    headers: HeaderMap,
    body: Body,
    account: Account,
    /// Absent where nobody watches the connection.
    reader: Option<Reader>,
}

impl FromRequest<Api> for Sent {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let account = parts.extensions.remove::<Account>().unwrap_or_else(|| api.bounds.transfer.connection(Peer::default()));
        let reader = parts.extensions.remove::<Reader>();
        Ok(Self { headers: parts.headers, body, account, reader })
    }
}

/// A request whose body has arrived, and is charged for as long as it may be held.
pub(super) struct Arrived {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) charge: Charge,
}

impl Sent {
    /// The same as a call of this method, under which a client counts that does not read its answer.
    pub(super) fn to(self, method: &Method) -> Self {
        if let Some(reader) = &self.reader {
            reader.count_unread(&method.metrics().streams_unread);
        }
        self
    }

    /// Reads all of the body. One that comes in one piece is not copied.
    ///
    /// # Errors
    /// 413 over `http.max_body_bytes` or `message.max_inflate_ratio`, 429 over `memory.transfer_bytes` or if it is long while memory is
    /// short, 408 after `http.body_timeout_s`, 400 if it breaks off or cannot be inflated.
    pub(super) async fn read(self, api: &Api) -> Result<Arrived, Refusal> {
        let Self { headers, body, account, .. } = self;
        let memory = api.open_inference.service().memory();
        let (limits, encoding) = (limits(&api.config), encoding(&headers));
        let read = read(encoding, (&headers, body), &account, &limits, (&api.bounds, memory)).await;
        let (body, charge) = read.map_err(refusal)?;
        Ok(Arrived { headers, body, charge })
    }
}

fn limits(config: &HttpConfig) -> BodyLimits {
    BodyLimits {
        bytes_max: config.max_body_bytes,
        bytes_key: "http.max_body_bytes",
        timeout: config.body_timeout(),
        timeout_key: "http.body_timeout_s",
    }
}

/// In lower case, as the layer that checks encodings leaves it.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    match headers.get(header::CONTENT_ENCODING)?.as_bytes() {
        b"gzip" => Some(Encoding::Gzip),
        b"deflate" => Some(Encoding::Deflate),
        _ => None,
    }
}

fn refusal(not_read: NotRead) -> Refusal {
    match not_read {
        NotRead::Unfinished(fault) if fault.kind() == FaultKind::Expired => {
            Refusal::with_status(fault, StatusCode::REQUEST_TIMEOUT).closing()
        }
        NotRead::Unfinished(fault) => Refusal::from(fault).closing(),
        NotRead::Unusable(fault) => fault.into(),
    }
}
