//! gRPC-Web: gRPC's frames in any kind of HTTP, with the trailers as the last frame of the body; as bytes or in base64.
//!
//! The frames of both directions pass through as they are, so limits on messages, their compression and their clocks are gRPC's. A web
//! page can neither send a stream nor see trailers, which is all that this wire is for: methods that take a stream of messages are refused.

mod answer;
mod text;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;

use super::{call::Call, connection::Connection, plain::plain};
use crate::{
    domain::{Fault, FaultKind},
    frontend::grpc_status::status_of,
};

const START: &[u8] = b"application/grpc-web";

/// What this wire says about a call, and gRPC too.
const PASSED: [HeaderName; 2] = [HeaderName::from_static("grpc-timeout"), HeaderName::from_static("grpc-encoding")];

/// How the frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    /// In base64.
    Text,
}

impl Form {
    /// As the content type says; `None` for one that is not served.
    fn of(content_type: &[u8]) -> Option<Self> {
        let (start, rest) = content_type.split_at_checked(START.len())?;
        let subtype = rest.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        match &subtype[..] {
            b"" | b"+proto" if start.eq_ignore_ascii_case(START) => Some(Self::Binary),
            b"-text" | b"-text+proto" if start.eq_ignore_ascii_case(START) => Some(Self::Text),
            _ => None,
        }
    }

    const fn content_type(self) -> HeaderValue {
        match self {
            Self::Binary => HeaderValue::from_static("application/grpc-web+proto"),
            Self::Text => HeaderValue::from_static("application/grpc-web-text+proto"),
        }
    }
}

/// Whether a request is of this wire, served or not.
pub(super) fn takes(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.and_then(|value| value.get(..START.len())).is_some_and(|start| start.eq_ignore_ascii_case(START))
}

/// The answer to a request of this wire.
pub(super) async fn answer(connection: Arc<Connection>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "gRPC-Web calls are made with POST\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let Some(form) = head.headers.get(header::CONTENT_TYPE).and_then(|value| Form::of(value.as_bytes())) else {
        let text = "gRPC-Web is spoken here with protobuf: application/grpc-web+proto or application/grpc-web-text+proto\n";
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    };
    let path = head.uri.path();
    let method = connection.schema().method(path);
    if method.is_some_and(|method| method.is_client_streaming()) {
        return answer::of(form, status_of(&takes_a_stream(path)).into_http());
    }
    let mut call = Call::new(path, &head.headers);
    for name in PASSED {
        if let Some(value) = head.headers.get(&name) {
            call = call.with_header(name, value.clone());
        }
    }
    let body = match form {
        Form::Binary => body,
        Form::Text => text::decoded(body),
    };
    answer::of(form, call.send_framed(&connection, body).await)
}

fn takes_a_stream(path: &str) -> Fault {
    let message = format!(
        "{path} takes a stream of messages, and a web page cannot send one by gRPC-Web: open a WebSocket at \
         /tidemill/v1/models/MODEL/feed, or call it by gRPC"
    );
    Fault::new(FaultKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn types_are_known_with_their_parameters_and_in_any_case() {
        for (text, form) in [
            ("application/grpc-web", Form::Binary),
            ("application/grpc-web+proto", Form::Binary),
            ("Application/gRPC-Web ; charset=utf-8", Form::Binary),
            ("application/grpc-web-text", Form::Text),
            ("application/grpc-web-text+PROTO; a=b", Form::Text),
        ] {
            assert_eq!(Form::of(text.as_bytes()), Some(form), "{text}");
        }
        for other in ["", "application/grpc", "application/grpc-web+json", "application/grpc-web-texts", "application/grpc-we"] {
            assert_eq!(Form::of(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_type_panics(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = Form::of(&bytes);
        }
    }
}
