//! The Open Inference Protocol, as its gRPC and REST forms share it: requests of several items, sequences, shared memory, and what
//! is told about models.
//!
//! Knows what the protocol means, and neither protobuf nor JSON: front ends decode into [`InferRequest`] and encode an
//! [`InferResponse`]. Items go through the one [`Service`], so that they meet those of native streams in
//! the same batches.

mod book;
mod changes;
mod config;
mod conversation;
mod describe;
mod infer;
mod items;
mod options;
mod placement;
mod repository;
mod request;
mod response;
mod sequences;
mod shared_memory;
mod statistics;
mod users;

use crate::{
    config::{SequenceConfig, SharedMemoryConfig},
    service::Service,
};
use changes::Changes;
use sequences::Sequences;

pub use config::{
    DynamicBatching, InitialState, InstanceGroup, ModelConfig, ModelInput, ModelOutput, ModelParameter, OldestFirst, QueuePolicy,
    ResponseCache, Scheduling, SequenceBatching, SequenceState, TransactionPolicy, VersionChoice,
};
pub use conversation::{Conversation, Reply};
pub use describe::{ModelMetadata, ServerMetadata, TensorMetadata};
pub use options::ENABLE_FINAL_RESPONSE;
pub use repository::RepositoryEntry;
pub use request::{InferRequest, InputTensor, Parameter, Parameters, RequestedOutput};
pub use response::{InferResponse, OutputData, OutputTensor, SharedOutput};
pub use shared_memory::{
    Region, RegionStatus, SHARED_MEMORY_BYTE_SIZE, SHARED_MEMORY_OFFSET, SHARED_MEMORY_REGION, SharedMemory,
};
pub use statistics::{BatchStatistics, InferStatistics, ModelStatistics, ResponseStatistics, StatisticDuration};

/// The protocol over the one door. Clones share everything.
#[derive(Clone)]
pub struct OpenInference {
    service: Service,
    sequences: Sequences,
    shared_memory: SharedMemory,
    changes: Changes,
    config: SequenceConfig,
}

/// Calls that change models, running or waiting, unless [`OpenInference::with_load_calls`] says otherwise.
const LOAD_CALLS_MAX: usize = 64;

impl OpenInference {
    /// The protocol over `service`.
    #[must_use]
    pub fn new(service: Service, config: SequenceConfig, shared_memory: SharedMemoryConfig) -> Self {
        let shared_memory = SharedMemory::new(shared_memory);
        let sequences = Sequences::new(&config, service.config().max_streams);
        Self { service, sequences, shared_memory, changes: Changes::at_most(LOAD_CALLS_MAX), config }
    }

    /// The same, in which so many calls may change models at once, running or waiting.
    #[must_use]
    pub fn with_load_calls(mut self, calls_max: usize) -> Self {
        self.changes = Changes::at_most(calls_max);
        self
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
