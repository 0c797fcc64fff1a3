//! What the server talks about: tensors, signatures, items, errors, time.
//!
//! Knows no runtime, no I/O, no protocol and no engine. Everything here is plain data with checks.

mod batching;
mod byte_elements;
mod error;
mod item;
mod outcome;
mod padding;
mod peer;
mod priority;
mod signature;
mod tensor;
mod time;

pub use batching::{Batching, BatchingRule, Verdict};
pub use byte_elements::{ByteElements, LENGTH_BYTES, push_element};
pub use error::{Fault, FaultKind, Limit};
pub use item::{Answer, AnswerPart, ItemInputs, ItemOutputs, ItemTiming, StateBuffers, StateSlot};
pub use outcome::{CloseReason, DropReason, Outcome};
pub use padding::{ElementBytes, PaddedInput, PaddingRule};
pub use peer::{Address, Peer};
pub use priority::Priority;
pub use signature::{
    ItemSlots, NamedTensor, SharedInput, Signature, StateSpec, TensorSpec, TensorSpecs, bad_dimension, given_twice, quoted_list,
};
pub use tensor::{Datatype, Shape, Tensor, TensorError, element_count, elements_text};
pub use time::Timestamp;
