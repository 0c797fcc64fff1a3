//! The caller of a call, and when the call ends.

use tonic::metadata::{MetadataMap, MetadataValue};

use super::deadline;
use crate::{
    frontend::forwarded,
    service::{Caller, Service},
};

/// The caller and the deadline of a call, from its metadata.
pub(super) fn caller(metadata: &MetadataMap, service: &Service) -> Caller {
    let mut principal = service.principal(|name| metadata.get(name).map(MetadataValue::as_bytes));
    principal.peer = forwarded::sender(principal.peer, metadata.as_ref(), service.connections());
    Caller { principal, ends_at: deadline::ends_at(metadata) }
}
