//! What the queue keeps for a stream, and what the stream's head claims.

use std::{
    collections::{BTreeSet, VecDeque, vec_deque},
    time::Duration,
};

use tidemill_domain::Timestamp;
use tidemill_shares::HolderKey;

use crate::{
    batch::Item,
    fair::Claim,
    keys::StreamKey,
    options::{Overflow, StreamOptions},
    ready::{Seat, Standing},
};

/// How long an item without a deadline lets items with one go first. Bounds how long it can starve.
const PATIENCE: Duration = Duration::from_secs(1);

/// An item, and its place in the order of arrival.
#[derive(Debug)]
pub(super) struct QueuedItem<P> {
    pub(super) item: Item<P>,
    pub(super) arrival: u64,
}

/// A stream and its queued items.
pub(super) struct StreamQueue<H, P> {
    pub(super) options: StreamOptions,
    pub(super) handle: H,
    pub(super) items: VecDeque<QueuedItem<P>>,
    /// Each queued item was due no earlier than the one before it, so the head is due first.
    pub(super) monotone: bool,
    pub(super) running: usize,
    pub(super) flow: Standing,
    /// The accounts that its queued items count in, while owners are counted: for all models, and for its own.
    pub(super) holders: [HolderKey; 2],
    /// The moment it is listed under among the alarms; `NEVER` if it is not.
    pub(super) alarm: Timestamp,
    /// When its waiting owner wants to be woken at the latest; `None` if the owner does not wait for room.
    pub(super) waits_until: Option<Timestamp>,
    /// Its number among those waiting; it may remain after its owner has stopped waiting.
    pub(super) waits_as: Option<u64>,
    pub(super) closed: bool,
}

impl<H, P> StreamQueue<H, P> {
    pub(super) fn earliest_due(&self) -> Timestamp {
        if self.monotone {
            return self.items.front().map_or(Timestamp::NEVER, |queued| queued.item.due());
        }
        self.items.iter().map(|queued| queued.item.due()).min().unwrap_or(Timestamp::NEVER)
    }

    pub(super) fn next_alarm(&self) -> Timestamp {
        self.earliest_due().min(self.waits_until.unwrap_or(Timestamp::NEVER))
    }

    pub(super) const fn seat(&self, stream: StreamKey) -> Seat {
        Seat { stream, priority: self.options.priority }
    }

    /// Whether one more item of `bytes` bytes would be too much for a stream that drops.
    pub(super) fn overflows(&self, bytes: usize, items_max: usize, bytes_max: usize) -> bool {
        !self.items.is_empty() && (self.items.len() >= items_max || self.queued_bytes().saturating_add(bytes) > bytes_max)
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.items.iter().map(|queued| queued.item.bytes).sum()
    }

    pub(super) const fn drops(&self) -> bool {
        matches!(self.options.overflow, Overflow::DropOldest { .. })
    }
}

/// Moves a stream to another moment among the alarms.
pub(super) fn move_alarm<H, P>(
    alarms: &mut BTreeSet<(Timestamp, StreamKey)>,
    key: StreamKey,
    stream: &mut StreamQueue<H, P>,
    alarm: Timestamp,
) {
    if alarm == stream.alarm {
        return;
    }
    if stream.alarm != Timestamp::NEVER {
        alarms.remove(&(stream.alarm, key));
    }
    if alarm != Timestamp::NEVER {
        alarms.insert((alarm, key));
    }
    stream.alarm = alarm;
}

/// What the head of a stream claims, if it may run.
pub(super) fn claim_of<H, P>(stream: &StreamQueue<H, P>, stateful: bool) -> Option<Claim> {
    if stateful && stream.running > 0 {
        return None;
    }
    let drops = stream.drops();
    let QueuedItem { item, arrival } = stream.items.front()?;
    let (urgent, strict) = (item.due() != Timestamp::NEVER, drops && item.deadline == Timestamp::NEVER);
    Some(Claim { due: if urgent { item.due() } else { item.arrived + PATIENCE }, arrival: *arrival, urgent, strict })
}

/// Items still queued when their stream was closed.
#[derive(Debug)]
pub struct Cancelled<P>(pub(super) vec_deque::IntoIter<QueuedItem<P>>);

impl<P> Iterator for Cancelled<P> {
    type Item = Item<P>;

    fn next(&mut self) -> Option<Item<P>> {
        self.0.next().map(|queued| queued.item)
    }
}
