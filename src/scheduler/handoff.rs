//! The one lock between sessions, which push items, and lanes, which pull batches.
//!
//! # Wake-ups
//! A push wakes a lane only if one is idle, and a further one only if there is more than the lanes being woken will take. While
//! batches are forming (the last had more than two items) the wake goes through the kicker, a task that first lets the other
//! ready sessions push: batches grow by a fifth. A lone item is not held back by it. A lane that leaves work behind wakes the next.
//! One that becomes idle while something is held back makes sure that the timekeeper wakes a lane when that is over.
//!
//! # Models
//! A model that is retired is dropped with its last stream, outside the lock: freeing weights takes time.
//!
//! # Cancellation
//! Dropping a [`StreamHandle`] closes its stream: what is queued is cancelled at once, what runs is cancelled when it finishes.

mod lending;
mod long;
mod models;

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use slotmap::SecondaryMap;

use super::{
    ModelKey, StreamKey,
    admission::{Admission, Refusal},
    batch::{Batch, CallReport, EndReason, Ended, Item},
    lanes::Lane,
    mailbox::Mailbox,
    options::StreamOptions,
    queue::Scheduler,
    signal::{Bell, Signal, yield_once},
    statistics::Executed,
    trace::{Line, Trace},
};
use crate::{
    clock,
    domain::{Answer, AnswerPart, DropReason, Fault, FaultKind, ItemInputs, ItemTiming, Outcome, Timestamp},
    telemetry::ModelMetrics,
    vitals::Pulse,
};

use long::LongLanes;
use models::{Hosted, Repaired};
pub use models::{ModelRuntime, ModelStatus};

/// Batches larger than this show that items are flowing, so that a delayed wake pays.
const FLOWING_BATCH: usize = 2;

/// What expires within so long of each other is answered at once. Under overload that is much, and each time the timekeeper wakes it
/// takes a core from a lane. What ends a hold is not put off.
const EXPIRY_STEP: Duration = Duration::from_millis(1);

pub(super) type LiveBatch = Batch<Arc<Mailbox>, ItemInputs>;
/// A batch, and what runs it.
type Taken = (LiveBatch, Arc<ModelRuntime>);
type LiveEnded = Ended<Arc<Mailbox>, ItemInputs>;

/// What became of a [`StreamHandle::submit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// All items are queued.
    All,
    /// A shared limit is reached; the rest stays with the caller.
    Full(Refusal),
}

/// The queue of one device, shared by its sessions and lanes.
pub struct Handoff {
    shared: Mutex<Shared>,
    lane_wakes: Box<[Condvar]>,
    long_lane_wakes: Box<[Condvar]>,
    /// The lanes, for who runs a lone item by itself.
    lent: OnceLock<Arc<[Lane]>>,
    kick: Signal,
    rearm: Bell,
}

struct Shared {
    scheduler: Scheduler<Arc<Mailbox>, ItemInputs>,
    models: SecondaryMap<ModelKey, Hosted>,
    lanes: Vec<LaneState>,
    idle: Vec<usize>,
    long_lanes: LongLanes,
    waking: usize,
    last_batch: usize,
    kicked: bool,
    armed: Timestamp,
    closed: bool,
    trace: Option<Trace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    Busy,
    Idle,
    Waking,
    /// Its thread sleeps, and its instance runs a call on another.
    Lent,
}

/// What a lane finds when it looks for work.
enum Look {
    Found(LiveBatch, Arc<ModelRuntime>),
    Idle,
    Closed,
}

impl Handoff {
    /// A queue for `lanes` lanes.
    #[must_use]
    pub fn new(lanes: usize, admission: Admission) -> Arc<Self> {
        Self::with_long_lanes(lanes, 0, admission)
    }

    /// The same, beside so many lanes for calls that are long beside others.
    #[must_use]
    pub fn with_long_lanes(lanes: usize, long_lanes: usize, admission: Admission) -> Arc<Self> {
        let lanes = lanes.max(1);
        Arc::new(Self {
            shared: Mutex::new(Shared {
                scheduler: Scheduler::new(lanes, admission).with_long_lanes(long_lanes),
                models: SecondaryMap::new(),
                lanes: vec![LaneState::Busy; lanes],
                idle: Vec::with_capacity(lanes),
                long_lanes: LongLanes::new(long_lanes),
                waking: 0,
                last_batch: 0,
                kicked: false,
                armed: Timestamp::NEVER,
                closed: false,
                trace: None,
            }),
            lane_wakes: (0..lanes).map(|_| Condvar::new()).collect(),
            long_lane_wakes: (0..long_lanes).map(|_| Condvar::new()).collect(),
            lent: OnceLock::new(),
            kick: Signal::default(),
            rearm: Bell::default(),
        })
    }

    /// Number of lanes, without the long ones.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lane_wakes.len()
    }

    /// Records what comes from now on; to be called before any model is added. `None` ends a record.
    pub fn record(&self, trace: Option<Trace>) {
        self.shared.lock().trace = trace;
    }

    /// Opens a stream; dropping the handle closes it. `None` if there is no such model, or it is retired.
    #[must_use]
    pub fn open(self: &Arc<Self>, options: StreamOptions) -> Option<StreamHandle> {
        let model = options.model;
        let mailbox = Arc::new(Mailbox::default());
        let mut shared = self.shared.lock();
        let runtime = Arc::clone(&shared.models.get(model)?.runtime);
        let key = shared.scheduler.open(options, Arc::clone(&mailbox))?;
        if let Some(trace) = &mut shared.trace {
            trace.open(clock::now(), key, &options);
        }
        drop(shared);
        Some(StreamHandle { handoff: Arc::clone(self), key, model, mailbox, runtime })
    }

    /// Makes every session look again, without an answer.
    pub fn nudge_all(&self) {
        let mailboxes: Vec<_> = self.shared.lock().scheduler.handles().cloned().collect();
        nudge(&mailboxes);
    }

    /// Streams that are open, or whose last items still run.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.lock().scheduler.streams()
    }

    /// From now on no batch waits for more items.
    pub fn drain(&self) {
        let mut shared = self.shared.lock();
        shared.scheduler.drain();
        let wake = shared.lanes_to_wake(1);
        drop(shared);
        self.wake_lanes(wake);
    }

    /// Lanes end once nothing is queued; no batch waits for more items.
    pub fn close(&self) {
        let mut shared = self.shared.lock();
        shared.closed = true;
        shared.scheduler.drain();
        shared.scheduler.end_long_lanes();
        drop(shared);
        for wake in self.lane_wakes.iter().chain(&self.long_lane_wakes) {
            wake.notify_all();
        }
    }

    /// The kicker: run it as one task for as long as the server lives, and again if it panics.
    pub async fn kick_lanes(self: Arc<Self>) {
        // What one before this has heard and not done.
        if std::mem::take(&mut self.shared.lock().kicked) {
            self.kick.set();
        }
        loop {
            self.kick.wait().await;
            yield_once().await;
            let mut shared = self.shared.lock();
            shared.kicked = false;
            let wake = shared.lanes_to_wake(1);
            drop(shared);
            self.wake_lanes(wake);
        }
    }

    /// Answers what has expired by `now`, wakes lanes for batches that were held back, and returns when to call again;
    /// [`Timestamp::NEVER`] if only after a push.
    pub fn expire(&self, now: Timestamp) -> Timestamp {
        let (mut ended, mut nudged) = (Vec::new(), Vec::new());
        let mut shared = self.shared.lock();
        shared.scheduler.expire(now, &mut ended, &mut nudged);
        shared.scheduler.take_unblocked(&mut nudged);
        let wake = if shared.scheduler.hold_is_over(now) { shared.lanes_to_wake(1) } else { None };
        let next = shared.next_wakeup(now);
        shared.armed = next;
        drop(shared);
        self.wake_lanes(wake);
        answer_ended(ended, now);
        nudge(&nudged);
        next
    }

    /// Sleeps until then, or until [`Handoff::expire`] has to be called earlier than it said.
    pub(super) fn sleep_until(&self, next: Timestamp) {
        self.rearm.sleep_until(next);
    }

    /// Ends that sleep.
    pub(super) fn rearm(&self) {
        self.rearm.ring();
    }

    /// Waits for work and takes it. `None` once the queue is closed and empty. The lane's pulse rests while it waits.
    pub(super) fn next_batch(&self, lane: usize, pulse: &Pulse) -> Option<Taken> {
        let mut shared = self.shared.lock();
        loop {
            let now = clock::now();
            pulse.begin(now);
            match self.look(&mut shared, lane, now) {
                Look::Found(batch, runtime) => return Some((batch, runtime)),
                Look::Closed => return None,
                Look::Idle => {}
            }
            pulse.rest();
            while matches!(shared.lanes[lane], LaneState::Idle | LaneState::Lent) && !shared.closed {
                self.lane_wakes[lane].wait(&mut shared);
            }
        }
    }

    /// Takes work that is there. `None` if nothing may run now.
    pub(super) fn try_batch(&self, lane: usize) -> Option<Taken> {
        match self.look(&mut self.shared.lock(), lane, clock::now()) {
            Look::Found(batch, runtime) => Some((batch, runtime)),
            Look::Idle | Look::Closed => None,
        }
    }

    /// Takes work for a lane, or notes that it is idle, and makes sure that it is woken when what is held back may run.
    fn look(&self, shared: &mut MutexGuard<'_, Shared>, lane: usize, now: Timestamp) -> Look {
        shared.arrive(lane);
        loop {
            let (mut ended, mut unblocked) = (Vec::new(), Vec::new());
            let taken = shared.take_batch_of_two(now, &mut ended, &mut unblocked);
            let repaired = shared.take_repaired();
            let (taken, given) = shared.long_lanes.give(taken);
            if taken.is_none() && given.is_none() && ended.is_empty() && unblocked.is_empty() && repaired.is_none() {
                break;
            }
            let wake = if taken.is_some() { shared.lanes_to_wake(1) } else { None };
            MutexGuard::unlocked(shared, || {
                self.wake_lanes(wake);
                self.wake_long_lane(given);
                answer_ended(ended, now);
                nudge(&unblocked);
                Repaired::report(repaired);
            });
            if let Some((batch, runtime)) = taken {
                return Look::Found(batch, runtime);
            }
        }
        if shared.closed {
            return Look::Closed;
        }
        shared.lanes[lane] = LaneState::Idle;
        shared.idle.push(lane);
        if shared.wakes_earlier(now) {
            MutexGuard::unlocked(shared, || self.rearm());
        }
        Look::Idle
    }

    /// Takes the items of a call back, learns from it, and adds what it took to the model's statistics.
    pub(super) fn finish(&self, report: &CallReport, items: impl Iterator<Item = (StreamKey, Outcome)>, executed: &Executed) {
        let mut shared = self.shared.lock();
        // Before the last of its streams may take the model along.
        shared.scheduler.account(report.model, executed);
        shared.scheduler.finish(report, items);
        let gone = shared.remove_spent(report.model);
        drop(shared);
        drop(gone);
    }

    fn wake_lanes(&self, lane: Option<usize>) {
        if let Some(lane) = lane {
            self.lane_wakes[lane].notify_one();
        }
    }
}

impl Shared {
    /// Whether the timekeeper has to be woken: its sleep is for later than what there is to wait for.
    fn wakes_earlier(&self, now: Timestamp) -> bool {
        self.next_wakeup(now) < self.armed
    }

    /// When the timekeeper has something to do next.
    fn next_wakeup(&self, now: Timestamp) -> Timestamp {
        let expiry = self.scheduler.next_alarm().map_or(Timestamp::NEVER, |alarm| alarm.round_up(EXPIRY_STEP));
        expiry.min(self.scheduler.next_hold(now).unwrap_or(Timestamp::NEVER))
    }

    /// Chooses an idle lane to wake if more is queued than the lanes being woken will take, `cap` items each.
    fn lanes_to_wake(&mut self, cap: usize) -> Option<usize> {
        if self.idle.is_empty() || self.scheduler.queued() <= cap * self.waking || !self.scheduler.has_ready() {
            return None;
        }
        let lane = self.idle.pop()?;
        self.lanes[lane] = LaneState::Waking;
        self.waking += 1;
        Some(lane)
    }

    /// Takes the next batch for an idle lane. What has expired is added to `ended`, and who waited for the room that this leaves to
    /// `unblocked`.
    fn take_batch(&mut self, now: Timestamp, ended: &mut Vec<LiveEnded>, unblocked: &mut Vec<Arc<Mailbox>>) -> Option<Taken> {
        let batch = self.scheduler.next_batch(now, ended);
        self.scheduler.take_unblocked(unblocked);
        self.with_runtime(batch?)
    }

    fn with_runtime(&mut self, batch: LiveBatch) -> Option<Taken> {
        self.last_batch = batch.entries.len();
        let runtime = Arc::clone(&self.models.get(batch.model)?.runtime);
        Some((batch, runtime))
    }

    fn line_of(&self, stream: StreamKey, model: ModelKey, item: &Item<ItemInputs>) -> Option<Line> {
        let trace = self.trace.as_ref()?;
        Some(trace.item(stream, item, self.scheduler.cost_of(model, item.shape)))
    }

    fn arrive(&mut self, lane: usize) {
        match self.lanes[lane] {
            LaneState::Waking => self.waking -= 1,
            LaneState::Idle => self.idle.retain(|idle| *idle != lane),
            LaneState::Busy | LaneState::Lent => {}
        }
        self.lanes[lane] = LaneState::Busy;
    }
}

/// A session's end of a stream. Dropping it cancels what is in flight.
pub struct StreamHandle {
    handoff: Arc<Handoff>,
    key: StreamKey,
    model: ModelKey,
    mailbox: Arc<Mailbox>,
    runtime: Arc<ModelRuntime>,
}

impl StreamHandle {
    /// Where the model's items are counted.
    #[must_use]
    pub fn metrics(&self) -> &ModelMetrics {
        &self.runtime.metrics
    }

    /// Queues items from the front of `staged`, until all are or a limit is reached. Items of a model whose calls are short may have
    /// been run by the time this returns. With `wait`, reaching a limit also asks for a nudge when there is room, or when the
    /// earliest deadline among the rest passes.
    pub fn submit(&self, staged: &mut VecDeque<Item<ItemInputs>>, wait: bool) -> Submitted {
        let (mut ended, mut unblocked) = (Vec::new(), Vec::new());
        // It is no earlier than this; to read the clock would cost more than to set the timer once too often.
        let now = staged.back().map_or(Timestamp::ZERO, |newest| newest.arrived);
        let mut shared = self.handoff.shared.lock();
        let mut submitted = Submitted::All;
        let mut pushed = false;
        while let Some(item) = staged.pop_front() {
            let line = shared.line_of(self.key, self.model, &item);
            if let Err((item, refusal)) = shared.scheduler.push(self.key, item, &mut ended) {
                staged.push_front(item);
                submitted = Submitted::Full(refusal);
                break;
            }
            if let (Some(trace), Some(line)) = (&mut shared.trace, line) {
                trace.put(line);
            }
            pushed = true;
        }
        if wait && submitted != Submitted::All {
            let until = staged.iter().map(Item::due).min().unwrap_or(Timestamp::NEVER);
            shared.scheduler.wait_for_room(self.key, until);
        }
        let rearm = shared.wakes_earlier(now);
        let (mut wake, mut kick, mut loan) = (None, false, None);
        if pushed && !shared.idle.is_empty() {
            if self.handoff.lent.get().is_some()
                && let Some(taken) = shared.borrow_lane(self.model, &mut ended, &mut unblocked)
            {
                loan = Some(taken);
            } else if shared.last_batch > FLOWING_BATCH {
                kick = !std::mem::replace(&mut shared.kicked, true);
            } else {
                let cap = shared.scheduler.cost(self.model).map_or(1, super::cost::CostModel::cap);
                wake = shared.lanes_to_wake(cap);
            }
        }
        let repaired = shared.take_repaired();
        drop(shared);
        self.handoff.wake_lanes(wake);
        Repaired::report(repaired);
        if kick {
            self.handoff.kick.set();
        }
        if rearm {
            self.handoff.rearm();
        }
        if !ended.is_empty() {
            answer_ended(ended, clock::now());
        }
        nudge(&unblocked);
        if let Some(loan) = loan {
            self.handoff.run_here(loan);
        }
        submitted
    }

    /// Counts an item that was never queued, after it had waited for so long. If that was for room, the turn goes to the next.
    pub fn end_unqueued(&self, outcome: Outcome, waited: Duration) {
        let mut nudged = Vec::new();
        let mut shared = self.handoff.shared.lock();
        shared.scheduler.end_unqueued(self.model, outcome, waited);
        shared.scheduler.take_unblocked(&mut nudged);
        drop(shared);
        nudge(&nudged);
    }

    /// An answer that is not its item's last has left for the client.
    pub fn part_taken(&self) {
        self.mailbox.part_taken();
    }

    /// Moves the answers that have come to the end of `answers`. `Ready` if there were any, or there is room for what was
    /// held back.
    pub fn poll_answers(&self, cx: &mut Context<'_>, answers: &mut VecDeque<Answer>) -> Poll<()> {
        self.mailbox.poll_take(cx, answers)
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let ended = clock::now();
        let mut nudged = Vec::new();
        let mut shared = self.handoff.shared.lock();
        if let Some(trace) = &mut shared.trace {
            trace.close(ended, self.key);
        }
        let cancelled = shared.scheduler.close(self.key);
        shared.scheduler.take_unblocked(&mut nudged);
        let gone = shared.remove_spent(self.model);
        drop(shared);
        nudge(&nudged);
        drop((cancelled, gone));
        self.metrics().cancel_release.record(clock::now().since(ended));
    }
}

/// The answer to an item that ended without a model call.
pub(super) fn unrun_answer(item: &Item<ItemInputs>, reason: EndReason, now: Timestamp) -> Answer {
    let waited = now.since(item.arrived);
    let fault = match reason {
        EndReason::Expired => {
            let allowed = item.deadline.since(item.arrived);
            Fault::new(
                FaultKind::Expired,
                format!(
                    "after {waited:.1?} the item could not meet its deadline of {allowed:.1?} any more; the model did not run on it"
                ),
            )
        }
        EndReason::Dropped(DropReason::MaxAge) => {
            let allowed = item.stale_at.since(item.arrived);
            Fault::new(
                FaultKind::Dropped,
                format!(
                    "after {waited:.1?} the item's result could not be there within the stream's max_age of {allowed:.1?} any more; the model did not run on it"
                ),
            )
        }
        EndReason::Dropped(reason) => {
            let why = match reason {
                DropReason::Late => "it was too late for the model's next call, and a newer item of the stream is not",
                _ => "newer items of the stream took its place, as its overflow policy says",
            };
            Fault::new(FaultKind::Dropped, format!("the item was dropped after {waited:.1?}: {why}; the model did not run on it"))
        }
    };
    Answer {
        seq: item.ticket,
        part: AnswerPart::ONLY,
        outcome: Err(fault),
        timing: ItemTiming { arrived: item.arrived, started: now, finished: now, batch_size: 0 },
    }
}

fn answer_ended(ended: Vec<LiveEnded>, now: Timestamp) {
    let deliver = |ended: &LiveEnded| ended.handle.deliver([unrun_answer(&ended.item, ended.reason, now)]);
    wake_all(ended.iter().filter_map(deliver).collect::<Vec<_>>());
}

/// Makes sessions look again, without an answer.
fn nudge(mailboxes: &[Arc<Mailbox>]) {
    wake_all(mailboxes.iter().filter_map(|mailbox| mailbox.nudge()));
}

pub(super) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests;
