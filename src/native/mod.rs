//! The native API as plain types: what opens a stream, what goes in, what comes out, and every check of it.
//!
//! Knows neither protobuf nor JSON. A front end decodes into an [`OpenRequest`] and [`Inbound`] messages, and encodes what it
//! gets back: an [`Opened`], then the session's [`Event`](crate::session::Event)s.

mod checks;
mod open;

pub use checks::{DURATION_MAX, ID_BYTES_MAX, check_id, duration, open_twice, payload};
pub use open::{Limits, Native, Opened};

#[cfg(doc)]
use crate::{service::OpenRequest, session::Inbound};
