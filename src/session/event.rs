//! What goes into a session, and what comes out.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    codec::{Segment, WindowPosition},
    domain::{Answer, AnswerPart, Fault, ItemInputs, ItemOutputs, ItemTiming, NamedTensor},
};

/// A message from the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// An item of tensors.
    Item(ItemRequest),
    /// An item whose tensors its front end has checked.
    Checked(CheckedItem),
    /// A piece of a raw payload.
    Chunk(Bytes),
    /// Finish the work at hand, then confirm with this id.
    Flush(String),
    /// Says only that the client is still there.
    KeepAlive,
    /// From the front end: the connection will close in this time.
    Leaving(Duration),
    /// From the front end: read no more, answer what is here, and end with this fault.
    Stop(Fault),
}

/// An item as it arrived, not yet checked against the model's signature.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRequest {
    /// Echoed.
    pub id: String,
    /// Its tensors, or why the front end could not read them.
    pub tensors: Result<Vec<NamedTensor>, Fault>,
    /// Time from its arrival within which its result must be computed.
    pub deadline: Option<Duration>,
}

/// An item as the model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedItem {
    /// Its tensors, which fit the model's signature and are in its order, or why they do not make an item.
    pub inputs: Result<ItemInputs, Fault>,
    /// Time from its arrival within which its result must be computed.
    pub deadline: Option<Duration>,
}

/// What a session reports to its client.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An answer to an item.
    Result(ItemResult),
    /// A segment has begun.
    SegmentStarted {
        /// Number the segment will have.
        index: u64,
        /// Its first sample.
        start_sample: u64,
    },
    /// A segment is complete.
    Segment(Segment),
    /// Results were given up because the client did not read them.
    Skipped {
        /// Number of the first item whose result is missing.
        first_seq: u64,
        /// How many are missing, counting from this item.
        results: u64,
    },
    /// Everything before the flush with this id is answered.
    Flushed {
        /// The client's id.
        id: String,
        /// Items answered so far.
        items: u64,
    },
    /// The connection will close; the client should open another stream on another one.
    ReconnectAdvised {
        /// How long this one may still go on.
        remaining: Duration,
    },
    /// Everything is answered, and the client will send no more. The last event.
    Completed(Summary),
}

/// An answer to an item: the only one, or one of several.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemResult {
    /// Number of the item in its stream.
    pub seq: u64,
    /// Which of the item's answers it is.
    pub part: AnswerPart,
    /// The client's id.
    pub id: String,
    /// Its position in a raw payload.
    pub window: Option<WindowPosition>,
    /// Outputs, or the reason there are none.
    pub outcome: Result<ItemOutputs, Fault>,
    /// When it reached each stage.
    pub timing: ItemTiming,
    /// From its arrival until now, when the front end gets it.
    pub age: Duration,
}

impl ItemResult {
    /// A model's answer to the item with this id and place. Its age is set when it is handed out.
    #[inline]
    pub(super) fn new(id: String, window: Option<WindowPosition>, answer: Answer) -> Self {
        let Answer { seq, part, outcome, timing } = answer;
        Self { seq, part, id, window, outcome, timing, age: Duration::ZERO }
    }
}

/// What a session has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Items taken in.
    pub items: u64,
    /// Items answered with outputs. Skipped results count neither here nor as errors.
    pub ok: u64,
    /// Items answered with a fault.
    pub errors: u64,
    /// Samples of a raw payload, at the model's rate.
    pub samples: u64,
    /// Payload bytes received, before any conversion.
    pub payload_bytes: u64,
    /// Since the session opened.
    pub elapsed: Duration,
    /// Total time that items waited for their calls.
    pub queue: Duration,
    /// Total of the items' shares of their calls.
    pub compute: Duration,
}
