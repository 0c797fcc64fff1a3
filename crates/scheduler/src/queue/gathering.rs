//! The items of a batch: taken from the streams in the order of their turns, and booked.

use std::time::Duration;

use tidemill_domain::{CloseReason, Priority, Timestamp};
use tidemill_shares::HolderKey;

use super::{
    Queue,
    model::{CLASSES, ModelQueue},
    stream::{QueuedItem, StreamQueue, claim_of, move_alarm},
    turns::Higher,
};
use crate::{
    admission::Held,
    batch::{Ended, Entry},
    fair::Work,
    keys::{ModelKey, ShapeKey, StreamKey},
};

/// Ready streams that one decision looks at beyond those it takes. Bounds the time under the lock.
pub(super) const SCAN_MAX: usize = 512;

/// Lane time that a stream is given in one turn, if its items take less. What waits together then runs together: its answers are
/// one message to wake for and to write, which for cheap items is most of their cost.
const TURN_WORK: Work = 50_000;

/// What a batch is to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aim {
    /// From which priority to take first.
    pub(super) order: [Priority; CLASSES],
    /// As many items at most.
    pub(super) size: usize,
    /// Items that are due before this are passed over.
    pub(super) not_before: Timestamp,
    /// Items that are due before this are ended.
    pub(super) hopeless: Timestamp,
}

/// The items of a batch.
pub(super) struct Gathered<H, P> {
    pub(super) shape: ShapeKey,
    /// At least one.
    pub(super) entries: Vec<Entry<H, P>>,
    /// Why it has fewer than it was to have, if that is no matter of time.
    pub(super) ended_by: Option<CloseReason>,
    /// Lane time of each item.
    work: Work,
}

impl<H: Clone, P> Queue<H, P> {
    /// Takes the items of a model that its next call is to have. What is hopeless on the way is ended, wherever it stands: it must never
    /// run. `None` if there is nothing else.
    pub(super) fn take(
        &mut self,
        key: ModelKey,
        aim: &Aim,
        now: Timestamp,
        ended: &mut Vec<Ended<H, P>>,
    ) -> Option<Gathered<H, P>> {
        let first_ended = ended.len();
        let gathered = self.gather(key, aim, ended);
        self.book(key, &gathered, &ended[first_ended..], now);
        (!gathered.entries.is_empty()).then_some(gathered)
    }

    /// Takes items, stream by stream. Their streams stand where they belong afterwards; all else is still to be booked.
    fn gather(&mut self, key: ModelKey, aim: &Aim, ended: &mut Vec<Ended<H, P>>) -> Gathered<H, P> {
        let Self { models, streams, alarms, held, .. } = self;
        let mut gathering = Gathering::new(&mut models[key], held, aim, ended);
        for priority in aim.order {
            while let Some(stream_key) = gathering.next_stream(priority) {
                let stream = &mut streams[stream_key];
                gathering.visit(stream_key, stream);
                let alarm = stream.next_alarm();
                move_alarm(alarms, stream_key, stream, alarm);
            }
        }
        for stream_key in std::mem::take(&mut gathering.passed_over) {
            gathering.seat_again(stream_key, &mut streams[stream_key]);
        }
        gathering.end()
    }

    /// Books the items that were taken and those that were ended: with the model, its costs, and the priorities.
    fn book(&mut self, key: ModelKey, gathered: &Gathered<H, P>, ended: &[Ended<H, P>], now: Timestamp) {
        let Gathered { entries, work, .. } = gathered;
        let model = &mut self.models[key];
        model.running += entries.len();
        let leaving = ended.iter().map(|late| late.item.shape);
        for shape in leaving.chain(entries.iter().map(|entry| entry.item.shape)) {
            model.costs.pop(shape);
        }
        for late in ended {
            self.count_end(key, &late.item, late.reason, now);
        }
        let mut higher = Higher::default();
        for priority in Priority::ALL {
            let class = priority as usize;
            let taken = entries.iter().filter(|entry| entry.priority == priority).count() as Work;
            let flow = &mut self.models[key].flows[class];
            let moves = taken > 0 || flow.is_placed();
            if taken > 0 {
                self.turns[class].take_charged(flow, work * taken);
            }
            if moves {
                self.follow(key, priority, false);
            }
            self.settle_turn(priority, (taken, *work), entries, &mut higher, now);
        }
    }
}

/// A batch of one model in the making.
struct Gathering<'a, H, P> {
    model: &'a mut ModelQueue,
    held: &'a mut Held,
    aim: &'a Aim,
    ended: &'a mut Vec<Ended<H, P>>,
    forming: Forming,
    entries: Vec<Entry<H, P>>,
    /// The first item's, and so all items'.
    shape: ShapeKey,
    /// Lane time of each item.
    work: Work,
    /// Items that a stream may have in one turn.
    turn: usize,
    /// Streams that come back once the batch is formed.
    passed_over: Vec<StreamKey>,
}

impl<'a, H: Clone, P> Gathering<'a, H, P> {
    fn new(model: &'a mut ModelQueue, held: &'a mut Held, aim: &'a Aim, ended: &'a mut Vec<Ended<H, P>>) -> Self {
        let forming = Forming::new(aim.size, model.options.max_call_bytes, model.options.padding_waste_max);
        let (entries, shape) = (Vec::with_capacity(aim.size), ShapeKey::default());
        Self { model, held, aim, ended, forming, entries, shape, work: 0, turn: 1, passed_over: Vec::new() }
    }

    /// The stream of this priority whose turn it is, if there is room for more.
    fn next_stream(&mut self, priority: Priority) -> Option<StreamKey> {
        let goes_on = self.entries.len() < self.aim.size && self.passed_over.len() < SCAN_MAX && !self.forming.bytes_end;
        if goes_on { self.model.ready.pop(priority, self.aim.not_before) } else { None }
    }

    /// Takes what fits from the front of a stream that was given out, and puts it where it belongs.
    fn visit(&mut self, key: StreamKey, stream: &mut StreamQueue<H, P>) {
        stream.flow.set_out();
        self.end_hopeless(stream);
        let first = self.entries.len();
        let fit = self.fill(key, stream);
        let (taken, seat) = (self.entries.len() - first, stream.seat(key));
        let ready = &mut self.model.ready;
        if taken > 0 {
            ready.charge(&mut stream.flow, seat, self.work * taken as Work);
        }
        match fit {
            Some(Fit::OtherShape | Fit::TooTight) => {
                ready.pass_over(&stream.flow, seat);
                self.passed_over.push(key);
            }
            _ => match claim_of(stream, self.model.options.stateful) {
                Some(claim) => ready.put_back(&mut stream.flow, seat, claim, self.model.slack),
                None => ready.depart(&mut stream.flow, seat),
            },
        }
        self.forming.shape_ends |= fit == Some(Fit::OtherShape);
        self.forming.bytes_end |= fit == Some(Fit::TooManyBytes);
    }

    /// Ends the items at the front of a stream that would not be over in time.
    fn end_hopeless(&mut self, stream: &mut StreamQueue<H, P>) {
        while let Some(head) = stream.items.front()
            && head.item.due() < self.aim.hopeless
            && let Some(QueuedItem { item, .. }) = stream.items.pop_front()
        {
            let reason = item.lateness();
            self.let_go(stream.holders, item.bytes);
            self.ended.push(Ended { handle: stream.handle.clone(), item, reason });
        }
    }

    /// Takes items from the front of a stream for as long as it has its turn. Says how the last one fitted; `None` if none is left.
    fn fill(&mut self, key: StreamKey, stream: &mut StreamQueue<H, P>) -> Option<Fit> {
        let (first, size) = (self.entries.len(), self.aim.size);
        loop {
            let head = &stream.items.front()?.item;
            if self.entries.is_empty() {
                self.shape = head.shape;
            }
            let fit = if head.shape != self.shape {
                Fit::OtherShape
            } else if head.due() < self.aim.not_before {
                Fit::TooTight
            } else {
                self.forming.fit(head.bytes, head.length)
            };
            if fit != Fit::Fits {
                return Some(fit);
            }
            let QueuedItem { item, .. } = stream.items.pop_front()?;
            if self.entries.is_empty() {
                self.work = work_of(&self.model.costs.of(self.shape).call(size), size);
                self.turn = if self.model.options.stateful { 1 } else { turn_items(self.work, size) };
            }
            self.forming.add(item.bytes, item.length);
            self.let_go(stream.holders, item.bytes);
            stream.running += 1;
            let (priority, handle) = (stream.options.priority, stream.handle.clone());
            self.entries.push(Entry { stream: key, priority, handle, item });
            // Items with deadlines keep to their order among all streams.
            let goes_on = self.entries.len() < size.min(first + self.turn)
                && stream.items.front().is_some_and(|next| next.item.due() == Timestamp::NEVER);
            if !goes_on {
                return Some(Fit::Fits);
            }
        }
    }

    /// Gives back the room of an item that is queued no longer.
    fn let_go(&mut self, [of_all, of_model]: [HolderKey; 2], bytes: usize) {
        self.held.remove(of_all, bytes);
        self.model.held.remove(of_model, bytes);
    }

    /// Puts a stream back that was passed over.
    fn seat_again(&mut self, key: StreamKey, stream: &mut StreamQueue<H, P>) {
        if let Some(claim) = claim_of(stream, self.model.options.stateful) {
            let seat = stream.seat(key);
            self.model.ready.place(&mut stream.flow, seat, claim, self.model.slack);
        }
    }

    fn end(self) -> Gathered<H, P> {
        let ended_by = self.forming.reason(self.entries.len());
        Gathered { shape: self.shape, entries: self.entries, ended_by, work: self.work }
    }
}

/// An item's share of a call.
#[inline]
fn work_of(call: &Duration, size: usize) -> Work {
    Work::try_from(call.as_nanos() / size.max(1) as u128).unwrap_or(Work::MAX)
}

/// Items that a stream may have in one turn, of a call of `size` items that take `work` each.
#[inline]
fn turn_items(work: Work, size: usize) -> usize {
    usize::try_from(TURN_WORK / work.max(1)).unwrap_or(usize::MAX).clamp(1, size.max(1))
}

/// Whether an item may join the batch that is being formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Fits,
    OtherShape,
    TooTight,
    TooManyBytes,
}

/// What a batch holds so far, and what it may hold.
struct Forming {
    size: usize,
    bytes_max: usize,
    waste_max: Option<f64>,
    items: usize,
    bytes: usize,
    elements: u64,
    longest: u32,
    shape_ends: bool,
    bytes_end: bool,
}

impl Forming {
    const fn new(size: usize, bytes_max: usize, waste_max: Option<f64>) -> Self {
        Self { size, bytes_max, waste_max, items: 0, bytes: 0, elements: 0, longest: 0, shape_ends: false, bytes_end: false }
    }

    #[inline]
    fn fit(&self, bytes: usize, length: u32) -> Fit {
        if self.items == 0 {
            return Fit::Fits;
        }
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Fit::TooManyBytes;
        }
        let padded = (self.items as u64 + 1) * u64::from(self.longest.max(length));
        let waste = 1.0 - (self.elements + u64::from(length)) as f64 / padded.max(1) as f64;
        if padded > 0 && self.waste_max.is_some_and(|waste_max| waste > waste_max) { Fit::OtherShape } else { Fit::Fits }
    }

    #[inline]
    fn add(&mut self, bytes: usize, length: u32) {
        self.items += 1;
        self.bytes += bytes;
        self.elements += u64::from(length);
        self.longest = self.longest.max(length);
    }

    /// Why the batch has fewer items than were chosen, if that is no matter of time.
    const fn reason(&self, items: usize) -> Option<CloseReason> {
        if self.bytes_end {
            Some(CloseReason::Bytes)
        } else if self.shape_ends && items < self.size {
            Some(CloseReason::Shape)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_would_make_the_batch_mostly_padding_does_not_join() {
        let mut forming = Forming::new(8, usize::MAX, Some(0.5));
        assert_eq!(forming.fit(1, 100), Fit::Fits);
        forming.add(1, 100);
        assert_eq!(forming.fit(1, 10), Fit::Fits, "a waste of 0.45");
        forming.add(1, 10);
        assert_eq!(forming.fit(1, 10), Fit::OtherShape, "a waste of 0.6");
        assert_eq!(forming.fit(1, 60), Fit::Fits);
    }
}
