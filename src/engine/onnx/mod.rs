//! What an ONNX file says of itself, read once for all engines: inputs and outputs, and what its operators do.
//!
//! Knows bytes alone; no engine, no folder, no manifest.

mod constants;
mod contract;
mod facts;
mod narrowing;
mod proto;
mod reader;
mod survey;
mod values;

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use facts::Facts;
pub use narrowing::Narrowing;

use super::{Contract, EngineError, stack::panic_message};

/// An ONNX file that has been read, for an engine to load.
#[derive(Debug)]
pub struct ModelFile {
    pub(super) bytes: Cow<'static, [u8]>,
    pub(super) contract: Contract,
    pub(super) facts: Facts,
    narrowing: Narrowing,
}

impl ModelFile {
    /// Reads a file of these bytes.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is not an ONNX model. An engine that is given one that could be read meets no lie about a length in it.
    pub fn read(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, EngineError> {
        let bytes = bytes.into();
        // Lengths that overflow may panic inside the decoder.
        let read = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
        let read = read.unwrap_or_else(|panic| Err(format!("reading it panicked: {}", panic_message(&*panic))));
        let (contract, facts, narrowing) =
            read.map_err(|cause| EngineError::Load(format!("the file is not an ONNX model: {cause}")))?;
        Ok(Self { bytes, contract, facts, narrowing })
    }

    /// What becomes of its numbers in an engine that computes in FP32 and 32-bit integers.
    #[must_use]
    pub const fn narrowing(&self) -> &Narrowing {
        &self.narrowing
    }
}

fn read(bytes: &[u8]) -> Result<(Contract, Facts, Narrowing), String> {
    let model = reader::decode(bytes).map_err(|error| error.to_string())?;
    let graph = model.graph.as_ref().ok_or("it holds no graph")?;
    Ok((contract::of(graph, model.ir_version), Facts::of(&model, graph), Narrowing::of(graph)))
}
