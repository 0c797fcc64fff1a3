//! The threads that run model calls.
//!
//! # Errors
//! A batch that fails is run again item by item, once, so that a bad item fails alone and its neighbours get their results. A
//! panic inside an engine is caught and its instance rebuilt by [`Executable`](crate::engine::Executable). A panic anywhere else ends the
//! lane, which [`Vitals`] notices; the items of its batch are answered as failed first.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    batch::Entry,
    handoff::{Handoff, LiveBatch, ModelRuntime, unrun_answer, wake_all},
    statistics::{CallTimes, Executed, ModelCall},
};
use crate::{
    clock,
    domain::{Answer, AnswerPart, CloseReason, Fault, FaultKind, ItemInputs, ItemOutputs, ItemTiming, Outcome, Timestamp},
    engine::{CallThreads, EngineError, ItemCall, LaneThreads, Milestones, PaddingCount, Ran, RunError},
    telemetry::{LaneMetrics, ModelMetrics, Seldom},
    threads,
    vitals::{Part, Pulse, Vitals},
};

type LiveEntry = Entry<Arc<super::mailbox::Mailbox>, ItemInputs>;

/// The lanes of a device.
pub struct Lanes {
    handoff: Arc<Handoff>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Lanes {
    /// Starts one thread for each of `lanes`, of which the long ones come last, and are as many as the queue knows of; `metrics` gives
    /// where each lane counts, and `vitals` is told if one ends.
    ///
    /// # Errors
    /// The system's, if a thread cannot be started.
    pub fn start(
        handoff: &Arc<Handoff>,
        lanes: &[LaneThreads],
        metrics: impl Fn(usize) -> LaneMetrics,
        vitals: &Vitals,
    ) -> std::io::Result<Self> {
        let mut started = Self { handoff: Arc::clone(handoff), threads: Vec::new() };
        let (lanes, long_lanes) = lanes.split_at(lanes.len().min(handoff.lanes()));
        let lane = |index| Lane::new(index, metrics(index));
        let all: Arc<[Lane]> = (0..lanes.len()).map(lane).collect();
        handoff.lend(Arc::clone(&all));
        for (index, compute) in lanes.iter().enumerate() {
            let (handoff, compute, lanes, vitals) = (Arc::clone(handoff), compute.clone(), Arc::clone(&all), vitals.clone());
            let work = move || {
                let vital = vitals.watch_steps(Part::Lane(index), &lanes[index].pulse);
                compute.run(|| lanes[index].work(&handoff));
                vital.end();
            };
            started.threads.push(thread::Builder::new().name(format!("lane-cpu-{index}")).spawn(work)?);
        }
        for (number, compute) in long_lanes.iter().enumerate() {
            let lane = lane(lanes.len() + number);
            let (handoff, compute, vitals) = (Arc::clone(handoff), compute.clone(), vitals.clone());
            let work = move || {
                let vital = vitals.watch(Part::Lane(lane.index));
                compute.run(|| lane.work_long(&handoff, number));
                vital.end();
            };
            started.threads.push(thread::Builder::new().name(format!("lane-long-{number}")).spawn(work)?);
        }
        Ok(started)
    }

    /// Lets the lanes finish what is queued, and waits for them.
    pub fn join(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.handoff.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a lane ended by a panic");
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a lane has beside its thread.
pub struct Lane {
    index: usize,
    metrics: LaneMetrics,
    /// Which failures are logged; all of them are counted.
    failures: Seldom,
    /// Its steps: model calls, and whatever it does from when it is woken until it waits again.
    pulse: Arc<Pulse>,
}

impl Lane {
    /// Lane number `index` of a queue.
    #[must_use]
    pub fn new(index: usize, metrics: LaneMetrics) -> Self {
        Self { index, metrics, failures: Seldom::default(), pulse: Arc::default() }
    }

    /// Runs one batch of `handoff`, on which no other thread works as this lane, and says whether there was one; does not wait for
    /// any.
    pub fn turn(&self, handoff: &Handoff) -> bool {
        let next = handoff.try_batch(self.index);
        next.map(|(batch, runtime)| self.run(handoff, batch, &runtime)).is_some()
    }

    fn work(&self, handoff: &Handoff) {
        threads::take_cores();
        while let Some((batch, runtime)) = handoff.next_batch(self.index, &self.pulse) {
            let taken = Taken::new(handoff, batch);
            Part::Lane(self.index).may_fail();
            self.answer(taken, &runtime);
        }
    }

    /// Runs the batches of long lane number `number`.
    fn work_long(&self, handoff: &Handoff, number: usize) {
        threads::stand_back();
        while let Some((batch, runtime)) = handoff.next_long_batch(number) {
            self.run(handoff, batch, &runtime);
        }
    }

    /// Runs a batch and answers its items.
    pub(super) fn run(&self, handoff: &Handoff, batch: LiveBatch, runtime: &ModelRuntime) {
        self.answer(Taken::new(handoff, batch), runtime);
    }

    /// Notes that nothing runs as this lane any more.
    pub(super) fn rest(&self) {
        self.pulse.rest();
    }

    fn answer(&self, mut taken: Taken<'_>, runtime: &ModelRuntime) {
        let batch = &taken.batch;
        let metrics = &runtime.metrics;
        metrics.batch(batch.reason).increment(1);
        metrics.batch_occupancy.record(batch.entries.len() as f64 / batch.cap.max(1) as f64);
        let size = batch.entries.len();
        let (outcome, timing) = self.call(runtime, &batch.entries, if batch.wide { CallThreads::All } else { CallThreads::One });
        let wait = |entry: &LiveEntry| timing.started.since(entry.item.arrived);
        for equals in batch.entries.chunk_by(|one, next| one.priority == next.priority) {
            metrics.queue_wait(equals[0].priority).record_all(equals.iter().map(wait));
        }
        let waited = batch.entries.iter().map(wait).sum();
        let mut answers = Answers::with_capacity(size);
        let mut learned = None;
        match outcome {
            Ok(Results { outputs, times }) => {
                learned = Some(timing.finished.since(timing.started));
                answers.account(ModelCall { items: size, waited, times }, timing.finished);
                for (entry, outputs) in batch.entries.iter().zip(outputs) {
                    answers.add(entry, Ok(outputs), timing);
                }
            }
            Err(error) if size == 1 => {
                if !is_clients(&error)
                    && let Some(left_out) = self.failures.due(timing.finished)
                {
                    tracing::warn!(%error, left_out, "a model call failed");
                }
                answers.add(&batch.entries[0], Err(fault_of(&error)), timing);
            }
            Err(error) => {
                if !is_clients(&error)
                    && let Some(left_out) = self.failures.due(timing.finished)
                {
                    tracing::warn!(%error, items = size, left_out, "a batch failed; its items are run again one by one");
                }
                self.run_one_by_one(runtime, &batch.entries, &mut answers);
            }
        }
        taken.settle(answers, learned);
    }

    fn run_one_by_one(&self, runtime: &ModelRuntime, entries: &[LiveEntry], answers: &mut Answers) {
        for entry in entries {
            let now = clock::now();
            if entry.item.due() <= now {
                answers.end_unrun(entry, now);
                continue;
            }
            runtime.metrics.batch(CloseReason::Retry).increment(1);
            let (outcome, timing) = self.call(runtime, std::slice::from_ref(entry), CallThreads::One);
            let outcome = match outcome {
                Ok(Results { mut outputs, times }) if outputs.len() == 1 => {
                    let waited = timing.started.since(entry.item.arrived);
                    answers.account(ModelCall { items: 1, waited, times }, timing.finished);
                    Ok(outputs.swap_remove(0))
                }
                Ok(Results { outputs, .. }) => {
                    Err(Fault::new(FaultKind::Failed, format!("the model call gave {} results for 1 item", outputs.len())))
                }
                Err(error) => Err(fault_of(&error)),
            };
            answers.add(entry, outcome, timing);
        }
    }

    fn call(
        &self,
        runtime: &ModelRuntime,
        entries: &[LiveEntry],
        threads: CallThreads,
    ) -> (Result<Results, RunError>, CallTiming) {
        let calls: Vec<ItemCall<'_>> =
            entries.iter().map(|entry| ItemCall { inputs: &entry.item.payload, state: Some(&entry.handle.state) }).collect();
        let started = clock::now();
        self.pulse.begin(started);
        let outcome = runtime.executable.run(self.index, &calls, threads);
        let finished = clock::now();
        let timing = CallTiming { started, finished, batch_size: u32::try_from(entries.len()).unwrap_or(u32::MAX) };
        self.count(&runtime.metrics, timing);
        let outcome = outcome.map(|ran| {
            let Ran { outputs, padding, milestones: Milestones { gathered, computed } } = ran;
            count_padding(&runtime.metrics, padding);
            let times = CallTimes {
                gather: gathered.since(started),
                compute: computed.since(gathered),
                scatter: finished.since(computed),
            };
            Results { outputs, times }
        });
        (outcome, timing)
    }

    fn count(&self, metrics: &ModelMetrics, timing: CallTiming) {
        let compute = timing.finished.since(timing.started);
        metrics.compute.record(compute);
        metrics.batch_size.record(timing.batch_size);
        self.metrics.busy.record(compute);
    }
}

#[derive(Debug, Clone, Copy)]
struct CallTiming {
    started: Timestamp,
    finished: Timestamp,
    batch_size: u32,
}

/// What a call gave, and what it took.
struct Results {
    outputs: Vec<ItemOutputs>,
    times: CallTimes,
}

/// A batch that a lane has taken: its items are answered, whatever happens to the lane.
struct Taken<'a> {
    handoff: &'a Handoff,
    batch: LiveBatch,
    owed: Owed,
}

/// What is still to be done for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// To settle its account, and to answer.
    Account,
    /// To answer.
    Answers,
    Nothing,
}

impl<'a> Taken<'a> {
    const fn new(handoff: &'a Handoff, batch: LiveBatch) -> Self {
        Self { handoff, batch, owed: Owed::Account }
    }

    /// The account is settled before any session can see its answer, so that both agree whenever somebody looks.
    fn settle(&mut self, answers: Answers, took: Option<Duration>) {
        let Self { handoff, batch, owed } = self;
        if *owed == Owed::Account {
            // First, so that nothing is settled twice if this panics.
            *owed = Owed::Answers;
            let outcomes = batch.entries.iter().map(|entry| entry.stream).zip(answers.outcomes);
            handoff.finish(&batch.report(took), outcomes, &answers.executed);
        }
        *owed = Owed::Nothing;
        let (mut answers, mut wakers) = (answers.answers.into_iter(), Vec::with_capacity(batch.entries.len()));
        for turn in batch.entries.chunk_by(|entry, next| entry.stream == next.stream) {
            wakers.extend(turn[0].handle.deliver(answers.by_ref().take(turn.len())));
        }
        wake_all(wakers);
    }

    /// Answers items that nobody will run any more.
    fn give_up(&mut self) {
        let now = clock::now();
        let mut answers = Answers::with_capacity(self.batch.entries.len());
        let timing = CallTiming { started: now, finished: now, batch_size: 0 };
        for entry in &self.batch.entries {
            let fault = Fault::new(FaultKind::Failed, "the lane that was to run the item broke down; the server is about to end");
            answers.add(entry, Err(fault), timing);
        }
        self.settle(answers, None);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.owed != Owed::Nothing {
            // The lane is about to end by a panic already; if the queue cannot be settled either, nothing more can be done.
            let _ = catch_unwind(AssertUnwindSafe(|| self.give_up()));
        }
    }
}

/// Answers of one batch, delivered together so that each session is woken once.
struct Answers {
    answers: Vec<Answer>,
    outcomes: Vec<Outcome>,
    executed: Executed,
}

impl Answers {
    fn with_capacity(items: usize) -> Self {
        Self { answers: Vec::with_capacity(items), outcomes: Vec::with_capacity(items), executed: Executed::default() }
    }

    fn account(&mut self, call: ModelCall, finished: Timestamp) {
        self.executed.calls.push(call);
        self.executed.finished = finished;
    }

    fn add(&mut self, entry: &LiveEntry, outcome: Result<ItemOutputs, Fault>, timing: CallTiming) {
        let CallTiming { started, finished, batch_size } = timing;
        if outcome.is_err() {
            self.executed.failed.add(finished.since(entry.item.arrived));
        }
        self.outcomes.push(match &outcome {
            Ok(_) => Outcome::Ok,
            Err(fault) if fault.kind() == FaultKind::Invalid => Outcome::Refused,
            Err(_) => Outcome::Failed,
        });
        let timing = ItemTiming { arrived: entry.item.arrived, started, finished, batch_size };
        self.answers.push(Answer { seq: entry.item.ticket, part: AnswerPart::ONLY, outcome, timing });
    }

    fn end_unrun(&mut self, entry: &LiveEntry, now: Timestamp) {
        let reason = entry.item.lateness();
        self.executed.failed.add(now.since(entry.item.arrived));
        self.outcomes.push(reason.outcome());
        self.answers.push(unrun_answer(&entry.item, reason, now));
    }
}

fn count_padding(metrics: &ModelMetrics, padding: PaddingCount) {
    if padding.elements > 0 {
        metrics.input_elements.increment(padding.elements as u64);
        metrics.padding_elements.increment(padding.padded as u64);
    }
}

fn fault_of(error: &RunError) -> Fault {
    match error {
        RunError::Engine(EngineError::Input(cause)) => Fault::invalid("inputs", cause.clone()),
        error => Fault::new(FaultKind::Failed, format!("the model call failed: {error}")),
    }
}

/// Whether what a client sent is the cause, which is not the operator's concern.
const fn is_clients(error: &RunError) -> bool {
    matches!(error, RunError::Engine(EngineError::Input(_)))
}
