//! Faults as gRPC statuses: what every wire says whose calls end as gRPC's do.

use std::{collections::HashMap, sync::Arc};

use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::{Fault, FaultKind};

/// `domain` of google.rpc.ErrorInfo.
pub(super) const ERROR_DOMAIN: &str = "tidemill";

/// The code of each kind. Clients retry UNAVAILABLE, so it is only for what a retry can help.
pub(super) const fn code(kind: FaultKind) -> Code {
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
pub(super) fn status_of(fault: &Fault) -> Status {
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

/// The same, for a body that breaks off with it: whatever reads the body finds the fault as the status's source.
pub(super) fn status_with(fault: Fault) -> Status {
    let mut status = status_of(&fault);
    status.set_source(Arc::new(fault));
    status
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
}
