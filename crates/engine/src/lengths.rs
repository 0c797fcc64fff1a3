//! The lengths of the items of one batch of a padded model, and what follows from them.
//!
//! Knows the items of one call, and the padding rule. Copies nothing.

use smallvec::SmallVec;
use tidemill_domain::{PaddedInput, PaddingRule, Shape, Tensor, TensorSpec};

use super::{ItemCall, RunError, strips::PaddedRows};

/// The lengths of a batch.
pub(super) struct Lengths {
    own: SmallVec<[usize; 16]>,
    padded: usize,
}

impl Lengths {
    /// The lengths of items that fit the signature.
    pub(super) fn of(rule: &PaddingRule, items: &[ItemCall<'_>]) -> Result<Self, RunError> {
        let own: SmallVec<[usize; 16]> = items.iter().map(|item| rule.length(item.inputs)).collect();
        for (index, (item, length)) in items.iter().zip(&own).enumerate() {
            let differs = |input: &PaddedInput| item.inputs[input.position].shape()[input.axis] != *length;
            if *length == 0 || rule.inputs.iter().any(differs) {
                return Err(RunError::BadBatch(format!("the padded inputs of item {index} have no common length above 0")));
            }
        }
        let padded = rule.padded_length(own.iter().copied().max().unwrap_or_default());
        Ok(Self { own, padded })
    }

    /// The batch's length.
    pub(super) const fn padded(&self) -> usize {
        self.padded
    }

    /// Whether an item is shorter than the batch.
    pub(super) fn is_shorter(&self, index: usize) -> bool {
        self.own[index] < self.padded
    }

    /// How an item's tensor is padded to the shape `dims`.
    pub(super) fn rows<'a>(&self, index: usize, input: &'a PaddedInput, dims: &[usize], element_bytes: usize) -> PaddedRows<'a> {
        let step = dims[input.axis + 1..].iter().product::<usize>() * element_bytes;
        let row_bytes = self.own[index] * step;
        PaddedRows { row_bytes, gap_bytes: self.padded * step - row_bytes, element: &input.value }
    }

    /// The shape of an item's own part of an output that came with the shape `padded`, not counting the batch.
    pub(super) fn own_dims(&self, index: usize, spec: &TensorSpec, padded: &[usize]) -> Shape {
        dims_at(self.own[index], spec, padded)
    }

    /// Checks that an output follows the batch's length, so that it can be cut back to the items' own.
    pub(super) fn check(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<(), RunError> {
        let mut sizes = Shape::from_slice(tensor.shape());
        if let Some(axis) = spec.batch_axis {
            sizes.remove(axis);
        }
        if dims_at(self.padded, spec, &sizes) == sizes {
            return Ok(());
        }
        Err(RunError::WrongOutput(format!(
            "'{}' came with shape {:?} for items padded to a length of {}; the dynamic dimensions of its declared shape {:?} must \
             come out with that length, so for a dimension that does not follow it, give its size in [[outputs]]",
            spec.name,
            tensor.shape(),
            self.padded,
            spec.shape_with_batch(),
        )))
    }
}

/// The shape `dims` with `length` in all dimensions that are declared dynamic.
fn dims_at(length: usize, spec: &TensorSpec, dims: &[usize]) -> Shape {
    spec.dims.iter().zip(dims).map(|(declared, size)| if declared.is_none() { length } else { *size }).collect()
}
