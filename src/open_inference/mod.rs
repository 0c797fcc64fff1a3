//! The Open Inference Protocol, as its gRPC and REST forms share it: requests of several items, sequences, shared memory, and what
//! is told about models.
//!
//! Knows what the protocol means, and neither protobuf nor JSON: front ends decode into [`InferRequest`] and encode an
//! [`InferResponse`]. Items go through the one [`Service`](crate::service::Service), so that they meet those of native streams in
//! the same batches.

mod request;
mod response;
mod shared_memory;

pub use request::{InferRequest, InputTensor, Parameter, Parameters, RequestedOutput};
pub use response::{InferResponse, OutputData, OutputTensor, SharedOutput};
pub use shared_memory::{Region, RegionStatus, SharedMemory};

use crate::service::Service;

/// The protocol over the one door. Clones share everything.
#[derive(Clone)]
pub struct OpenInference {
    service: Service,
}

impl OpenInference {
    /// The protocol over `service`.
    #[must_use]
    pub const fn new(service: Service) -> Self {
        Self { service }
    }

    /// The door behind it.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }
}
