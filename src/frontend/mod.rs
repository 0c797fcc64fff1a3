//! The front ends: the only code that knows protocols. Each decodes, calls the one service, and encodes.
//!
//! Front ends never call one another, hold no queue and decide nothing that another would have to decide again.

pub mod admin;
mod bounds;
mod ending;
pub mod grpc;
pub mod http;
mod inflate;
mod linger;
mod listener;
mod pieces;
mod transfer;
mod web;

pub use bounds::Bounds;
pub use listener::{Shutdown, Surroundings};
pub use transfer::{Account, Charge, Transfer};
pub use web::WebRules;
