//! Trial calls: run, timed, and within the model's time.

use std::{sync::Arc, time::Duration};

use super::{Company, compare::Answer, items::TrialItem};
use crate::{
    clock,
    domain::{StateBuffers, StateSlot, Tensor, Timestamp},
    engine::{CallThreads, Executable, ItemCall, RunError},
};

/// Makes calls of one model on one lane.
pub(super) struct Caller<'a> {
    pub(super) executable: &'a Arc<Executable>,
    lane: usize,
    company: Option<&'a Company>,
    begun: Timestamp,
    budget: Duration,
}

/// What a call gave.
pub(super) struct Reply {
    /// The items' outputs, and then their next states as tensors, in the items' order.
    pub(super) answers: Vec<Answer>,
    /// The states alone, for the next step of the same streams.
    pub(super) states: Vec<Option<StateBuffers>>,
    pub(super) took: Duration,
}

impl<'a> Caller<'a> {
    pub(super) fn new(executable: &'a Arc<Executable>, lane: usize, company: Option<&'a Company>, budget: Duration) -> Self {
        Self { executable, lane, company, begun: clock::now(), budget }
    }

    /// What is left of the model's time.
    pub(super) fn left(&self) -> Duration {
        self.budget.saturating_sub(clock::now().since(self.begun))
    }

    /// Whether calls that should take so long altogether are over in time.
    pub(super) fn affords(&self, expected: Duration) -> bool {
        expected <= self.left()
    }

    /// The model's time in all.
    pub(super) const fn budget(&self) -> Duration {
        self.budget
    }

    /// Lets idle lanes make calls with these items until others are shown.
    pub(super) fn show(&self, items: &[&TrialItem]) {
        if let Some(company) = self.company {
            company.show(self.executable, items.iter().map(|item| (*item).clone()).collect());
        }
    }

    /// Runs items as one call.
    pub(super) fn call(&self, items: &[&TrialItem]) -> Result<Reply, RunError> {
        let slots: Vec<StateSlot> = items.iter().map(|item| slot(item.state.clone())).collect();
        let calls: Vec<ItemCall<'_>> =
            items.iter().zip(&slots).map(|(item, slot)| ItemCall { inputs: &item.inputs, state: Some(slot) }).collect();
        let start = clock::now();
        let ran = self.executable.run(self.lane, &calls, CallThreads::One)?;
        let took = clock::now().since(start);
        let states: Vec<Option<StateBuffers>> = slots.iter().map(|slot| slot.with(Option::take)).collect();
        let answers =
            ran.outputs.into_iter().zip(&states).map(|(outputs, state)| self.answer(outputs.into_vec(), state.as_ref()));
        Ok(Reply { answers: answers.collect(), states, took })
    }

    fn answer(&self, mut outputs: Answer, state: Option<&StateBuffers>) -> Answer {
        let specs = &self.executable.signature().states;
        for (spec, bytes) in specs.iter().zip(state.into_iter().flatten()) {
            // A state of the wrong length has failed the call already.
            outputs.extend(Tensor::new(spec.datatype, spec.dims.clone(), bytes.to_vec().into()));
        }
        outputs
    }

    /// The name of an output, or of a state's, by its place in an answer.
    pub(super) fn output_name(&self, output: usize) -> &str {
        let signature = self.executable.signature();
        let names = signature.outputs.iter().map(|spec| &*spec.name).chain(signature.states.iter().map(|spec| &*spec.output));
        names.clone().nth(output).unwrap_or("?")
    }
}

fn slot(state: Option<StateBuffers>) -> StateSlot {
    let slot = StateSlot::default();
    slot.with(|place| *place = state);
    slot
}

/// The median of calls at one batch size, the first of which warms up and counts only if there is no other.
pub(super) fn typical(mut durations: Vec<Duration>) -> Duration {
    if durations.len() > 1 {
        durations.remove(0);
    }
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}
