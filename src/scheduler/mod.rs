//! Which items run next, in which batch, on which lane.
//!
//! [`queue`] decides and is pure: no clock, no thread, no channel, no engine; every call is given `now`. [`handoff`] puts it
//! behind one lock between the sessions, which push, and the lanes, which pull. [`lanes`] are the threads that run model calls, and
//! [`timekeeper`] is the one that wakes when something is due.
//! Nothing here knows a protocol, a runtime or what a model is for.

mod admission;
mod ahead;
mod batch;
mod cost;
mod costs;
mod decide;
mod fair;
mod front;
mod handoff;
mod knee;
mod lanes;
mod ledger;
mod mailbox;
mod options;
mod queue;
mod ready;
mod signal;
mod statistics;
mod timekeeper;
mod trace;

pub use admission::{Admission, Refusal};
pub use ahead::on_each_lane;
pub use batch::{Batch, CallReport, EndReason, Ended, Entry, Item, LaneKind};
pub use cost::{CostCurve, CostModel};
pub use handoff::{Handoff, ModelRuntime, ModelStatus, StreamHandle, Submitted};
pub use lanes::{Lane, Lanes};
pub use ledger::Ledger;
pub use options::{ModelOptions, Overflow, StreamOptions, TenantKey};
pub use queue::{Repair, STARVATION_MAX, Scheduler};
pub use statistics::{CallTimes, Executed, ModelCall, SizeStatistics, Spent, Statistics};
pub use timekeeper::Timekeeper;
pub use trace::{Trace, TraceWriter};

slotmap::new_key_type! {
    /// A model version that has a queue.
    pub struct ModelKey;
    /// An open stream.
    pub struct StreamKey;
}

/// Marks items that may meet in a batch: equal keys mean equal shapes of all inputs, or one bucket of a padded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShapeKey(pub u64);
