//! Faults as HTTP answers: a status, and `{"error": message}`.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{domain::Fault, frontend::statuses};

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
        let status = StatusCode::from_u16(statuses::http(fault.kind())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status, closes: false, headers: Vec::new() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { fault, status, closes, headers } = self;
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], error_json(fault.message())).into_response();
        statuses::add_headers(response.headers_mut(), &fault);
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
    use crate::domain::FaultKind;

    #[test]
    fn each_kind_has_a_status_that_http_knows() {
        for kind in FaultKind::ALL {
            let refusal = Refusal::from(Fault::new(kind, "why"));
            assert_eq!(refusal.status.as_u16(), statuses::http(kind));
            assert!(refusal.status.is_client_error() || refusal.status.is_server_error());
        }
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
