//! Which items run next, in which batch, on which lane.
//!
//! Pure: [`Queue`] is a plain value that is given `now` with each call and returns what to do. It knows no clock, thread, lock,
//! channel, engine or protocol, nor what a model is for. The module `device` puts it between the sessions, which push, and the
//! lanes, which pull.

mod admission;
mod batch;
mod by_shape;
mod calls;
mod cost;
mod decide;
mod fair;
mod front;
mod keys;
mod knee;
mod ledger;
mod options;
mod queue;
mod ready;
mod statistics;

pub use admission::{Admission, Refusal};
pub use batch::{Batch, CallNumber, CallReport, EndReason, Ended, Entry, Item, LaneKind};
pub use cost::{CostCurve, CostModel};
pub use decide::WAKE_UP;
pub use keys::{ModelKey, ShapeKey, StreamKey};
pub use ledger::Ledger;
pub use options::{ModelOptions, Overflow, StreamOptions, TenantKey};
pub use queue::{Cancelled, Queue, Repair, STARVATION_MAX};
pub use statistics::{CallTimes, Executed, ModelCall, SizeStatistics, Spent, Statistics};
