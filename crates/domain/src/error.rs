//! The one closed set of errors that a client can see.
//!
//! Every front end maps [`FaultKind`] to its protocol's codes in one exhaustive `match`, so that the same fault means the same
//! thing on all of them.

use std::{borrow::Cow, fmt, time::Duration};

/// What kind of fault it is, and so who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request is wrong; the caller fixes it.
    Invalid,
    /// There is no such thing; the caller fixes the name.
    NotFound,
    /// The request is well-formed but larger than a limit; the caller sends less.
    TooLarge,
    /// A limit shared with others is reached; the caller tries again later.
    Overloaded,
    /// The deadline passed, or could no longer be met; the model did not run.
    Expired,
    /// The item was given up in favour of newer ones, as the stream's overflow policy asks.
    Dropped,
    /// The caller went away or cancelled.
    Cancelled,
    /// The model is not ready, or the server is shutting down; the caller goes elsewhere or tries again later.
    Unavailable,
    /// The server does not know who calls, or no longer does; the caller sends a good credential.
    Unauthenticated,
    /// The server is set up not to do this for the caller; the operator decides.
    Denied,
    /// The bytes that arrived are not the ones the caller declared.
    DataLoss,
    /// The server or the chosen model cannot do this; another might.
    Unsupported,
    /// The model call failed, or the model cannot be loaded; the operator investigates.
    Failed,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Invalid,
        Self::NotFound,
        Self::TooLarge,
        Self::Overloaded,
        Self::Expired,
        Self::Dropped,
        Self::Cancelled,
        Self::Unavailable,
        Self::Unauthenticated,
        Self::Denied,
        Self::DataLoss,
        Self::Unsupported,
        Self::Failed,
    ];

    /// A stable upper-case name, the `reason` of `google.rpc.ErrorInfo`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::NotFound => "NOT_FOUND",
            Self::TooLarge => "TOO_LARGE",
            Self::Overloaded => "OVERLOADED",
            Self::Expired => "EXPIRED",
            Self::Dropped => "DROPPED",
            Self::Cancelled => "CANCELLED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Denied => "DENIED",
            Self::DataLoss => "DATA_LOSS",
            Self::Unsupported => "UNSUPPORTED",
            Self::Failed => "FAILED",
        }
    }

    /// The same in lower case, for metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::DataLoss => "data_loss",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// Longest message of a fault.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest name of a field.
const FIELD_BYTES_MAX: usize = 256;

/// The limit that a refusal ran into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The configuration key that sets it, such as `scheduler.max_queued_items`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
}

/// An error that a client sees: what is wrong, its value, the limit, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    kind: FaultKind,
    message: Cow<'static, str>,
    details: Option<Box<Details>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Details {
    field: Option<Cow<'static, str>>,
    limit: Option<Limit>,
    retry_after: Option<Duration>,
}

impl Fault {
    /// A fault with a sentence for a developer: lower case, no full stop. It may quote what a client sent; anything beyond 1 KiB
    /// is cut off, because statuses travel in headers, whose size is limited.
    pub fn new(kind: FaultKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: shortened(message.into(), MESSAGE_BYTES_MAX), details: None }
    }

    /// [`FaultKind::Invalid`] about the request field `field`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Invalid, message).with_field(field)
    }

    /// Names the request field at fault. This may be a name chosen by the client; anything beyond 256 bytes is cut off.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.details.get_or_insert_default().field = Some(shortened(field.into(), FIELD_BYTES_MAX));
        self
    }

    /// Names the limit that was reached.
    #[must_use]
    pub fn with_limit(mut self, name: &'static str, value: u64) -> Self {
        self.details.get_or_insert_default().limit = Some(Limit { name, value });
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.details.get_or_insert_default().retry_after = Some(delay);
        self
    }

    /// Says which of a request's `items` it is about, counting from 0, if there are several.
    #[must_use]
    pub fn in_item(mut self, item: u64, items: usize) -> Self {
        if items <= 1 {
            return self;
        }
        self.message = shortened(format!("item {item}: {}", self.message).into(), MESSAGE_BYTES_MAX);
        self
    }

    /// What kind of fault.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request field at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.details.as_ref()?.field.as_deref()
    }

    /// The limit that was reached.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.details.as_ref()?.limit.as_ref()
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.details.as_ref()?.retry_after
    }
}

fn shortened(text: Cow<'static, str>, bytes_max: usize) -> Cow<'static, str> {
    if text.len() <= bytes_max {
        return text;
    }
    const ELLIPSIS: &str = " …";
    let kept = text.floor_char_boundary(bytes_max - ELLIPSIS.len());
    format!("{}{ELLIPSIS}", &text[..kept]).into()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_reasons_in_lower_case() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.reason().to_lowercase(), kind.label());
        }
    }

    #[test]
    fn a_long_message_or_field_is_cut_between_characters() {
        let fault = Fault::new(FaultKind::Invalid, "é".repeat(10_000));
        assert!(fault.message().len() <= MESSAGE_BYTES_MAX);
        assert!(fault.message().ends_with("é …"));
        let fault = fault.with_field("é".repeat(10_000));
        assert!(fault.field().is_some_and(|field| field.len() <= FIELD_BYTES_MAX && field.ends_with("é …")));
    }

    #[test]
    fn a_fault_without_details_fits_five_words() {
        assert!(size_of::<Fault>() <= 5 * size_of::<usize>());
    }
}
