//! Engines: what runs a model call.
//!
//! An engine blocks and has no queue: it gets one contiguous tensor per input and returns one per output. It knows no runtime,
//! no protocol, no stream and no metrics, and uses the threads it is given. [`Executable`] turns items into such a call and its
//! outputs back into items.
//!
//! An [`EngineFactory`] is an engine without a model, and makes an [`Engine`] of one. [`ENGINES`] lists them; nothing above this module
//! names one.
//!
//! # Errors and panics
//! A call that fails returns an [`EngineError`]. A call may panic; the lane catches it, drops the [`Instance`] and makes a new
//! one from the [`Engine`], so an engine need not be consistent after a panic of one of its instances.

mod buffer;
mod byte_strings;
mod checks;
mod choice;
mod crop;
mod factory;
mod item_call;
mod lane_threads;
mod layout;
mod lengths;
mod list;
pub mod onnx;
mod onnxruntime;
mod panics;
mod rten;
mod stack;
mod states;
mod stream_state;
mod strips;
pub mod synthetic;
#[cfg(any(test, feature = "test-support"))]
pub mod test_models;

use std::{ops::ControlFlow, sync::Arc};

use tidemill_domain::{Datatype, ItemOutputs, StateSpec, Tensor};

use states::HostStates;

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian on the wire and go to engines as they are; this processor is big-endian");

pub use choice::EngineChoice;
pub use factory::{EngineFactory, EngineLibrary, FileEngine, Runs, ScriptEngine, Wishes};
pub use item_call::{ItemCall, Milestones, PaddingCount, Ran, RunError};
pub use lane_threads::{LaneHost, LaneThreads};
pub use list::{ENGINES, engine_named};
pub use panics::panic_message;
pub use stack::Executable;
pub use states::StateKeeper;
pub use stream_state::StreamState;

/// How to get onnxruntime, for use in messages.
const ONNXRUNTIME_WAY: &str = "pip install onnxruntime, then --onnxruntime auto";

/// Why a model cannot be loaded, bound or run. The text names the engine, the thing and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The file is not a model, or uses something that the engine lacks.
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

/// A loaded model, shared by all lanes.
pub trait Engine: Send + Sync {
    /// Name for people and metrics: `rten`, `onnxruntime`, `synthetic`.
    fn name(&self) -> &'static str;

    /// Whether a call can compute on [`CallThreads::All`].
    fn can_widen(&self) -> bool {
        false
    }

    /// Whether an item may get several answers.
    fn is_decoupled(&self) -> bool {
        false
    }

    /// Whether a call costs the same on whatever thread it is made, so that a lone item need not wait for the lane's own to wake.
    fn runs_on_any_thread(&self) -> bool {
        false
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

    /// The keeper of the states of the model's streams: bytes in this machine's memory, unless the engine has its own
    /// form.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it cannot keep one of them.
    fn state_keeper(&self, states: &[StateSpec]) -> Result<Box<dyn StateKeeper>, EngineError> {
        Ok(Box::new(HostStates::new(states)?))
    }

    /// Makes what one lane needs to run calls of this plan.
    ///
    /// # Errors
    /// [`EngineError::Load`] if the plan names something that the model does not have, or if the engine refuses.
    fn instance(&self, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError>;

    /// Gives back memory that the latest calls did not need. Called now and then, perhaps while calls run.
    fn trim(&self) {}
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
    /// The threads to compute on.
    pub threads: CallThreads,
}

/// A lane's instance of a model.
pub trait Instance: Send {
    /// Runs one call and returns the outputs in the plan's order.
    ///
    /// # Errors
    /// [`EngineError::Run`]; then none of the items has a result.
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError>;

    /// The same for an engine whose items may get several answers ([`Engine::is_decoupled`]): those before the last go to `parts` as soon
    /// as they are there, and the last is returned.
    ///
    /// # Errors
    /// As [`Instance::run`]; what `parts` has taken stays.
    fn run_in_parts(&mut self, call: &Call<'_>, parts: &mut dyn Parts) -> Result<Vec<Tensor>, EngineError> {
        let _ = parts;
        self.run(call)
    }
}

/// Takes the answers of a call that are not the last.
pub trait Parts {
    /// One more answer to each item of the call: outputs in the plan's order. [`ControlFlow::Break`] if none is wanted any more; then the
    /// call may end at once, with whatever outputs.
    fn give(&mut self, outputs: Vec<Tensor>) -> ControlFlow<()>;
}

/// The same as [`Executable::run_in_parts`] passes it on: by items.
pub trait ItemParts {
    /// One more answer to each item of the call, in their order. [`ControlFlow::Break`] if none is wanted any more.
    fn give(&mut self, outputs: Vec<ItemOutputs>) -> ControlFlow<()>;
}
