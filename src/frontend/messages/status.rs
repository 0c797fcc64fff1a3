//! Faults as gRPC statuses, and back.

use std::{collections::HashMap, error::Error as _, sync::Arc};

use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    domain::{Fault, FaultKind},
    proto::rpc,
};

/// `domain` of google.rpc.ErrorInfo.
pub(in crate::frontend) const ERROR_DOMAIN: &str = "tidemill";

/// The code of each kind. Clients retry UNAVAILABLE, so it is only for what a retry can help.
pub(in crate::frontend) const fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::Invalid => Code::InvalidArgument,
        FaultKind::Unauthenticated => Code::Unauthenticated,
        FaultKind::Denied => Code::PermissionDenied,
        FaultKind::NotFound => Code::NotFound,
        FaultKind::TooLarge | FaultKind::Overloaded => Code::ResourceExhausted,
        FaultKind::Expired => Code::DeadlineExceeded,
        FaultKind::Dropped => Code::Aborted,
        FaultKind::Cancelled => Code::Cancelled,
        FaultKind::Unavailable => Code::Unavailable,
        FaultKind::DataLoss => Code::DataLoss,
        FaultKind::Unsupported => Code::Unimplemented,
        FaultKind::Failed => Code::Internal,
    }
}

/// The status of a call or stream that ends with this fault.
pub(in crate::frontend) fn status_of(fault: &Fault) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(fault.kind().reason(), ERROR_DOMAIN, HashMap::new());
    if let Some(field) = fault.field() {
        details.add_bad_request_violation(field, fault.message());
    }
    if let Some(limit) = fault.limit() {
        details.add_quota_failure_violation(limit.name, format!("the limit is {}", limit.value));
    }
    if let Some(delay) = fault.retry_after() {
        details.set_retry_info(Some(delay));
    }
    let mut status = Status::with_error_details(code(fault.kind()), fault.message(), details);
    if let Some(delay) = fault.retry_after() {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
        status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
    }
    status
}

/// The same as an answer inside a stream.
pub(in crate::frontend) fn item_status_of(fault: &Fault) -> rpc::Status {
    let status = status_of(fault);
    rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The same, for a body that breaks off with it: [`fault_of`] restores it.
pub(in crate::frontend) fn status_with(fault: Fault) -> Status {
    let mut status = status_of(&fault);
    status.set_source(Arc::new(fault));
    status
}

/// The fault behind a status that tonic gives while it reads a request stream.
pub(in crate::frontend) fn fault_of(status: &Status, max_message_bytes: usize) -> Fault {
    // Beneath the errors of the layers that the body came through.
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return fault.clone();
        }
        source = error.source();
    }
    match status.code() {
        Code::InvalidArgument => Fault::invalid("message", status.message().to_owned()),
        Code::OutOfRange => too_large(max_message_bytes, status.message()),
        Code::Unimplemented => Fault::new(FaultKind::Unsupported, status.message().to_owned()),
        Code::Internal => Fault::invalid("message", format!("the message frame is broken: {}", status.message())),
        _ => Fault::new(FaultKind::Cancelled, format!("the client's side of the stream broke off: {}", status.message())),
    }
}

/// A message over the limit; `found` is the library's sentence, which states its length.
pub(in crate::frontend) fn too_large(max_message_bytes: usize, found: &str) -> Fault {
    let message =
        format!("the message is larger than the {max_message_bytes} bytes that grpc.max_message_bytes allows ({found})");
    Fault::new(FaultKind::TooLarge, message).with_limit("grpc.max_message_bytes", max_message_bytes as u64)
}

/// A message that announces more than the setting `key` allows.
pub(in crate::frontend) fn announced_too_large(bytes: usize, bytes_max: usize, key: &'static str) -> Fault {
    let message = format!("the message is larger than the {bytes_max} bytes that {key} allows: it has {bytes} bytes");
    Fault::new(FaultKind::TooLarge, message).with_limit(key, bytes_max as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_names_its_limit_and_when_to_come_back() {
        let fault = Fault::new(FaultKind::Overloaded, "full")
            .with_limit("scheduler.max_queued_items", 7)
            .with_retry_after(Duration::from_millis(30));
        let status = status_of(&fault);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("a pushback").to_str().expect("text"), "30");
        let details = status.get_error_details();
        assert_eq!(details.quota_failure().expect("a quota failure").violations[0].subject, "scheduler.max_queued_items");
        assert_eq!(details.retry_info().expect("retry info").retry_delay, Some(Duration::from_millis(30)));
        assert_eq!(details.error_info().expect("error info").reason, "OVERLOADED");
    }

    #[test]
    fn a_fault_survives_being_a_status() {
        let fault = announced_too_large(9, 8, "grpc.max_message_bytes").with_retry_after(Duration::from_secs(2));
        assert_eq!(fault_of(&status_with(fault.clone()), 1), fault);
        assert_eq!(fault_of(&status_of(&fault), 1).kind(), FaultKind::Cancelled, "without it there is the code alone");
    }

    #[test]
    fn an_answer_inside_a_stream_carries_the_same_details() {
        let status = item_status_of(&Fault::invalid("inputs[0].shape", "wrong"));
        assert_eq!((status.code, status.message.as_str()), (3, "wrong"));
        assert_eq!(status.details.len(), 2);
    }
}
