//! One client stream: from messages to items, from answers to events.
//!
//! A [`Session`] is a future driven by its connection; it starts no task, and dropping it cancels what is in flight. It knows no
//! protocol: front ends feed it [`Inbound`] messages and encode its [`Event`]s.
//!
//! # Window
//! From its arrival until the event that answers it, each item takes up room in the window, whatever its outcome. When the window
//! is full, the session stops reading, so that the transport holds the sender back: all that a client can make the server keep is
//! its window and one message.
//!
//! # Errors
//! A fault of an item is its answer. A fault of the stream ends it, as its last element.

mod event;
mod faults;
mod intake;
mod options;
mod outbox;
mod parked;
mod payload;
mod pending;
mod raw;
mod stream;
mod unread;
mod upload;

pub use event::{CheckedItem, Event, Inbound, ItemRequest, ItemResult, Summary};
pub use options::{OnDrain, Order, OverflowPolicy, Place, SessionMetrics, SessionOptions, WhenFull};
pub use parked::{NotParked, Parked, ParkedAnswer, ParkedId, ParkedInput, ParkedLimits, Parking, park};
pub use payload::{PayloadKind, PcmOptions};
pub use stream::Session;
pub use unread::{Backlog, Unread};
pub use upload::{Upload, UploadOptions, UploadPart, UploadParts, collect_upload};
