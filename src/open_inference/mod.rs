//! The Open Inference Protocol, as its gRPC and REST forms share it: requests of several items, sequences, shared memory, and what
//! is said about models.
//!
//! Knows what the protocol means, but neither protobuf nor JSON: front ends decode into [`InferRequest`] and encode an
//! [`InferResponse`]. Items go through the one [`Service`], so that they share batches with those of native streams.

mod book;
mod cache;
mod changes;
mod classes;
mod config;
mod conversation;
mod describe;
mod inbox;
mod infer;
mod items;
mod options;
mod placement;
mod reply;
mod repository;
mod request;
mod response;
mod sequences;
mod shared_memory;
mod statistics;
mod users;

use crate::{
    auth::{Scope, Scopes},
    config::{Access, SequenceConfig, SharedMemoryConfig},
    descriptors::Descriptors,
    domain::{Fault, FaultKind},
    service::Service,
    side::SideThreads,
};
use changes::Changes;
use sequences::Sequences;

pub use cache::AnswerCache;
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

/// The protocol over the one door. Clones share everything but what their clients may do.
#[derive(Clone)]
pub struct OpenInference {
    service: Service,
    sequences: Sequences,
    shared_memory: SharedMemory,
    changes: Changes,
    cache: AnswerCache,
    config: SequenceConfig,
    access: Access,
    side: SideThreads,
}

/// Calls that change models, running or waiting, unless [`OpenInference::with_load_calls`] says otherwise.
const LOAD_CALLS_MAX: usize = 64;

impl OpenInference {
    /// The protocol over `service`, for clients that may do everything that is turned on.
    #[must_use]
    pub fn new(service: Service, config: SequenceConfig, shared_memory: SharedMemoryConfig) -> Self {
        let shared_memory = SharedMemory::new(shared_memory);
        let sequences = Sequences::new(&config, service.config().max_streams);
        let (changes, side, cache) = (Changes::at_most(LOAD_CALLS_MAX), SideThreads::default(), AnswerCache::default());
        Self { service, sequences, shared_memory, changes, cache, config, access: Access::FULL, side }
    }

    /// The same for a port on which this much is turned on, and callers without a credential may do this much of it.
    #[must_use]
    pub fn for_clients(&self, access: Access, anonymous: Scopes) -> Self {
        let service = self.service.with_anonymous(anonymous);
        Self { service, shared_memory: self.shared_memory.for_clients(access.shared_memory), access, ..self.clone() }
    }

    /// What clients may do.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// # Errors
    /// [`FaultKind::Denied`] if clients may not load and unload models, or the caller may not with this one;
    /// [`FaultKind::Unauthenticated`] if that needs a credential.
    pub fn check_repository_access(&self, model: &str) -> Result<(), Fault> {
        if self.access.repository {
            return self.service.permit(Scope::ModelsWrite, Some(model));
        }
        Err(Fault::new(FaultKind::Denied, "clients may not load and unload models on this port (control.repository)"))
    }

    /// The same, taking one of these descriptors for each region of shared memory.
    #[must_use]
    pub fn within(self, descriptors: Descriptors) -> Self {
        Self { shared_memory: self.shared_memory.within(descriptors), ..self }
    }

    /// The same, with these threads for long work.
    #[must_use]
    pub fn with_side_threads(self, side: SideThreads) -> Self {
        Self { side, ..self }
    }

    /// The same, keeping answers here.
    #[must_use]
    pub fn with_cache(self, cache: AnswerCache) -> Self {
        Self { cache, ..self }
    }

    /// The same, allowing up to `calls_max` calls at once that change models, running or waiting.
    #[must_use]
    pub fn with_load_calls(self, calls_max: usize) -> Self {
        Self { changes: Changes::at_most(calls_max), ..self }
    }

    /// The door behind it.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// Registers a region of the clients' shared memory.
    ///
    /// # Errors
    /// Those of [`OpenInference::shared_memory`] and [`SharedMemory::register`].
    pub fn register_memory(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), Fault> {
        let change = self.service.change("register_memory", name);
        change.ended(self.shared_memory().and_then(|memory| memory.register(name, key, offset, byte_size)))
    }

    /// Forgets a region, or all of them if the name is empty.
    ///
    /// # Errors
    /// Those of [`OpenInference::shared_memory`].
    pub fn unregister_memory(&self, name: &str) -> Result<(), Fault> {
        let change = self.service.change("unregister_memory", name);
        let forget = |memory: &SharedMemory| if name.is_empty() { memory.unregister_all() } else { memory.unregister(name) };
        change.ended(self.shared_memory().and_then(forget))
    }

    /// The regions that clients have registered.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] or [`FaultKind::Unauthenticated`] if the caller may not have memory read and written.
    pub fn shared_memory(&self) -> Result<&SharedMemory, Fault> {
        // Where it is turned off, it says so itself.
        if self.shared_memory.is_enabled() {
            self.service.permit(Scope::Memory, None)?;
        }
        Ok(&self.shared_memory)
    }
}
