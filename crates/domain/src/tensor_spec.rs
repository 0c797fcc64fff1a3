//! What a model says about a tensor that each item brings or gets.

use std::sync::Arc;

use super::{datatype::Datatype, tensor::Shape};

/// Largest product of the dynamic dimensions of a tensor without elements, not counting those that are 0.
const EMPTY_EXTENT_MAX: usize = 1 << 20;

/// A tensor that each item brings or gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The model's name for it.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions without the batch; `None` is dynamic.
    pub dims: Vec<Option<usize>>,
    /// Where the batch dimension is in the model's own shape; `None` if there is none, in which case `dims` are all.
    pub batch_axis: Option<usize>,
}

impl TensorSpec {
    /// The shape as clients read it: -1 for the batch, where the model has it, and for dynamic dimensions.
    #[must_use]
    pub fn shape_with_batch(&self) -> Vec<i64> {
        let mut shape: Vec<i64> =
            self.dims.iter().map(|dim| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX))).collect();
        if let Some(axis) = self.batch_axis {
            shape.insert(axis.min(shape.len()), -1);
        }
        shape
    }

    /// What -1 means in a shape of this tensor, for messages.
    #[must_use]
    pub const fn legend(&self) -> &'static str {
        match self.batch_axis {
            Some(_) => "-1: batch or dynamic",
            None => "-1: dynamic; the model has no batch dimension",
        }
    }

    /// A tensor without elements costs its sender nothing, however large its other dimensions are. The model may compute
    /// something large from them, so they are bounded. `sizes` have no batch dimension, and fit.
    ///
    /// # Errors
    /// What is wrong, and the limit.
    pub fn check_empty(&self, sizes: &[usize]) -> Result<(), String> {
        let dynamic = sizes.iter().zip(&self.dims).filter(|(size, dim)| dim.is_none() && **size > 0);
        let product = dynamic.fold(1_usize, |product, (size, _)| product.saturating_mul(*size));
        if product <= EMPTY_EXTENT_MAX {
            return Ok(());
        }
        Err(format!(
            "shape {sizes:?} holds no element, and the product of its other dynamic dimensions is {product}; for an empty tensor it \
             may be at most {EMPTY_EXTENT_MAX}"
        ))
    }

    /// The shape if no dimension is dynamic.
    #[must_use]
    #[inline]
    pub fn fixed_shape(&self) -> Option<Shape> {
        self.dims.iter().copied().collect()
    }
}

/// Several specs.
pub type TensorSpecs = Vec<TensorSpec>;
