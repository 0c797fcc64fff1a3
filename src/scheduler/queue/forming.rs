//! Which model a free lane runs, and which items.

use std::time::Duration;

use crate::domain::{CloseReason, DropReason, Priority, Timestamp};

use super::{
    CLASSES, LongLaneCall, ModelQueue, QueuedItem, Scheduler, claim_of, long::SHORT_CALLS_MEMORY, move_alarm, turns::Higher,
};
use crate::scheduler::{
    ModelKey, StreamKey,
    batch::{Batch, EndReason, Ended, Entry, LaneKind},
    decide::{Choice, Situation, choose, hopeless_before, when_full},
    fair::Work,
};

/// Ready streams that one decision looks at beyond those it takes. Bounds the time under the lock.
const SCAN_MAX: usize = 512;

/// Lane time that a stream is given in one turn, if its items take less. What waits together then runs together: its answers are
/// one message to wake for and to write, which for cheap items is most of their cost.
const TURN_WORK: Work = 50_000;

/// Streams with long calls that one decision looks behind.
const ASIDE_MAX: usize = 16;

/// What is idle and asks for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    Lane,
    LongLane,
    Both,
}

/// What a look at all models came to.
enum Pick {
    Turn(Turn),
    /// This stream hides others that may go.
    Aside(StreamKey),
    Nothing,
}

/// What runs next.
struct Turn {
    model: ModelKey,
    priority: Priority,
    /// Whether its call is long beside others.
    long: bool,
    lane: LaneKind,
}

impl<H: Clone, P> Scheduler<H, P> {
    /// Forms the next batch for an idle lane, and ends what is hopeless on the way.
    pub fn next_batch(&mut self, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        self.next(now, Idle::Lane, ended)
    }

    /// The same for a lane beside which a long lane is idle as well: [`Batch::lane`] says for which of them the batch is.
    pub fn next_batch_of_two(&mut self, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        self.next(now, Idle::Both, ended)
    }

    /// The same for a long lane alone, if the next call of a model is a long one.
    pub fn next_long_batch(&mut self, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        self.next(now, Idle::LongLane, ended)
    }

    fn next(&mut self, now: Timestamp, idle: Idle, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        let mut aside = Vec::new();
        let batch = self.next_beside(&mut aside, now, idle, ended);
        aside.into_iter().for_each(|stream| self.reseat(stream));
        batch
    }

    /// The same; streams in whose way it is that their next call is long are taken out, and left in `aside`.
    fn next_beside(
        &mut self,
        aside: &mut Vec<StreamKey>,
        now: Timestamp,
        idle: Idle,
        ended: &mut Vec<Ended<H, P>>,
    ) -> Option<Batch<H, P>> {
        let mut repaired = Vec::new();
        loop {
            let turn = match self.pick(now, idle, aside.len() < ASIDE_MAX) {
                Pick::Turn(turn) => turn,
                Pick::Aside(stream) => {
                    self.set_aside(stream);
                    aside.push(stream);
                    continue;
                }
                Pick::Nothing => return None,
            };
            let before = ended.len();
            let key = turn.model;
            let batch = self.form(turn, now, ended);
            if batch.is_some() {
                return batch;
            }
            // Ending items brings the loop to its end. A model that has its turn and neither runs nor ends anything would have the
            // next turn too, and so on, under the device's one lock: what says that it is ready is wrong.
            if ended.len() == before {
                let again = repaired.contains(&key);
                self.repair(key);
                if again {
                    return None;
                }
                repaired.push(key);
            }
        }
    }

    /// Forms a batch of the model whose turn it is. `None` if what was looked at ended instead.
    fn form(&mut self, turn: Turn, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        let Turn { model: key, priority, long, lane } = turn;
        let (_, stream) = self.models[key].ready.first(priority)?;
        let head = self.head(stream)?;
        let (shape, due) = (head.shape, head.due());
        let model = &self.models[key];
        let cost = model.costs.of(shape);
        let hopeless = hopeless_before(now, cost);
        if due < hopeless {
            self.end_late(stream, hopeless - Duration::from_nanos(1), now, ended);
            self.reset_alarm(stream);
            return None;
        }
        // Who lets items wait for a full call does not want it cut up, so that each lane has a part.
        let waits = !model.options.max_delay.is_zero();
        let situation = Situation {
            now,
            cost,
            lanes: if waits { 1 } else { self.lanes },
            ready: model.ready_items(shape),
            running: model.running.saturating_sub(self.on_long_lanes(key)),
            earliest_deadline: due,
        };
        let choice = choose(&situation, |count, deadline| self.has_later(model, count, deadline));
        let late_before = now + cost.call_with_margin(choice.size, 1.0);
        let next_lane_free = self.next_lane_free(now, cost.call_with_margin(choice.size, -1.0));
        let doomed_before = choice.not_before.min(next_lane_free + cost.call_with_margin(1, -1.0));
        if choice.skips()
            && (self.end_doomed(key, doomed_before, now, ended) || self.give_way(key, &choice, late_before, now, ended))
        {
            return None;
        }
        let order = order_from(priority);
        let mut batch = self.take(key, order, choice, hopeless, now, ended).or_else(|| {
            // All heads that one decision looks at were passed over: that must not keep the lane idle.
            let any = Choice { size: 1, not_before: Timestamp::ZERO, reason: CloseReason::Deadline, overloaded: false };
            self.take(key, order, any, hopeless, now, ended)
        })?;
        if batch.reason == CloseReason::LaneFree && waits {
            batch.reason = self.why_not_held(&batch);
        }
        batch.lone = self.calls_end_at.is_empty() && self.long_lane_calls.is_empty() && self.held.items() == 0;
        batch.wide = batch.lone && lane == LaneKind::Ordinary && self.models[key].costs.widens();
        (batch.long, batch.lane) = (long, lane);
        let call = self.models[key].costs.of(batch.shape).call(batch.entries.len());
        batch.ends_at = now + call;
        match lane {
            LaneKind::Ordinary => {
                self.calls_end_at.push(batch.ends_at);
                self.long_calls_running += usize::from(long);
                // Lanes that are lent, or sleep, do not ask when there is nothing.
                if !self.long_lane_calls.is_empty() && !self.leaves_short(now) {
                    self.idle_at = now;
                }
            }
            LaneKind::Long => {
                let (ends_at, late_at, overdue_at) = (batch.ends_at, batch.ends_at + call, batch.ends_at + 9 * call);
                let (model, items) = (key, batch.entries.len());
                if self.long_lane_calls.is_empty() {
                    self.idle_at = now;
                }
                self.long_lane_calls.push(LongLaneCall { model, items, ends_at, late_at, overdue_at });
            }
        }
        Some(batch)
    }

    /// Why a batch that took all there was did not wait for more.
    fn why_not_held(&self, batch: &Batch<H, P>) -> CloseReason {
        let cost = self.models[batch.model].costs.of(batch.shape);
        if batch.entries.len() >= cost.cap() {
            when_full(cost)
        } else if self.draining {
            CloseReason::Drain
        } else {
            CloseReason::Delay
        }
    }

    /// The model whose turn it is, with the priority of its most urgent stream, and which lane its call is for.
    fn pick(&mut self, now: Timestamp, idle: Idle, may_set_aside: bool) -> Pick {
        let (mut kept_free, mut picked) = (false, Pick::Nothing);
        if idle != Idle::LongLane && self.owes_a_core(now) {
            self.kept_free_until = Some(now + SHORT_CALLS_MEMORY);
            return Pick::Nothing;
        }
        'found: for priority in order_from(self.first_priority(now)) {
            for (_, key) in self.turns[priority as usize].iter() {
                let model = &self.models[key];
                if self.held_until(model).is_some_and(|until| until > now) {
                    continue;
                }
                let long = self.is_long(model, priority, now);
                let lane = match (long, idle) {
                    (true, Idle::Both | Idle::LongLane) => LaneKind::Long,
                    (false, Idle::LongLane) => continue,
                    (true, Idle::Lane) if !self.may_fill_lane(now) => {
                        if may_set_aside && let Some(stream) = self.stands_before_shorter(model, priority, now) {
                            return Pick::Aside(stream);
                        }
                        kept_free = true;
                        continue;
                    }
                    (_, Idle::Lane | Idle::Both) => LaneKind::Ordinary,
                };
                picked = Pick::Turn(Turn { model: key, priority, long, lane });
                break 'found;
            }
        }
        if idle != Idle::LongLane {
            let finds_nothing = matches!(picked, Pick::Nothing);
            self.kept_free_until = (kept_free && finds_nothing).then(|| now + SHORT_CALLS_MEMORY);
            if finds_nothing {
                self.idle_at = now;
            }
        }
        picked
    }

    /// Whether `count` ready items are not due before this moment.
    fn has_later(&self, model: &ModelQueue, count: usize, due: Timestamp) -> bool {
        let mut found = 0;
        for stream in model.ready.not_due_before(due) {
            found += if model.options.stateful { 1 } else { self.streams[stream].items.len() };
            if found >= count {
                return true;
            }
        }
        false
    }

    /// When another lane should be free, at the earliest, once a call that takes `call` has the idle one.
    fn next_lane_free(&self, now: Timestamp, call: Duration) -> Timestamp {
        if self.calls_end_at.len() + 1 < self.lanes {
            return now;
        }
        let others = self.calls_end_at.iter().map(|ends_at| (*ends_at).max(now));
        others.chain([now + call]).min().unwrap_or(now)
    }

    /// Ends heads that are passed over now and cannot make a call of their own on the next lane either. So they do not stand before
    /// items of their streams that can. Says whether there were any.
    fn end_doomed(&mut self, key: ModelKey, due_before: Timestamp, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> bool {
        let first = ended.len();
        for priority in Priority::ALL {
            while let Some((claim, stream)) = self.models[key].ready.first(priority)
                && claim.urgent
                && claim.due < due_before
            {
                self.end_late(stream, due_before - Duration::from_nanos(1), now, ended);
                self.reset_alarm(stream);
            }
        }
        ended.len() > first
    }

    /// Ends heads that are passed over and stand before a successor of their stream that need not be. Says whether there were any.
    ///
    /// Stateful streams lose theirs only where they allow it; such a stream would else stay late for ever. Others lose theirs when so
    /// much is ready that they would be passed over until they expire.
    fn give_way(
        &mut self,
        key: ModelKey,
        choice: &Choice,
        late_before: Timestamp,
        now: Timestamp,
        ended: &mut Vec<Ended<H, P>>,
    ) -> bool {
        let stateful = self.models[key].options.stateful;
        let gives_way = |stream: &StreamKey| {
            let stream = &self.streams[*stream];
            let due = stream.items[0].item.due();
            let is_late =
                if stateful { stream.drops() && due < late_before } else { choice.overloaded && due < choice.not_before };
            is_late && stream.items.len() > 1
        };
        let late: Vec<StreamKey> = self.models[key].ready.iter().take(SCAN_MAX).filter(gives_way).collect();
        for stream in &late {
            let reason =
                if stateful { EndReason::Dropped(DropReason::Late) } else { self.streams[*stream].items[0].item.lateness() };
            self.end_head(*stream, reason, now, ended);
        }
        !late.is_empty()
    }

    /// Takes the chosen items. What is hopeless on the way is ended, wherever it stands: it must never run.
    fn take(
        &mut self,
        key: ModelKey,
        order: [Priority; CLASSES],
        choice: Choice,
        hopeless: Timestamp,
        now: Timestamp,
        ended: &mut Vec<Ended<H, P>>,
    ) -> Option<Batch<H, P>> {
        let Choice { size, not_before, reason, .. } = choice;
        let model = &mut self.models[key];
        let mut forming = Forming::new(size, model.options.max_call_bytes, model.options.padding_waste_max);
        let mut entries: Vec<Entry<H, P>> = Vec::with_capacity(size);
        let (mut passed_over, first_ended) = (Vec::new(), ended.len());
        let mut shape = crate::scheduler::ShapeKey::default();
        let slack = model.slack;
        let (mut work, mut turn) = (0, 1);
        'classes: for priority in order {
            while entries.len() < size
                && passed_over.len() < SCAN_MAX
                && let Some(stream_key) = model.ready.pop(priority, not_before)
            {
                let stream = &mut self.streams[stream_key];
                stream.flow.set_out();
                let (seat, [of_all, of_model]) = (stream.seat(stream_key), stream.holders);
                while let Some(head) = stream.items.front()
                    && head.item.due() < hopeless
                    && let Some(QueuedItem { item, .. }) = stream.items.pop_front()
                {
                    let reason = item.lateness();
                    self.held.remove(of_all, item.bytes);
                    model.held.remove(of_model, item.bytes);
                    ended.push(Ended { handle: stream.handle.clone(), item, reason });
                }
                let first = entries.len();
                let fit = loop {
                    let Some(head) = stream.items.front() else { break None };
                    if entries.is_empty() {
                        shape = head.item.shape;
                    }
                    let fit = if head.item.shape != shape {
                        Fit::OtherShape
                    } else if head.item.due() < not_before {
                        Fit::TooTight
                    } else {
                        forming.fit(head.item.bytes, head.item.length)
                    };
                    if fit != Fit::Fits {
                        break Some(fit);
                    }
                    let Some(QueuedItem { item, .. }) = stream.items.pop_front() else { break None };
                    if entries.is_empty() {
                        work = work_of(&model.costs.of(shape).call(size), size);
                        turn = if model.options.stateful { 1 } else { turn_items(work, size) };
                    }
                    forming.add(item.bytes, item.length);
                    self.held.remove(of_all, item.bytes);
                    model.held.remove(of_model, item.bytes);
                    stream.running += 1;
                    let handle = stream.handle.clone();
                    entries.push(Entry { stream: stream_key, priority, handle, item });
                    // Items with deadlines keep to their order among all streams.
                    let goes_on = entries.len() < size.min(first + turn)
                        && stream.items.front().is_some_and(|next| next.item.due() == Timestamp::NEVER);
                    if !goes_on {
                        break Some(Fit::Fits);
                    }
                };
                let taken = entries.len() - first;
                if taken > 0 {
                    model.ready.charge(&mut stream.flow, seat, work * taken as Work);
                }
                let alarm = stream.next_alarm();
                move_alarm(&mut self.alarms, stream_key, stream, alarm);
                match fit {
                    Some(Fit::OtherShape | Fit::TooTight) => {
                        model.ready.pass_over(&stream.flow, seat);
                        passed_over.push(stream_key);
                    }
                    _ => match claim_of(stream, model.options.stateful) {
                        Some(claim) => model.ready.put_back(&mut stream.flow, seat, claim, slack),
                        None => model.ready.depart(&mut stream.flow, seat),
                    },
                }
                match fit {
                    Some(Fit::OtherShape) => forming.shape_ends = true,
                    Some(Fit::TooManyBytes) => {
                        forming.bytes_end = true;
                        break 'classes;
                    }
                    _ => {}
                }
            }
        }
        for stream_key in passed_over {
            let stream = &mut self.streams[stream_key];
            if let Some(claim) = claim_of(stream, model.options.stateful) {
                let seat = stream.seat(stream_key);
                model.ready.place(&mut stream.flow, seat, claim, slack);
            }
        }
        let cap = model.costs.of(shape).cap();
        model.running += entries.len();
        let leaving = ended[first_ended..].iter().map(|late| late.item.shape);
        for shape in leaving.chain(entries.iter().map(|entry| entry.item.shape)) {
            model.costs.pop(shape);
        }
        for late in &ended[first_ended..] {
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
            self.settle_turn(priority, (taken, work), &entries, &mut higher, now);
        }
        if entries.is_empty() {
            return None;
        }
        let reason = forming.reason(entries.len()).unwrap_or(reason);
        let (lone, wide, long, lane) = (false, false, false, LaneKind::Ordinary);
        Some(Batch { model: key, shape, entries, reason, cap, lone, wide, long, lane, ends_at: now })
    }
}

/// An item's share of a call.
fn work_of(call: &Duration, size: usize) -> Work {
    Work::try_from(call.as_nanos() / size.max(1) as u128).unwrap_or(Work::MAX)
}

/// Items that a stream may have in one turn, of a call of `size` items that take `work` each.
fn turn_items(work: Work, size: usize) -> usize {
    usize::try_from(TURN_WORK / work.max(1)).unwrap_or(usize::MAX).clamp(1, size.max(1))
}

/// `first`, then the others, most urgent first.
fn order_from(first: Priority) -> [Priority; CLASSES] {
    let mut order = Priority::ALL;
    order[..=first as usize].rotate_right(1);
    order
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

    fn add(&mut self, bytes: usize, length: u32) {
        self.items += 1;
        self.bytes += bytes;
        self.elements += u64::from(length);
        self.longest = self.longest.max(length);
    }

    /// Why the batch has fewer items than were chosen.
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
    fn the_priority_whose_turn_it_is_goes_first_and_the_rest_keep_their_order() {
        use Priority::{High, Low, Normal};
        assert_eq!(order_from(High), [High, Normal, Low]);
        assert_eq!(order_from(Normal), [Normal, High, Low]);
        assert_eq!(order_from(Low), [Low, High, Normal]);
    }

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
