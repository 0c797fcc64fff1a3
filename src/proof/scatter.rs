//! Models that are random: whether their answers to one item scatter around a different place when other items are next to it.
//!
//! Answers of such a model cannot be compared one by one. But if all of many answers next to calm items lie below, or above, all of those
//! next to loud ones, that is not chance.

use super::{
    alone::Alone,
    calls::Caller,
    compare::Answer,
    items::{Character, TrialItem, floats},
};

/// Calls next to calm items, and as many next to loud ones. That all of one kind lie on one side by chance happens once in 300 million.
const CALLS: usize = 16;
/// Of this many numbers, one may lie apart by chance.
const NUMBERS: usize = 100_000;
/// Items of a call.
const SIZE: u32 = 3;

/// The output in which answers lie apart; `None` if there is none, or if there is no time to find out.
pub(super) fn coupled(caller: &Caller<'_>, alone: &Alone<'_>) -> Option<usize> {
    if !caller.affords(alone.took * SIZE * 2 * CALLS as u32) {
        return None;
    }
    let find = |wanted: &[Character]| wanted.iter().find_map(|one| alone.items.iter().find(|item| item.character == *one));
    let watched = find(&[Character::Unit, Character::Offset, Character::Positive])?;
    let (calm, loud) =
        (find(&[Character::Zero, Character::Quiet, Character::Tiny])?, find(&[Character::Loud, Character::Mirror])?);
    let (mut beside_calm, mut beside_loud) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        beside_calm.push(beside(caller, watched, calm)?);
        beside_loud.push(beside(caller, watched, loud)?);
    }
    apart(&beside_calm, &beside_loud)
}

/// What `watched` gets between two others.
fn beside(caller: &Caller<'_>, watched: &TrialItem, other: &TrialItem) -> Option<Answer> {
    let mut answers = caller.call(&[other, watched, other]).ok()?.answers;
    (answers.len() > 1).then(|| answers.swap_remove(1))
}

/// The first output in which more numbers lie apart than chance would explain.
fn apart(left: &[Answer], right: &[Answer]) -> Option<usize> {
    let outputs = left.first()?.len();
    (0..outputs).find(|output| {
        let (left, right) = (Ranges::of(left, *output), Ranges::of(right, *output));
        let pairs = left.0.iter().zip(&right.0);
        let apart = pairs.filter(|(left, right)| left.is_below(right) || right.is_below(left)).count();
        left.0.len() == right.0.len() && apart > left.0.len() / NUMBERS
    })
}

/// The smallest and the largest value of a number; swapped if it was never a number.
#[derive(Clone, Copy)]
struct Range {
    least: f64,
    most: f64,
}

impl Range {
    fn is_below(&self, other: &Self) -> bool {
        self.least <= self.most && self.most < other.least && other.least <= other.most
    }
}

/// The range of each number of an output.
struct Ranges(Vec<Range>);

impl Ranges {
    fn of(answers: &[Answer], output: usize) -> Self {
        let mut ranges: Vec<Range> = Vec::new();
        for answer in answers {
            let numbers: Vec<f64> = floats(&answer[output]).collect();
            ranges.resize(numbers.len(), Range { least: f64::INFINITY, most: f64::NEG_INFINITY });
            for (range, number) in ranges.iter_mut().zip(numbers) {
                *range = Range { least: range.least.min(number), most: range.most.max(number) };
            }
        }
        Self(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Tensor;

    /// Answers of two numbers, the second of which is around `middle`.
    fn answers(middle: f32, chance: &mut fastrand::Rng) -> Vec<Answer> {
        (0..CALLS).map(|_| vec![Tensor::from_f32(&[chance.f32(), middle + chance.f32()])]).collect()
    }

    #[test]
    fn what_scatters_elsewhere_is_distinguished_from_what_scatters_alike() {
        let mut chance = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let (left, right) = (answers(0.0, &mut chance), answers(0.0, &mut chance));
            assert_eq!(apart(&left, &right), None);
            assert_eq!(apart(&left, &answers(1.0, &mut chance)), Some(0));
            assert_eq!(apart(&answers(1.0, &mut chance), &right), Some(0));
        }
    }

    #[test]
    fn what_is_not_a_number_is_not_apart() {
        let none = vec![vec![Tensor::from_f32(&[f32::NAN, 1.0])]; CALLS];
        let some = vec![vec![Tensor::from_f32(&[1.0, 1.0])]; CALLS];
        assert_eq!(apart(&none, &some), None);
        assert_eq!(apart(&[], &[]), None);
    }
}
