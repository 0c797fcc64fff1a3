//! Calls that fail, as HTTP answers: a status, and google.rpc.Status in JSON.

use bytes::Bytes;
use http::{HeaderValue, Method as Verb, Response, StatusCode, header};
use prost::Message as _;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use super::super::schema::{Schema, to_json};
use crate::{
    domain::{Fault, FaultKind},
    frontend::{grpc_status::status_of, statuses},
    proto::rpc,
};

/// The message that every error is.
const STATUS: &str = "google.rpc.Status";

/// Why a request does not get what it asked for.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: Status,
    /// Some faults are HTTP's own, and have their own status.
    http: Option<StatusCode>,
    /// The verbs that the path is for.
    allow: Vec<Verb>,
    /// The rest of the request is not read.
    closes: bool,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, http: None, allow: Vec::new(), closes: false }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        status_of(&fault).into()
    }
}

impl Refusal {
    pub(super) fn with_status(fault: &Fault, http: StatusCode) -> Self {
        Self { http: Some(http), ..status_of(fault).into() }
    }

    /// The path is for other verbs.
    pub(super) fn for_verbs(fault: &Fault, allow: Vec<Verb>) -> Self {
        Self { allow, ..Self::with_status(fault, StatusCode::METHOD_NOT_ALLOWED) }
    }

    /// Ends the connection: the rest of the request is not read.
    pub(super) const fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    pub(super) fn into_response(self, schema: &Schema) -> Response<Body> {
        let kind = kind_of(&self.status);
        let mut response = Response::new(body_of(status_json(schema, &self.status)));
        let http = StatusCode::from_u16(statuses::http(kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.status_mut() = self.http.unwrap_or(http);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let retry_after = self.status.get_details_retry_info().and_then(|info| info.retry_delay);
        statuses::add_headers_of(headers, kind, retry_after);
        if !self.allow.is_empty() {
            let verbs: Vec<&str> = self.allow.iter().map(Verb::as_str).collect();
            headers.extend(HeaderValue::from_str(&verbs.join(", ")).map(|verbs| (header::ALLOW, verbs)));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A status as google.rpc.Status in JSON.
pub(super) fn status_json(schema: &Schema, status: &Status) -> Vec<u8> {
    let whole = rpc::Status::decode(status.details()).ok().filter(|whole| whole.code == i32::from(status.code()));
    let whole = whole.unwrap_or_else(|| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    });
    let json = schema.message(STATUS).and_then(|message| to_json(&message, &whole.encode_to_vec()).ok());
    // Without the types of its details, they are left out.
    json.unwrap_or_else(|| {
        let code = i32::from(status.code());
        serde_json::json!({"code": code, "message": status.message()}).to_string().into_bytes()
    })
}

/// The fault behind a status: what its details say, or what its code means.
fn kind_of(status: &Status) -> FaultKind {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let known = reason.and_then(|reason| FaultKind::ALL.into_iter().find(|kind| kind.reason() == reason));
    known.unwrap_or(match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => FaultKind::Invalid,
        Code::Unauthenticated => FaultKind::Unauthenticated,
        Code::PermissionDenied => FaultKind::Denied,
        Code::NotFound => FaultKind::NotFound,
        Code::ResourceExhausted => FaultKind::Overloaded,
        Code::DeadlineExceeded => FaultKind::Expired,
        Code::Aborted | Code::AlreadyExists => FaultKind::Dropped,
        Code::Cancelled => FaultKind::Cancelled,
        Code::Unavailable => FaultKind::Unavailable,
        Code::DataLoss => FaultKind::DataLoss,
        Code::Unimplemented => FaultKind::Unsupported,
        Code::Ok | Code::Unknown | Code::Internal => FaultKind::Failed,
    })
}

/// A body that is there.
pub(super) fn body_of(bytes: impl Into<Bytes>) -> Body {
    Body::new(http_body_util::Full::new(bytes.into()))
}
