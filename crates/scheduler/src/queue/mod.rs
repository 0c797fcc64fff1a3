//! The queue: streams with work, and the batches that lanes take from it.
//!
//! A plain value. It reads no clock, starts nothing and waits for nothing: each call is given `now` and returns what has to be
//! done. `H` is what the caller needs to reach a stream's owner, `P` what it needs to run an item; the queue looks at neither.
//!
//! # Invariants
//! - Items of a stream leave in the order they arrived, unless they end first.
//! - At most one item of a stateful stream is in a batch or running.
//! - Each item leaves exactly once: in a batch, as [`Ended`], or with its closed stream.
//! - A model is present for as long as it has a stream.
//! - A model that gets a turn has something to run or to end. If this fails, its turn and its ready streams are rebuilt from what
//!   its streams hold ([`Queue::take_repair`]), once per decision, so that no lane searches for ever.
//! - A priority with work is passed over for at most [`STARVATION_MAX`] at a time, or for one call if that takes longer.
//! - An owner that has used up its share of the queue leaves room for those that have not; see [`tidemill_shares`].

mod forming;
mod gathering;
mod holding;
mod long;
mod model;
mod models;
mod owners;
mod repair;
mod stream;
mod turns;
mod waiting;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use slotmap::SlotMap;
use tidemill_domain::{DropReason, Outcome, Priority, Timestamp};
use tidemill_shares::{Path, Turns};

pub use stream::Cancelled;

use model::{CLASSES, ModelQueue};
use stream::{QueuedItem, StreamQueue, claim_of, move_alarm};

use super::{
    admission::{Admission, Held, Reached, Refusal, time_to_drain},
    batch::{CallReport, EndReason, Ended, Item, LaneKind},
    calls::Calls,
    fair::{Claim, FairQueue},
    keys::{ModelKey, StreamKey},
    options::{Overflow, StreamOptions},
    ready::Standing,
    statistics::Executed,
};

/// How long a priority with work may be passed over.
pub const STARVATION_MAX: Duration = Duration::from_secs(1);

/// A queue that contradicted itself and was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// Whose queue it was.
    pub model: ModelKey,
    /// How often it has happened to that model.
    pub times: u64,
}

/// All queues of one device. See the module's text.
pub struct Queue<H, P> {
    lanes: usize,
    admission: Admission,
    models: SlotMap<ModelKey, ModelQueue>,
    streams: SlotMap<StreamKey, StreamQueue<H, P>>,
    /// Models with ready streams, by the streams' priority.
    turns: [FairQueue<ModelKey>; CLASSES],
    /// Since when higher priorities have gone before one that has work; `NEVER` if none has since its own last turn.
    passed_over_since: [Timestamp; CLASSES],
    /// Lane time owed to a priority for what others' higher priorities took; see [`turns`].
    owed: [i64; CLASSES],
    alarms: BTreeSet<(Timestamp, StreamKey)>,
    /// Streams whose owners are waiting for room, by priority.
    waiting: [Turns<Path, StreamKey>; CLASSES],
    held: Held,
    arrivals: u64,
    calls: Calls,
    /// Lanes that run only long calls, and leave the cores to the others.
    long_lanes: usize,
    /// When the lanes last left no short call waiting; it matters only while calls run on long lanes.
    idle_at: Timestamp,
    /// Set while a lane is kept free for short calls: when to look again.
    kept_free_until: Option<Timestamp>,
    /// The model whose queue was repaired last, until this is reported.
    repaired: Option<ModelKey>,
    draining: bool,
}

impl<H: Clone, P> Queue<H, P> {
    /// An empty queue for `lanes` lanes.
    #[must_use]
    pub fn new(lanes: usize, admission: Admission) -> Self {
        Self {
            lanes: lanes.max(1),
            admission,
            models: SlotMap::with_key(),
            streams: SlotMap::with_key(),
            turns: Default::default(),
            passed_over_since: [Timestamp::NEVER; CLASSES],
            owed: [0; CLASSES],
            alarms: BTreeSet::new(),
            waiting: Default::default(),
            held: admission.of_all(),
            arrivals: 0,
            calls: Calls::default(),
            long_lanes: 0,
            idle_at: Timestamp::ZERO,
            kept_free_until: None,
            repaired: None,
            draining: false,
        }
    }

    /// The same, with `long_lanes` long lanes, for calls that are long compared with others.
    #[must_use]
    pub fn with_long_lanes(self, long_lanes: usize) -> Self {
        Self { long_lanes, ..self }
    }

    /// From now on there are no long lanes; what is left goes to ordinary lanes.
    pub const fn end_long_lanes(&mut self) {
        self.long_lanes = 0;
    }

    /// Opens a stream. `None` if there is no such model, or it is retired.
    pub fn open(&mut self, options: StreamOptions, handle: H) -> Option<StreamKey> {
        let model = self.models.get_mut(options.model).filter(|model| !model.retired)?;
        model.streams += 1;
        let path = options.path();
        let holders = [self.held.enter(&path), model.held.enter(&path)];
        Some(self.streams.insert(StreamQueue {
            options,
            handle,
            items: VecDeque::new(),
            monotone: true,
            running: 0,
            flow: Standing::new(path, options.weight),
            holders,
            alarm: Timestamp::NEVER,
            waits_until: None,
            waits_as: None,
            closed: false,
        }))
    }

    /// Queues an item. Whatever its stream gives up for it is put into `ended`.
    ///
    /// # Errors
    /// Returns the item with the limit that was reached. Nothing is counted in that case: the owner either waits
    /// ([`Queue::wait_for_room`]) or refuses it for good ([`Queue::end_unqueued`]).
    pub fn push(&mut self, key: StreamKey, item: Item<P>, ended: &mut Vec<Ended<H, P>>) -> Result<(), (Item<P>, Refusal)> {
        let Some(stream) = self.streams.get(key) else {
            let gone = Refusal { limit: "stream", value: 0, by_share: false, retry_after: Duration::ZERO };
            return Err((item, gone));
        };
        let (model_key, drops) = (stream.options.model, stream.drops());
        // An owner waiting for room does not overtake those that have waited longer.
        let (waits, holders) = (stream.waits_until.is_some(), stream.holders);
        // Items dropped to make room have waited until the newer item arrived.
        let now = item.arrived;
        if let Overflow::DropOldest { items_max, bytes_max } = stream.options.overflow {
            while self.streams[key].overflows(item.bytes, items_max, bytes_max) {
                self.end_head(key, EndReason::Dropped(DropReason::Overflow), now, ended);
            }
        }
        while waits || !self.held.has_room(item.bytes) || !self.models[model_key].held.has_room(item.bytes) {
            let model = &self.models[model_key];
            let reached = self.admission.refuses(&self.held, &model.held, holders, item.bytes);
            let Some(Reached { limit, value, by_share }) = reached.or_else(|| waits.then(|| self.admission.waits())) else {
                break;
            };
            // A stream that may drop gives up its own oldest item for its newest before asking for room that others hold.
            if !drops || self.streams[key].items.is_empty() {
                let retry_after = time_to_drain(self.held.items(), model.costs.base(), self.lanes);
                return Err((item, Refusal { limit, value, by_share, retry_after }));
            }
            self.end_head(key, EndReason::Dropped(DropReason::Overflow), now, ended);
        }
        let (stream, model) = (&mut self.streams[key], &mut self.models[model_key]);
        model.ledger.receive();
        let model_changes = model.held.add(holders[1], item.bytes);
        model.costs.push(item.shape, item.bytes, item.arrived);
        let changes = self.held.add(holders[0], item.bytes);
        self.arrivals += 1;
        let last = stream.items.back().map(|queued| queued.item.due());
        stream.monotone = last.is_none_or(|last| stream.monotone && last <= item.due());
        let due = item.due();
        stream.items.push_back(QueuedItem { item, arrival: self.arrivals });
        let alarm = stream.alarm;
        if stream.items.len() == 1 {
            self.seat(key);
        }
        if due < alarm {
            self.set_alarm(key, due);
        }
        if changes {
            self.count_all_owners();
        }
        if model_changes {
            self.count_owners_of(model_key);
        }
        Ok(())
    }

    /// Counts an item that was refused, expired or dropped before it could be queued, having waited `waited`.
    pub fn end_unqueued(&mut self, model: ModelKey, outcome: Outcome, waited: Duration) {
        if let Some(model) = self.models.get_mut(model) {
            model.ledger.receive();
            model.ledger.end(outcome, 1);
            model.statistics.add_failed(waited);
            // A stream drops what it has not queued only because of its age.
            model.drops[DropReason::MaxAge as usize] += u64::from(outcome == Outcome::Dropped);
        }
    }

    /// Takes back the items of a call, with how each ended: [`Outcome::Ok`], [`Outcome::Failed`] or [`Outcome::Expired`], and
    /// learns from the call. Items whose stream has since been closed count as cancelled. A call ends once.
    pub fn finish(&mut self, report: &CallReport, entries: impl IntoIterator<Item = (StreamKey, Outcome)>) {
        let Some(call) = self.calls.end(report.call) else { return };
        let Some(model) = self.models.get_mut(call.model) else { return };
        // A call kept from the cores by short ones says nothing about its cost.
        let is_telling =
            |took: &Duration| call.lane == LaneKind::Ordinary || *took <= 2 * model.costs.of(call.shape).call(call.items);
        if let Some(took) = report.took.filter(is_telling) {
            model.costs.observe(&call, took);
        }
        model.find_slack();
        for (key, outcome) in entries {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.running -= 1;
            let (idle, closed) = (stream.running == 0, stream.closed);
            let model = &mut self.models[call.model];
            model.running -= 1;
            let outcome = if closed { Outcome::Cancelled } else { outcome };
            model.ledger.end(outcome, 1);
            // An item that ends between a failed batch and its own retry can only be too old.
            model.drops[DropReason::MaxAge as usize] += u64::from(outcome == Outcome::Dropped);
            if closed && idle {
                model.streams -= 1;
                self.streams.remove(key);
            } else if idle && model.options.stateful {
                self.reseat(key);
            }
        }
    }

    /// Adds what became of a model's batch to its statistics.
    pub fn account(&mut self, model: ModelKey, executed: &Executed) {
        if let Some(model) = self.models.get_mut(model) {
            model.statistics.add(executed);
        }
    }

    /// Closes a stream: queued items are cancelled and returned, running ones are cancelled when they finish.
    pub fn close(&mut self, key: StreamKey) -> Cancelled<P> {
        let mut items = VecDeque::new();
        if let Some(stream) = self.streams.get_mut(key) {
            stream.closed = true;
            items = std::mem::take(&mut stream.items);
            let (model_key, idle) = (stream.options.model, stream.running == 0);
            self.wait_no_longer(key);
            self.set_alarm(key, Timestamp::NEVER);
            for queued in &items {
                self.release(key, &queued.item);
            }
            self.models[model_key].ledger.end(Outcome::Cancelled, items.len() as u64);
            self.reseat(key);
            let [of_all, of_model] = std::mem::take(&mut self.streams[key].holders);
            self.held.leave(of_all);
            self.models[model_key].held.leave(of_model);
            let stream = &mut self.streams[key];
            let seat = stream.seat(key);
            self.models[model_key].ready.forget(&mut stream.flow, seat);
            if idle {
                self.models[model_key].streams -= 1;
                self.streams.remove(key);
            }
        }
        Cancelled(items.into_iter())
    }

    /// Takes out items whose time is up, and owners that would wait for room only until now.
    pub fn expire(&mut self, now: Timestamp, ended: &mut Vec<Ended<H, P>>, wake: &mut Vec<H>) {
        while let Some(&(alarm, key)) = self.alarms.first()
            && alarm <= now
        {
            self.end_late(key, now, now, ended);
            let stream = &mut self.streams[key];
            if stream.waits_until.is_some_and(|until| until <= now) {
                stream.waits_until = None;
                wake.push(stream.handle.clone());
            }
            self.reset_alarm(key);
        }
    }

    /// From now on, no batch waits for more items.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// How much may be queued.
    #[must_use]
    pub const fn admission(&self) -> Admission {
        self.admission
    }

    /// Items that are queued.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.held.items()
    }

    /// Streams that are open, or closed with items still running.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// The owners of all streams that are open.
    pub fn handles(&self) -> impl Iterator<Item = &H> {
        self.streams.values().filter(|stream| !stream.closed).map(|stream| &stream.handle)
    }

    /// Whether a model has something that a lane could run now or, if held back, later.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.turns.iter().any(|turns| !turns.is_empty())
    }

    fn head(&self, stream: StreamKey) -> Option<&Item<P>> {
        self.streams[stream].items.front().map(|queued| &queued.item)
    }

    /// Ends the oldest queued item of a stream.
    fn end_head(&mut self, key: StreamKey, reason: EndReason, now: Timestamp, ended: &mut Vec<Ended<H, P>>) {
        let stream = &mut self.streams[key];
        let (model, handle) = (stream.options.model, stream.handle.clone());
        let Some(queued) = stream.items.pop_front() else { return };
        self.release(key, &queued.item);
        self.count_end(model, &queued.item, reason, now);
        ended.push(Ended { handle, item: queued.item, reason });
        self.reseat(key);
        self.reset_alarm(key);
    }

    /// Ends all items of a stream that are due at or before `until`.
    fn end_late(&mut self, key: StreamKey, until: Timestamp, now: Timestamp, ended: &mut Vec<Ended<H, P>>) {
        let stream = &mut self.streams[key];
        let (model, first) = (stream.options.model, ended.len());
        let handle = &stream.handle;
        let mut kept = VecDeque::with_capacity(stream.items.len());
        for queued in stream.items.drain(..) {
            if queued.item.due() <= until {
                let reason = queued.item.lateness();
                ended.push(Ended { handle: handle.clone(), item: queued.item, reason });
            } else {
                kept.push_back(queued);
            }
        }
        stream.items = kept;
        for late in &ended[first..] {
            self.release(key, &late.item);
            self.count_end(model, &late.item, late.reason, now);
        }
        self.reseat(key);
    }

    /// Counts the end of an item that is no longer queued.
    fn count_end(&mut self, model: ModelKey, item: &Item<P>, reason: EndReason, now: Timestamp) {
        let model = &mut self.models[model];
        model.ledger.end(reason.outcome(), 1);
        model.statistics.add_failed(now.since(item.arrived));
        if let EndReason::Dropped(reason) = reason {
            model.drops[reason as usize] += 1;
        }
    }

    /// Frees the room of an item that leaves the queue.
    fn release(&mut self, key: StreamKey, item: &Item<P>) {
        let stream = &self.streams[key];
        let model = &mut self.models[stream.options.model];
        let [of_all, of_model] = stream.holders;
        self.held.remove(of_all, item.bytes);
        model.held.remove(of_model, item.bytes);
        model.costs.pop(item.shape);
    }

    /// Puts a stream that had nothing queued among the ready streams.
    fn seat(&mut self, key: StreamKey) {
        let stream = &mut self.streams[key];
        let (model_key, priority) = (stream.options.model, stream.options.priority);
        let model = &mut self.models[model_key];
        let Some(claim) = claim_of(stream, model.options.stateful) else { return };
        let (slack, seat) = (model.slack, stream.seat(key));
        let moves = if stream.running == 0 {
            model.ready.enter(&mut stream.flow, seat, claim, slack)
        } else {
            model.ready.place(&mut stream.flow, seat, claim, slack)
        };
        let class = priority as usize;
        if !moves && model.flows[class].is_placed() {
            return;
        }
        if self.turns[class].is_empty() {
            self.passed_over_since[class] = Timestamp::NEVER;
        }
        self.follow(model_key, priority, true);
    }

    /// Moves a stream to where its head belongs, once the head has changed or become runnable.
    fn reseat(&mut self, key: StreamKey) {
        let stream = &mut self.streams[key];
        let (model_key, priority) = (stream.options.model, stream.options.priority);
        let model = &mut self.models[model_key];
        let seat = stream.seat(key);
        match claim_of(stream, model.options.stateful) {
            Some(claim) => {
                model.ready.place(&mut stream.flow, seat, claim, model.slack);
            }
            None => model.ready.leave(&mut stream.flow, seat),
        }
        self.follow(model_key, priority, false);
    }

    /// Moves a model to where its first stream of this priority belongs.
    fn follow(&mut self, key: ModelKey, priority: Priority, enters: bool) {
        let model = &mut self.models[key];
        let (slack, class) = (model.slack, priority as usize);
        let (flow, turns) = (&mut model.flows[class], &mut self.turns[class]);
        turns.set_slack(slack);
        match model.ready.first(priority) {
            // Models are held to their shares like any flow, whatever their first stream asks for.
            Some((claim, _)) if enters && !flow.is_placed() => turns.enter(flow, key, Claim { strict: false, ..claim }),
            Some((claim, _)) => turns.place(flow, key, Claim { strict: false, ..claim }),
            None => turns.leave(flow),
        }
    }

    fn reset_alarm(&mut self, key: StreamKey) {
        let alarm = self.streams[key].next_alarm();
        self.set_alarm(key, alarm);
    }

    fn set_alarm(&mut self, key: StreamKey, alarm: Timestamp) {
        move_alarm(&mut self.alarms, key, &mut self.streams[key], alarm);
    }
}

#[cfg(test)]
mod tests;
