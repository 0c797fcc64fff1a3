//! HTTP/1.1 on a watched connection, so that a client that keeps it waiting is refused or cut off.
//!
//! Knows the transport and the clock, and neither paths nor models. hyper has one timer for a request's head and the silence
//! before it, none for a client that does not read, and it refuses a head without a word. So socket and service record in a
//! [`Progress`](progress::Progress) what the client has to do next, and the connection's task keeps the timer. All of them run in
//! that one task.
//!
//! ```text
//!            first byte              head complete
//!  Request ────────────► Head ────────────────────► Nothing ── response ends ──► Request
//!  idle_timeout:         header_timeout: refused    the server's turn
//!  closed                header_bytes_max: refused
//!
//!  Reader, whenever a write has to wait: unread_timeout, cut off Nothing, while a body arrives without any content: refused, see
//!  FRAMING_BYTES_MAX Request and Head, at a line that ends with a line feed alone: refused Rest, when a response ends before its
//!  request: hyper reads what is there and closes, or goes on
//! ```
//!
//! The front end decides what a refusal says, for each [`Breach`].
//!
//! A connection whose answer was 101 goes on as its [`Takeover`] says, in the same task. None of these waits applies to it.

mod body;
mod connection;
mod limits;
mod lines;
mod progress;
mod socket;
mod takeover;
mod wait;

pub(crate) use body::RequestBody;
pub(crate) use connection::{Plug, converse};
pub(crate) use limits::{Breach, FRAMING_BYTES_MAX, Limits};
pub(crate) use progress::Reader;
pub(crate) use takeover::{Carrier, Takeover};
