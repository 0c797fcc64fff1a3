//! Faults as HTTP answers: a status, and `{"error": message}`.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::domain::{Fault, FaultKind};

/// When a client refused for overload may try again, if nothing better is known.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What a caller that is not known may send; every 401 says so.
const CHALLENGE: &str = "Bearer realm=\"tidemill\"";

/// The status of each kind. 499 is what proxies log for a client that went away, and the only code here that is not in a standard.
const fn status(kind: FaultKind) -> u16 {
    match kind {
        FaultKind::Invalid | FaultKind::DataLoss => 400,
        FaultKind::Unauthenticated => 401,
        FaultKind::Denied => 403,
        FaultKind::NotFound => 404,
        FaultKind::Dropped => 409,
        FaultKind::TooLarge => 413,
        FaultKind::Overloaded => 429,
        FaultKind::Cancelled => 499,
        FaultKind::Failed => 500,
        FaultKind::Unsupported => 501,
        FaultKind::Unavailable => 503,
        FaultKind::Expired => 504,
    }
}

/// Why a request does not get what it asked for.
#[derive(Debug, Clone)]
pub(in crate::frontend) struct Refusal {
    pub(in crate::frontend) fault: Fault,
    status: StatusCode,
    closes: bool,
    /// Others that the answer has.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// Some faults are HTTP's own and have their own status.
    pub(in crate::frontend) fn with_status(fault: Fault, status: StatusCode) -> Self {
        Self { fault, status, closes: false, headers: Vec::new() }
    }

    /// The same with another header.
    pub(in crate::frontend) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Ends the connection: the rest of the request is not read.
    pub(in crate::frontend) const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// The answer in full, for a connection that has no HTTP server behind it any more.
    pub(in crate::frontend) fn to_http1(&self) -> Vec<u8> {
        let (status, body) = (self.status, error_json(self.fault.message()));
        let length = body.len();
        let head = "content-type: application/json\r\nconnection: close\r\ncontent-length:";
        format!("HTTP/1.1 {status}\r\n{head} {length}\r\n\r\n{body}").into_bytes()
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(status(fault.kind())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status, closes: false, headers: Vec::new() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { fault, status, closes, headers } = self;
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], error_json(fault.message())).into_response();
        let retry_after = fault.retry_after().or((fault.kind() == FaultKind::Overloaded).then_some(RETRY_AFTER_DEFAULT));
        if let Some(delay) = retry_after {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if fault.kind() == FaultKind::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response.headers_mut().extend(headers);
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// `{"error": message}`.
pub(in crate::frontend) fn error_json(message: &str) -> String {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    serde_json::to_string(&Error { error: message }).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_status_that_http_knows() {
        for kind in FaultKind::ALL {
            let refusal = Refusal::from(Fault::new(kind, "why"));
            assert_eq!(refusal.status.as_u16(), status(kind));
            assert!(refusal.status.is_client_error() || refusal.status.is_server_error());
        }
    }

    /// The statuses that a request over HTTP can end with are tested on the port.
    #[test]
    fn kinds_that_only_streams_have_over_grpc_have_a_status_of_the_same_meaning() {
        assert_eq!([FaultKind::DataLoss, FaultKind::Dropped, FaultKind::Cancelled].map(status), [400, 409, 499]);
    }

    #[test]
    fn who_is_to_come_back_is_told_when_in_whole_seconds() {
        let retry_after = |fault: Fault| {
            let response = Refusal::from(fault).into_response();
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().expect("a number").to_owned())
        };
        let overloaded = Fault::new(FaultKind::Overloaded, "full");
        assert_eq!(retry_after(overloaded.clone()).as_deref(), Some("1"));
        assert_eq!(retry_after(overloaded.clone().with_retry_after(Duration::ZERO)).as_deref(), Some("1"));
        assert_eq!(retry_after(overloaded.with_retry_after(Duration::from_millis(2_001))).as_deref(), Some("3"));
        assert_eq!(retry_after(Fault::new(FaultKind::Unavailable, "loading")), None);
    }

    #[test]
    fn an_answer_without_a_server_is_whole() {
        let refusal = Refusal::with_status(Fault::invalid("head", "a \"quote\""), StatusCode::REQUEST_TIMEOUT);
        let text = String::from_utf8(refusal.to_http1()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(body, r#"{"error":"a \"quote\""}"#);
    }
}
