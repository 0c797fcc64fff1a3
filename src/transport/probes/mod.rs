//! Connections of those who look after the server, over HTTP/1.1: every one is accepted, whoever else is there.
//!
//! Where there are too many, the one that has been silent or unread longest has to go ([`Places`]). They have no business with each
//! other, so nothing is shared out, and no connection has more than a few minutes.

mod conversation;
mod note;
mod places;

pub(crate) use conversation::converse;
pub(crate) use places::Places;
