//! Runs batches, and answers their items.
//!
//! # Errors
//! If a batch fails, its items are run again one by one, once, so that a bad item fails alone and its neighbours get their
//! results. If an engine panics, [`Executable`](crate::engine::Executable) catches the panic and rebuilds the instance. A panic
//! anywhere else ends the lane, which [`Vitals`](crate::vitals::Vitals) notices; the items of its batch are first answered as
//! failed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    after::wake_all,
    hosted::{Job, ModelRuntime},
    lane::{CallTiming, Lane, Made},
    live::{LiveBatch, LiveEntry},
    state::Device,
    unrun::unrun_answer,
};
use crate::{
    clock,
    domain::{Answer, AnswerPart, CloseReason, Fault, FaultKind, ItemOutputs, ItemTiming, Outcome, Timestamp},
    engine::{CallThreads, EngineError, Ran, RunError},
    scheduler::{Executed, ModelCall},
    threads,
    vitals::Part,
};

impl Device {
    /// Runs one batch on this thread as lane `lane`, which no other thread may be using, and says whether there was one. Does not
    /// wait for one.
    pub fn turn(&self, lane: usize) -> bool {
        let job = self.try_batch(lane);
        job.map(|job| self.run(&self.lanes[lane], job)).is_some()
    }

    /// Works as a lane until the queue is closed and empty.
    pub(super) fn work(&self, lane: &Lane) {
        threads::take_cores();
        while let Some(job) = self.next_batch(lane.index, &lane.pulse) {
            let taken = Taken::new(self, job.batch);
            Part::Lane(lane.index).may_fail();
            taken.run(lane, &job.runtime);
        }
    }

    /// Works as long lane number `number` until the queue is closed.
    pub(super) fn work_long(&self, lane: &Lane, number: usize) {
        threads::stand_back();
        while let Some(job) = self.next_long_batch(number) {
            self.run(lane, job);
        }
    }

    /// Runs a batch and answers its items.
    pub(super) fn run(&self, lane: &Lane, job: Job) {
        Taken::new(self, job.batch).run(lane, &job.runtime);
    }
}

/// A batch that a lane has taken: its items get answers, whatever happens to the lane.
struct Taken<'a> {
    device: &'a Device,
    batch: LiveBatch,
    owed: Owed,
}

/// What still has to be done for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// Settle its account, and answer.
    Account,
    /// Answer.
    Answers,
    Nothing,
}

impl<'a> Taken<'a> {
    const fn new(device: &'a Device, batch: LiveBatch) -> Self {
        Self { device, batch, owed: Owed::Account }
    }

    fn run(mut self, lane: &Lane, runtime: &ModelRuntime) {
        let batch = &self.batch;
        let metrics = &runtime.metrics;
        metrics.batch(batch.reason).increment(1);
        metrics.batch_occupancy.record(batch.entries.len() as f64 / batch.cap.max(1) as f64);
        let size = batch.entries.len();
        let threads = if batch.wide { CallThreads::All } else { CallThreads::One };
        let Made { outcome, timing, delivery } = lane.call(runtime, &batch.entries, threads);
        let wait = |entry: &LiveEntry| timing.started.since(entry.item.arrived);
        for equals in batch.entries.chunk_by(|one, next| one.priority == next.priority) {
            metrics.queue_wait(equals[0].priority).record_all(equals.iter().map(wait));
        }
        let waited = batch.entries.iter().map(wait).sum();
        let mut answers = Answers::with_capacity(size);
        let mut learned = None;
        match outcome {
            Ok(Ran { outputs, milestones, .. }) => {
                learned = (!delivery.was_broken_off()).then(|| timing.finished.since(timing.started));
                answers.account(ModelCall { items: size, waited, times: timing.times(milestones) }, timing.finished);
                for (index, (entry, outputs)) in batch.entries.iter().zip(outputs).enumerate() {
                    answers.add(entry, delivery.last(index, Ok(outputs)), timing);
                }
            }
            Err(error) => {
                lane.warn_of(&error, size, timing.finished);
                if size == 1 || delivery.has_begun() {
                    for (index, entry) in batch.entries.iter().enumerate() {
                        answers.add(entry, delivery.last(index, Err(fault_of(&error))), timing);
                    }
                } else {
                    run_one_by_one(lane, runtime, &batch.entries, &mut answers);
                }
            }
        }
        self.settle(answers, learned);
    }

    /// The account is settled before any session can see its answer, so the two always agree.
    fn settle(&mut self, answers: Answers, took: Option<Duration>) {
        let Self { device, batch, owed } = self;
        if *owed == Owed::Account {
            // Set first, so that nothing is settled twice if this panics.
            *owed = Owed::Answers;
            let outcomes = batch.entries.iter().map(|entry| entry.stream).zip(answers.outcomes);
            device.finish(&batch.report(took), outcomes, &answers.executed);
        }
        *owed = Owed::Nothing;
        let (mut answers, mut wakers) = (answers.answers.into_iter(), Vec::with_capacity(batch.entries.len()));
        for turn in batch.entries.chunk_by(|entry, next| entry.stream == next.stream) {
            wakers.extend(turn[0].handle.deliver(answers.by_ref().take(turn.len())));
        }
        wake_all(wakers);
    }

    /// Answers items that will not be run any more.
    fn give_up(&mut self) {
        let now = clock::now();
        let mut answers = Answers::with_capacity(self.batch.entries.len());
        let timing = CallTiming { started: now, finished: now, batch_size: 0 };
        for entry in &self.batch.entries {
            let fault = Fault::new(FaultKind::Failed, "the lane running the item failed; the server is about to stop");
            answers.add(entry, (AnswerPart::ONLY, Err(fault)), timing);
        }
        self.settle(answers, None);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.owed != Owed::Nothing {
            // A panic is already ending the lane; if the queue cannot be settled either, nothing more can be done.
            let _ = catch_unwind(AssertUnwindSafe(|| self.give_up()));
        }
    }
}

fn run_one_by_one(lane: &Lane, runtime: &ModelRuntime, entries: &[LiveEntry], answers: &mut Answers) {
    for entry in entries {
        let now = clock::now();
        if entry.item.due() <= now {
            answers.end_unrun(entry, now);
            continue;
        }
        runtime.metrics.batch(CloseReason::Retry).increment(1);
        let Made { outcome, timing, delivery } = lane.call(runtime, std::slice::from_ref(entry), CallThreads::One);
        let outcome = match outcome {
            Ok(Ran { mut outputs, milestones, .. }) if outputs.len() == 1 => {
                let waited = timing.started.since(entry.item.arrived);
                answers.account(ModelCall { items: 1, waited, times: timing.times(milestones) }, timing.finished);
                Ok(outputs.swap_remove(0))
            }
            Ok(Ran { outputs, .. }) => {
                Err(Fault::new(FaultKind::Failed, format!("the model call gave {} results for 1 item", outputs.len())))
            }
            Err(error) => Err(fault_of(&error)),
        };
        answers.add(entry, delivery.last(0, outcome), timing);
    }
}

/// The answers of one batch, delivered together so that each session is woken once.
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

    /// Adds the last answer to an item, which ends it.
    fn add(&mut self, entry: &LiveEntry, (part, outcome): (AnswerPart, Result<ItemOutputs, Fault>), timing: CallTiming) {
        let CallTiming { started, finished, batch_size } = timing;
        if outcome.is_err() {
            self.executed.failed.add(finished.since(entry.item.arrived));
        }
        self.outcomes.push(match &outcome {
            Ok(_) => Outcome::Ok,
            Err(fault) => outcome_of(fault.kind()),
        });
        let timing = ItemTiming { arrived: entry.item.arrived, started, finished, batch_size };
        self.answers.push(Answer { seq: entry.item.ticket, part, outcome, timing });
    }

    fn end_unrun(&mut self, entry: &LiveEntry, now: Timestamp) {
        let reason = entry.item.lateness();
        self.executed.failed.add(now.since(entry.item.arrived));
        self.outcomes.push(reason.outcome());
        self.answers.push(unrun_answer(&entry.item, reason, now));
    }
}

/// How an item counts when its call gives it a fault of this kind.
const fn outcome_of(kind: FaultKind) -> Outcome {
    match kind {
        // Overloaded: the client does not read its answers.
        FaultKind::Invalid | FaultKind::Overloaded => Outcome::Refused,
        FaultKind::Expired => Outcome::Expired,
        _ => Outcome::Failed,
    }
}

fn fault_of(error: &RunError) -> Fault {
    match error {
        RunError::Engine(EngineError::Input(cause)) => Fault::invalid("inputs", cause.clone()),
        error => Fault::new(FaultKind::Failed, format!("the model call failed: {error}")),
    }
}
