//! What the server talks about: tensors, signatures, items, errors, time.
//!
//! Knows no runtime, no I/O, no protocol and no engine. Everything here is plain data with checks.

mod batching;
mod byte_elements;
mod datatype;
mod error;
mod item;
mod outcome;
mod padding;
mod peer;
mod priority;
mod protection;
mod signature;
mod tensor;
mod tensor_spec;
mod time;

pub use batching::{Batching, BatchingRule, Verdict};
pub use byte_elements::{ByteElements, push_element};
pub use datatype::{Datatype, LENGTH_BYTES, TensorError};
pub use error::{Fault, FaultKind, Limit};
pub use item::{Answer, AnswerPart, ItemInputs, ItemOutputs, ItemTiming, data_bytes};
pub use outcome::{CloseReason, DropReason, Outcome};
pub use padding::{ElementBytes, PaddedInput, PaddingRule};
pub use peer::{Address, Peer};
pub use priority::Priority;
pub use protection::{AlternativeName, ClientCertificate, Protection};
pub use signature::{ItemSlots, NamedTensor, SharedInput, Signature, StateSpec, bad_dimension, given_twice, quoted_list};
pub use tensor::{Shape, Tensor, element_count, elements_text};
pub use tensor_spec::{TensorSpec, TensorSpecs};
pub use time::Timestamp;
