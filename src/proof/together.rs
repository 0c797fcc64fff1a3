//! Items in company: the same item at the same place in calls of the same size, next to calm neighbours and next to loud ones.
//!
//! Two comparisons. *Near*: a row must not move at all when only its neighbours change; rounding cancels out, because the engine does the
//! same arithmetic on it. *Far*: a row must be what the item gets alone, up to rounding; this finds what depends on the size of the call,
//! on the place in it, or on padding.

use std::{collections::BTreeMap, iter, time::Duration};

use super::{
    alone::{Alone, shapes_equal},
    calls::{Caller, typical},
    compare::{Answer, Distance, FAR_FLOOR},
    items::{Character, TrialItem},
    observed::Observed,
    verdict::Tolerance,
};
use crate::{domain::data_bytes, engine::RunError};

/// The most calls at one batch size; the median of their times counts.
const CALLS: usize = 16;
/// Calls at sizes so large that more would exceed the model's time.
const CALLS_MIN: usize = 3;
/// One size may take this share of what is left of the model's time.
const SIZE_SHARE: u32 = 2;
/// The sizes between the powers of two may take this share of what is left of the model's time.
const BETWEEN_SHARE: u32 = 4;
/// Bytes of answers that are kept to compare others with.
const KEPT_BYTES_MAX: usize = 1 << 28;
/// An item with no scale of its own is compared relative to this part of the usual size of answers.
const NEAR_FLOOR: f64 = 1e-6;

/// Items by the part that they play, by their place in the list.
struct Cast {
    /// Those watched: items above 0, in whose calls every zero, negative or large number is one that was put next to them …
    positive: Vec<usize>,
    /// … the smallest, which show best what others do to them, and in whose calls there is nothing else but what was put next to them …
    least: Vec<usize>,
    /// … and usual ones, one on each side of any threshold.
    usual: Vec<usize>,
    calm: Vec<usize>,
    /// The large ones of either sign: side by side, they would cancel out.
    loud: Vec<usize>,
    mirrored: Vec<usize>,
    /// Strangers that are watched.
    many: Vec<usize>,
    /// All those that ran alone.
    all: Vec<usize>,
}

/// Characters of the strangers.
const STRANGERS: [Character; 6] =
    [Character::Loud, Character::Unit, Character::Loud, Character::Mirror, Character::Unit, Character::Unit];
/// This many more strangers are watched if all answers are labels: few are so close to another label that anything would show.
const STRANGERS_WATCHED: usize = 26;

impl Cast {
    /// Only items that can share a call: those of one shape, apart from what is padded. Strangers come after the others.
    fn of(alone: &Alone<'_>, strangers: &[TrialItem], is_padded: bool) -> Self {
        use Character::{Loud, Mirror, Offset, Opposite, Positive, Quiet, Tiny, Unit, Zero};
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
        let positive = or(those(&[Offset, Positive]), &or(those(&[Unit, Quiet, Tiny]), &all));
        let least = or(those(&[Tiny, Zero]), &positive);
        let usual = or(those(&[Unit, Opposite, Quiet]), &positive);
        let calm = or(those(&[Zero, Quiet, Tiny]), &least);
        let mut loud = or(those(&[Loud]), &or(those(&[Mirror, Unit, Zero]), &all));
        let mut mirrored = or(those(&[Mirror]), &loud);
        let mut many = Vec::new();
        for (at, stranger) in strangers.iter().enumerate().filter(|(_, stranger)| meets(stranger)) {
            let row = match stranger.character {
                _ if at >= STRANGERS.len() => &mut many,
                Loud => &mut loud,
                _ => &mut mirrored,
            };
            row.push(alone.items.len() + at);
        }
        Self { positive, least, usual, calm, loud, mirrored, many, all }
    }
}

/// The calls of one size, the most valuable first. Each is compared with those before it at all places where it has the same items.
struct Plan {
    calls: Vec<Vec<usize>>,
}

impl Plan {
    /// A mix of all items, the same in another order, and copies of one item.
    const MIX: usize = 3;
    const TURNED: usize = 4;
    const COPIES: usize = 5;
}

/// Compares what calls give.
pub(super) struct Together<'a, 'c> {
    caller: &'c Caller<'a>,
    alone: &'c Alone<'a>,
    tolerance: &'c Tolerance,
    /// Items that never ran alone, so that there can be more of them; usually neighbours.
    strangers: Vec<TrialItem>,
    cast: Cast,
    chance: fastrand::Rng,
    turn: usize,
    /// The usual size of each output's numbers.
    sizes: Vec<f64>,
    /// First answers at a place: by place, item and length of the call.
    kept: BTreeMap<(usize, usize, usize), Answer>,
    kept_bytes: usize,
    /// Part of the model's time that is needed elsewhere.
    reserve: Duration,
    observed: Observed,
}

impl<'a, 'c> Together<'a, 'c> {
    pub(super) fn new(
        caller: &'c Caller<'a>,
        alone: &'c Alone<'a>,
        tolerance: &'c Tolerance,
        seed: u64,
        reserve: Duration,
    ) -> Self {
        let is_padded = caller.executable.signature().padding.is_some();
        let observed = Observed { copies_hold: true, order_holds: true, largest: 1, ..Observed::default() };
        let chance = fastrand::Rng::with_seed(seed);
        let watched = if tolerance.labels_only { STRANGERS_WATCHED } else { 0 };
        let strangers = alone.strangers(STRANGERS.into_iter().chain(iter::repeat_n(Character::Unit, watched)));
        let (cast, sizes) = (Cast::of(alone, &strangers, is_padded), alone.sizes());
        let kept = BTreeMap::new();
        Self { caller, alone, tolerance, strangers, cast, chance, turn: 0, sizes, kept, kept_bytes: 0, reserve, observed }
    }

    /// An item or a stranger.
    fn item(&self, at: usize) -> &TrialItem {
        let items = &self.alone.items;
        items.get(at).unwrap_or_else(|| &self.strangers[at - items.len()])
    }

    /// Sends the strangers away if there is one that the model does not take even alone; says whether it did.
    fn send_strangers_away(&mut self) -> bool {
        let are_taken = self.strangers.iter().all(|stranger| self.caller.call(&[stranger]).is_ok());
        let ran_alone = self.alone.items.len();
        self.strangers.clear();
        let Cast { loud, mirrored, many, .. } = &mut self.cast;
        for row in [loud, mirrored, many] {
            row.retain(|at| *at < ran_alone);
        }
        !are_taken
    }

    /// Runs calls with 2, 4, 8 … items up to `max_batch`, as far as the model's time goes, and then one of each size in between. When a
    /// dependence is found, stops as soon as its kind is known.
    pub(super) fn run(mut self, max_batch: usize) -> Observed {
        if self.cast.all.len() < 2 {
            return self.observed;
        }
        let mut last = self.alone.took;
        for size in (1..usize::BITS).map(|power| 1_usize << power).take_while(|size| *size <= max_batch) {
            let expected = last * 2;
            let least = if size == 2 { 2 } else { CALLS_MIN };
            // What is proven along a stream counts for more than larger calls.
            let left = if size > 4 { self.left() } else { self.caller.left() };
            if expected * least as u32 > left {
                break;
            }
            // Calls with two must leave time for those with four, even if those take twice as long as they should.
            let next = if size == 2 && max_batch >= 4 { expected * 4 * CALLS_MIN as u32 } else { Duration::ZERO };
            let share = left.saturating_sub(next) / SIZE_SHARE;
            let affordable = usize::try_from(share.as_nanos() / expected.as_nanos().max(1)).unwrap_or(CALLS);
            let Some(took) = self.size(size, affordable.clamp(least, CALLS)) else {
                // Items that can share calls of 4 do so; if larger calls fail, none are made.
                if size > 4 {
                    self.observed.limit = self.observed.failed.take();
                }
                break;
            };
            last = took;
            self.observed.medians.push(took);
            self.observed.largest = size;
            if size >= 4 && self.is_dependent() {
                return self.observed;
            }
        }
        if !self.is_dependent() {
            self.between(last);
            self.is_dependent();
        }
        self.observed
    }

    /// What is left of the model's time for the work here.
    fn left(&self) -> Duration {
        self.caller.left().saturating_sub(self.reserve)
    }

    /// Whether a dependence was found. Rows that are off although neighbours change nothing may be off because of rounding, if a step
    /// inside the model amplifies it: their items show by how much when they run alone, moved a little.
    fn is_dependent(&mut self) -> bool {
        loop {
            if !self.tolerance.is_dependent(&self.observed) {
                return false;
            }
            let fragile = &self.observed.fragile;
            let off = self.tolerance.off_by_far(&self.observed).into_iter().find(|item| !fragile.contains_key(item));
            let Some(item) = off else { return true };
            let moved = self.alone.fragility(self.caller, item).unwrap_or_default();
            self.observed.fragile.insert(item, moved);
        }
    }

    /// One call of each size that is not a power of two, in an order that leaves no wide gap if time runs out.
    fn between(&mut self, last: Duration) {
        let largest = self.observed.largest;
        let mut sizes: Vec<usize> = (3..largest).filter(|size| !size.is_power_of_two()).collect();
        self.chance.shuffle(&mut sizes);
        let mut left = self.left() / BETWEEN_SHARE;
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
            self.forget();
        }
    }

    /// Calls of one size; their typical time, or `None` if one failed.
    fn size(&mut self, size: usize, calls: usize) -> Option<Duration> {
        let plan = self.plan(size);
        let planned = &plan.calls[..calls.min(plan.calls.len())];
        let first: Vec<&TrialItem> = planned[0].iter().map(|at| self.item(*at)).collect();
        self.caller.show(&first);
        let mut durations = Vec::with_capacity(planned.len());
        let mut mixed = Vec::new();
        for (number, items) in planned.iter().enumerate() {
            let (answers, took) = match self.call(items) {
                Ok(given) => given,
                Err(_) if self.send_strangers_away() => {
                    self.forget();
                    return self.size(size, calls);
                }
                Err(error) => {
                    self.observed.failed = Some((size, error));
                    return None;
                }
            };
            durations.push(took);
            match number {
                Plan::MIX => mixed = answers,
                Plan::TURNED => self.check_order(&plan.calls[Plan::MIX], &mixed, items, &answers),
                Plan::COPIES => {
                    let alone = &self.alone.answers[items[0]];
                    let apart = |answer| Distance::between(answer, alone, |at| self.sizes[at] * FAR_FLOOR).strict();
                    let holds = answers.iter().all(|answer| apart(answer) <= self.tolerance.kind);
                    self.observed.copies_hold &= holds;
                }
                _ => {}
            }
        }
        self.forget();
        Some(typical(durations))
    }

    /// Calls of one size. Watched items stay in their places while others fill the places around them, and of any two places, one is
    /// watched in some call while the other changes: a model may mix a place with the next one, the one after that, or all of the other
    /// half.
    fn plan(&mut self, size: usize) -> Plan {
        self.turn += 1;
        // Places that are 1, 2, 3 and so on apart are seldom on the same side: the sides are the places with an even number of binary ones,
        // and the others.
        let first: Vec<bool> = (0..size).map(|place| place.count_ones() % 2 == 0).collect();
        let digit = size.ilog2().saturating_sub(2);
        let second: Vec<bool> = (0..size).map(|place| (place >> digit).is_multiple_of(2)).collect();
        let place = self.chance.usize(..size);
        let lone: Vec<bool> = (0..size).map(|other| other == place).collect();
        let others = |places: &[bool]| -> Vec<bool> { places.iter().map(|is_watched| !is_watched).collect() };
        let row =
            |from: &[usize], turn: usize| -> Vec<usize> { (0..size).map(|place| from[(turn + place) % from.len()]).collect() };
        let Cast { positive, least, usual, calm, loud, mirrored, many, .. } = &self.cast;
        let (positive, least) = (row(positive, self.turn), row(least, self.turn));
        let (usual, calm) = (row(usual, self.turn), row(calm, self.turn));
        let (loud, mirrored) = (row(loud, self.turn), row(mirrored, self.turn));
        let many = (!many.is_empty()).then(|| row(many, self.turn * size));
        let copies = vec![self.cast.all[self.turn % self.cast.all.len()]; size];
        let mix = self.mix(size);
        let mut turned = mix.clone();
        turned.rotate_left(1);
        turned[..size - 1].reverse();
        let mut calls = vec![
            positive.clone(),
            beside(&first, &positive, &loud),
            beside(&others(&first), &positive, &mirrored),
            mix,
            turned,
            copies,
            // The loud ones are watched too, now next to the smallest.
            beside(&first, &least, &loud),
            least,
            beside(&second, &usual, &mirrored),
            beside(&others(&second), &positive, &calm),
            // As few watched items as possible, so that a statistic over the call is that of the others.
            beside(&lone, &usual, &loud),
            beside(&lone, &usual, &mirrored),
            usual,
        ];
        if let Some(many) = many {
            calls.extend([beside(&first, &many, &loud), beside(&second, &many, &mirrored), many]);
        }
        Plan { calls }
    }

    /// Whether the rows of a mix got the same answers in another order.
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
        let call: Vec<&TrialItem> = items.iter().map(|at| self.item(*at)).collect();
        let reply = self.caller.call(&call)?;
        let rule = self.caller.executable.signature().padding.as_ref();
        let lengths: Vec<usize> = call.iter().map(|item| rule.map_or(0, |rule| rule.length(&item.inputs))).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let size = items.len();
        for (place, (item, answer)) in items.iter().zip(&reply.answers).enumerate() {
            if let Some(alone) = self.alone.answers.get(*item) {
                let far = Distance::between(answer, alone, |at| self.sizes[at] * FAR_FLOOR);
                let is_padded = lengths[place] < longest;
                let rows = if is_padded { &mut self.observed.padded } else { self.observed.far.entry(size).or_default() };
                rows.take(*item, far, size);
            }
            match self.kept.get(&(place, *item, longest)) {
                Some(before) => {
                    let near = Distance::between(answer, before, |at| self.sizes[at] * NEAR_FLOOR);
                    self.observed.near.take(near.strict(), near.output, size);
                }
                None if self.kept_bytes < KEPT_BYTES_MAX => {
                    self.kept_bytes += data_bytes(answer);
                    self.kept.insert((place, *item, longest), answer.clone());
                }
                None => {}
            }
        }
        Ok((reply.answers, reply.took))
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }

    /// A random mix of all items, repeated as often as needed.
    fn mix(&mut self, size: usize) -> Vec<usize> {
        let mut mix: Vec<usize> = self.cast.all.iter().copied().cycle().take(size.max(self.cast.all.len())).collect();
        self.chance.shuffle(&mut mix);
        mix.truncate(size);
        mix
    }
}

/// Watched items in their places, and their neighbours in the others.
fn beside(places: &[bool], watched: &[usize], neighbours: &[usize]) -> Vec<usize> {
    let pairs = watched.iter().zip(neighbours);
    places.iter().zip(pairs).map(|(is_watched, (watched, neighbour))| if *is_watched { *watched } else { *neighbour }).collect()
}
