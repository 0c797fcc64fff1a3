//! What can go wrong in a client command: the error, how people and pipes see it, and the exit code that it leads to.
//!
//! Knows gRPC statuses and their `google.rpc` details; does not know which command failed.

use std::{collections::BTreeMap, error::Error, fmt, io, time::Duration};

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use super::printed::{Place, Record};
use crate::proto::{code_name, rpc};

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Everything was answered with outputs.
    Ok,
    /// Some items were answered with an error, or a health check said "not serving".
    SomeFailed,
    /// Ctrl-C stopped the sending; what had been sent was still answered.
    Interrupted,
}

impl Ending {
    /// The process's exit code.
    pub(super) const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::SomeFailed => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A flag or a file is wrong.
    #[error("{0}")]
    BadInput(String),
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}; is the server running? (--addr or TIDEMILL_ADDR names another)")]
    CannotConnect { address: String, reason: String },
    /// Something other than gRPC is spoken at the address.
    #[error(
        "{address} speaks HTTP/1 and not gRPC, so it may be the server's HTTP or admin port; its gRPC port is 50051 by default \
         (--addr or TIDEMILL_ADDR names another)"
    )]
    NotGrpc { address: String },
    /// No metrics could be obtained.
    #[error("no answer from {address}: {reason}; is a server's admin port there? (--admin names another)")]
    NoMetrics { address: String, reason: String },
    /// The connection was lost before the server had answered.
    #[error("lost the connection: {0}")]
    ConnectionLost(String),
    /// The server refused.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The server's answer makes no sense.
    #[error("unexpected answer: {0}")]
    UnexpectedAnswer(String),
    /// The results cannot be written.
    #[error("cannot write the results to standard output: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C before anything was in flight.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// The process's exit code. A reader that closed our pipe, such as `head`, has what it wanted: that is not a failure.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::BadInput(_) | Self::Output(_) => 2,
            Self::CannotConnect { .. } | Self::NotGrpc { .. } | Self::NoMetrics { .. } | Self::ConnectionLost(_) => 3,
            Self::Refused(_) | Self::UnexpectedAnswer(_) => 4,
            Self::Interrupted => 130,
        }
    }

    /// Whether there is nothing left to say: the user knows, or the reader of our results has what it wanted.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            failure => matches!(failure, Self::Interrupted),
        }
    }

    /// The error as it is printed.
    pub(super) fn record(&self) -> ErrorRecord {
        match self {
            Self::Refused(refusal) => ErrorRecord((**refusal).clone()),
            Self::BadInput(_) => self.local_record("BAD_INPUT"),
            Self::CannotConnect { .. } | Self::NotGrpc { .. } | Self::NoMetrics { .. } => self.local_record("CANNOT_CONNECT"),
            Self::ConnectionLost(_) => self.local_record("CONNECTION_LOST"),
            Self::UnexpectedAnswer(_) => self.local_record("UNEXPECTED_ANSWER"),
            Self::Output(_) => self.local_record("OUTPUT"),
            Self::Interrupted => self.local_record("INTERRUPTED"),
        }
    }

    fn local_record(&self, code: &'static str) -> ErrorRecord {
        ErrorRecord(Refusal::new(code, self.to_string()))
    }
}

/// A status without a source came over the wire; one with a source was made here, from a broken connection.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if status.source().is_some() {
            Self::ConnectionLost(root_cause(&status))
        } else {
            Self::Refused(Box::new(Refusal::from(&status)))
        }
    }
}

/// The innermost error of a chain: what the operating system or the peer said.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// An error with its machine-readable parts, for a whole call or for one item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Refusal {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<FieldFault>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<LimitReached>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// A field of the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct FieldFault {
    field: String,
    description: String,
}

/// A limit that the request ran into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LimitReached {
    subject: String,
    description: String,
}

impl Refusal {
    fn new(code: &'static str, message: String) -> Self {
        Self {
            code,
            message,
            reason: None,
            metadata: BTreeMap::new(),
            fields: Vec::new(),
            limits: Vec::new(),
            retry_after_ms: None,
        }
    }

    fn with_details(mut self, details: &ErrorDetails) -> Self {
        if let Some(info) = details.error_info() {
            self.reason = Some(info.reason.clone());
            self.metadata = info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        }
        let fields = details.bad_request().map_or(&[][..], |request| &request.field_violations);
        self.fields = fields
            .iter()
            .map(|fault| FieldFault { field: fault.field.clone(), description: fault.description.clone() })
            .collect();
        let limits = details.quota_failure().map_or(&[][..], |failure| &failure.violations);
        self.limits = limits
            .iter()
            .map(|limit| LimitReached { subject: limit.subject.clone(), description: limit.description.clone() })
            .collect();
        self.retry_after_ms = details.retry_info().and_then(|info| info.retry_delay).map(whole_ms);
        self
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        Self::new(code_name(status.code()), status.message().to_owned()).with_details(&status.get_error_details())
    }
}

impl From<&rpc::Status> for Refusal {
    fn from(status: &rpc::Status) -> Self {
        Self::new(code_name(Code::from(status.code)), status.message.clone()).with_details(&status.get_error_details())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(reason) = &self.reason {
            write!(f, "\n  reason: {reason}")?;
            self.metadata.iter().try_for_each(|(key, value)| write!(f, "\n    {key}: {value}"))?;
        }
        self.fields.iter().try_for_each(|fault| write!(f, "\n  field {}: {}", fault.field, fault.description))?;
        self.limits.iter().try_for_each(|limit| write!(f, "\n  limit {}: {}", limit.subject, limit.description))?;
        self.retry_after_ms.map_or(Ok(()), |delay_ms| write!(f, "\n  retry after {delay_ms} ms"))
    }
}

/// The last thing a failed command prints: `{"error":{"code":..,"message":..}}`, or a line on standard error.
#[derive(Debug, Serialize)]
pub(super) struct ErrorRecord(Refusal);

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = matches!(self.0.code, "BAD_INPUT" | "CANNOT_CONNECT" | "CONNECTION_LOST" | "OUTPUT" | "UNEXPECTED_ANSWER");
        if local { write!(f, "error: {}", self.0.message) } else { write!(f, "error: {}", self.0) }
    }
}

impl Record for ErrorRecord {
    const KIND: &'static str = "error";

    fn place(&self) -> Place {
        Place::Notes
    }
}

/// A duration in whole milliseconds, rounded up so that a wait is never cut short.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_field_the_limit_and_when_to_retry() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("open.model", "must not be empty")
            .add_quota_failure_violation("streams", "1000 of 1000 are open")
            .set_retry_info(Some(Duration::from_micros(120_400)));
        let status = Status::with_error_details(Code::ResourceExhausted, "too many streams", details);
        let failure = Failure::from(status);
        assert_eq!(failure.exit_code(), 4);
        assert_eq!(
            failure.record().to_string(),
            "error: RESOURCE_EXHAUSTED: too many streams\n  field open.model: must not be empty\n  \
             limit streams: 1000 of 1000 are open\n  retry after 121 ms"
        );
        assert_eq!(
            serde_json::to_string(&failure.record()).expect("serializes"),
            r#"{"code":"RESOURCE_EXHAUSTED","message":"too many streams","fields":[{"field":"open.model","description":"must not be empty"}],"limits":[{"subject":"streams","description":"1000 of 1000 are open"}],"retry_after_ms":121}"#
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is_one() {
        let (closed, full) =
            [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull].map(|kind| Failure::Output(kind.into())).into();
        assert_eq!((closed.exit_code(), closed.is_silent()), (0, true));
        assert_eq!((full.exit_code(), full.is_silent()), (2, false));
        assert_eq!(full.record().to_string(), "error: cannot write the results to standard output: no storage space");
    }
}
