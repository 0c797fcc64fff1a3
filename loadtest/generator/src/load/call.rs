//! The interface between the driver and the protocols that make one call per item: unary gRPC and HTTP.
//!
//! A protocol opens what its callers share once per step and shard, on the shard's own runtime, which has one thread: whatever it spawns
//! stays there. The driver asks for a call when an item is due and the caller has room, and knows nothing about the wire.

use futures::future::BoxFuture;

use super::recorder::Answer;

/// One of the independent callers of a load: `streams` of them, each with at most `in_flight` calls at once.
pub(crate) trait Caller: Send + Sync {
    /// Makes the caller's call number `seq` (from 0) and waits for its answer, which has that number.
    ///
    /// A call does not fail: what went wrong is its answer. If the run ends first, it is dropped, and that must end it on the wire.
    fn call(&self, seq: u64) -> BoxFuture<'static, Answer>;

    /// What to send after the last call, such as the end of a sequence; not counted. `sent` is the number of calls made.
    fn finish(&self, sent: u64) -> Option<BoxFuture<'static, ()>> {
        let _ = sent;
        None
    }
}

/// The callers of one load on one shard.
pub(crate) type Callers = Vec<Box<dyn Caller>>;
