//! HTTP/1.1: the REST form of the Open Inference Protocol, with tensors in JSON or as binary data.
//!
//! The only code that knows axum and JSON on the serving side. It decodes, calls
//! [`OpenInference`](crate::open_inference::OpenInference), and encodes; it holds no queue and decides nothing about items.
//!
//! # CANCELLATION
//! Dropping is cancelling: hyper drops the handler's future when the client closes its connection, and the items that it waits for
//! leave the queue.

mod answer;
mod api;
mod body;
mod breach;
mod from_json;
mod generate;
mod infer;
mod limited;
mod plain;
mod repository;
mod request;
mod response;
mod routes;
mod server;
mod shared_memory;
mod to_json;
mod tokens;

use super::refusal as error;
pub use server::{HttpDoor, HttpServer};
