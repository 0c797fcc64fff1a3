//! Proves, before a model serves, that items which share a call do not change each other's answers, and measures what calls cost.
//!
//! The same calls do both. Made-up items of different characters run [alone], then [together] at sizes 2, 4, 8 … and, for a model with a
//! state, [along] 16 steps of a stream; random answers are compared by how they [scatter]; [verdict] says what that means. Knows engines;
//! no queue, no file, no protocol.
//!
//! # What it proves
//! That no dependence was found, with one seed, in calls up to the stated size, between items of up to 32 elements along dynamic
//! dimensions. A rule that sets in beyond that, or that made-up items never reach, is not found.

mod alone;
mod along;
mod aside;
mod calls;
mod company;
mod compare;
mod gain;
mod hints;
mod items;
mod memory;
mod observed;
mod scatter;
mod store;
mod together;
mod verdict;

use std::{sync::Arc, time::Duration};

pub use aside::Aside;
pub use company::Company;
pub use gain::{Gain, gain, gain_beside};
pub use hints::Hints;
pub use items::Ranges;
pub use memory::available_memory;
pub use store::{Fingerprint, Kept, Store, Subject};

use self::{
    alone::Alone,
    calls::{Caller, Ground},
    observed::Observed,
    together::Together,
    verdict::{Finding, Tolerance},
};
use crate::{
    clock,
    domain::{Batching, BatchingRule, ItemInputs, Verdict},
    engine::{CallThreads, Executable, ItemCall, LaneThreads, RunError},
};

/// Changes whenever the same model could get a different verdict or different costs.
pub const PROOF_VERSION: u32 = 3;
/// The seed that items are drawn from unless another is given.
pub const SEED_DEFAULT: u64 = 0x7469_6465;
/// Time for a model's trial calls unless its manifest gives another.
pub const BUDGET_DEFAULT: Duration = Duration::from_secs(2);
/// Calls may take this many times as long as they should, and a model with a state still has time for its steps.
const STEPS_MARGIN: u32 = 3;
/// Items in the calls that try the shortest items of a model with padding.
const SHORTEST_BATCH: usize = 4;
/// Calls with one thread, and with all; the median counts.
const WIDE_CALLS: usize = 7;
/// Each of the two series takes at most this part of the model's time.
const WIDE_SHARE: u32 = 8;

/// Why a model cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The model's outputs are not what its signature says, even for one item.
    #[error("a trial call with one item failed: {0}")]
    Outputs(String),
    /// The dimension taken for the batch is not one.
    #[error(
        "its first dimension is not a batch: {0}; set batch = false in the manifest to run each request as one call with tensors as they \
         are, or batching = \"off\" to run one element along that dimension in each call"
    )]
    NotABatch(String),
}

/// How a model is proven.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Most items in a call, by the manifest.
    pub max_batch: usize,
    /// The manifest's wish.
    pub rule: BatchingRule,
    /// Time for the model's trial calls.
    pub budget: Duration,
    /// Items from the manifest. If there are none, made-up ones take their place.
    pub examples: Vec<ItemInputs>,
    /// The seed of made-up items.
    pub seed: u64,
    /// The kind of items that the model takes, if that is known already.
    pub ranges: Option<Ranges>,
    /// The hints in the model's file.
    pub hints: Hints,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            max_batch: 64,
            rule: BatchingRule::Proven,
            budget: BUDGET_DEFAULT,
            examples: Vec::new(),
            seed: SEED_DEFAULT,
            ranges: None,
            hints: Hints::default(),
        }
    }
}

/// The result of the trial calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    /// Whether items share calls, and why.
    pub batching: Batching,
    /// The time of calls with 1, 2, 4 … items. For an unproven model that shares calls, they are guesses from one item.
    pub medians: Vec<Duration>,
    /// Input bytes of the made-up item that was measured.
    pub item_bytes: usize,
}

/// Proves and measures a model on lane number `lane`, whose compute thread calls this. Idle lanes keep `company`.
///
/// # Errors
/// [`ProofError`] if the model cannot serve. If trial calls prove nothing about a model, that is not an error: its verdict says so.
pub fn prove(executable: &Arc<Executable>, lane: usize, terms: &Terms, company: Option<&Company>) -> Result<Proof, ProofError> {
    prove_by(&Caller::new(executable, Ground::Lane(lane, company), terms.budget), terms)
}

/// The same while lanes serve other models, with instances of this one that nothing else uses yet.
///
/// # Errors
/// As for [`prove`].
pub fn prove_beside(executable: &Arc<Executable>, terms: &Terms, aside: &Aside) -> Result<Proof, ProofError> {
    aside.press(|| prove_by(&Caller::new(executable, Ground::Aside(aside, aside.slowness()), terms.budget), terms))
}

fn prove_by(caller: &Caller<'_>, terms: &Terms) -> Result<Proof, ProofError> {
    let alone = Alone::find(caller, terms)?;
    let item_bytes = alone.item_bytes();
    let measured_alone = vec![alone.took.max(Duration::from_nanos(1))];
    if terms.max_batch <= 1 || terms.rule == BatchingRule::Off {
        return Ok(Proof { batching: verdict::off(&alone, terms.seed), medians: measured_alone, item_bytes });
    }
    let (finding, observed) = match verdict::of_alone(caller, &alone) {
        Some(finding) => (of_random(finding, caller, &alone, terms), Observed::default()),
        None => in_company(caller, &alone, terms)?,
    };
    let Finding { verdict, detail } = if finding.verdict == Verdict::Unproven && terms.hints.apart_by_construction {
        Finding { verdict: Verdict::Independent, detail: "the engine computes items apart".to_owned() }
    } else {
        finding
    };
    if verdict == Verdict::NotABatch {
        return Err(ProofError::NotABatch(detail));
    }
    let shares_calls = verdict::shares_calls(verdict, terms.rule);
    let mut medians = measured_alone;
    if shares_calls {
        medians.extend(&observed.medians);
        if matches!(verdict, Verdict::Random | Verdict::Unproven) || terms.hints.apart_by_construction {
            guess(&mut medians, terms.max_batch);
        }
    }
    let is_proven = matches!(verdict, Verdict::Independent | Verdict::PaddingLeaks);
    let proven_batch = if is_proven { observed.largest.max(1) } else { 1 };
    let batching = Batching { verdict, shares_calls, detail: detail.into(), proven_batch, seed: terms.seed };
    Ok(Proof { batching, medians, item_bytes })
}

/// The finding for a random model whose manifest has its items share calls: that they must not, if neighbours move its answers by more than
/// chance does.
fn of_random(finding: Finding, caller: &Caller<'_>, alone: &Alone<'_>, terms: &Terms) -> Finding {
    if finding.verdict != Verdict::Random || terms.rule != BatchingRule::Assumed {
        return finding;
    }
    match scatter::coupled(caller, alone) {
        Some(output) => verdict::scattered(caller.output_name(output), &terms.hints),
        None => finding,
    }
}

/// What items in company show, at equal lengths too if padding changes answers.
fn in_company(caller: &Caller<'_>, alone: &Alone<'_>, terms: &Terms) -> Result<(Finding, Observed), ProofError> {
    let (mut finding, observed) = compared(caller, alone, terms, terms.max_batch);
    if finding.verdict == Verdict::Independent
        && let Some(maker) = alone.maker.shortest()
    {
        // The shorter an item is, the larger the part of it that is padding.
        let shortest = Alone { repeated: alone.repeated, noise: alone.noise, ..Alone::run(caller, maker)? };
        let (at_shortest, _) = compared(caller, &shortest, terms, terms.max_batch.min(SHORTEST_BATCH));
        if matches!(at_shortest.verdict, Verdict::Dependent | Verdict::NotABatch | Verdict::PaddingLeaks) {
            finding = at_shortest;
        }
    }
    if finding.verdict != Verdict::PaddingLeaks {
        return Ok((finding, observed));
    }
    let mut maker = alone.maker.clone();
    maker.equal_lengths = true;
    let equal = Alone { repeated: alone.repeated, noise: alone.noise, ..Alone::run(caller, maker)? };
    let (at_equal_lengths, observed) = compared(caller, &equal, terms, terms.max_batch);
    if at_equal_lengths.verdict == Verdict::Independent {
        let detail = format!("{}; at equal lengths {}", finding.detail, at_equal_lengths.detail);
        return Ok((Finding { detail, ..finding }, observed));
    }
    let detail = format!("{}; at equal lengths {}", finding.detail, at_equal_lengths.detail);
    Ok((Finding { detail, ..at_equal_lengths }, observed))
}

fn compared(caller: &Caller<'_>, alone: &Alone<'_>, terms: &Terms, max_batch: usize) -> (Finding, Observed) {
    let tolerance = Tolerance::of(alone, &terms.hints);
    let is_stateful = caller.executable.signature().is_stateful();
    let reserve = if is_stateful { along::least(alone.took) * STEPS_MARGIN } else { Duration::ZERO };
    let observed = Together::new(caller, alone, &tolerance, terms.seed, reserve).run(max_batch);
    let per_item = observed.medians.first().map_or(alone.took, |call_of_two| *call_of_two / 2);
    let steps = (is_stateful && !tolerance.is_dependent(&observed)).then(|| along::run(caller, alone, per_item, &tolerance));
    let wanted = prev_power_of_two(max_batch);
    let finding = verdict::of_company(caller, alone, &observed, steps.as_ref(), &tolerance, &terms.hints, wanted);
    (finding, observed)
}

/// Extends costs in proportion, as if sharing calls gained nothing: running calls will correct them.
fn guess(medians: &mut Vec<Duration>, max_batch: usize) {
    while let Some(last) = medians.last().copied().filter(|_| 1 << medians.len() <= max_batch) {
        medians.push(last.saturating_mul(2));
    }
}

const fn prev_power_of_two(number: usize) -> usize {
    if number == 0 { 0 } else { 1 << number.ilog2() }
}

/// Calls each lane's instance once, as far as `budget` goes, so that no client pays for the first call.
///
/// # Errors
/// [`RunError`] if a call fails with an item that ran elsewhere.
pub fn warm_up(
    executable: &Executable,
    lanes: impl Iterator<Item = usize>,
    terms: &Terms,
    budget: Duration,
) -> Result<(), RunError> {
    let maker = items::Maker::new(executable.signature(), terms);
    let Some(item) = maker.items().and_then(|items| items.into_iter().next()) else { return Ok(()) };
    let started = clock::now();
    for lane in lanes.take_while(|_| clock::now().since(started) <= budget) {
        executable.run(lane, &[ItemCall { inputs: &item.inputs, state: None }], CallThreads::One)?;
    }
    Ok(())
}

/// The time of a call with one item on all threads, divided by its time on one; `None` if the model's engine cannot use them, or if no
/// made-up item runs. The other lanes must be idle.
#[must_use]
pub fn wide_gain(executable: &Executable, lane: &LaneThreads, terms: &Terms) -> Option<f64> {
    if !executable.can_widen() {
        return None;
    }
    let maker = items::Maker::new(executable.signature(), terms);
    let item = maker.items()?.into_iter().next()?;
    let call = [ItemCall { inputs: &item.inputs, state: None }];
    let series = |threads| {
        let share = terms.budget / WIDE_SHARE;
        let started = clock::now();
        let mut durations = Vec::new();
        while durations.len() < WIDE_CALLS && (durations.len() < 3 || clock::now().since(started) < share) {
            let start = clock::now();
            executable.run(0, &call, threads).ok()?;
            durations.push(clock::now().since(start));
        }
        Some(calls::typical(durations))
    };
    let [one, all] = [CallThreads::One, CallThreads::All].map(|threads| lane.run(|| series(threads)));
    Some(all?.as_secs_f64() / one?.max(Duration::from_nanos(1)).as_secs_f64())
}

#[cfg(test)]
mod tests;
