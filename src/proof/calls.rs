//! Trial calls: runs and times them, within the model's time.

use std::{cell::Cell, ops::ControlFlow, sync::Arc, time::Duration};

use super::{
    Company,
    aside::{Aside, Taken},
    compare::Answer,
    items::TrialItem,
};
use crate::{
    clock,
    domain::{ItemOutputs, Tensor, Timestamp},
    engine::{CallThreads, Executable, ItemCall, ItemParts, RunError, StreamState},
};

/// At least this part of the time that passes counts as spent, even if calls have taken less.
const PASSED_SHARE: u32 = 8;

/// Where calls are made.
#[derive(Clone, Copy)]
pub(super) enum Ground<'a> {
    /// On the calling thread, which is this lane's, perhaps with company on lanes that have nothing to do.
    Lane(usize, Option<&'a Company>),
    /// While lanes serve; the calling thread is the one of these two that takes its share of the cores. The number says how many times as
    /// long as on a free core work that gives way took before.
    Aside(&'a Aside, f64),
}

/// Takes the answers of a call that are not its items' last, and wants all of them that come in the model's time.
struct Unread {
    until: Timestamp,
}

impl ItemParts for Unread {
    fn give(&mut self, _outputs: Vec<ItemOutputs>) -> ControlFlow<()> {
        if clock::now() < self.until { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// Makes calls of one model.
pub(super) struct Caller<'a> {
    pub(super) executable: &'a Arc<Executable>,
    ground: Ground<'a>,
    begun: Timestamp,
    budget: Duration,
    taken: Cell<Taken>,
}

/// The result of a call.
pub(super) struct Reply {
    /// The items' outputs, then their next states as tensors, in the items' order.
    pub(super) answers: Vec<Answer>,
    /// The states alone, for the next step of the same streams.
    pub(super) states: Vec<Option<Vec<Tensor>>>,
    pub(super) took: Duration,
}

impl<'a> Caller<'a> {
    pub(super) fn new(executable: &'a Arc<Executable>, ground: Ground<'a>, budget: Duration) -> Self {
        Self { executable, ground, begun: clock::now(), budget, taken: Cell::default() }
    }

    /// What is left of the model's time. Only what calls take counts, not how long they wait for a core: a verdict must not depend on how
    /// busy the machine is. On a lane, which others wait for, the rest counts in part.
    pub(super) fn left(&self) -> Duration {
        let calls = self.taken.get().calls;
        let spent = match self.ground {
            Ground::Lane(..) => calls.max(clock::now().since(self.begun) / PASSED_SHARE),
            // A reload must end in time; time that it waits voluntarily does not count towards that, and is bounded.
            Ground::Aside(..) => clock::now().since(self.begun).saturating_sub(self.taken.get().waited()),
        };
        self.budget.saturating_sub(spent)
    }

    /// Whether calls that should take this long altogether will be over in time.
    pub(super) fn affords(&self, expected: Duration) -> bool {
        expected <= self.left()
    }

    /// The time that its calls have taken so far.
    pub(super) fn took(&self) -> Duration {
        self.taken.get().calls
    }

    /// The model's time in all.
    pub(super) const fn budget(&self) -> Duration {
        self.budget
    }

    /// Has idle lanes make calls with these items until others are shown.
    pub(super) fn show(&self, items: &[&TrialItem]) {
        if let Ground::Lane(_, Some(company)) = self.ground {
            company.show(self.executable, items.iter().map(|item| (*item).clone()).collect());
        }
    }

    /// Runs items as one call.
    pub(super) fn call(&self, items: &[&TrialItem]) -> Result<Reply, RunError> {
        let streams = items.iter().map(|item| self.stream(item)).collect::<Result<Vec<_>, _>>()?;
        let calls: Vec<ItemCall<'_>> =
            items.iter().zip(&streams).map(|(item, state)| ItemCall { inputs: &item.inputs, state: Some(state) }).collect();
        let mut taken = self.taken.get();
        // A call of a model that gives an item several answers takes as long as all of them; the last are compared.
        let (executable, until) = (self.executable, clock::now() + self.left());
        let run = |lane| executable.run_in_parts(lane, &calls, CallThreads::One, &mut Unread { until });
        // What a call takes is the time for which its thread is not waiting for a core.
        let (ran, took) = match self.ground {
            Ground::Aside(aside, slowness) if taken.stands_back(slowness, self.budget) => {
                let begun = clock::now();
                let (ran, spent) = aside.timed(|| run(0));
                taken.add_standing_back(spent.computing(), clock::now().since(begun));
                (ran, spent.computing())
            }
            Ground::Aside(..) | Ground::Lane(..) => {
                let (ran, spent) = clock::timed(|| run(self.lane()));
                taken.add(spent.computing());
                (ran, spent.computing())
            }
        };
        self.taken.set(taken);
        let ran = ran?;
        let states: Vec<Option<Vec<Tensor>>> = streams.iter().map(|state| self.executable.state_tensors(state)).collect();
        let answers = ran.outputs.into_iter().zip(&states).map(|(outputs, state)| {
            let mut answer = outputs.into_vec();
            answer.extend(state.iter().flatten().cloned());
            answer
        });
        Ok(Reply { answers: answers.collect(), states, took })
    }

    const fn lane(&self) -> usize {
        match self.ground {
            Ground::Lane(lane, _) => lane,
            Ground::Aside(..) => 0,
        }
    }

    /// The state of the item's stream.
    fn stream(&self, item: &TrialItem) -> Result<StreamState, RunError> {
        item.state.as_ref().map_or_else(|| Ok(StreamState::default()), |tensors| self.executable.state_of(tensors))
    }

    /// The name of an output, a state's included, by its place in an answer.
    pub(super) fn output_name(&self, output: usize) -> &str {
        let signature = self.executable.signature();
        let names = signature.outputs.iter().map(|spec| &*spec.name).chain(signature.states.iter().map(|spec| &*spec.output));
        names.clone().nth(output).unwrap_or("?")
    }
}

/// The median of calls at one batch size, the first of which warms up and counts only if there is no other.
pub(super) fn typical(mut durations: Vec<Duration>) -> Duration {
    if durations.len() > 1 {
        durations.remove(0);
    }
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}
