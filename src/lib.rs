//! Tidemill: a streaming-first, real-time inference server.
//!
//! Knowledge points one way; `docs/architecture.md` has the layer table and a test holds the code to it.

pub mod app;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connections;
pub mod descriptors;
pub mod device;
pub mod domain;
pub mod drain;
pub mod engine;
pub mod frontend;
pub mod log;
pub mod memory;
pub mod native;
pub mod open_inference;
pub mod proof;
pub mod recording;
pub mod registry;
pub mod scheduler;
pub mod service;
pub mod session;
pub mod shares;
pub mod side;
pub mod signals;
pub mod telemetry;
pub mod threads;
pub mod transport;
pub mod vitals;

pub use tidemill_wire as proto;
