//! A response, before a front end encodes it.

use std::sync::Arc;

use bytes::Bytes;

use crate::domain::Datatype;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct InferResponse {
    /// Name of the model that ran.
    pub model: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// The request's id.
    pub id: String,
    /// Outputs in the order asked for, or in the model's.
    pub outputs: Vec<OutputTensor>,
}

/// An output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// The model's name for it.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// With a leading batch dimension if the request's inputs had one.
    pub shape: Vec<i64>,
    /// The elements, or where they were put.
    pub data: OutputData,
}

/// The elements of an output, or where they are.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputData {
    /// Row-major, little-endian.
    Here(Bytes),
    /// In the client's shared memory.
    Shared(SharedOutput),
}

/// Where in shared memory an output was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOutput {
    /// Name of the registered region.
    pub region: String,
    /// First byte in it.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}
