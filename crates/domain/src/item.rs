//! Items on their way in and answers on their way out.

use smallvec::SmallVec;

use super::{Fault, Tensor, Timestamp};

/// The tensors of one item, in the order of the signature's inputs, without a batch dimension.
pub type ItemInputs = SmallVec<[Tensor; 1]>;

/// The model's outputs for one item, in the order of the signature's outputs, without a batch dimension.
pub type ItemOutputs = SmallVec<[Tensor; 1]>;

/// Bytes of data in all of these tensors.
#[must_use]
#[inline]
pub fn data_bytes(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data().len()).sum()
}

/// When an item reached each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemTiming {
    /// When all of it had reached the server.
    pub arrived: Timestamp,
    /// When its model call began; equal to `finished` if there was none.
    pub started: Timestamp,
    /// When its model call ended, or the decision not to make one was taken.
    pub finished: Timestamp,
    /// Items in its model call; 0 if there was none.
    pub batch_size: u32,
}

/// Which of an item's answers this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerPart {
    /// Its number, from 0.
    pub number: u32,
    /// Whether it is the last, with which the item ends.
    pub last: bool,
}

impl AnswerPart {
    /// The answer of an item that has only one.
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
    /// When the item reached each stage.
    pub timing: ItemTiming,
}
