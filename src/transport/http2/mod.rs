//! HTTP/2 on a connection whose streams run in its one task, and end if their clients do not read.
//!
//! Knows the transport and the clock, and neither methods nor messages. hyper has no timer for a client that stops halfway
//! through its greeting, none for one that does not read a stream, and it spawns each stream as a task.

mod connection;
mod exchange;
mod leaving;
mod reading;
mod stream_task;
mod together;

pub(crate) use connection::{Plug, converse};
pub(crate) use exchange::Exchange;
pub(crate) use reading::{PollUnread, Reading};
pub(crate) use together::{StreamExecutor, Together};
