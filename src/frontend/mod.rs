//! The front ends: the only code that knows protocols. Each decodes, calls the one service, and encodes.
//!
//! Front ends never call one another, hold no queue and decide nothing that another would have to decide again.

pub mod admin;
pub mod grpc;
pub mod http;
mod linger;
mod listener;
mod web;

pub use listener::{Shutdown, Surroundings};
pub use web::WebRules;
