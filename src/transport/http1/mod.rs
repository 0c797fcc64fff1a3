//! HTTP/1.1 on a connection that is watched, so that a client that keeps it waiting is refused, or cut off.
//!
//! Knows the transport and the clock, and neither paths nor models. hyper has one timer for the head of a request and for the
//! silence before it, none for a client that does not read, and refuses a head without a word. So socket and service note in a
//! [`Progress`](progress::Progress) what the client is to do next, and the connection's task has the timer. All of them run in that
//! one task.
//!
//! ```text
//!            first byte              head complete
//!  Request ────────────► Head ────────────────────► Nothing ── response over ──► Request
//!  idle_timeout:         header_timeout: refused    the server's turn
//!  closed                header_bytes_max: refused
//!
//!  Reader, whenever a write has to wait: unread_timeout, cut off
//!  Nothing, while a body arrives without any content: refused, see FRAMING_BYTES_MAX
//!  Request and Head, at a line that ends with a line feed alone: refused
//!  Rest, when a response is over before its request is: hyper reads what is there and closes, or goes on
//! ```
//!
//! What a refusal says, of each [`Breach`], is up to the front end.

mod body;
mod connection;
mod limits;
mod lines;
mod progress;
mod socket;
mod wait;

pub(crate) use body::RequestBody;
pub(crate) use connection::{Plug, converse};
pub(crate) use limits::{Breach, FRAMING_BYTES_MAX, Limits};
