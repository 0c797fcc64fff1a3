//! The front ends: the only code that knows protocols. Each decodes, calls the one service, and encodes.
//!
//! They are built on [`transport`](crate::transport), which knows none. They never call one another, hold no queue and decide
//! nothing that another would have to decide again.

mod acting;
pub mod admin;
mod ahead;
mod body;
mod bounds;
mod console;
mod dress;
mod forwarded;
pub mod grpc;
mod grpc_status;
mod heads;
pub mod http;
mod inflate;
mod leftover;
mod messages;
mod refusal;
mod rest;
mod statuses;
pub mod transcode;
mod web;
pub mod websocket;

pub use acting::MetricsGate;
pub use ahead::{Front, GrpcCalls};
pub use bounds::Bounds;
pub use rest::Rest;
pub use web::WebRules;
