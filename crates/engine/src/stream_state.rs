//! The handle of a stream's state: the stream's owner holds it, and only the engine that made it looks inside.

use std::{any::Any, fmt};

use parking_lot::Mutex;

/// The recurrent state of one stream.
///
/// Empty until the first successful model call; that stands for zeros, and costs an idle stream nothing. At most one item of a stateful
/// stream is in a batch, so the lock is never contended.
#[derive(Default)]
pub struct StreamState(Mutex<Option<Box<dyn Any + Send>>>);

impl StreamState {
    /// What an engine keeps here.
    pub(super) fn holding(kept: impl Any + Send) -> Self {
        Self(Mutex::new(Some(Box::new(kept))))
    }

    /// Runs `with` on what an engine keeps here.
    pub(super) fn with<R>(&self, with: impl FnOnce(&mut Option<Box<dyn Any + Send>>) -> R) -> R {
        with(&mut self.0.lock())
    }
}

impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_empty = self.with(|state| state.is_none());
        write!(f, "StreamState({})", if is_empty { "empty" } else { "kept" })
    }
}
