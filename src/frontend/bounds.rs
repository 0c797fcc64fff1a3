//! The limits that all client ports share, whatever protocol they speak.

use crate::{
    config::{Config, MessageConfig},
    side::SideThreads,
    telemetry::ServerMetrics,
    transport::Transfer,
};

/// The budget, threads, limits and counts that the ports share. Clones share them too.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub(super) metrics: ServerMetrics,
    pub(super) transfer: Transfer,
    pub(super) side: SideThreads,
    pub(super) message: MessageConfig,
}

impl Bounds {
    /// As `config` has them.
    #[must_use]
    pub fn new(config: &Config, metrics: ServerMetrics) -> Self {
        let transfer = Transfer::new(config.memory.transfer_bytes, metrics.transfer_bytes.clone());
        Self { metrics, transfer, side: SideThreads::new(config.server.side_threads), message: config.message.clone() }
    }

    /// The threads for long work.
    #[must_use]
    pub const fn side(&self) -> &SideThreads {
        &self.side
    }
}
