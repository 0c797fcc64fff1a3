//! How a session behaves, and where it counts.

use std::{sync::Arc, time::Duration};

use super::payload::{PayloadKind, PcmOptions};
use crate::{
    domain::{Fault, Timestamp},
    drain::SessionGuard,
    shares::Claim,
    telemetry::{GaugeGuard, MethodMetrics, StreamEnd},
};

/// In which order results are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the items came.
    #[default]
    InOrder,
    /// As they are computed.
    AsReady,
}

/// What to do with an item when a limit shared with others is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Stop reading until there is room; the item's deadline still counts.
    Wait,
    /// Refuse it.
    Refuse,
}

/// What becomes of a session's input when the server drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrain {
    /// It is read to its end: all of it is here, or the front end ends it.
    ReadToEnd,
    /// Nothing more is read; items that were read are answered.
    Stop,
}

/// What gives way when items come faster than they are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverflowPolicy {
    /// The sender waits.
    #[default]
    Block,
    /// The oldest waiting item, once a window of them waits.
    DropOldest,
    /// All waiting items but the newest.
    Latest,
}

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How items are sent.
    pub payload: PayloadKind,
    /// What the client says of its raw audio.
    pub pcm: PcmOptions,
    /// Order of results.
    pub order: Order,
    /// Items in flight.
    pub window_items: usize,
    /// Input bytes in flight; one item is always let in.
    pub window_bytes: usize,
    /// Largest item.
    pub max_item_bytes: usize,
    /// Silence after which the session ends; `None` for none.
    pub idle_timeout: Option<Duration>,
    /// Deadline of items that name none.
    pub default_deadline: Option<Duration>,
    /// What gives way when items come faster than they are run.
    pub overflow: OverflowPolicy,
    /// Age at which a result is of no use any more.
    pub max_age: Option<Duration>,
    /// When the whole session ends; no item's deadline is later.
    pub ends_at: Timestamp,
    /// What to do at a shared limit.
    pub when_full: WhenFull,
    /// What becomes of its input when the server drains.
    pub on_drain: OnDrain,
}

/// A stream's place among all that are open; dropping it gives the place to others.
#[derive(Debug)]
pub struct Place {
    _session: SessionGuard,
    /// `None` where streams are not limited.
    _share: Option<Claim>,
}

impl Place {
    /// A place of those that may be open at once.
    pub const fn new(session: SessionGuard, share: Claim) -> Self {
        Self { _session: session, _share: Some(share) }
    }
}

impl From<SessionGuard> for Place {
    fn from(session: SessionGuard) -> Self {
        Self { _session: session, _share: None }
    }
}

/// Where a session counts. Dropping it counts the session's end: cancelled, unless the session came to another.
pub struct SessionMetrics {
    pub(super) method: Arc<MethodMetrics>,
    pub(super) end: StreamEnd,
    _open: GaugeGuard,
}

impl SessionMetrics {
    /// Counts a stream that opens.
    #[must_use]
    pub fn open(method: Arc<MethodMetrics>) -> Self {
        method.streams_opened.increment(1);
        Self { end: StreamEnd::Cancelled, _open: GaugeGuard::new(&method.streams_open), method }
    }

    /// Counts a fault that ends the stream.
    pub(super) fn fault(&mut self, end: StreamEnd, fault: &Fault) {
        self.end = end;
        self.method.fault(fault.kind()).increment(1);
    }
}

impl Drop for SessionMetrics {
    fn drop(&mut self) {
        self.method.ended(self.end).increment(1);
    }
}
