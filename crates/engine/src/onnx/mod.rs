//! What an ONNX file says about itself, read once for all engines: inputs and outputs, and what its operators do.
//!
//! Knows bytes, and the files that it is given; no engine, no folder, no manifest.

mod constants;
mod contract;
mod external;
mod facts;
mod narrowing;
mod proto;
mod reader;
mod rewrite;
mod slices;
mod survey;
mod values;

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use external::OpenBeside;
pub(super) use external::WeightFile;
pub use facts::Facts;
pub use narrowing::Narrowing;

use self::{
    external::External,
    proto::{Graph, Node},
    rewrite::Changes,
};
use super::{Contract, EngineError, panic_message};

/// An ONNX file that has been read, for an engine to load, and the files that hold its weights.
#[derive(Debug)]
pub struct ModelFile {
    pub(super) bytes: Cow<'static, [u8]>,
    pub(super) contract: Contract,
    pub(super) facts: Facts,
    /// The files that `bytes` refer to.
    pub(super) weights: Vec<WeightFile>,
    /// Names of the operators that the file itself defines.
    pub(super) functions: Vec<String>,
    narrowing: Narrowing,
    /// Whether there is nothing to tidy.
    is_tidy: bool,
}

impl ModelFile {
    /// Reads a file of these bytes that has all its weights inside.
    ///
    /// # Errors
    /// As [`ModelFile::read_beside`].
    #[cfg(any(test, feature = "test-support"))]
    pub(crate) fn read(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, EngineError> {
        Self::read_beside(bytes, &|_| Err("is not there, as this model is in no folder".to_owned()))
    }

    /// Reads a file of these bytes. `open` opens the files that hold its weights.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is not an ONNX model, or its weights are not where it says. A file that could be read has no wrong
    /// lengths left for an engine to run into, and no names of other files.
    pub fn read_beside(bytes: impl Into<Cow<'static, [u8]>>, open: OpenBeside<'_>) -> Result<Self, EngineError> {
        let bytes = bytes.into();
        // Lengths that overflow may panic inside the decoder.
        let read = catch_unwind(AssertUnwindSafe(|| read(bytes, open)));
        let read = read.unwrap_or_else(|panic| Err(format!("reading it panicked: {}", panic_message(&*panic))));
        read.map_err(EngineError::Load)
    }

    /// Bytes of the file and of those that hold its weights.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64 + self.weights.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// What happens to its numbers in an engine that computes in FP32 and 32-bit integers.
    #[must_use]
    pub const fn narrowing(&self) -> &Narrowing {
        &self.narrowing
    }

    /// The same with a name for each node (its operator's, if it has none), and without omitted inputs at the end.
    pub(super) fn tidied(mut self) -> Result<Self, EngineError> {
        if !self.is_tidy {
            let changes = Changes { external: &External::default(), tidy: true };
            self.bytes = Cow::Owned(changes.model(&self.bytes).map_err(EngineError::Load)?);
            self.is_tidy = true;
        }
        Ok(self)
    }
}

fn read(bytes: Cow<'static, [u8]>, open: OpenBeside<'_>) -> Result<ModelFile, String> {
    let broken = |cause: &dyn std::fmt::Display| format!("the file is not an ONNX model: {cause}");
    let model = reader::decode(&bytes).map_err(|error| broken(&error))?;
    if model.graph.is_none() {
        return Err(broken(&"it holds no graph"));
    }
    let external = External::of(&model, open)?;
    let is_external = !external.files.is_empty();
    // The numbers of some weights are needed, and are read into their places in the model.
    let telling = if is_external { external.telling(&model)? } else { HashMap::new() };
    let mut model = model;
    if let Some(graph) = model.graph.as_mut().filter(|_| is_external) {
        external.fill(graph, &telling);
    }
    let graph = model.graph.as_ref().ok_or_else(|| broken(&"it holds no graph"))?;
    let (contract, facts, narrowing) = (contract::of(graph, model.ir_version), Facts::of(&model, graph), Narrowing::of(graph));
    let is_tidy = is_external || all_tidy(graph);
    let functions = model.functions.iter().map(|function| function.name.to_owned()).collect();
    let bytes = if is_external { Cow::Owned(Changes { external: &external, tidy: true }.model(&bytes)?) } else { bytes };
    Ok(ModelFile { bytes, contract, facts, weights: external.files, functions, narrowing, is_tidy })
}

fn all_tidy(graph: &Graph<'_>) -> bool {
    // To an engine, constants are not operators, and they cannot fail.
    let is_named = |node: &Node<'_>| !node.name.is_empty() || node.operator == "Constant";
    let is_short = |node: &Node<'_>| node.inputs.last().is_none_or(|last| !last.is_empty());
    graph.nodes.iter().all(|node| is_named(node) && is_short(node) && node.graphs().all(all_tidy))
}
