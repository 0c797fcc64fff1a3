//! Items in company: the same item at the same place of calls of the same size, beside calm neighbours and beside loud ones.
//!
//! Two comparisons. *Near*: a row must not move at all when only its neighbours change; rounding cancels out, because the engine does the
//! same arithmetic on it. *Far*: a row must be what the item gets alone, up to rounding, which finds what depends on the size of the
//! call, on the place in it, or on padding.

use std::{collections::BTreeMap, time::Duration};

use super::{
    alone::{Alone, shapes_equal},
    calls::{Caller, typical},
    compare::{Answer, Distance, largest, median},
    items::{Character, TrialItem},
    verdict::Tolerance,
};
use crate::engine::RunError;

/// Calls at one batch size, at the most; the median of their times counts.
const CALLS: usize = 10;
/// Calls at sizes so large that more would break the model's time.
const CALLS_MIN: usize = 3;
/// Share of what is left of the model's time that one size may take.
const SIZE_SHARE: u32 = 2;
/// Share of what is left of the model's time that the sizes between the powers of two may take.
const BETWEEN_SHARE: u32 = 4;
/// How an item with no scale of its own is compared: relative to this part of the usual size of answers.
const NEAR_FLOOR: f64 = 1e-6;
const FAR_FLOOR: f64 = 1e-3;

/// A difference that was found: how large, in which output, in calls of which size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Worst {
    pub(super) apart: f64,
    pub(super) output: usize,
    pub(super) size: usize,
}

impl Worst {
    pub(super) fn take(&mut self, apart: f64, output: usize, size: usize) {
        if apart > self.apart {
            *self = Self { apart, output, size };
        }
    }
}

/// What is known of rows beside what their items get alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Far {
    /// How far the numbers of each row were off.
    pub(super) numbers: Vec<f64>,
    /// Rows with another label.
    pub(super) labels: usize,
    pub(super) worst: Worst,
}

impl Far {
    pub(super) fn take(&mut self, distance: Distance, size: usize) {
        self.numbers.push(distance.numbers);
        self.labels += usize::from(distance.labels);
        self.worst.take(distance.strict(), distance.output, size);
    }
}

/// What calls of several items have shown.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// How far rows moved when only their neighbours changed.
    pub(super) near: Worst,
    /// Rows as long as their call, at each size.
    pub(super) far: BTreeMap<usize, Far>,
    /// Rows that were padded.
    pub(super) padded: Far,
    /// Whether copies of an item get what it gets alone.
    pub(super) copies_hold: bool,
    /// Whether rows in another order get the same in another order.
    pub(super) order_holds: bool,
    /// A call that failed although its items run alone: its size, and why.
    pub(super) failed: Option<(usize, RunError)>,
    /// Whether all rows of all calls were the same.
    pub(super) is_constant: bool,
    /// Largest power of two, and largest size at all, in which items were compared.
    pub(super) largest: usize,
    /// The time of calls of 2, 4, 8 … items.
    pub(super) medians: Vec<Duration>,
}

/// Items by the part that they play, by their place in the list.
struct Cast {
    /// What is watched.
    targets: Vec<usize>,
    calm: Vec<usize>,
    loud: Vec<usize>,
    mirrored: Vec<usize>,
    all: Vec<usize>,
}

impl Cast {
    /// Only items that can share a call: of one shape, save what is padded.
    fn of(alone: &Alone<'_>, is_padded: bool) -> Self {
        use Character::{Loud, Mirror, Offset, Positive, Quiet, Tiny, Unit, Zero};
        let first = alone.items.first();
        let meets = |item: &TrialItem| is_padded || first.is_none_or(|first| shapes_equal(&item.inputs, &first.inputs));
        let all: Vec<usize> = (0..alone.items.len()).filter(|at| meets(&alone.items[*at])).collect();
        let those = |wanted: &[Character]| -> Vec<usize> {
            let mut chosen = Vec::new();
            for character in wanted {
                chosen.extend(all.iter().copied().filter(|at| alone.items[*at].character == *character));
            }
            chosen
        };
        let or = |chosen: Vec<usize>, others: &[usize]| if chosen.is_empty() { others.to_vec() } else { chosen };
        // The smallest come early, because they show most of what others do to them.
        let targets = or(those(&[Tiny, Unit, Offset, Zero, Positive, Quiet]), &all);
        let loud = or(those(&[Loud]), &or(those(&[Mirror, Offset, Positive]), &all));
        let calm = or(those(&[Zero, Quiet, Tiny]), &targets);
        let mirrored = or(those(&[Mirror]), &loud);
        Self { targets, calm, loud, mirrored, all }
    }
}

/// Compares what calls give.
pub(super) struct Together<'a, 'c> {
    caller: &'c Caller<'a>,
    alone: &'c Alone<'a>,
    tolerance: &'c Tolerance,
    cast: Cast,
    chance: fastrand::Rng,
    turn: usize,
    /// The usual size of each output's numbers.
    sizes: Vec<f64>,
    /// First answers at a place: by place, item and length of the call.
    kept: BTreeMap<(usize, usize, usize), Answer>,
    observed: Observed,
}

impl<'a, 'c> Together<'a, 'c> {
    pub(super) fn new(caller: &'c Caller<'a>, alone: &'c Alone<'a>, tolerance: &'c Tolerance, seed: u64) -> Self {
        let is_padded = caller.executable.signature().padding.is_some();
        let observed = Observed {
            copies_hold: true,
            order_holds: true,
            is_constant: alone.is_constant(),
            largest: 1,
            ..Observed::default()
        };
        let chance = fastrand::Rng::with_seed(seed);
        let (cast, sizes) = (Cast::of(alone, is_padded), alone.sizes());
        Self { caller, alone, tolerance, cast, chance, turn: 0, sizes, kept: BTreeMap::new(), observed }
    }

    /// Runs calls of 2, 4, 8 … items up to `max_batch`, as far as the model's time goes, and then one of each size between. Stops early
    /// when a dependence is found, as soon as its kind is known.
    pub(super) fn run(mut self, max_batch: usize) -> Observed {
        if self.cast.all.len() < 2 {
            return self.observed;
        }
        let mut last = self.alone.took;
        for size in (1..usize::BITS).map(|power| 1_usize << power).take_while(|size| *size <= max_batch) {
            let expected = last * 2;
            let least = if size == 2 { 2 } else { CALLS_MIN };
            if !self.caller.affords(expected * least as u32) {
                break;
            }
            let share = self.caller.left() / SIZE_SHARE;
            let affordable = usize::try_from(share.as_nanos() / expected.as_nanos().max(1)).unwrap_or(CALLS);
            let Some(took) = self.size(size, affordable.clamp(least, CALLS)) else { break };
            last = took;
            self.observed.medians.push(took);
            self.observed.largest = size;
            if size >= 4 && self.tolerance.is_dependent(&self.observed) {
                return self.observed;
            }
        }
        if !self.tolerance.is_dependent(&self.observed) {
            self.between(last);
        }
        self.observed
    }

    /// One call of each size that is no power of two, in an order that leaves no wide gap when time runs out.
    fn between(&mut self, last: Duration) {
        let largest = self.observed.largest;
        let mut sizes: Vec<usize> = (3..largest).filter(|size| !size.is_power_of_two()).collect();
        self.chance.shuffle(&mut sizes);
        let mut left = self.caller.left() / BETWEEN_SHARE;
        for size in sizes {
            if left < last {
                return;
            }
            let mix = self.mix(size);
            match self.call(&mix) {
                Ok((_, took)) => left = left.saturating_sub(took),
                Err(error) => {
                    self.observed.failed = Some((size, error));
                    return;
                }
            }
            self.kept.clear();
        }
    }

    /// Calls of one size; their typical time, or `None` if one failed.
    fn size(&mut self, size: usize, calls: usize) -> Option<Duration> {
        let even: Vec<bool> = (0..size).map(|place| place % 2 == 0).collect();
        let odd: Vec<bool> = even.iter().map(|is_target| !is_target).collect();
        let half: Vec<bool> = (0..size).map(|place| place < size / 2).collect();
        let [calm, loud, mirrored] = [&self.cast.calm, &self.cast.loud, &self.cast.mirrored].map(Clone::clone);
        let mut plan: Vec<Vec<usize>> = Vec::with_capacity(CALLS);
        let targets = self.targets(&even);
        plan.extend([&calm, &loud, &mirrored].map(|neighbours| beside(&even, &targets, neighbours)));
        let mix = self.mix(size);
        let mut turned = mix.clone();
        turned.rotate_left(1);
        turned[..size - 1].reverse();
        let copies = self.next_target();
        plan.extend([mix.clone(), turned.clone(), vec![copies; size]]);
        let targets = self.targets(&odd);
        plan.extend([&calm, &loud].map(|neighbours| beside(&odd, &targets, neighbours)));
        plan.push(vec![loud[0]; size]);
        let targets = self.targets(&half);
        plan.push(beside(&half, &targets, &loud));
        plan.truncate(calls);
        let first: Vec<&TrialItem> = plan[0].iter().map(|at| &self.alone.items[*at]).collect();
        self.caller.show(&first);
        let mut durations = Vec::with_capacity(plan.len());
        let mut mixed: Option<Vec<Answer>> = None;
        for items in &plan {
            let (answers, took) = match self.call(items) {
                Ok(given) => given,
                Err(error) => {
                    self.observed.failed = Some((size, error));
                    return None;
                }
            };
            durations.push(took);
            if *items == mix {
                mixed = Some(answers);
            } else if *items == turned {
                self.check_order(&mix, mixed.as_deref().unwrap_or_default(), &turned, &answers);
            } else if items.iter().all(|item| *item == items[0]) {
                let floors: Vec<f64> = self.sizes.iter().map(|size| size * FAR_FLOOR).collect();
                let apart = |answer: &Answer| Distance::between(answer, &self.alone.answers[items[0]], |at| floors[at]).strict();
                self.observed.copies_hold &= answers.iter().all(|answer| apart(answer) <= self.tolerance.kind);
            }
        }
        self.kept.clear();
        Some(typical(durations))
    }

    /// Whether the rows of a mix got the same when they came in another order.
    fn check_order(&mut self, mix: &[usize], mixed: &[Answer], turned: &[usize], answers: &[Answer]) {
        for (item, answer) in turned.iter().zip(answers) {
            // An item may stand in the mix several times; any of its answers will do.
            let before = mix.iter().zip(mixed).filter(|(other, _)| *other == item).map(|(_, before)| before);
            let apart = before.map(|before| Distance::between(answer, before, |at| self.sizes[at] * FAR_FLOOR).strict());
            if apart.fold(f64::INFINITY, f64::min) > self.tolerance.kind {
                self.observed.order_holds = false;
            }
        }
    }

    /// Runs one call and compares each of its rows.
    fn call(&mut self, items: &[usize]) -> Result<(Vec<Answer>, Duration), RunError> {
        let call: Vec<&TrialItem> = items.iter().map(|at| &self.alone.items[*at]).collect();
        let reply = self.caller.call(&call)?;
        let rule = self.caller.executable.signature().padding.as_ref();
        let length = |at: usize| rule.map_or(0, |rule| rule.length(&self.alone.items[at].inputs));
        let longest = items.iter().map(|at| length(*at)).max().unwrap_or_default();
        let size = items.len();
        for (output, usual) in self.sizes.iter_mut().enumerate() {
            *usual = usual.max(median(reply.answers.iter().map(|answer| largest(&answer[output])).collect()));
        }
        for (place, (item, answer)) in items.iter().zip(&reply.answers).enumerate() {
            let alone = &self.alone.answers[*item];
            let far = Distance::between(answer, alone, |at| self.sizes[at] * FAR_FLOOR);
            let rows =
                if length(*item) < longest { &mut self.observed.padded } else { self.observed.far.entry(size).or_default() };
            rows.take(far, size);
            self.observed.is_constant &= Distance::between(answer, &self.alone.answers[0], |_| f64::MIN_POSITIVE).strict() == 0.0;
            match self.kept.get(&(place, *item, longest)) {
                Some(before) => {
                    let near = Distance::between(answer, before, |at| self.sizes[at] * NEAR_FLOOR);
                    self.observed.near.take(near.strict(), near.output, size);
                }
                None => {
                    self.kept.insert((place, *item, longest), answer.clone());
                }
            }
        }
        Ok((reply.answers, reply.took))
    }

    fn next_target(&mut self) -> usize {
        self.turn += 1;
        self.cast.targets[(self.turn - 1) % self.cast.targets.len()]
    }

    /// As many targets as there are places for them, each in its turn.
    fn targets(&mut self, places: &[bool]) -> Vec<usize> {
        places.iter().filter(|is_target| **is_target).map(|_| self.next_target()).collect()
    }

    /// A chance mix of all items, each as often as it takes.
    fn mix(&mut self, size: usize) -> Vec<usize> {
        let mut mix: Vec<usize> = self.cast.all.iter().copied().cycle().take(size.max(self.cast.all.len())).collect();
        self.chance.shuffle(&mut mix);
        mix.truncate(size);
        mix
    }
}

/// The targets at their places, and neighbours in turn at the others.
fn beside(places: &[bool], targets: &[usize], neighbours: &[usize]) -> Vec<usize> {
    let (mut targets, mut neighbours) = (targets.iter().copied(), neighbours.iter().copied().cycle());
    places.iter().filter_map(|is_target| if *is_target { targets.next() } else { neighbours.next() }).collect()
}
