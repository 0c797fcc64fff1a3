//! Tidemill: a streaming-first, real-time inference server.
//!
//! Knowledge points one way; `docs/architecture.md` has the layer table, and a test enforces it.

pub use {
    tidemill_auth as auth, tidemill_clock as clock, tidemill_codec as codec, tidemill_domain as domain,
    tidemill_engine as engine, tidemill_scheduler as scheduler, tidemill_shares as shares, tidemill_wire as proto,
};

pub mod accounts;
pub mod app;
pub mod audit;
pub mod certificates;
pub mod config;
pub mod connections;
pub mod descriptors;
pub mod device;
pub mod drain;
pub mod frontend;
pub mod log;
pub mod memory;
pub mod native;
pub mod open_inference;
pub mod patience;
pub mod proof;
pub mod registry;
pub mod service;
pub mod session;
pub mod side;
pub mod signals;
pub mod telemetry;
pub mod threads;
pub mod transport;
pub mod vitals;
pub mod watched;
