//! Interprets the trial calls.
//!
//! Pure. Limits and their evidence: with 52 real and hand-made independent models on two engines, a row whose neighbours changed never
//! moved at all, and a row in company was at most 2.4e-4 from the same item alone; of 37 dependent ones, the smallest move was 1.2e-3.

use super::{
    Hints,
    alone::Alone,
    calls::Caller,
    items::is_float,
    observed::{Far, Fragile, Observed, Steps},
};
use crate::domain::{Batching, BatchingRule, Datatype, Verdict};

/// A row whose neighbours changed may move this far, or as far as a few units in the last place of its item would move it, if that is more.
/// With nearly all engines and operators it does not move at all; but rten computes the sines of some adjacent numbers in a different way
/// if one of them is large.
const NEAR: f64 = 5e-7;
/// The same, if what rounding does could not be measured.
const NEAR_UNKNOWN: f64 = 1e-6;
/// No further than this, whatever rounding does, even on an inexact engine, which does not answer the same item quite the same again.
const NEAR_MAX: f64 = 1e-5;
/// On such an engine, this many times the effect of repeating is allowed.
const REPEAT_FACTOR: f64 = 10.0;
/// A row this far from what the item gets alone is a different answer, whatever the model.
const FAR: f64 = 5e-3;
/// What rounding may do to a row, if that could not be measured.
const FAR_UNKNOWN: f64 = 2e-4;
/// The least that counts as more than rounding. Of independent models, the worst was off by 3e-6 on onnxruntime and 2e-5 on rten, except
/// for one that subtracts nearly equal numbers.
const FAR_MIN: f64 = 3e-5;
/// Allowed, as a multiple of how far an answer moves when its item moves by 1e-6, which is about eight roundings.
const NOISE_FACTOR: f64 = 20.0;
/// Allowed, as a multiple of the most that small moves of an item did to its answer.
const FRAGILE_FACTOR: f64 = 4.0;
const FRAGILE_MAX: f64 = 0.02;
/// Share of the rows that must be off by more than rounding: a dependence on size or place moves them all.
const ROWS: f64 = 0.125;
/// The same for models that round coarsely inside, where a single flip may move a row far.
const ROWS_LOSSY: f64 = 0.25;
/// What such a model's rounding may do to most rows: steps of 8 bits or of half precision.
const FAR_QUANTIZED: f64 = 1e-3;
const FAR_HALF: f64 = 4e-3;
/// Errors add up along a stream.
const STEPS_FACTOR: f64 = 4.0;

/// How far apart answers may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    near: f64,
    far: f64,
    /// Whether the model rounds coarsely inside.
    lossy: bool,
    /// Whether outputs are only labels.
    pub(super) labels_only: bool,
    /// Beyond this, a difference distinguishes one kind of dependence from another.
    pub(super) kind: f64,
}

impl Tolerance {
    pub(super) fn of(alone: &Alone<'_>, hints: &Hints) -> Self {
        let datatypes = || alone.answers.iter().flatten().map(crate::domain::Tensor::datatype);
        let inputs = alone.items.iter().flat_map(|item| item.inputs.iter().map(crate::domain::Tensor::datatype));
        let is_half = inputs.chain(datatypes()).any(|datatype| matches!(datatype, Datatype::Fp16 | Datatype::Bf16));
        let far = match (is_half, hints.lossy, alone.noise) {
            (true, _, _) => FAR_HALF,
            (false, true, noise) => (noise.unwrap_or_default() * NOISE_FACTOR).clamp(FAR_QUANTIZED, FAR_HALF),
            (false, false, Some(noise)) => (noise * NOISE_FACTOR).clamp(FAR_MIN, FAR),
            (false, false, None) => FAR_UNKNOWN,
        };
        let labels_only = !datatypes().any(is_float);
        let near = if alone.repeated > 0.0 {
            NEAR_MAX.max(alone.repeated * REPEAT_FACTOR)
        } else {
            alone.noise.map_or(NEAR_UNKNOWN, |noise| noise.clamp(NEAR, NEAR_MAX))
        };
        Self { near, far, lossy: is_half || hints.lossy, labels_only, kind: FAR }
    }

    /// Whether rows differ from what their items get alone by more than rounding.
    fn is_far(&self, far: &Far, fragile: &Fragile, factor: f64) -> bool {
        let rows = far.rows.len() as f64;
        let off = |limit: f64| {
            far.rows.iter().filter(|(item, apart, _)| *apart > limit.max(by_rounding(fragile, *item))).count() as f64
        };
        let labels =
            far.rows.iter().filter(|(item, _, differs)| *differs && !fragile.get(item).is_some_and(|moved| moved.labels));
        let labels = labels.count() as f64;
        // A single row may be rounded across a step.
        let many = |share: f64| (rows * share).max(1.0);
        if self.lossy {
            return off(self.far * factor) > many(ROWS_LOSSY) || labels > many(ROWS_LOSSY);
        }
        let labels_differ = if self.labels_only { labels > 0.0 } else { labels > many(ROWS_LOSSY) };
        off(FAR * factor) > 0.0 || off(self.far * factor) > many(ROWS) || labels_differ
    }

    /// Items of rows that are off by more than rounding, if only such rows suggest a dependence; the worst first.
    pub(super) fn off_by_far(&self, observed: &Observed) -> Vec<usize> {
        if !self.is_near(observed) || observed.failed.is_some() {
            return Vec::new();
        }
        let all = observed.far.values().chain([&observed.padded]).flat_map(|far| &far.rows);
        let mut off: Vec<(usize, f64, bool)> = all.copied().filter(|(_, apart, differs)| *apart > self.far || *differs).collect();
        off.sort_unstable_by(|left, right| right.2.cmp(&left.2).then(right.1.total_cmp(&left.1)));
        off.into_iter().map(|(item, ..)| item).collect()
    }

    fn is_far_in_company(&self, observed: &Observed) -> bool {
        observed.far.values().any(|far| self.is_far(far, &observed.fragile, 1.0))
    }

    fn is_near(&self, observed: &Observed) -> bool {
        observed.near.apart <= self.near
    }

    fn padding_leaks(&self, observed: &Observed) -> bool {
        self.is_far(&observed.padded, &observed.fragile, 1.0)
    }

    /// Whether items of calls change each other.
    pub(super) fn is_dependent(&self, observed: &Observed) -> bool {
        !self.is_near(observed) || observed.failed.is_some() || self.is_far_in_company(observed) || self.padding_leaks(observed)
    }

    /// Whether streams in company differ from the same streams alone by more than rounding.
    pub(super) fn steps_are_far(&self, steps: &Steps) -> bool {
        self.is_far(&steps.far, &steps.fragile, STEPS_FACTOR)
    }

    fn steps_depend(&self, steps: &Steps) -> bool {
        steps.near.apart > self.near || self.steps_are_far(steps)
    }
}

/// How far off rounding alone can put the answer to an item.
fn by_rounding(fragile: &Fragile, item: usize) -> f64 {
    match fragile.get(&item).map_or(0.0, |moved| moved.numbers) {
        // Beyond this, it may lead anywhere.
        moved if moved > FRAGILE_MAX => f64::INFINITY,
        moved => moved * FRAGILE_FACTOR,
    }
}

/// Why items share no calls, or what is known about those that do.
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) detail: String,
}

/// What single items show, if that settles it.
pub(super) fn of_alone(caller: &Caller<'_>, alone: &Alone<'_>) -> Option<Finding> {
    let unproven = |detail| Some(Finding { verdict: Verdict::Unproven, detail });
    let takes = |detail: &str| {
        let cause = alone.failure.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let left = if caller.left().is_zero() { "; the model's time for them ran out" } else { "" };
        format!("{detail}{cause}{left}; give items that it takes in [trial]")
    };
    if alone.items.is_empty() {
        return unproven(takes("the model takes none of the items that were made up for trial calls"));
    }
    if let Some(output) = alone.output_of_own_length() {
        let name = caller.output_name(output);
        let detail =
            format!("the length of output '{name}' depends on the data, so items in one call would be cut to one length");
        return Some(Finding { verdict: Verdict::Dependent, detail });
    }
    if alone.is_random() {
        let moved = shown(alone.repeated);
        let detail = format!(
            "the same item gets a different answer each time (it moved by {moved} times its size), so answers cannot be compared"
        );
        return Some(Finding { verdict: Verdict::Random, detail });
    }
    if alone.items.len() < 2 {
        return unproven(takes("the model takes only one of the items that were made up for trial calls"));
    }
    None
}

/// What items in company show.
pub(super) fn of_company(
    caller: &Caller<'_>,
    alone: &Alone<'_>,
    observed: &Observed,
    steps: Option<&Steps>,
    tolerance: &Tolerance,
    hints: &Hints,
    wanted: usize,
) -> Finding {
    if !tolerance.is_near(observed) || observed.failed.is_some() || tolerance.is_far_in_company(observed) {
        return dependent(caller, alone, observed, tolerance, hints);
    }
    if let Some(steps) = steps.filter(|steps| tolerance.steps_depend(steps)) {
        let worst = if steps.near.apart > tolerance.near { steps.near } else { steps.far.worst };
        let (name, apart) = (caller.output_name(worst.output), shown(worst.apart));
        let detail = format!(
            "along a stream of 16 steps, its neighbours in a call of {} items changed output '{name}' by {apart} times its size{}",
            worst.size,
            suspects(hints)
        );
        return Finding { verdict: Verdict::Dependent, detail };
    }
    if tolerance.padding_leaks(observed) {
        let worst = observed.padded.worst;
        let (name, apart) = (caller.output_name(worst.output), shown(worst.apart));
        let detail = format!("padding changed output '{name}' by {apart} times its size in a call of {} items", worst.size);
        return Finding { verdict: Verdict::PaddingLeaks, detail };
    }
    let unproven = |detail: String| Finding { verdict: Verdict::Unproven, detail };
    let is_short = observed.largest < wanted.min(4) || steps.is_some_and(|steps| !steps.is_whole && steps.failed.is_none());
    if is_short && alone.items.len() > 1 {
        let (took, budget) = (alone.took, caller.budget());
        return unproven(format!(
            "the trial calls were not over in {budget:.0?}, as a call with one item takes {took:.1?}; \
             raise trial.seconds in the manifest"
        ));
    }
    if let Some(error) = steps.and_then(|steps| steps.failed.as_ref()) {
        return unproven(format!("a trial call along a stream failed: {error}; give items that the model takes in [trial]"));
    }
    // In company they are rounded differently: that they differ there, by no more than that, proves nothing either.
    if alone.is_constant() {
        return unproven(
            "all made-up items got the same answer, which proves nothing; give items in [trial] that do not".to_owned(),
        );
    }
    let largest = observed.largest;
    let mut detail = format!("no dependence was found between {} items in calls of up to {largest}", alone.items.len());
    if let Some((size, error)) = &observed.limit {
        detail.push_str(&format!("; calls of {size} fail, so none are made: {error}"));
    }
    Finding { verdict: Verdict::Independent, detail }
}

/// The words for items that change each other, and whether they are items at all.
fn dependent(caller: &Caller<'_>, alone: &Alone<'_>, observed: &Observed, tolerance: &Tolerance, hints: &Hints) -> Finding {
    let what = if observed.near.apart > tolerance.near {
        let worst = observed.near;
        let (name, apart) = (caller.output_name(worst.output), shown(worst.apart));
        format!("other items in a call of {} changed output '{name}' by {apart} times its size", worst.size)
    } else if let Some((size, error)) = &observed.failed {
        format!("items that run alone fail in a call of {size}: {error}")
    } else {
        let far = observed.far.values().filter(|far| tolerance.is_far(far, &observed.fragile, 1.0));
        let worst = far.map(|far| far.worst).max_by(|left, right| left.apart.total_cmp(&right.apart)).unwrap_or_default();
        let (name, apart) = (caller.output_name(worst.output), shown(worst.apart));
        format!("output '{name}' is off by {apart} times its size in a call of {}, from what the item gets alone", worst.size)
    };
    let is_constant = alone.is_constant() && alone.items.len() > 1;
    let is_order = observed.failed.is_none() && !(observed.copies_hold && observed.order_holds);
    let is_single = alone.items.iter().all(|item| item.inputs.iter().all(|tensor| tensor.shape().is_empty()));
    let detail = match &hints.ordered_axis {
        // What the file calls a batch is a batch, useful or not.
        _ if is_constant && hints.named_batch => {
            let detail = format!("{what}, while every item alone gets the same answer{}", suspects(hints));
            return Finding { verdict: Verdict::Dependent, detail };
        }
        _ if is_constant => format!("{what}, while every item alone gets the same answer"),
        Some(axis) if is_order => format!("{what}, and its first dimension is {axis}"),
        None if is_order && is_single && !hints.named => {
            format!("{what}, and an item is a single number whose place matters, along a dimension without a name")
        }
        _ => return Finding { verdict: Verdict::Dependent, detail: format!("{what}{}", suspects(hints)) },
    };
    Finding { verdict: Verdict::NotABatch, detail }
}

/// A random model in which neighbours put an output elsewhere.
pub(super) fn scattered(output: &str, hints: &Hints) -> Finding {
    let detail = format!(
        "the same item gets a different answer each time, and next to loud items in a call of 3, output '{output}' is where it never is \
         next to calm ones{}",
        suspects(hints)
    );
    Finding { verdict: Verdict::Dependent, detail }
}

/// `; suspected are …`
fn suspects(hints: &Hints) -> String {
    const NAMED_MAX: usize = 3;
    if hints.suspects.is_empty() {
        return String::new();
    }
    let named: Vec<&str> = hints.suspects.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = if hints.suspects.len() > NAMED_MAX { ", …" } else { "" };
    format!("; suspected: {}{more}", named.join(", "))
}

/// A difference, as people read it.
fn shown(apart: f64) -> String {
    match apart {
        _ if apart.is_infinite() => "infinitely many".to_owned(),
        0.01..1e4 => format!("{apart:.2}"),
        _ => format!("{apart:.1e}"),
    }
}

/// What the server does about it.
pub(super) fn shares_calls(verdict: Verdict, rule: BatchingRule) -> bool {
    match verdict {
        Verdict::Independent | Verdict::PaddingLeaks => rule != BatchingRule::Off,
        Verdict::Random | Verdict::Unproven => rule == BatchingRule::Assumed,
        Verdict::Dependent | Verdict::NotABatch | Verdict::Off => false,
    }
}

/// For a model whose manifest lets no items share calls.
pub(super) fn off(alone: &Alone<'_>, seed: u64) -> Batching {
    let mut batching = Batching::off("one item a call, by the manifest");
    if alone.items.is_empty() {
        batching.detail = "one item a call, by the manifest; the model takes none of the items that were made up".into();
    }
    batching.seed = seed;
    batching
}
