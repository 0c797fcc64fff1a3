//! Tidemill.
pub mod proto;
