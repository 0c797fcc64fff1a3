//! What the queue holds of a stream, and what the stream's head claims.

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

/// How long an item without a deadline lets items with one go first. Bounds its starvation.
const PATIENCE: Duration = Duration::from_secs(1);

/// An item, and when it came among all.
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
    /// Due times have not fallen from one queued item to the next, so the head has the earliest.
    pub(super) monotone: bool,
    pub(super) running: usize,
    pub(super) flow: Standing,
    /// Whose share its queued items are counted in, while they are: among all, and among those of its model.
    pub(super) holders: [HolderKey; 2],
    /// Under which moment the stream stands in the alarms; `NEVER` if it does not.
    pub(super) alarm: Timestamp,
    /// Set while the stream's owner waits for room: when it wants to be woken at the latest.
    pub(super) waits_until: Option<Timestamp>,
    /// Its number among those that wait; it may be there still when its owner waits no longer.
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

/// Items that were queued when their stream was closed.
#[derive(Debug)]
pub struct Cancelled<P>(pub(super) vec_deque::IntoIter<QueuedItem<P>>);

impl<P> Iterator for Cancelled<P> {
    type Item = Item<P>;

    fn next(&mut self) -> Option<Item<P>> {
        self.0.next().map(|queued| queued.item)
    }
}
