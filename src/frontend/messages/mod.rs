//! The messages of `tidemill.v1`, for each front end that speaks them: between the wire and the domain, with the statuses that stand for
//! faults.
//!
//! Knows protobuf, and neither streams of bytes nor headers: how a message comes and goes is up to the front end.

pub(super) mod convert;
pub(super) mod feed;
pub(super) mod status;
pub mod wire;
