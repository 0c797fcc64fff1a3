//! Where the items of a call lie in a tensor of the batch.

use tidemill_domain::Shape;

use super::{item_call::RunError, strips::Strips};

/// Where `batch_size` items of the shape `dims` lie. Without a batch dimension there is one item, which lies in the call as it is.
pub(super) fn layout(
    name: &str,
    dims: &[usize],
    batch_axis: Option<usize>,
    element_bytes: usize,
    batch_size: usize,
) -> Result<Strips, RunError> {
    Strips::new(dims, batch_axis.unwrap_or_default(), element_bytes, batch_size).ok_or_else(|| too_large(name, dims, batch_size))
}

/// That so many items of the shape `dims` cannot be one tensor.
pub(super) fn too_large(name: &str, dims: &[usize], batch_size: usize) -> RunError {
    RunError::BadBatch(format!("'{name}': {batch_size} items of shape {dims:?} are larger than can be addressed"))
}

/// The shape of the batch.
pub(super) fn with_batch(dims: &[usize], batch_axis: Option<usize>, batch_size: usize) -> Shape {
    let mut shape = Shape::from_slice(dims);
    if let Some(axis) = batch_axis {
        shape.insert(axis, batch_size);
    }
    shape
}
