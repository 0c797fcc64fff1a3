//! gRPC: the native API, the contract of plain numbers, health and reflection on one port.
//!
//! The only code that knows tonic and hyper on the serving side. It decodes, calls [`Service`](crate::service::Service), and
//! encodes; it holds no queue and decides nothing about items.

mod arrival;
mod caller;
mod calls;
mod deadline;
mod entrance;
mod example;
mod health;
mod models;
mod native;
mod numbers;
mod open_inference;
mod reader;
mod responses;
mod server;
mod services;
mod shapes;
mod split;

pub use super::messages::wire;
use super::messages::{convert, status};
pub use health::HealthKeeper;
pub use server::{GrpcDoor, GrpcServer};
