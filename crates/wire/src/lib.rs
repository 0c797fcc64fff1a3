//! The wire types: messages, services and clients generated from `proto/`, and the codec they run over.
//!
//! Knows nothing about the domain: conversion is the front ends' business. Code that needs only the wire is here, once for server,
//! command line and load tools.

pub mod codec;
pub mod parcel;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::semicolon_if_nothing_returned,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
mod generated {
    /// The package `tidemill.v1`: the native API.
    pub mod v1 {
        tonic::include_proto!("tidemill.v1");
    }

    /// The package `inference`: the Open Inference Protocol.
    pub mod inference {
        tonic::include_proto!("inference");
    }

    /// The package `grpc.health.v1`: health, as probes know it.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }

    /// The package `model`: numbers in, numbers out.
    pub mod model {
        tonic::include_proto!("model");
    }
}

pub use generated::{health, inference, model, v1};
pub use tonic_types::pb as rpc;

use tonic::Code;

/// A duration from the wire; `None` if it is negative or malformed.
///
/// By hand: prost-types' conversion overflows at the smallest number of seconds, and panics where overflow is checked.
#[must_use]
pub fn duration_from_wire(duration: prost_types::Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(seconds, nanos))
}

/// A duration for the wire; at most the largest number of seconds that it holds.
#[must_use]
pub fn duration_to_wire(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// The name of a code as gRPC's documents write it, such as `RESOURCE_EXHAUSTED`.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Serialized `FileDescriptorSet` of `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
