//! What bounds the ports for clients together, whatever they speak.

use crate::{
    config::{Config, MessageConfig},
    side::SideThreads,
    telemetry::ServerMetrics,
    transport::Transfer,
};

/// The budget, the threads and the limits that the ports share, and what is counted for them. Clones are the same.
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

    /// The threads for work that takes long.
    #[must_use]
    pub const fn side(&self) -> &SideThreads {
        &self.side
    }
}
