//! Items on their way in and answers on their way out.

use smallvec::SmallVec;

use super::{Fault, Tensor, Timestamp};

/// The tensors of one item, in the order of the signature's inputs, without batch dimension.
pub type ItemInputs = SmallVec<[Tensor; 1]>;

/// The model's outputs for one item, in the order of the signature's outputs, without batch dimension.
pub type ItemOutputs = SmallVec<[Tensor; 1]>;

/// When an item was where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemTiming {
    /// When it was complete on the server.
    pub arrived: Timestamp,
    /// When its model call began; equal to `finished` if there was none.
    pub started: Timestamp,
    /// When its model call, or the decision against one, was over.
    pub finished: Timestamp,
    /// Items in its model call; 0 if there was none.
    pub batch_size: u32,
}

/// Which of an item's answers one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerPart {
    /// Its number, from 0.
    pub number: u32,
    /// Whether none follows it, so that the item has ended.
    pub last: bool,
}

impl AnswerPart {
    /// The one answer of an item that has one.
    pub const ONLY: Self = Self { number: 0, last: true };
}

/// What a model made of one item: the only answer to it, or one of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Number of the item in its stream.
    pub seq: u64,
    /// Which of the item's answers it is; only the last may be a fault.
    pub part: AnswerPart,
    /// Outputs, or why there are none.
    pub outcome: Result<ItemOutputs, Fault>,
    /// When it was where.
    pub timing: ItemTiming,
}
