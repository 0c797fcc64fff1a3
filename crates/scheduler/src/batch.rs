//! Items on their way through the queue, and how they leave it.

use std::time::Duration;

use tidemill_domain::{CloseReason, DropReason, Outcome, Priority, Timestamp};

use super::keys::{ModelKey, ShapeKey, StreamKey};

/// An item on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<P> {
    /// The owner's number for it.
    pub ticket: u64,
    /// When all of it had arrived.
    pub arrived: Timestamp,
    /// When its result must be there; [`Timestamp::NEVER`] for no deadline.
    pub deadline: Timestamp,
    /// When its result is too old to be of use, by the stream's `max_age`; [`Timestamp::NEVER`] for never.
    pub stale_at: Timestamp,
    /// Input bytes.
    pub bytes: usize,
    /// Elements along the padded dimension; 0 where nothing is padded.
    pub length: u32,
    /// Which items may share a batch with it.
    pub shape: ShapeKey,
    /// What is needed to run it.
    pub payload: P,
}

impl<P> Item<P> {
    /// When its result must be there at the latest, for either reason.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.deadline.min(self.stale_at)
    }

    /// Why it ends when its time is up.
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
    /// On a long lane, which leaves the cores to the others whenever they need them.
    Long,
}

/// The number of a call, unique within a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallNumber(pub(super) u64);

/// A batch for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<H, P> {
    /// Its call, which runs from now on.
    pub call: CallNumber,
    /// The model to run.
    pub model: ModelKey,
    /// The shape of its items, the same for all of them.
    pub shape: ShapeKey,
    /// At least one item.
    pub entries: Vec<Entry<H, P>>,
    /// Why it was closed.
    pub reason: CloseReason,
    /// Largest batch that could have been formed, in items.
    pub cap: usize,
    /// Whether nothing else was running or waiting when it was formed.
    pub lone: bool,
    /// Whether the call may use all cores; only a lone one does.
    pub wide: bool,
    /// Whether it is long compared with other calls in demand.
    pub long: bool,
    /// Where to run it.
    pub lane: LaneKind,
    /// When the call should end.
    pub ends_at: Timestamp,
}

impl<H, P> Batch<H, P> {
    /// What to report to the queue when the call has ended; `took` is `None` if it failed.
    #[must_use]
    pub const fn report(&self, took: Option<Duration>) -> CallReport {
        CallReport { call: self.call, model: self.model, took }
    }
}

/// A call that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallReport {
    /// Which one.
    pub call: CallNumber,
    /// Its model.
    pub model: ModelKey,
    /// How long it took, if it succeeded and ran to its end.
    pub took: Option<Duration>,
}

/// Why an item left the queue without a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Its deadline passed, or could no longer be met.
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
