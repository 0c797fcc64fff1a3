//! What can go wrong, and what a server says about it.

use std::{collections::BTreeMap, error::Error as StdError, fmt, iter::successors, time::Duration};

use serde::{Serialize, Serializer};
use tidemill_wire::{code_name, rpc};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use crate::address::Address;

/// Why a call, or a stream, gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}; is the server running?")]
    CannotConnect {
        /// Where to.
        address: Address,
        /// What the operating system said.
        reason: String,
    },
    /// Others could read the key on its way.
    #[error(
        "the key is not sent to {address}: the connection is not encrypted, and whoever can read it would have the key; use https:// in \
         the address"
    )]
    KeyInTheOpen {
        /// Where to.
        address: Address,
    },
    /// The connection was lost before the server had answered.
    #[error("lost the connection: {reason}")]
    ConnectionLost {
        /// The code that gRPC has for it.
        code: Code,
        /// What the operating system or the peer said.
        reason: String,
    },
    /// Something other than gRPC is spoken at the address; only [`Client::explained`](crate::Client::explained) finds out.
    #[error(
        "{address} speaks HTTP/1 and not gRPC, so it may be the server's HTTP or admin port; its gRPC port is 50051 by default"
    )]
    NotGrpc {
        /// Where.
        address: Address,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The model takes no audio.
    #[error("model '{model}' takes no audio; send tensors")]
    NoAudio {
        /// Its name.
        model: String,
    },
    /// A stream ended, but the server did not say that everything had been answered.
    #[error("the stream ended without 'completed'")]
    EndedEarly,
    /// The answer makes no sense: what listens there may be another program, or a server of another version.
    #[error("unexpected answer: {0}")]
    UnexpectedAnswer(String),
}

impl Error {
    /// The gRPC code; that of what is no status of a server is UNAVAILABLE if the server cannot be reached, UNAUTHENTICATED
    /// if the key was not sent, and INTERNAL otherwise.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ConnectionLost { code, .. } => *code,
            Self::Refused(refusal) => refusal.code,
            Self::CannotConnect { .. } | Self::NotGrpc { .. } => Code::Unavailable,
            Self::KeyInTheOpen { .. } => Code::Unauthenticated,
            Self::NoAudio { .. } | Self::EndedEarly | Self::UnexpectedAnswer(_) => Code::Internal,
        }
    }
}

/// A status without a source came over the wire; one with a source was made here, from a broken connection, or because the time of the call
/// was over, which the server may notice first.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if successors(status.source(), |error| StdError::source(*error)).any(<dyn StdError>::is::<TimeoutExpired>) {
            return Self::from(Status::deadline_exceeded("the time of the call is over"));
        }
        if status.source().is_some() {
            Self::ConnectionLost { code: status.code(), reason: root_cause(&status) }
        } else {
            Self::Refused(Box::new(Refusal::from(&status)))
        }
    }
}

/// The innermost error of a chain: what the operating system or the peer said.
pub(crate) fn root_cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A refusal by the server, of a whole call or of one item. In JSON its parts are on one level, and the code is its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// Whose fault it is, and whether to try again.
    #[serde(serialize_with = "name_of_code")]
    pub code: Code,
    /// What is wrong, for people.
    pub message: String,
    /// What is wrong, for programs.
    #[serde(flatten)]
    pub details: Details,
}

/// The `google.rpc` details of a refusal; in JSON, what is empty is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Details {
    /// A constant that names the kind of fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Figures that go with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Fields of the request that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldFault>,
    /// Limits that the request ran into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitReached>,
    /// When to try again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// A field of the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    /// Its path in the message.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

/// A limit that the request ran into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitReached {
    /// What is limited.
    pub subject: String,
    /// How many are allowed, and how many there are.
    pub description: String,
}

impl From<&ErrorDetails> for Details {
    fn from(details: &ErrorDetails) -> Self {
        let info = details.error_info();
        let fields = details.bad_request().map_or(&[][..], |request| &request.field_violations);
        let limits = details.quota_failure().map_or(&[][..], |failure| &failure.violations);
        Self {
            reason: info.map(|info| info.reason.clone()),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            fields: fields
                .iter()
                .map(|fault| FieldFault { field: fault.field.clone(), description: fault.description.clone() })
                .collect(),
            limits: limits
                .iter()
                .map(|limit| LimitReached { subject: limit.subject.clone(), description: limit.description.clone() })
                .collect(),
            retry_after_ms: details.retry_info().and_then(|info| info.retry_delay).map(whole_ms),
        }
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = Details::from(&status.get_error_details());
        Self { code: status.code(), message: status.message().to_owned(), details }
    }
}

impl From<&rpc::Status> for Refusal {
    fn from(status: &rpc::Status) -> Self {
        let details = Details::from(&status.get_error_details());
        Self { code: Code::from(status.code), message: status.message.clone(), details }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", code_name(self.code), self.message, self.details)
    }
}

/// One line for each, indented.
impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.reason {
            write!(f, "\n  reason: {reason}")?;
            self.metadata.iter().try_for_each(|(key, value)| write!(f, "\n    {key}: {value}"))?;
        }
        self.fields.iter().try_for_each(|fault| write!(f, "\n  field {}: {}", fault.field, fault.description))?;
        self.limits.iter().try_for_each(|limit| write!(f, "\n  limit {}: {}", limit.subject, limit.description))?;
        self.retry_after_ms.map_or(Ok(()), |delay_ms| write!(f, "\n  retry after {delay_ms} ms"))
    }
}

fn name_of_code<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code_name(*code))
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
        let error = Error::from(Status::with_error_details(Code::ResourceExhausted, "too many streams", details));
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(
            error.to_string(),
            "RESOURCE_EXHAUSTED: too many streams\n  field open.model: must not be empty\n  \
             limit streams: 1000 of 1000 are open\n  retry after 121 ms"
        );
        let Error::Refused(refusal) = error else { unreachable!("a status of the wire") };
        assert_eq!(
            serde_json::to_string(&refusal).expect("serializes"),
            r#"{"code":"RESOURCE_EXHAUSTED","message":"too many streams","fields":[{"field":"open.model","description":"must not be empty"}],"limits":[{"subject":"streams","description":"1000 of 1000 are open"}],"retry_after_ms":121}"#
        );
    }

    #[test]
    fn a_status_with_a_source_is_a_lost_connection() {
        let mut status = Status::unavailable("transport");
        status.set_source(std::sync::Arc::new(std::io::Error::other("the cable was pulled")));
        let error = Error::from(status);
        assert!(matches!(&error, Error::ConnectionLost { code: Code::Unavailable, reason } if reason == "the cable was pulled"));
    }

    #[test]
    fn time_that_is_over_is_the_same_whoever_notices_it() {
        let mut here = Status::cancelled("Timeout expired");
        here.set_source(std::sync::Arc::new(TimeoutExpired(())));
        for status in [here, Status::deadline_exceeded("the deadline has passed")] {
            assert!(matches!(Error::from(status), Error::Refused(refusal) if refusal.code == Code::DeadlineExceeded));
        }
    }
}
