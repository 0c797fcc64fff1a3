//! Which model a free lane runs, and which items.

use std::time::Duration;

use tidemill_domain::{CloseReason, DropReason, Priority, Timestamp};

use super::{
    Queue,
    gathering::{Aim, Gathered, SCAN_MAX},
    long::SHORT_CALLS_MEMORY,
    model::{CLASSES, ModelQueue},
};
use crate::{
    batch::{Batch, EndReason, Ended, LaneKind},
    calls::Call,
    decide::{Choice, Situation, choose, hopeless_before, when_full},
    keys::{ModelKey, ShapeKey, StreamKey},
};

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
    /// Whether its call is long compared with others.
    long: bool,
    lane: LaneKind,
}

/// The batch to form, and which heads it leaves behind.
struct Plan {
    choice: Choice,
    /// A stateful stream that drops loses a head that is due before.
    late_before: Timestamp,
    /// A head that is due before cannot make a call of its own on the next lane either.
    doomed_before: Timestamp,
}

impl<H: Clone, P> Queue<H, P> {
    /// Forms the next batch for an idle lane, and ends what is hopeless on the way.
    pub fn next_batch(&mut self, now: Timestamp, ended: &mut Vec<Ended<H, P>>) -> Option<Batch<H, P>> {
        self.next(now, Idle::Lane, ended)
    }

    /// The same for a lane while a long lane is idle as well: [`Batch::lane`] says for which of them the batch is.
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

    /// The same; streams that hide others because their next call is long are taken out, and left in `aside`.
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
        let key = turn.model;
        let (_, stream) = self.models[key].ready.first(turn.priority)?;
        let head = self.head(stream)?;
        let (shape, due) = (head.shape, head.due());
        let model = &self.models[key];
        let hopeless = hopeless_before(now, model.costs.of(shape));
        if due < hopeless {
            self.end_late(stream, hopeless - Duration::from_nanos(1), now, ended);
            self.reset_alarm(stream);
            return None;
        }
        // A model that lets items wait for a full call does not want it cut up, so that each lane has a part.
        let waits = !model.options.max_delay.is_zero();
        let Plan { choice, late_before, doomed_before } = self.plan(key, shape, due, if waits { 1 } else { self.lanes }, now);
        if choice.skips()
            && (self.end_doomed(key, doomed_before, now, ended) || self.give_way(key, &choice, late_before, now, ended))
        {
            return None;
        }
        let aim = Aim { order: order_from(turn.priority), size: choice.size, not_before: choice.not_before, hopeless };
        let mut chosen = choice.reason;
        let mut batch = self.take(key, &aim, now, ended);
        if batch.is_none() {
            // All heads that one decision looks at were passed over: that must not keep the lane idle.
            chosen = CloseReason::Deadline;
            batch = self.take(key, &Aim { size: 1, not_before: Timestamp::ZERO, ..aim }, now, ended);
        }
        let batch = batch?;
        let reason = match batch.ended_by.unwrap_or(chosen) {
            CloseReason::LaneFree if waits => self.why_not_held(key, &batch),
            reason => reason,
        };
        Some(self.begin(turn, batch, reason, now))
    }

    /// How many items of this shape, of which the first is due then, make the next call of `lanes` lanes, and which of them cannot wait
    /// for it.
    fn plan(&self, key: ModelKey, shape: ShapeKey, due: Timestamp, lanes: usize, now: Timestamp) -> Plan {
        let model = &self.models[key];
        let cost = model.costs.of(shape);
        let situation = Situation {
            now,
            cost,
            lanes,
            ready: model.ready_items(shape),
            running: model.running.saturating_sub(self.on_long_lanes(key)),
            earliest_deadline: due,
        };
        let choice = choose(&situation, |count, deadline| self.has_later(model, count, deadline));
        let late_before = now + cost.call_with_margin(choice.size, 1.0);
        let next_lane_free = self.next_lane_free(now, cost.call_with_margin(choice.size, -1.0));
        let doomed_before = choice.not_before.min(next_lane_free + cost.call_with_margin(1, -1.0));
        Plan { choice, late_before, doomed_before }
    }

    /// Begins the call of a batch.
    fn begin(&mut self, turn: Turn, batch: Gathered<H, P>, reason: CloseReason, now: Timestamp) -> Batch<H, P> {
        let Turn { model: key, long, lane, .. } = turn;
        let Gathered { shape, entries, .. } = batch;
        let lone = self.calls.is_empty() && self.held.items() == 0;
        let costs = &mut self.models[key].costs;
        let wide = lone && lane == LaneKind::Ordinary && costs.widens();
        let cost = costs.of(shape);
        let (cap, takes) = (cost.cap(), cost.call(entries.len()));
        let (number, items, ends_at) = (self.calls.next_number(), entries.len(), now + takes);
        let long_lanes_rest = self.calls.on_long_lanes().is_empty();
        self.calls.begin(Call { number, model: key, shape, items, lone, wide, long, lane, ends_at, takes });
        let is_idle = match lane {
            // Lanes that are lent, or sleep, do not ask when there is nothing.
            LaneKind::Ordinary => !long_lanes_rest && !self.leaves_short(now),
            LaneKind::Long => long_lanes_rest,
        };
        if is_idle {
            self.idle_at = now;
        }
        Batch { call: number, model: key, shape, entries, reason, cap, lone, wide, long, lane, ends_at }
    }

    /// Why a batch that took all there was did not wait for more.
    fn why_not_held(&self, key: ModelKey, batch: &Gathered<H, P>) -> CloseReason {
        let cost = self.models[key].costs.of(batch.shape);
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
        let running = self.calls.on_lanes();
        if running.len() + 1 < self.lanes {
            return now;
        }
        let others = running.iter().map(|call| call.ends_at.max(now));
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
    /// Stateful streams lose theirs only where they allow it; otherwise such a stream would stay late for good. Others lose theirs when so
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
}

/// `first`, then the others, most urgent first.
#[inline]
fn order_from(first: Priority) -> [Priority; CLASSES] {
    let mut order = Priority::ALL;
    order[..=first as usize].rotate_right(1);
    order
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
}
