//! The wire types: messages, services and clients generated from `proto/`, and the codec they run over.
//!
//! Knows nothing of the domain: conversion is the front ends' business.

pub mod codec;

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

/// A duration of the wire; `None` if it is negative or breaks the format.
///
/// By hand: the conversion of prost-types overflows at the smallest number of seconds, and panics where overflow is checked.
#[must_use]
pub fn duration_from_wire(duration: prost_types::Duration) -> Option<std::time::Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(std::time::Duration::new(seconds, nanos))
}

/// Serialized `FileDescriptorSet` of `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
