//! Connections of the server's operators, over HTTP/1.1: each one is accepted, whoever else is connected.
//!
//! When there are too many, the one that has been silent or unread longest has to go ([`Places`]). They compete for nothing, so
//! nothing is shared out, and no connection lasts more than a few minutes.

mod conversation;
mod note;
mod places;

pub(crate) use conversation::converse;
pub(crate) use places::Places;
