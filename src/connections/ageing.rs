//! The age of a connection, for the calls on it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{clock, domain::Timestamp};

/// How a connection ages. Clones are the same connection's.
#[derive(Debug, Clone)]
pub struct Ageing {
    pub(super) begins_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) begun: CancellationToken,
    pub(super) over: CancellationToken,
}

impl Ageing {
    /// Waits until the connection is asked to leave. Returns how much time its calls have from now on.
    pub async fn begun(&self) -> Duration {
        self.begun.cancelled().await;
        self.ends_at.since(clock::now())
    }

    /// Waits until that time is up: what is still open should end now.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}
