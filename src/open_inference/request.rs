//! A request, decoded but not yet checked against a model.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;

use crate::domain::Datatype;

/// Value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    Bool(bool),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(String),
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int64(value) => value.fmt(f),
            Self::Uint64(value) => value.fmt(f),
            Self::Double(value) => value.fmt(f),
            Self::String(value) => write!(f, "'{value}'"),
        }
    }
}

/// Parameters of a request, an input or an output, by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// A request: one item, or several along the leading dimension of all inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferRequest {
    /// Name of the model.
    pub model: String,
    /// Version; empty for the newest that is ready.
    pub version: String,
    /// Echoed.
    pub id: String,
    /// Its parameters: sequence, priority, timeout.
    pub parameters: Parameters,
    /// Its tensors.
    pub inputs: Vec<InputTensor>,
    /// The outputs wanted, in this order; empty for all in the model's order.
    pub outputs: Vec<RequestedOutput>,
}

/// An input as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct InputTensor {
    /// The model's name for it.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// The model's dimensions without the batch, for one item; if the model has a batch dimension, with one more in front: the
    /// number of items.
    pub shape: Vec<i64>,
    /// Its parameters: where it lies in shared memory.
    pub parameters: Parameters,
    /// Row-major, little-endian; `None` if it lies in shared memory.
    pub data: Option<Bytes>,
}

/// An output that is wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestedOutput {
    /// The model's name for it.
    pub name: String,
    /// Its parameters: where to put it in shared memory.
    pub parameters: Parameters,
}
