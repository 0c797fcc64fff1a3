//! Items on their way through the queue, and the ways in which they leave it.

use std::time::Duration;

use tidemill_domain::{CloseReason, DropReason, Outcome, Priority, Timestamp};

use super::keys::{ModelKey, ShapeKey, StreamKey};

/// An item on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<P> {
    /// The owner's number for it.
    pub ticket: u64,
    /// When it was complete.
    pub arrived: Timestamp,
    /// When its result must be there; [`Timestamp::NEVER`] for no deadline.
    pub deadline: Timestamp,
    /// When its result is too old to be of use, as the stream's `max_age` says; [`Timestamp::NEVER`] for never.
    pub stale_at: Timestamp,
    /// Input bytes.
    pub bytes: usize,
    /// Elements along the padded dimension; 0 where nothing is padded.
    pub length: u32,
    /// Which items it may share a batch with.
    pub shape: ShapeKey,
    /// What is needed to run it.
    pub payload: P,
}

impl<P> Item<P> {
    /// Until when its result must be there, for whichever reason.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.deadline.min(self.stale_at)
    }

    /// Why it ends when its time is over.
    #[must_use]
    pub fn lateness(&self) -> EndReason {
        if self.deadline <= self.stale_at { EndReason::Expired } else { EndReason::Dropped(DropReason::MaxAge) }
    }
}

/// An item in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<H, P> {
    /// Its stream.
    pub stream: StreamKey,
    /// Its stream's priority.
    pub priority: Priority,
    /// The stream's owner.
    pub handle: H,
    /// The item.
    pub item: Item<P>,
}

/// Where a call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LaneKind {
    /// On one of the device's lanes.
    #[default]
    Ordinary,
    /// On a long lane, which leaves the cores to the others whenever they want them.
    Long,
}

/// The number of a call: no two calls of a queue have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallNumber(pub(super) u64);

/// A batch for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<H, P> {
    /// Its call, which runs from now on.
    pub call: CallNumber,
    /// The model to run.
    pub model: ModelKey,
    /// Which items these are; equal for all of them.
    pub shape: ShapeKey,
    /// At least one item.
    pub entries: Vec<Entry<H, P>>,
    /// Why it was closed.
    pub reason: CloseReason,
    /// Largest batch that could have been formed, in items.
    pub cap: usize,
    /// Whether nothing else ran or waited when it was formed.
    pub lone: bool,
    /// Whether the call may use all cores; only a lone one does.
    pub wide: bool,
    /// Whether it is long compared with other calls that are asked for.
    pub long: bool,
    /// Where it is to run.
    pub lane: LaneKind,
    /// When the call should be over.
    pub ends_at: Timestamp,
}

impl<H, P> Batch<H, P> {
    /// What to tell the queue when the call is over; `took` is `None` if it failed.
    #[must_use]
    pub const fn report(&self, took: Option<Duration>) -> CallReport {
        CallReport { call: self.call, model: self.model, took }
    }
}

/// A call that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallReport {
    /// Which one.
    pub call: CallNumber,
    /// Its model.
    pub model: ModelKey,
    /// How long it took, if it succeeded.
    pub took: Option<Duration>,
}

/// Why an item left the queue without a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Its deadline passed, or could not be met any more.
    Expired,
    /// The stream's policy gave it up.
    Dropped(DropReason),
}

impl EndReason {
    /// How the item is counted.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Expired => Outcome::Expired,
            Self::Dropped(_) => Outcome::Dropped,
        }
    }
}

/// An item that left the queue without a model call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended<H, P> {
    /// The stream's owner.
    pub handle: H,
    /// The item.
    pub item: Item<P>,
    /// Why.
    pub reason: EndReason,
}
