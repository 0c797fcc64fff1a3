//! What a client has done wrong, as the event `error` says it.

use crate::domain::{Fault, FaultKind};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    /// A stable word.
    pub(super) code: &'static str,
    /// The field at fault, from the event's root.
    pub(super) param: Option<String>,
    /// Whether the server is at fault, and not the client.
    pub(super) is_ours: bool,
}

impl Wrong {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, param: None, is_ours: false }
    }

    /// A value that does not fit; the message says why, without its name.
    pub(super) fn value(param: &str, why: &str) -> Self {
        let message = if why.starts_with("is ") || why.starts_with("has ") { format!("'{param}' {why}") } else { why.to_owned() };
        Self { param: Some(param.to_owned()), ..Self::new("invalid_value", message) }
    }

    pub(super) fn at(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }
}

impl From<&Fault> for Wrong {
    fn from(fault: &Fault) -> Self {
        let (code, is_ours) = match fault.kind() {
            FaultKind::NotFound => ("model_not_found", false),
            FaultKind::Invalid | FaultKind::DataLoss => ("invalid_value", false),
            FaultKind::TooLarge => ("too_large", false),
            FaultKind::Unauthenticated | FaultKind::Denied => ("permission_denied", false),
            FaultKind::Unsupported => ("unsupported", false),
            FaultKind::Overloaded => ("overloaded", true),
            FaultKind::Unavailable => ("unavailable", true),
            FaultKind::Expired | FaultKind::Dropped | FaultKind::Cancelled => ("expired", true),
            FaultKind::Failed => ("processing_error", true),
        };
        let param = fault.field().map(str::to_owned);
        Self { message: fault.message().to_owned(), code, param, is_ours }
    }
}
