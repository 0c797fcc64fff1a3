//! Items on their way through the queue, and the batches that they leave it in.

use crate::domain::{CloseReason, Timestamp};

use super::{ModelKey, ShapeKey, StreamKey};

/// An item on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<P> {
    /// The owner's number for it.
    pub ticket: u64,
    /// When it was complete.
    pub arrived: Timestamp,
    /// When its result must be there; [`Timestamp::NEVER`] for no deadline.
    pub deadline: Timestamp,
    /// Input bytes.
    pub bytes: usize,
    /// Which items it may share a batch with.
    pub shape: ShapeKey,
    /// What is needed to run it.
    pub payload: P,
}

/// An item in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<H, P> {
    /// Its stream.
    pub stream: StreamKey,
    /// The stream's owner.
    pub handle: H,
    /// The item.
    pub item: Item<P>,
}

/// A batch for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<H, P> {
    /// The model to run.
    pub model: ModelKey,
    /// At least one item, all with equal shapes.
    pub entries: Vec<Entry<H, P>>,
    /// Why it was closed.
    pub reason: CloseReason,
}

/// An item whose deadline passed, or cannot be met any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired<H, P> {
    /// The stream's owner.
    pub handle: H,
    /// The item.
    pub item: Item<P>,
}
