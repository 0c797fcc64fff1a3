//! How far apart two answers are.
//!
//! Pure: knows only tensors.

use super::items::{floats, is_float};
use crate::domain::Tensor;

/// If an item's answer has no size of its own, how far it is from what the item gets alone is relative to this part of the usual size of
/// answers.
pub(super) const FAR_FLOOR: f64 = 1e-2;

/// An item's answer: its outputs, then its stream's next states.
pub(super) type Answer = Vec<Tensor>;

/// How far one answer is from another. Numbers are relative to the larger one's greatest value, so that what happens to a quiet item is not
/// hidden by loud ones.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Distance {
    /// For outputs of numbers; infinite if one is a number and the other is not, or if the shapes differ.
    pub(super) numbers: f64,
    /// Whether an output of integers, booleans or strings differs: labels cannot be nearly the same.
    pub(super) labels: bool,
    /// The output that differs most, by its place in the answer.
    pub(super) output: usize,
}

impl Distance {
    /// How far `answer` is from `reference`. `floors[i]` is the smallest size of output `i` that differences are relative to.
    pub(super) fn between(answer: &Answer, reference: &Answer, floors: impl Fn(usize) -> f64) -> Self {
        let mut worst = Self::default();
        for (output, (tensor, wanted)) in answer.iter().zip(reference).enumerate() {
            if tensor == wanted {
                continue;
            }
            if !is_float(tensor.datatype()) && tensor.shape() == wanted.shape() {
                if !worst.labels && worst.numbers == 0.0 {
                    worst.output = output;
                }
                worst.labels = true;
                continue;
            }
            let numbers = apart(tensor, wanted, floors(output));
            if numbers > worst.numbers {
                (worst.numbers, worst.output) = (numbers, output);
            }
        }
        worst
    }

    /// Makes this at least as far as another.
    pub(super) const fn widen(&mut self, other: Self) {
        self.numbers = self.numbers.max(other.numbers);
        self.labels |= other.labels;
    }

    /// The same as one number, in which a different label is as far away as can be.
    pub(super) const fn strict(self) -> f64 {
        if self.labels { f64::INFINITY } else { self.numbers }
    }
}

fn apart(tensor: &Tensor, reference: &Tensor, floor: f64) -> f64 {
    if tensor.shape() != reference.shape() {
        return f64::INFINITY;
    }
    let scale = largest(reference).max(floor);
    let mut worst = 0.0_f64;
    for (value, wanted) in floats(tensor).zip(floats(reference)) {
        if value == wanted || (value.is_nan() && wanted.is_nan()) {
            continue;
        }
        if !value.is_finite() || !wanted.is_finite() {
            return f64::INFINITY;
        }
        // Two answers of scale zero that differ are as far apart as can be.
        let apart = (value - wanted).abs();
        worst = worst.max(if scale > 0.0 { apart / scale } else { f64::INFINITY });
    }
    worst
}

/// The greatest finite size of a tensor's numbers.
pub(super) fn largest(tensor: &Tensor) -> f64 {
    floats(tensor).map(f64::abs).filter(|size| size.is_finite()).fold(0.0, f64::max)
}

/// Whether an answer holds no infinities and no NaNs.
pub(super) fn is_finite(answer: &Answer) -> bool {
    answer.iter().all(|tensor| floats(tensor).all(f64::is_finite))
}

/// The median of some sizes; 0 if there are none.
pub(super) fn median(mut sizes: Vec<f64>) -> f64 {
    sizes.sort_unstable_by(f64::total_cmp);
    sizes.get(sizes.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::domain::Datatype;

    fn distance(answer: &[f32], reference: &[f32], floor: f64) -> f64 {
        Distance::between(&vec![Tensor::from_f32(answer)], &vec![Tensor::from_f32(reference)], |_| floor).strict()
    }

    #[test]
    fn a_difference_is_relative_to_the_answers_own_size() {
        assert!((distance(&[1.001, 2.0], &[1.0, 2.0], 0.0) - 0.0005).abs() < 1e-6);
        assert!((distance(&[1_001.0], &[1_000.0], 0.0) - 0.001).abs() < 1e-6);
        assert!((distance(&[0.1], &[0.0], 10.0) - 0.01).abs() < 1e-6, "zeros are as large as the floor");
        assert_eq!(distance(&[0.1], &[0.0], 0.0), f64::INFINITY);
    }

    #[test]
    fn what_is_not_a_number_equals_only_its_like() {
        assert_eq!(distance(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY], 1.0), 0.0);
        assert_eq!(distance(&[f32::NAN], &[1.0], 1.0), f64::INFINITY);
        assert_eq!(distance(&[f32::NEG_INFINITY], &[f32::INFINITY], 1.0), f64::INFINITY);
    }

    #[test]
    fn labels_and_shapes_are_equal_or_not() {
        let labels = |values: [i32; 2]| {
            vec![Tensor::new(Datatype::Int32, smallvec![2], bytemuck::cast_slice(&values).to_vec().into()).expect("two")]
        };
        assert_eq!(Distance::between(&labels([1, 2]), &labels([1, 2]), |_| 1.0), Distance::default());
        let apart = Distance::between(&labels([1, 2]), &labels([1, 3]), |_| 1.0);
        assert_eq!((apart.numbers, apart.labels, apart.strict()), (0.0, true, f64::INFINITY));
        assert_eq!(distance(&[1.0], &[1.0, 2.0], 1.0), f64::INFINITY);
    }
}
