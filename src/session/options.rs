//! How a session behaves, and where it is counted.

use std::{sync::Arc, time::Duration};

use super::payload::{PayloadKind, PcmOptions};
use crate::{
    accounts::{Allowance, Claims},
    domain::{Fault, Timestamp},
    drain::SessionGuard,
    shares::Claim,
    telemetry::{GaugeGuard, MethodMetrics, StreamEnd},
};

/// A session that owes more than this takes notice of new limits after it.
const LIMITS_SEEN_AFTER: Duration = Duration::from_secs(1);

/// The order in which results are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The order in which the items arrived.
    #[default]
    InOrder,
    /// The order in which they are computed.
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

/// What happens to a session's input when the server drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrain {
    /// It is read to its end: either all of it is here, or the front end ends it.
    ReadToEnd,
    /// No more is read; items already read are answered.
    Stop,
}

/// What gives way when items arrive faster than they are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverflowPolicy {
    /// The sender waits.
    #[default]
    Block,
    /// The oldest waiting item, once a window of them waits.
    DropOldest,
    /// All waiting items except the newest.
    Latest,
}

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How items are sent.
    pub payload: PayloadKind,
    /// What the client says about its raw audio.
    pub pcm: PcmOptions,
    /// Order of results.
    pub order: Order,
    /// Items in flight.
    pub window_items: usize,
    /// Input bytes in flight; a single item is always let in.
    pub window_bytes: usize,
    /// Largest item.
    pub max_item_bytes: usize,
    /// Silence after which the session ends; `None` for none.
    pub idle_timeout: Option<Duration>,
    /// Deadline for items that name none.
    pub default_deadline: Option<Duration>,
    /// What gives way when items arrive faster than they are run.
    pub overflow: OverflowPolicy,
    /// Age at which a result is no longer of use.
    pub max_age: Option<Duration>,
    /// When the whole session ends; no item's deadline is later than that.
    pub ends_at: Timestamp,
    /// What to do when a shared limit is reached.
    pub when_full: WhenFull,
    /// What happens to its input when the server drains.
    pub on_drain: OnDrain,
    /// How many items and bytes may come in a second; `None` if nothing says so.
    pub allowance: Option<Allowance>,
}

impl SessionOptions {
    /// Charges an item to what may come in a second.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`](crate::domain::FaultKind::Overloaded) if it comes too soon, and the session does not wait.
    #[inline]
    pub(super) fn charge(&self, bytes: usize, now: Timestamp) -> Result<(), Fault> {
        let Some(allowance) = &self.allowance else { return Ok(()) };
        if !self.slows() {
            return allowance.spend(1, bytes as u64, now);
        }
        allowance.force(1, bytes as u64, now);
        Ok(())
    }

    /// How long the session reads nothing, because it has taken more than may come in a second; `None` if it may go on.
    #[inline]
    pub(super) fn owes(&self, now: Timestamp) -> Option<Duration> {
        let allowance = self.allowance.as_ref().filter(|_| self.slows())?;
        allowance.wait(now).map(|wait| wait.min(LIMITS_SEEN_AFTER))
    }

    /// Whether an item that comes too soon is taken all the same, and then no more is read until the rates allow it. Where items may
    /// be dropped, or the caller waits for one answer, it is refused instead.
    fn slows(&self) -> bool {
        self.when_full == WhenFull::Wait && self.overflow == OverflowPolicy::Block
    }
}

/// A stream's place among all open ones; dropping it frees the place for others.
#[derive(Debug)]
pub struct Place {
    _session: SessionGuard,
    /// `None` where streams are not limited.
    _share: Option<Claim>,
    /// `None` where no quota counts them.
    _claims: Option<Claims>,
}

impl Place {
    /// A place among those that may be open at once.
    pub const fn new(session: SessionGuard, share: Claim, claims: Option<Claims>) -> Self {
        Self { _session: session, _share: Some(share), _claims: claims }
    }
}

impl From<SessionGuard> for Place {
    fn from(session: SessionGuard) -> Self {
        Self { _session: session, _share: None, _claims: None }
    }
}

/// Where a session is counted. Dropping it counts the session's end: cancelled, unless it ended otherwise.
pub struct SessionMetrics {
    pub(super) method: Arc<MethodMetrics>,
    pub(super) end: StreamEnd,
    _open: GaugeGuard,
}

impl SessionMetrics {
    /// Counts a stream that is opening.
    #[must_use]
    pub fn open(method: Arc<MethodMetrics>) -> Self {
        method.streams_opened.increment(1);
        Self { end: StreamEnd::Cancelled, _open: GaugeGuard::new(&method.streams_open), method }
    }

    /// Counts all of a call that is answered at once: what it brought, and what it gets.
    pub fn finish_at_once(mut self, bytes_in: usize, bytes_out: usize) {
        self.method.bytes_in.increment(bytes_in as u64);
        self.method.bytes_out.increment(bytes_out as u64);
        self.end = StreamEnd::Finished;
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
