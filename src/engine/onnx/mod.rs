//! What an ONNX file says of itself, read once for all engines: inputs and outputs, and what its operators do.
//!
//! Knows bytes alone; no engine, no folder, no manifest.

mod constants;
mod contract;
mod facts;
mod proto;
mod reader;

pub use facts::Facts;

use super::Contract;

/// What a file says.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) contract: Contract,
    pub(super) facts: Facts,
}

/// Reads `file`; or why it is not an ONNX model.
pub(super) fn read(file: &[u8]) -> Result<Declared, String> {
    let model = reader::decode(file).map_err(|error| format!("the file is not an ONNX model: {error}"))?;
    let Some(graph) = &model.graph else {
        return Err("the file is not an ONNX model: it holds no graph".to_owned());
    };
    Ok(Declared { contract: contract::of(graph, model.ir_version), facts: Facts::of(&model, graph) })
}
