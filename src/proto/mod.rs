//! The wire types: messages, services and clients generated from `proto/`, and the codec they run over.
//!
//! Knows nothing of the domain: conversion is the front ends' business.

pub mod codec;

/// The package `tidemill.v1`.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::semicolon_if_nothing_returned,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("tidemill.v1");
}

pub use tonic_types::pb as rpc;

/// Serialized `FileDescriptorSet` of `proto/`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
