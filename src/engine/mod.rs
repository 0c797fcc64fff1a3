//! Engines: what runs a model call.
//!
//! An engine is blocking and has no queue: it gets one contiguous tensor per input and gives one per output. It knows no runtime, no
//! protocol, no stream and no metrics, and uses the threads it is given. [`stack`] turns items into such a call and its outputs back into
//! items.
//!
//! # Errors and panics
//! A call that fails returns an [`EngineError`]. A call may panic; the lane catches it, drops the [`Instance`] and makes a new
//! one from the [`Engine`], so an engine need not be consistent after a panic of one of its instances.

pub mod buffer;
mod byte_strings;
mod checks;
mod crop;
pub mod lane_threads;
mod lengths;
pub mod onnx;
pub mod onnxruntime;
pub mod rten;
pub mod stack;
mod strips;
pub mod synthetic;
#[cfg(test)]
pub(crate) mod test_models;

use std::{any::Any, sync::Arc};

use crate::domain::{Datatype, Tensor};

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian on the wire and are handed to engines as they are; this processor is big-endian");

pub use lane_threads::LaneThreads;
pub use stack::{Executable, ItemCall, Milestones, PaddingCount, Ran, RunError};

/// How to get onnxruntime, for use in messages.
const ONNXRUNTIME_WAY: &str = "pip install onnxruntime, then --onnxruntime auto";

/// Why a model cannot be loaded, bound or run. The text names the engine, the thing and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model file is not one, or uses something that the engine lacks.
    #[error("{0}")]
    Load(String),
    /// The engine's library is missing or unusable; the text says how to get it.
    #[error("{0}")]
    Library(String),
    /// A model call failed.
    #[error("{0}")]
    Run(String),
    /// A model call was not made, because the engine cannot compute with a number that was sent.
    #[error("{0}")]
    Input(String),
}

/// One input or output as the model file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// Name in the file.
    pub name: String,
    /// Element type; `None` if the file's type has no [`Datatype`] (INT4, sequences).
    pub datatype: Option<Datatype>,
    /// All dimensions, batch included; `None` is dynamic. `None` altogether if the file does not say.
    pub dims: Option<Vec<Option<usize>>>,
    /// Whether the file gives the input a value that applies if a call does not bring one.
    pub has_default: bool,
}

/// What the model file declares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contract {
    /// Inputs in the file's order, weights excluded, those with a default included.
    pub inputs: Vec<DeclaredTensor>,
    /// Outputs in the file's order.
    pub outputs: Vec<DeclaredTensor>,
}

/// Which inputs each call will bring, in which order, and which outputs it wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallPlan {
    /// Names of the inputs, in the order of [`Call::inputs`].
    pub inputs: Vec<Arc<str>>,
    /// Names of the outputs, in the order that [`Instance::run`] returns them.
    pub outputs: Vec<Arc<str>>,
}

/// Which threads a call computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallThreads {
    /// The lane's own.
    #[default]
    One,
    /// As many as the device has lanes: for a call that would leave the other lanes idle. An engine for which [`Engine::can_widen`] is
    /// false treats it as [`CallThreads::One`].
    All,
}

/// A loaded model, shared by all lanes. It is [`Any`], so that the code that made it can reach what only this engine offers.
pub trait Engine: Any + Send + Sync {
    /// Name for people and metrics: `rten`, `onnxruntime`, `synthetic`.
    fn name(&self) -> &'static str;

    /// Whether a call can compute on [`CallThreads::All`].
    fn can_widen(&self) -> bool {
        false
    }

    /// Whether a call costs the same on any thread, so that a lone item need not wait for the lane's own thread to wake.
    fn runs_on_any_thread(&self) -> bool {
        false
    }

    /// Its version, if another one might compute different numbers; otherwise empty.
    fn version(&self) -> String {
        String::new()
    }

    /// Whether it holds weights a second time, in the form that makes calls fastest.
    fn packs_weights(&self) -> bool {
        false
    }

    /// Whether items of a call can never change each other's answers, whatever the model.
    fn computes_items_apart(&self) -> bool {
        false
    }

    /// What the model file declares.
    fn contract(&self) -> &Contract;

    /// What the file says about its operators; `None` for an engine without a file.
    fn facts(&self) -> Option<&onnx::Facts> {
        None
    }

    /// Makes what a lane needs to run calls of this plan.
    ///
    /// # Errors
    /// [`EngineError::Load`] if the plan names something that the model does not have, or if the engine refuses.
    fn instance(&self, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError>;
}

/// One input of a call: a dense, row-major tensor whose data starts on a 64-byte boundary.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub datatype: Datatype,
    /// All dimensions, batch included.
    pub shape: &'a [usize],
    /// The elements, as in a [`Tensor`].
    pub data: &'a [u8],
}

/// A model call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Inputs in the plan's order.
    pub inputs: &'a [TensorView<'a>],
    /// Items in the batch.
    pub batch_size: usize,
    /// What to compute on.
    pub threads: CallThreads,
}

/// What a lane keeps to run a model.
pub trait Instance: Send {
    /// Runs one call and returns the outputs in the plan's order.
    ///
    /// # Errors
    /// [`EngineError::Run`]; then none of the items has a result.
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError>;
}
