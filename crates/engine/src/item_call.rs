//! A model call as its caller sees it: its items, what it gave, and why it gave nothing.

use tidemill_domain::{ItemOutputs, Tensor, Timestamp};

use super::{EngineError, StreamState};

/// One item of a model call.
#[derive(Debug, Clone, Copy)]
pub struct ItemCall<'a> {
    /// Its tensors in the signature's order, without batch dimension.
    pub inputs: &'a [Tensor],
    /// Its stream's state; without one, a stateful model starts from zeros and the new state is discarded.
    pub state: Option<&'a StreamState>,
}

/// The result of a model call.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// The items' outputs, in their order.
    pub outputs: Vec<ItemOutputs>,
    /// What the call spent on padding.
    pub padding: PaddingCount,
    /// When the parts of the call were over.
    pub milestones: Milestones,
}

/// Moments of a call: between the two, the engine ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Milestones {
    /// The items had been put together.
    pub gathered: Timestamp,
    /// The engine had its results.
    pub computed: Timestamp,
}

/// How much of what a model computed was padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PaddingCount {
    /// Elements of the padded inputs, padding included; 0 for a model without padding.
    pub elements: usize,
    /// How many of them are padding.
    pub padded: usize,
}

/// Why a model call gave no results; none of its items has one, and no state has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The items do not make a batch: their shapes differ, or they are not what the signature says.
    #[error("the items do not make a batch: {0}")]
    BadBatch(String),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine panicked, with this message.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// The outputs are not what the signature says.
    #[error("the model's outputs are not what its signature says: {0}")]
    WrongOutput(String),
    /// The engine panicked in an earlier call, and a new instance cannot be made.
    #[error("the engine could not be started again after a panic: {0}")]
    InstanceLost(String),
}
