//! What can go wrong in a client command: the error, how people and pipes see it, and the exit code that it leads to.
//!
//! Knows what a client may run into; does not know which command failed.

use std::{fmt, io};

use serde::Serialize;
use tidemill_client::{Details, Error};

use super::printed::{Place, Record};
use tidemill_wire::code_name;

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
    /// No metrics could be obtained.
    #[error("no answer from {address}: {reason}; is a server's admin port there? (--admin names another)")]
    NoMetrics { address: String, reason: String },
    /// The server did not do what it was asked, or is not there.
    #[error("{0}{hint}", hint = hint(.0))]
    Server(#[from] Error),
    /// The results cannot be written.
    #[error("cannot write the results to standard output: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C before anything was in flight.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    /// The process's exit code. A reader that closed our pipe, such as `head`, has had what it wanted: that is not a failure.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::BadInput(_) | Self::Output(_) => 2,
            Self::NoMetrics { .. } => 3,
            Self::Server(error) => match error {
                Error::NoAudio { .. } | Error::KeyInTheOpen { .. } => 2,
                Error::CannotConnect { .. } | Error::NotGrpc { .. } | Error::ConnectionLost { .. } => 3,
                Error::Refused(_) | Error::EndedEarly | Error::UnexpectedAnswer(_) => 4,
            },
            Self::Interrupted => 130,
        }
    }

    /// Whether there is nothing left to say: the user knows, or the reader of our results has had what it wanted.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            failure => matches!(failure, Self::Interrupted),
        }
    }

    /// The error as it is printed.
    pub(super) fn record(&self) -> ErrorRecord {
        let code = match self {
            Self::Server(Error::Refused(refusal)) => {
                let (message, details) = (refusal.message.clone(), refusal.details.clone());
                return ErrorRecord { code: code_name(refusal.code), message, details, is_refusal: true };
            }
            Self::BadInput(_) | Self::Server(Error::NoAudio { .. } | Error::KeyInTheOpen { .. }) => "BAD_INPUT",
            Self::NoMetrics { .. } | Self::Server(Error::CannotConnect { .. } | Error::NotGrpc { .. }) => "CANNOT_CONNECT",
            Self::Server(Error::ConnectionLost { .. }) => "CONNECTION_LOST",
            Self::Server(Error::EndedEarly | Error::UnexpectedAnswer(_)) => "UNEXPECTED_ANSWER",
            Self::Output(_) => "OUTPUT",
            Self::Interrupted => "INTERRUPTED",
        };
        ErrorRecord { code, message: self.to_string(), details: Details::default(), is_refusal: false }
    }
}

/// What the user of a command can do about it.
const fn hint(error: &Error) -> &'static str {
    match error {
        Error::CannotConnect { .. } | Error::NotGrpc { .. } => " (--addr or TIDEMILL_ADDR names another)",
        Error::NoAudio { .. } => ": tidemill predict --tensor",
        _ => "",
    }
}

/// The last thing a failed command prints: `{"error":{"code":..,"message":..}}`, or a line on standard error.
#[derive(Debug, Serialize)]
pub(super) struct ErrorRecord {
    code: &'static str,
    message: String,
    #[serde(flatten)]
    details: Details,
    /// Whether the code is one that the server gave.
    #[serde(skip)]
    is_refusal: bool,
}

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, details, is_refusal } = self;
        if *is_refusal { write!(f, "error: {code}: {message}{details}") } else { write!(f, "error: {message}") }
    }
}

impl Record for ErrorRecord {
    const KIND: &'static str = "error";

    fn place(&self) -> Place {
        Place::Notes
    }
}

#[cfg(test)]
mod tests {
    use tidemill_client::Refusal;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_refusal_keeps_the_servers_code_and_details_in_both_forms() {
        let details = Details { retry_after_ms: Some(121), ..Details::default() };
        let refusal = Refusal { code: Code::ResourceExhausted, message: "too many streams".to_owned(), details };
        let failure = Failure::from(Error::Refused(Box::new(refusal)));
        assert_eq!(failure.exit_code(), 4);
        assert_eq!(failure.record().to_string(), "error: RESOURCE_EXHAUSTED: too many streams\n  retry after 121 ms");
        assert_eq!(
            serde_json::to_string(&failure.record()).expect("serializes"),
            r#"{"code":"RESOURCE_EXHAUSTED","message":"too many streams","retry_after_ms":121}"#
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
