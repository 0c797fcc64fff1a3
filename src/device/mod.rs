//! What runs models: lanes, and the queue that they take their batches from.
//!
//! [`Device`] is one queue behind one lock, between the sessions, which push, and its lanes, which pull. What is decided under the lock
//! is one value, `After`, which is carried out once the lock is released: no session is woken, no answer is delivered and no model is
//! dropped under it. [`Lanes`] are the threads that run model calls; a session's own thread may borrow an idle lane for a short one.
//! [`Timekeeper`] is the thread that wakes when something is due. [`Devices`] knows which device runs a model.
//!
//! Nothing here knows a protocol, or what a model is for. Which items run next is up to [`crate::scheduler`].

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
pub use state::Device;
pub use stream::{StreamHandle, Submitted};
pub use timekeeper::Timekeeper;
pub use trace::{Trace, TraceWriter};

#[cfg(test)]
mod tests;
