//! gRPC: the native API, health and reflection on one port.
//!
//! The only code that knows tonic and hyper on the serving side. It decodes, calls [`Service`](crate::service::Service), and
//! encodes; it holds no queue and decides nothing about items.

mod convert;
mod deadline;
mod health;
mod limits;
mod linger;
mod models;
mod native;
mod reader;
mod responses;
mod server;
mod status;
mod stream_task;

pub use health::HealthKeeper;
pub use server::{GrpcServer, Shutdown};
