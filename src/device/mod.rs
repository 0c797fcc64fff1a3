//! What runs models: lanes, and the queue they take their batches from.
//!
//! [`Device`] is one queue behind one lock: sessions push to it and its lanes pull from it. Each decision under the lock yields
//! one value, `After`, which is carried out once the lock is released: no session is woken, no answer delivered and no model
//! dropped while it is held. [`Lanes`] are the threads that run model calls; a session's own thread may borrow an idle lane for a
//! short one. [`Timekeeper`] is the thread that wakes when something is due. [`Devices`] knows which device runs which model.
//!
//! Nothing here knows a protocol, or what a model is for. [`crate::scheduler`] decides which items run next.

mod after;
mod ahead;
mod devices;
mod hosted;
mod lane;
mod lanes;
mod lending;
mod live;
mod long;
mod mailbox;
mod models;
mod parts;
mod pulling;
mod running;
mod shapes;
mod signal;
mod staged;
mod state;
mod stream;
mod timekeeper;
mod trace;
mod unrun;
mod waking;

pub use ahead::on_each_lane;
pub use devices::Devices;
pub use hosted::{ModelRuntime, QueueStatus};
pub use lanes::Lanes;
pub use staged::Staged;
pub use state::{Device, LanesInUse};
pub use stream::{StreamHandle, Submitted};
pub use timekeeper::Timekeeper;
pub use trace::{Trace, TraceWriter};

#[cfg(test)]
mod tests;
