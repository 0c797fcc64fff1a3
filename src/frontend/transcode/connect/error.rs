//! gRPC's statuses as Connect writes them: a name for the code, and the details with their types.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use prost::Message as _;
use serde::Serialize;
use serde_json::value::RawValue;
use tonic::{Code, Status, body::Body, metadata::KeyAndValueRef};
use tonic_types::StatusExt as _;

use crate::{
    frontend::transcode::{
        frames::Charged,
        outgoing,
        schema::{Schema, to_json},
    },
    proto::rpc,
    transport::Charge,
};

/// What a caller that is not known may send; every 401 says so.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"tidemill\"");

/// The name of a code, and the HTTP status of a unary call that ends with it.
const fn named(code: Code) -> (&'static str, u16) {
    match code {
        // Never an error; a call that fails says why by another code.
        Code::Ok => ("unknown", 500),
        Code::Cancelled => ("canceled", 499),
        Code::Unknown => ("unknown", 500),
        Code::InvalidArgument => ("invalid_argument", 400),
        Code::DeadlineExceeded => ("deadline_exceeded", 504),
        Code::NotFound => ("not_found", 404),
        Code::AlreadyExists => ("already_exists", 409),
        Code::PermissionDenied => ("permission_denied", 403),
        Code::ResourceExhausted => ("resource_exhausted", 429),
        Code::FailedPrecondition => ("failed_precondition", 400),
        Code::Aborted => ("aborted", 409),
        Code::OutOfRange => ("out_of_range", 400),
        Code::Unimplemented => ("unimplemented", 501),
        Code::Internal => ("internal", 500),
        Code::Unavailable => ("unavailable", 503),
        Code::DataLoss => ("data_loss", 500),
        Code::Unauthenticated => ("unauthenticated", 401),
    }
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct Detail {
    r#type: String,
    /// In base64 without padding.
    value: String,
    /// The same for people; absent if this server does not know the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Box<RawValue>>,
}

impl<'a> Error<'a> {
    fn of(schema: &Schema, status: &'a Status) -> Self {
        let details = rpc::Status::decode(status.details()).map(|found| found.details).unwrap_or_default();
        let details = details.into_iter().map(|any| {
            let name = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
            let json = schema.message(&name).and_then(|message| to_json(&message, &any.value).ok());
            let debug = json.and_then(|json| RawValue::from_string(String::from_utf8(json).ok()?).ok());
            Detail { r#type: name, value: STANDARD_NO_PAD.encode(&any.value), debug }
        });
        Self { code: named(status.code()).0, message: status.message(), details: details.collect() }
    }
}

/// The last frame of a stream.
#[derive(Serialize)]
struct End<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, Vec<String>>,
}

/// How a stream ends, as the message of its last frame.
pub(super) fn end_of_stream(schema: &Schema, status: &Status) -> Vec<u8> {
    let error = (status.code() != Code::Ok).then(|| Error::of(schema, status));
    let mut metadata: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in texts(status) {
        metadata.entry(name).or_default().push(value);
    }
    written(&End { error, metadata })
}

/// The trailers of a status, as text.
fn texts(status: &Status) -> impl Iterator<Item = (String, String)> {
    status.metadata().iter().map(|entry| match entry {
        KeyAndValueRef::Ascii(name, value) => (name.to_string(), String::from_utf8_lossy(value.as_encoded_bytes()).into_owned()),
        KeyAndValueRef::Binary(name, value) => (name.to_string(), STANDARD.encode(value.to_bytes().unwrap_or_default())),
    })
}

/// The answer to a unary call that ends with this status.
pub(super) fn refusal(schema: &Schema, status: &Status, charge: Charge) -> Response<Body> {
    let json = written(&Error::of(schema, status));
    let mut response = Response::new(outgoing::whole(Charged { bytes: json.into(), charge }));
    let (_, http) = named(status.code());
    *response.status_mut() = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    add_trailers(headers, status);
    if status.code() == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// Adds the trailers of a unary call, which are headers of their own.
pub(super) fn add_trailers(headers: &mut HeaderMap, status: &Status) {
    for (name, value) in texts(status) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(format!("trailer-{name}")), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
}

fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        domain::{Fault, FaultKind, Peer},
        frontend::grpc_status::status_of,
        telemetry::Gauge,
        transport::Transfer,
    };

    fn schema() -> Schema {
        Schema::new().expect("sound descriptors")
    }

    fn overloaded() -> Status {
        let fault = Fault::new(FaultKind::Overloaded, "full").with_limit("grpc.max_calls", 7);
        status_of(&fault.with_retry_after(Duration::from_millis(1_030)))
    }

    #[test]
    fn a_stream_ends_with_an_error_its_details_and_its_trailers() {
        let end: Value = serde_json::from_slice(&end_of_stream(&schema(), &overloaded())).expect("JSON");
        assert_eq!(end["error"]["code"], "resource_exhausted");
        assert_eq!(end["error"]["message"], "full");
        assert_eq!(end["metadata"], json!({"grpc-retry-pushback-ms": ["1030"]}));
        let details = end["error"]["details"].as_array().expect("details");
        let retry = details.iter().find(|detail| detail["type"] == "google.rpc.RetryInfo").expect("when to come back");
        assert_eq!(retry["debug"], json!({"retryDelay": "1.030s"}));
        let value = STANDARD_NO_PAD.decode(retry["value"].as_str().expect("text")).expect("base64 without padding");
        assert_eq!(rpc::RetryInfo::decode(value.as_slice()).expect("protobuf").retry_delay.expect("a delay").seconds, 1);
        assert_eq!(end_of_stream(&schema(), &Status::new(Code::Ok, "")), b"{}");
    }

    #[test]
    fn a_unary_call_that_fails_has_the_status_of_its_code() {
        let charge = || Transfer::new(1 << 20, Gauge::noop()).connection(Peer::default()).charge();
        let of = |status: &Status| refusal(&schema(), status, charge());
        let response = of(&overloaded());
        assert_eq!(response.status(), 429);
        assert_eq!(
            (&response.headers()["retry-after"], &response.headers()["trailer-grpc-retry-pushback-ms"]),
            (&HeaderValue::from(2), &HeaderValue::from(1_030))
        );
        assert!(of(&Status::unauthenticated("who")).headers().contains_key("www-authenticate"));
        for code in 1..=16 {
            let status = Status::new(Code::from(code), "why");
            assert!(of(&status).status().as_u16() >= 400, "{status}");
        }
    }

    #[test]
    fn details_of_an_unknown_type_are_passed_on() {
        let any = prost_types::Any { type_url: "type.googleapis.com/none.Such".to_owned(), value: vec![1, 2] };
        let details = rpc::Status { code: 3, message: String::new(), details: vec![any] }.encode_to_vec();
        let status = Status::with_details(Code::InvalidArgument, "", details.into());
        let end: Value = serde_json::from_slice(&end_of_stream(&schema(), &status)).expect("JSON");
        assert_eq!(end, json!({"error": {"code": "invalid_argument", "details": [{"type": "none.Such", "value": "AQI"}]}}));
    }
}
