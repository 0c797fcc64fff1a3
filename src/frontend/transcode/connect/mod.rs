//! Connect: unary calls as plain HTTP with one message in JSON or protobuf, and streams of messages in frames.
//!
//! Unary methods are called with POST, those that change nothing with GET too; their errors are HTTP's. Streams are always answered
//! with 200, and say how they ended in their last frame. A client may stream its messages as far as its HTTP lets it.

mod codec;
mod error;
mod query;
mod stream;
mod unary;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use prost_reflect::MethodDescriptor;
use tonic::{Status, body::Body};

use self::{codec::Form, unary::Sent};
use super::{
    call::Call,
    connection::Connection,
    plain::plain,
    schema::{Schema, is_safe},
};
use crate::{
    domain::{Fault, FaultKind},
    frontend::grpc_status::status_of,
};

const VERSION: &str = "connect-protocol-version";
const TIMEOUT: &str = "connect-timeout-ms";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// How a timeout is written: so many digits at most.
const TIMEOUT_DIGITS_MAX: usize = 10;

/// Whether a request is of this wire: it calls one of our services by its path, in whatever form, or is of a form that is Connect's.
pub(super) fn takes(schema: &Schema, head: &Parts) -> bool {
    schema.has_service(head.uri.path()) || matches!(Form::of(&head.headers), Some(Form::Stream(_)))
}

/// The answer to a request of this wire.
pub(super) async fn answer(connection: Arc<Connection>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(method) = connection.schema().method(head.uri.path()) else {
        let fault = Fault::new(FaultKind::Unsupported, format!("this server has no method {}", head.uri.path()));
        return refused(&connection, &fault);
    };
    let kind = match kind(&method, &head) {
        Ok(kind) => kind,
        Err(response) => return response,
    };
    let call = call(&head);
    match kind {
        Kind::Get => match call.and_then(|call| Ok((call, query::read(&head.uri)?))) {
            Ok((call, asked)) => unary::answer(&connection, &method, asked.codec, call, Sent::Query(asked)).await,
            Err(fault) => refused(&connection, &fault),
        },
        Kind::Post(Form::Unary(codec)) => match call {
            Ok(call) => unary::answer(&connection, &method, codec, call, Sent::Body(head, body)).await,
            Err(fault) => refused(&connection, &fault),
        },
        Kind::Post(Form::Stream(codec)) => stream::answer(connection, &method, codec, call, (&head.headers, body)).await,
    }
}

/// How a method is called.
enum Kind {
    Get,
    Post(Form),
}

/// # Errors
/// The answer to a request that does not call the method as it is called.
fn kind(method: &MethodDescriptor, head: &Parts) -> Result<Kind, Response<Body>> {
    let is_stream = method.is_client_streaming() || method.is_server_streaming();
    let by_get = !is_stream && is_safe(method);
    match head.method {
        Method::GET if by_get => return Ok(Kind::Get),
        Method::POST => {}
        _ => {
            let allowed = HeaderValue::from_static(if by_get { "GET, POST" } else { "POST" });
            let mut response =
                plain(StatusCode::METHOD_NOT_ALLOWED, format!("{} is not called so; see `allow`\n", method.full_name()));
            response.headers_mut().insert(header::ALLOW, allowed);
            return Err(response);
        }
    }
    match Form::of(&head.headers) {
        Some(form @ Form::Unary(_)) if !is_stream => Ok(Kind::Post(form)),
        Some(form @ Form::Stream(_)) if is_stream => Ok(Kind::Post(form)),
        _ => {
            let types = if is_stream {
                "application/connect+json, application/connect+proto"
            } else {
                "application/json, application/proto"
            };
            let text = format!(
                "{} is called with {types}, or by gRPC-Web with application/grpc-web+proto; gRPC itself needs HTTP/2\n",
                method.full_name()
            );
            let mut response = plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
            response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(types));
            Err(response)
        }
    }
}

/// The call that a request's head asks for.
fn call(head: &Parts) -> Result<Call, Fault> {
    if head.headers.get(VERSION).is_some_and(|version| version != "1") {
        let message = "connect-protocol-version is not 1, the only version of the protocol that is spoken here";
        return Err(Fault::invalid(VERSION, message));
    }
    let call = Call::new(head.uri.path(), &head.headers);
    Ok(match timeout(&head.headers)? {
        Some(timeout) => call.with_timeout(timeout),
        None => call,
    })
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let is_number =
        |text: &&str| (1..=TIMEOUT_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let millis = value.to_str().ok().filter(is_number).and_then(|text| text.parse().ok());
    let invalid = || {
        let message = format!("connect-timeout-ms is not a number of milliseconds of at most {TIMEOUT_DIGITS_MAX} digits");
        Fault::invalid(TIMEOUT, message)
    };
    millis.map(Duration::from_millis).map(Some).ok_or_else(invalid)
}

/// The answer to a call that is not made.
fn refused(connection: &Connection, fault: &Fault) -> Response<Body> {
    ended(connection, &status_of(fault))
}

/// The answer to a unary call that ended with this status.
fn ended(connection: &Connection, status: &Status) -> Response<Body> {
    error::refusal(connection.schema(), status, connection.account.charge())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_timeout(bytes: &[u8]) -> Result<Option<Duration>, Fault> {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return Ok(None) };
        timeout(&HeaderMap::from_iter([(HeaderName::from_static(TIMEOUT), value)]))
    }

    #[test]
    fn a_timeout_has_ten_digits_at_most() {
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        assert_eq!(with_timeout(b"1500"), Ok(Some(Duration::from_millis(1_500))));
        assert_eq!(with_timeout(b"9999999999"), Ok(Some(Duration::from_millis(9_999_999_999))));
        for wrong in ["", "-1", "+1", "1.5", "10000000000", "1s", " 1"] {
            let fault = with_timeout(wrong.as_bytes()).expect_err("it is no number");
            assert_eq!(fault.field(), Some("connect-timeout-ms"), "{wrong}");
        }
    }

    #[test]
    fn a_method_is_called_as_its_kind_is() {
        let schema = Schema::new().expect("sound descriptors");
        let found = |verb: Method, path: &str, content_type: Option<&str>| {
            let mut request = Request::new(());
            *request.method_mut() = verb;
            if let Some(content_type) = content_type {
                request.headers_mut().insert("content-type", content_type.parse().expect("a value"));
            }
            let (head, ()) = request.into_parts();
            match kind(&schema.method(path).expect("a method"), &head) {
                Ok(Kind::Get) => "get".to_owned(),
                Ok(Kind::Post(form)) => form.content_type().to_str().expect("text").to_owned(),
                Err(response) => response.status().as_u16().to_string(),
            }
        };
        let (list, predict, scan) = (
            "/tidemill.v1.ModelService/ListModels",
            "/tidemill.v1.InferenceService/Predict",
            "/tidemill.v1.InferenceService/Scan",
        );
        assert_eq!(found(Method::GET, list, None), "get");
        for path in [predict, scan] {
            assert_eq!(found(Method::GET, path, None), "405");
            assert_eq!(found(Method::POST, path, Some("application/grpc")), "415");
        }
        assert_eq!(found(Method::POST, predict, Some("application/json")), "application/json");
        assert_eq!(found(Method::POST, predict, Some("application/connect+json")), "415");
        assert_eq!(found(Method::POST, scan, Some("application/json")), "415");
        assert_eq!(found(Method::POST, scan, Some("application/connect+proto")), "application/connect+proto");
        assert_eq!(found(Method::PUT, list, Some("application/json")), "405");
    }

    proptest! {
        #[test]
        fn no_timeout_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = with_timeout(&bytes);
        }
    }
}
