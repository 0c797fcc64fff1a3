//! The queue: streams that have work, and the batches that lanes take from it.
//!
//! A plain value. It reads no clock, starts nothing and waits for nothing: each call is given `now` and returns what has to be
//! done. `H` is what the caller needs to reach a stream's owner, `P` what it needs to run an item; neither is looked at.
//!
//! # Invariants
//! - Items of a stream leave in the order in which they came, unless they expire first.
//! - At most one item of a stateful stream is in a batch or running.
//! - Each item leaves exactly once: in a batch, as [`Expired`], or with its closed stream.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use slotmap::SlotMap;

use crate::domain::{CloseReason, Outcome, Timestamp};

use super::{
    ModelKey, StreamKey,
    admission::{Admission, Held, Refusal, time_to_drain},
    batch::{Batch, Entry, Expired, Item},
    cost::{CostCurve, CostModel},
    decide::{Choice, Situation, choose, hopeless_before},
    ledger::Ledger,
    ready::{Place, ReadyStreams},
};

/// How long an item without a deadline lets items with one go first. Bounds its starvation.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ready streams that one decision looks at beyond those it takes. Bounds the time under the lock.
const SCAN_MAX: usize = 512;

/// How a model's batches are formed.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOptions {
    /// Measured cost.
    pub curve: CostCurve,
    /// Largest batch; can only lower what the curve says.
    pub max_batch: usize,
    /// How long a batch that is not full waits for more items, counted from its oldest; normally zero.
    pub max_delay: Duration,
    /// Input bytes in one call; a single larger item still runs.
    pub max_call_bytes: usize,
    /// Whether streams of this model carry state.
    pub stateful: bool,
}

/// What a stream brings when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// The model version that it stays on.
    pub model: ModelKey,
}

struct QueuedItem<P> {
    item: Item<P>,
    arrival: u64,
}

struct StreamQueue<H, P> {
    model: ModelKey,
    handle: H,
    items: VecDeque<QueuedItem<P>>,
    /// Deadlines have not fallen from one queued item to the next, so the head has the earliest.
    monotone: bool,
    running: usize,
    place: Option<Place>,
    /// Under which moment the stream stands in the alarms; `NEVER` if it does not.
    alarm: Timestamp,
    /// Set while the stream's owner waits for room: when it wants to be woken at the latest.
    waits_until: Option<Timestamp>,
    closed: bool,
}

impl<H, P> StreamQueue<H, P> {
    fn earliest_deadline(&self) -> Timestamp {
        if self.monotone {
            return self.items.front().map_or(Timestamp::NEVER, |queued| queued.item.deadline);
        }
        self.items.iter().map(|queued| queued.item.deadline).min().unwrap_or(Timestamp::NEVER)
    }

    fn next_alarm(&self) -> Timestamp {
        self.earliest_deadline().min(self.waits_until.unwrap_or(Timestamp::NEVER))
    }
}

struct ModelQueue {
    options: ModelOptions,
    cost: CostModel,
    ready: ReadyStreams,
    held: Held,
    running: usize,
    ledger: Ledger,
}

impl ModelQueue {
    fn ready_items(&self) -> usize {
        if self.options.stateful { self.ready.len() } else { self.held.items }
    }
}

/// All queues of one device. See the module's text.
pub struct Scheduler<H, P> {
    lanes: usize,
    admission: Admission,
    models: SlotMap<ModelKey, ModelQueue>,
    streams: SlotMap<StreamKey, StreamQueue<H, P>>,
    alarms: BTreeSet<(Timestamp, StreamKey)>,
    waiting: VecDeque<StreamKey>,
    held: Held,
    arrivals: u64,
    draining: bool,
}

impl<H: Clone, P> Scheduler<H, P> {
    /// An empty queue for `lanes` lanes.
    #[must_use]
    pub fn new(lanes: usize, admission: Admission) -> Self {
        Self {
            lanes: lanes.max(1),
            admission,
            models: SlotMap::with_key(),
            streams: SlotMap::with_key(),
            alarms: BTreeSet::new(),
            waiting: VecDeque::new(),
            held: Held::default(),
            arrivals: 0,
            draining: false,
        }
    }

    /// Adds a model.
    pub fn add_model(&mut self, options: ModelOptions) -> ModelKey {
        let cost = CostModel::new(&options.curve, options.max_batch);
        self.models.insert(ModelQueue {
            options,
            cost,
            ready: ReadyStreams::default(),
            held: Held::default(),
            running: 0,
            ledger: Ledger::default(),
        })
    }

    /// Opens a stream of a model that was added.
    pub fn open(&mut self, options: StreamOptions, handle: H) -> StreamKey {
        self.streams.insert(StreamQueue {
            model: options.model,
            handle,
            items: VecDeque::new(),
            monotone: true,
            running: 0,
            place: None,
            alarm: Timestamp::NEVER,
            waits_until: None,
            closed: false,
        })
    }

    /// Queues an item.
    ///
    /// # Errors
    /// Gives the item back with the limit that is reached. Nothing is counted then: the owner waits
    /// ([`Scheduler::wait_for_room`]) or refuses it for good ([`Scheduler::end_unqueued`]).
    pub fn push(&mut self, key: StreamKey, item: Item<P>) -> Result<(), (Item<P>, Refusal)> {
        let Some(stream) = self.streams.get_mut(key) else {
            let gone = Refusal { limit: "stream", value: 0, retry_after: Duration::ZERO };
            return Err((item, gone));
        };
        let model = &mut self.models[stream.model];
        if let Some((limit, value)) = self.admission.refuses(self.held, model.held, item.bytes) {
            let retry_after = time_to_drain(self.held.items, &model.cost, self.lanes);
            return Err((item, Refusal { limit, value, retry_after }));
        }
        model.ledger.receive();
        model.held.add(item.bytes);
        self.held.add(item.bytes);
        self.arrivals += 1;
        let last = stream.items.back().map(|queued| queued.item.deadline);
        stream.monotone = last.is_none_or(|last| stream.monotone && last <= item.deadline);
        let deadline = item.deadline;
        stream.items.push_back(QueuedItem { item, arrival: self.arrivals });
        if stream.place.is_none() {
            self.make_ready(key);
        }
        if deadline < self.streams[key].alarm {
            self.set_alarm(key, deadline);
        }
        Ok(())
    }

    /// Counts an item that was refused, expired or called off before it could be queued.
    pub fn end_unqueued(&mut self, model: ModelKey, outcome: Outcome) {
        if let Some(model) = self.models.get_mut(model) {
            model.ledger.receive();
            model.ledger.end(outcome, 1);
        }
    }

    /// Remembers that the owner of a stream waits for room, and wants to be woken at `until` at the latest.
    pub fn wait_for_room(&mut self, key: StreamKey, until: Timestamp) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.waits_until.replace(until).is_none() {
            self.waiting.push_back(key);
        }
        if until < self.streams[key].alarm {
            self.set_alarm(key, until);
        }
    }

    /// Owners that waited for room and may try again, first come first served, as many as there is room for items.
    pub fn take_unblocked(&mut self, handles: &mut Vec<H>) {
        let mut room = self.admission.room(self.held);
        while room > 0
            && let Some(key) = self.waiting.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(key)
                && stream.waits_until.take().is_some()
            {
                room -= 1;
                handles.push(stream.handle.clone());
            }
        }
    }

    /// Forms the next batch for an idle lane, and answers hopeless items on the way.
    pub fn next_batch(&mut self, now: Timestamp, expired: &mut Vec<Expired<H, P>>) -> Option<Batch<H, P>> {
        loop {
            let key = self.pick_model(now)?;
            self.expire_hopeless_heads(key, now, expired);
            let model = &self.models[key];
            let Some(first) = model.ready.first() else { continue };
            let situation = Situation {
                now,
                cost: &model.cost,
                lanes: self.lanes,
                ready: model.ready_items(),
                running: model.running,
                earliest_deadline: self.head(first).deadline,
            };
            let choice = choose(&situation, |count, deadline| self.has_later(model, count, deadline));
            let hopeless = hopeless_before(now, &model.cost);
            if let Some(batch) = self.take(key, choice, hopeless, expired) {
                return Some(batch);
            }
            // All heads that one decision looks at were passed over: that must not keep the lane idle.
            let any = Choice { size: 1, not_before: Timestamp::ZERO, reason: CloseReason::Deadline };
            if let Some(batch) = self.take(key, any, hopeless, expired) {
                return Some(batch);
            }
        }
    }

    /// Learns from a successful call.
    pub fn observe(&mut self, model: ModelKey, batch: usize, duration: Duration) {
        if let Some(model) = self.models.get_mut(model) {
            model.cost.observe(batch, duration);
        }
    }

    /// Takes back the items of a batch, with how each ended: [`Outcome::Ok`], [`Outcome::Failed`] or [`Outcome::Expired`].
    /// Those whose stream was closed meanwhile count as cancelled.
    pub fn finish(&mut self, model_key: ModelKey, entries: impl IntoIterator<Item = (StreamKey, Outcome)>) {
        for (key, outcome) in entries {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.running -= 1;
            let outcome = if stream.closed { Outcome::Cancelled } else { outcome };
            let idle = stream.running == 0;
            let closed = stream.closed;
            let model = &mut self.models[model_key];
            model.running -= 1;
            model.ledger.end(outcome, 1);
            if closed && idle {
                self.streams.remove(key);
            } else if idle && self.streams[key].place.is_none() {
                self.make_ready(key);
            }
        }
    }

    /// Closes a stream: its queued items are cancelled and given back, those that run are cancelled when they finish.
    pub fn close(&mut self, key: StreamKey) -> impl Iterator<Item = Item<P>> + use<H, P> {
        let mut items = VecDeque::new();
        if let Some(stream) = self.streams.get_mut(key) {
            stream.closed = true;
            items = std::mem::take(&mut stream.items);
            let bytes = items.iter().map(|queued| queued.item.bytes).sum();
            let (model_key, place, idle) = (stream.model, stream.place.take(), stream.running == 0);
            stream.waits_until = None;
            self.set_alarm(key, Timestamp::NEVER);
            self.release(model_key, items.len(), bytes);
            let model = &mut self.models[model_key];
            if let Some(place) = place {
                model.ready.remove(&place);
            }
            model.ledger.end(Outcome::Cancelled, items.len() as u64);
            if idle {
                self.streams.remove(key);
            }
        }
        items.into_iter().map(|queued| queued.item)
    }

    /// Takes out the items whose deadline has passed, and the owners that waited for room until now.
    pub fn expire(&mut self, now: Timestamp, expired: &mut Vec<Expired<H, P>>, wake: &mut Vec<H>) {
        while let Some(&(alarm, key)) = self.alarms.first()
            && alarm <= now
        {
            self.expire_stream(key, now, expired);
            let stream = &mut self.streams[key];
            if stream.waits_until.is_some_and(|until| until <= now) {
                stream.waits_until = None;
                wake.push(stream.handle.clone());
                self.waiting.retain(|waiting| *waiting != key);
            }
            self.reset_alarm(key);
        }
    }

    /// When [`Scheduler::expire`] has something to do next, or a delayed batch becomes due; never before something is due.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let alarm = self.alarms.first().map(|(alarm, _)| *alarm);
        let delayed = self
            .models
            .values()
            .filter(|model| !model.options.max_delay.is_zero())
            .filter_map(|model| model.ready.first().map(|place| self.head(place).arrived + model.options.max_delay))
            .min();
        alarm.into_iter().chain(delayed).min()
    }

    /// From now on no batch waits for more items.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Items that are queued.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.held.items
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

    /// Items of one model that are queued, and that run.
    #[must_use]
    pub fn load(&self, model: ModelKey) -> (usize, usize) {
        self.models.get(model).map_or((0, 0), |model| (model.held.items, model.running))
    }

    /// The account of one model.
    #[must_use]
    pub fn ledger(&self, model: ModelKey) -> Ledger {
        self.models.get(model).map(|model| model.ledger).unwrap_or_default()
    }

    /// The running cost estimate of one model.
    #[must_use]
    pub fn cost(&self, model: ModelKey) -> Option<&CostModel> {
        self.models.get(model).map(|model| &model.cost)
    }

    /// Whether a model has something that a lane could run now or, with a delay, later.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.models.values().any(|model| !model.ready.is_empty())
    }

    /// The model with the most urgent head, among those whose batch need not wait.
    fn pick_model(&self, now: Timestamp) -> Option<ModelKey> {
        self.models
            .iter()
            .filter_map(|(key, model)| {
                let first = model.ready.first()?;
                let waits = !self.draining
                    && !model.options.max_delay.is_zero()
                    && model.ready_items() < model.cost.cap()
                    && now < self.head(first).arrived + model.options.max_delay;
                (!waits).then_some((first, key))
            })
            .min()
            .map(|(_, key)| key)
    }

    fn head(&self, place: &Place) -> &Item<P> {
        &self.streams[place.stream].items[0].item
    }

    /// Whether `count` ready items have this deadline or a later one, as far as one decision looks.
    fn has_later(&self, model: &ModelQueue, count: usize, deadline: Timestamp) -> bool {
        let mut found = 0;
        for place in model.ready.iter().take(SCAN_MAX + count) {
            if self.head(place).deadline >= deadline {
                found += if model.options.stateful { 1 } else { self.streams[place.stream].items.len() };
                if found >= count {
                    return true;
                }
            }
        }
        false
    }

    /// Takes the chosen items. What is hopeless on the way is answered, wherever it stands: it must never run.
    fn take(
        &mut self,
        key: ModelKey,
        choice: Choice,
        hopeless: Timestamp,
        expired: &mut Vec<Expired<H, P>>,
    ) -> Option<Batch<H, P>> {
        let Choice { size, not_before, reason } = choice;
        let mut batch = Batch { model: key, entries: Vec::with_capacity(size), reason };
        let mut passed_over = Vec::new();
        let (mut bytes, mut bytes_are_full) = (0, false);
        let first_expired = expired.len();
        let model = &mut self.models[key];
        while batch.entries.len() < size
            && passed_over.len() < SCAN_MAX
            && let Some(place) = model.ready.pop_first()
        {
            let stream = &mut self.streams[place.stream];
            stream.place = None;
            let (mut taken, mut passed) = (0, false);
            while let Some(head) = stream.items.front() {
                if head.item.deadline < hopeless {
                    let item = stream.items.pop_front().map(|queued| queued.item);
                    expired.extend(item.map(|item| Expired { handle: stream.handle.clone(), item }));
                    continue;
                }
                let same_shape = batch.entries.first().is_none_or(|first| first.item.shape == head.item.shape);
                if !same_shape || head.item.deadline < not_before {
                    passed = true;
                    if !same_shape {
                        batch.reason = CloseReason::Shape;
                    }
                    break;
                }
                bytes_are_full = !batch.entries.is_empty() && bytes + head.item.bytes > model.options.max_call_bytes;
                let others_turn = taken > 0 && model.ready.first().is_some_and(|next| *next < place_of(head, place.stream));
                if batch.entries.len() == size || bytes_are_full || others_turn {
                    break;
                }
                let Some(queued) = stream.items.pop_front() else { break };
                bytes += queued.item.bytes;
                taken += 1;
                batch.entries.push(Entry { stream: place.stream, handle: stream.handle.clone(), item: queued.item });
                if model.options.stateful {
                    break;
                }
            }
            stream.running += taken;
            let runnable = !(model.options.stateful && stream.running > 0);
            if runnable && let Some(head) = stream.items.front() {
                let place = place_of(head, place.stream);
                stream.place = Some(place);
                if passed {
                    passed_over.push(place);
                } else {
                    model.ready.insert(place);
                }
            }
            let alarm = stream.next_alarm();
            if alarm != stream.alarm {
                move_alarm(&mut self.alarms, place.stream, stream, alarm);
            }
            if bytes_are_full {
                batch.reason = CloseReason::Bytes;
                break;
            }
        }
        for place in passed_over {
            model.ready.insert(place);
        }
        if batch.entries.len() == size && batch.reason == CloseReason::Shape {
            batch.reason = reason;
        }
        model.running += batch.entries.len();
        let late = &expired[first_expired..];
        model.ledger.end(Outcome::Expired, late.len() as u64);
        let late_bytes: usize = late.iter().map(|expired| expired.item.bytes).sum();
        self.release(key, batch.entries.len() + late.len(), bytes + late_bytes);
        (!batch.entries.is_empty()).then_some(batch)
    }

    fn expire_hopeless_heads(&mut self, key: ModelKey, now: Timestamp, expired: &mut Vec<Expired<H, P>>) {
        let before = hopeless_before(now, &self.models[key].cost);
        while let Some(place) = self.models[key].ready.first().copied()
            && self.head(&place).deadline < before
        {
            self.expire_stream(place.stream, before - Duration::from_nanos(1), expired);
            self.reset_alarm(place.stream);
        }
    }

    /// Takes out the items of a stream whose deadline is at or before `until`.
    fn expire_stream(&mut self, key: StreamKey, until: Timestamp, expired: &mut Vec<Expired<H, P>>) {
        let stream = &mut self.streams[key];
        let (model_key, first) = (stream.model, expired.len());
        let mut kept = VecDeque::with_capacity(stream.items.len());
        for queued in stream.items.drain(..) {
            if queued.item.deadline <= until {
                expired.push(Expired { handle: stream.handle.clone(), item: queued.item });
            } else {
                kept.push_back(queued);
            }
        }
        stream.items = kept;
        let place = stream.place.take();
        let bytes = expired[first..].iter().map(|expired| expired.item.bytes).sum();
        let count = expired.len() - first;
        self.release(model_key, count, bytes);
        let model = &mut self.models[model_key];
        model.ledger.end(Outcome::Expired, count as u64);
        if let Some(place) = place {
            model.ready.remove(&place);
            self.make_ready(key);
        }
    }

    /// Puts a stream among the ready ones if its head may run.
    fn make_ready(&mut self, key: StreamKey) {
        let stream = &mut self.streams[key];
        let model = &mut self.models[stream.model];
        if model.options.stateful && stream.running > 0 {
            return;
        }
        if let Some(head) = stream.items.front() {
            let place = place_of(head, key);
            stream.place = Some(place);
            model.ready.insert(place);
        }
    }

    fn release(&mut self, model: ModelKey, items: usize, bytes: usize) {
        self.models[model].held.remove(items, bytes);
        self.held.remove(items, bytes);
    }

    fn reset_alarm(&mut self, key: StreamKey) {
        let alarm = self.streams[key].next_alarm();
        self.set_alarm(key, alarm);
    }

    fn set_alarm(&mut self, key: StreamKey, alarm: Timestamp) {
        move_alarm(&mut self.alarms, key, &mut self.streams[key], alarm);
    }
}

fn move_alarm<H, P>(
    alarms: &mut BTreeSet<(Timestamp, StreamKey)>,
    key: StreamKey,
    stream: &mut StreamQueue<H, P>,
    alarm: Timestamp,
) {
    if stream.alarm != Timestamp::NEVER {
        alarms.remove(&(stream.alarm, key));
    }
    if alarm != Timestamp::NEVER {
        alarms.insert((alarm, key));
    }
    stream.alarm = alarm;
}

fn place_of<P>(queued: &QueuedItem<P>, stream: StreamKey) -> Place {
    let item = &queued.item;
    let due = if item.deadline == Timestamp::NEVER { item.arrived + PATIENCE } else { item.deadline };
    Place { due, arrival: queued.arrival, stream }
}

#[cfg(test)]
mod tests;
