//! Items on their own: which made-up items the model takes, and what it answers.

use std::time::Duration;

use super::{
    ProofError, Terms,
    calls::{Caller, typical},
    compare::{Answer, Distance, FAR_FLOOR, is_finite, largest, median},
    items::{Character, LENGTHS, Maker, RECIPES, TOPS, TrialItem},
};
use crate::{
    domain::{ItemInputs, data_bytes},
    engine::RunError,
};

/// A repeated answer is the same to within this, unless the model is random.
const REPEAT: f64 = 1e-5;
/// Answers that are no further apart are the same answer.
const SAME: f64 = 1e-6;
/// How many items the smallest calls that prove anything about neighbours have.
const LEAST: u32 = 16;
/// At most this many calls with one item count towards its time.
const CALLS: usize = 11;
/// Calls that find out how far rounding can move an item that was found to be far off.
const NUDGES: u64 = 8;
/// An item is moved by at most this many times a few units in the last place.
const NUDGE_MAX: f64 = 1e4;

/// What the model does with single items.
pub(super) struct Alone<'a> {
    pub(super) maker: Maker<'a>,
    pub(super) items: Vec<TrialItem>,
    /// Items that were made up, including those that the model does not take.
    pub(super) made: usize,
    /// Each item's answer, in the items' order.
    pub(super) answers: Vec<Answer>,
    /// The time of a call.
    pub(super) took: Duration,
    /// How far the answer to an item moved when the item was repeated: 0 unless the model is random.
    pub(super) repeated: f64,
    /// How far an answer moves when its item moves by a few parts in a million; `None` if this was not tried.
    pub(super) noise: Option<f64>,
    /// Why the items that were left out failed: the reason for the last one.
    pub(super) failure: Option<RunError>,
}

impl<'a> Alone<'a> {
    /// Finds items that run, and runs each alone.
    ///
    /// # Errors
    /// [`ProofError::Outputs`] if, for any item, what comes out is not what the signature says: then the model cannot be served.
    pub(super) fn find(caller: &Caller<'a>, terms: &'a Terms) -> Result<Self, ProofError> {
        let mut maker = found_maker(caller, terms)?;
        let examples = &terms.examples;
        let mut best: Option<Self> = None;
        for recipe in RECIPES {
            maker.recipe = recipe;
            let found = Self::run(caller, maker.clone())?;
            let is_enough = 2 * found.finite() >= found.made || !examples.is_empty() || caller.left().is_zero();
            if best.as_ref().is_none_or(|best| found.finite() > best.finite()) {
                best = Some(found);
            }
            if is_enough {
                break;
            }
        }
        let mut best = match best {
            Some(best) => best,
            None => Self::run(caller, maker)?,
        };
        best.repeat(caller);
        Ok(best)
    }

    /// Runs the items of `maker`, and keeps those that the model takes.
    pub(super) fn run(caller: &Caller<'a>, maker: Maker<'a>) -> Result<Self, ProofError> {
        let mut durations = Vec::new();
        let (mut items, mut answers, mut failure) = (Vec::new(), Vec::new(), None);
        let all = maker.items().unwrap_or_default();
        let made = all.len();
        for item in all {
            caller.show(&[&item]);
            match caller.call(&[&item]) {
                Ok(reply) => {
                    durations.push(reply.took);
                    answers.extend(reply.answers);
                    items.push(item);
                }
                Err(RunError::WrongOutput(reason)) => return Err(ProofError::Outputs(reason)),
                Err(error) => failure = Some(error),
            }
            let expected = typical(durations.clone());
            if items.len() > 1 && !caller.affords(expected) {
                break;
            }
        }
        Ok(Self { maker, items, made, answers, took: typical(durations), repeated: 0.0, noise: None, failure })
    }

    fn finite(&self) -> usize {
        self.answers.iter().filter(|answer| is_finite(answer)).count()
    }

    /// Runs the first items again, both unchanged and moved a little.
    fn repeat(&mut self, caller: &Caller<'_>) {
        let mut durations = vec![self.took; self.items.len()];
        let floors = self.sizes();
        for (item, answer) in self.items.iter().zip(&self.answers).take(2) {
            let nudged = self.maker.nudged(item, 0, 1.0);
            for (other, is_same) in [(Some(item), true), (nudged.as_ref(), false), (Some(item), true)] {
                let Some(other) = other.filter(|_| durations.len() < CALLS && caller.affords(self.took * (1 + LEAST))) else {
                    continue;
                };
                let Ok(reply) = caller.call(&[other]) else { continue };
                durations.push(reply.took);
                let Some(moved) =
                    reply.answers.first().map(|again| Distance::between(again, answer, |at| FAR_FLOOR * floors[at]))
                else {
                    continue;
                };
                if is_same {
                    self.repeated = self.repeated.max(moved.strict());
                } else if moved.numbers.is_finite() {
                    self.noise = Some(self.noise.unwrap_or_default().max(moved.numbers));
                }
            }
        }
        self.took = typical(durations);
    }

    /// Items of these characters that differ from all those that ran, as far as memory allows. The model takes others of the same
    /// character.
    pub(super) fn strangers(&self, characters: impl Iterator<Item = Character>) -> Vec<TrialItem> {
        let is_taken = |character: Character| self.items.iter().any(|item| item.character == character);
        let affordable = Maker::affordable(self.item_bytes()).saturating_sub(self.items.len());
        let wanted = characters.enumerate().filter(|(_, character)| is_taken(*character)).take(affordable);
        wanted.filter_map(|(at, character)| self.maker.stranger(character, at as u64)).collect()
    }

    /// How far, at most, the answer to an item moves when the item moves by a few units in the last place, or by the least that shows at
    /// all; `None` if it holds no numbers that could be moved. A step, a threshold or a rounding inside the model can make that far.
    pub(super) fn fragility(&self, caller: &Caller<'_>, item: usize) -> Option<Distance> {
        let floors = self.sizes();
        let mut worst = Distance::default();
        let mut places = 1.0;
        for turn in 1..=NUDGES {
            let nudged = self.maker.nudged(&self.items[item], turn, places)?;
            if !caller.affords(self.took) {
                break;
            }
            let Ok(reply) = caller.call(&[&nudged]) else { continue };
            for answer in &reply.answers {
                worst.widen(Distance::between(answer, &self.answers[item], |at| FAR_FLOOR * floors[at]));
            }
            if worst == Distance::default() && places < NUDGE_MAX {
                // The smallest move that shows is one step of rounding somewhere inside.
                places *= 10.0;
            }
        }
        if worst.numbers == 0.0 {
            // What hides the move of a large number does not hide the rounding after it.
            worst.numbers = self.noise.unwrap_or_default();
        }
        Some(worst)
    }

    /// Whether the same item gets a different answer each time.
    pub(super) fn is_random(&self) -> bool {
        self.repeated > REPEAT
    }

    /// Whether all items get the same answer.
    pub(super) fn is_constant(&self) -> bool {
        let Some(first) = self.answers.first() else { return false };
        let sizes = self.sizes();
        self.answers.iter().all(|answer| Distance::between(answer, first, |at| sizes[at].max(f64::MIN_POSITIVE)).strict() <= SAME)
    }

    /// An output whose shape differs between items of the same shape: its length depends on the data.
    pub(super) fn output_of_own_length(&self) -> Option<usize> {
        let (item, answer) = self.items.first().zip(self.answers.first())?;
        let like = self.items.iter().zip(&self.answers).filter(|(other, _)| shapes_equal(&other.inputs, &item.inputs));
        like.flat_map(|(_, other)| (0..answer.len()).filter(|at| other[*at].shape() != answer[*at].shape())).min()
    }

    /// The usual size of each output's numbers.
    pub(super) fn sizes(&self) -> Vec<f64> {
        let outputs = self.answers.first().map_or(0, Vec::len);
        (0..outputs).map(|at| median(self.answers.iter().map(|answer| largest(&answer[at])).collect())).collect()
    }

    /// Input bytes of the first item.
    pub(super) fn item_bytes(&self) -> usize {
        self.items.first().map_or(0, |item| data_bytes(&item.inputs))
    }
}

pub(super) fn shapes_equal(left: &ItemInputs, right: &ItemInputs) -> bool {
    left.iter().zip(right).all(|(left, right)| left.shape() == right.shape())
}

/// A maker of items that the model takes, if the search for one succeeds.
///
/// # Errors
/// As for [`Alone::find`].
pub(super) fn found_maker<'a>(caller: &Caller<'a>, terms: &'a Terms) -> Result<Maker<'a>, ProofError> {
    let mut maker = Maker::new(caller.executable.signature(), terms);
    let is_open = terms.ranges.is_none() && terms.examples.is_empty();
    if is_open && (maker.has_dynamic_dims() || maker.integers().next().is_some()) {
        find_length(caller, &mut maker)?;
    }
    Ok(maker)
}

/// Finds a length for dynamic dimensions at which an item runs, and how large integers may be.
fn find_length(caller: &Caller<'_>, maker: &mut Maker<'_>) -> Result<(), ProofError> {
    let lengths = if maker.has_dynamic_dims() { &LENGTHS[..] } else { &LENGTHS[..1] };
    for length in lengths {
        for recipe in [RECIPES[0], RECIPES[3]] {
            (maker.length, maker.recipe) = (*length, recipe);
            if runs(caller, maker)? || find_tops(caller, maker)? {
                return Ok(());
            }
        }
    }
    maker.length = LENGTHS[0];
    Ok(())
}

/// Finds the largest integers with which an item runs, one input after another, while the others are 0.
fn find_tops(caller: &Caller<'_>, maker: &mut Maker<'_>) -> Result<bool, ProofError> {
    let integers: Vec<usize> = maker.integers().collect();
    if integers.is_empty() || caller.left().is_zero() {
        return Ok(false);
    }
    let highest = maker.tops.clone();
    let mut found = highest.clone();
    for input in &integers {
        for other in &integers {
            maker.tops[*other] = 1;
        }
        let tops = [highest[*input]].into_iter().chain(TOPS).filter(|top| *top <= highest[*input]);
        let (mut largest, mut too_large) = (None, None);
        for top in tops {
            maker.tops[*input] = top;
            if runs(caller, maker)? {
                largest = Some(top);
                break;
            }
            too_large = Some(top);
        }
        let Some(mut largest) = largest else {
            maker.tops = highest;
            return Ok(false);
        };
        // The largest possible lies between one that runs and one that does not.
        let mut too_large = too_large.unwrap_or(largest);
        while too_large > largest + 1 && !caller.left().is_zero() {
            let between = largest.midpoint(too_large);
            maker.tops[*input] = between;
            if runs(caller, maker)? { largest = between } else { too_large = between }
        }
        found[*input] = largest;
    }
    maker.tops = found;
    runs(caller, maker)
}

fn runs(caller: &Caller<'_>, maker: &Maker<'_>) -> Result<bool, ProofError> {
    let Some(item) = maker.probe() else { return Ok(false) };
    match caller.call(&[&item]) {
        Ok(_) => Ok(true),
        Err(RunError::WrongOutput(reason)) => Err(ProofError::Outputs(reason)),
        Err(_) => Ok(false),
    }
}
