//! The Open Inference Protocol, as its gRPC and REST forms share it: requests of several items, sequences, shared memory, and what
//! is told about models.
//!
//! Knows what the protocol means, and neither protobuf nor JSON: front ends decode into [`InferRequest`] and encode an
//! [`InferResponse`]. Items go through the one [`Service`](crate::service::Service), so that they meet those of native streams in
//! the same batches.

mod config;
mod describe;
mod request;
mod response;
mod shared_memory;
mod statistics;

pub use config::{
    AllVersions, DynamicBatching, InitialState, InstanceGroup, ModelConfig, ModelInput, ModelOutput, ModelParameter, OldestFirst,
    QueuePolicy, ResponseCache, Scheduling, SequenceBatching, SequenceState, TransactionPolicy, VersionPolicy,
};
pub use describe::{ModelMetadata, ServerMetadata, TensorMetadata};
pub use request::{InferRequest, InputTensor, Parameter, Parameters, RequestedOutput};
pub use response::{InferResponse, OutputData, OutputTensor, SharedOutput};
pub use shared_memory::{Region, RegionStatus, SharedMemory};
pub use statistics::{BatchStatistics, InferStatistics, ModelStatistics, ResponseStatistics, StatisticDuration};

use crate::service::Service;

/// The protocol over the one door. Clones share everything.
#[derive(Clone)]
pub struct OpenInference {
    service: Service,
    shared_memory: SharedMemory,
}

impl OpenInference {
    /// The protocol over `service`, with tensors in `shared_memory`.
    #[must_use]
    pub const fn new(service: Service, shared_memory: SharedMemory) -> Self {
        Self { service, shared_memory }
    }

    /// The door behind it.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// What clients have registered.
    #[must_use]
    pub const fn shared_memory(&self) -> &SharedMemory {
        &self.shared_memory
    }
}
