//! What is checked about a call: that items make one, and that what came of it is what the signature says.
//!
//! Knows signatures and shapes. Copies nothing and runs nothing.

use super::{
    EngineError,
    stack::{ItemCall, RunError},
};
use crate::domain::{PaddedInput, Signature, Tensor, TensorSpec};

pub(super) fn padded_input(signature: &Signature, position: usize) -> Option<&PaddedInput> {
    signature.padding.as_ref()?.input(position)
}

/// Checks that each batch axis exists, and that all tensors have one or none has.
pub(super) fn check_axes(signature: &Signature) -> Result<(), EngineError> {
    let tensors = signature.inputs.iter().chain(&signature.outputs).map(|spec| (&spec.name, spec.batch_axis, spec.dims.len()));
    let states = signature.states.iter().map(|spec| (&spec.input, spec.batch_axis, spec.dims.len()));
    let has_batch = signature.has_batch();
    for (name, axis, rank) in tensors.chain(states) {
        if axis.is_some() != has_batch {
            let message =
                format!("tensor '{name}' differs from the first input in having a batch dimension; all have one, or none");
            return Err(EngineError::Load(message));
        }
        if let Some(axis) = axis.filter(|axis| *axis > rank) {
            return Err(EngineError::Load(format!("tensor '{name}' has its batch on axis {axis}, but its last axis is {rank}")));
        }
    }
    Ok(())
}

/// Checks that items make a call.
pub(super) fn check_items(signature: &Signature, items: &[ItemCall<'_>]) -> Result<(), RunError> {
    if items.len() > 1 && !signature.has_batch() {
        return Err(RunError::BadBatch(format!("the model has no batch dimension, so a call takes 1 item, not {}", items.len())));
    }
    for (index, item) in items.iter().enumerate() {
        if item.inputs.len() != signature.inputs.len() {
            let (given, wanted) = (item.inputs.len(), signature.inputs.len());
            return Err(RunError::BadBatch(format!("item {index} brings {given} tensors, but the model takes {wanted}")));
        }
        for (position, ((spec, tensor), first)) in signature.inputs.iter().zip(item.inputs).zip(items[0].inputs).enumerate() {
            let padded_axis = padded_input(signature, position).map(|input| input.axis);
            let fault = if tensor.datatype() != spec.datatype {
                format!("is {}, but the model takes {}", tensor.datatype(), spec.datatype)
            } else if !fits(&spec.dims, tensor.shape()) {
                format!("has shape {:?}, which does not fit the model's {:?}", tensor.shape(), spec.shape_with_batch())
            } else if !meet(tensor.shape(), first.shape(), padded_axis) {
                format!("has shape {:?}, but that of item 0 is {:?}", tensor.shape(), first.shape())
            } else {
                continue;
            };
            return Err(RunError::BadBatch(format!("'{}' of item {index} {fault}", spec.name)));
        }
    }
    Ok(())
}

/// Checks that an output is what its spec says of a call with `batch_size` items.
pub(super) fn check_output(spec: &TensorSpec, tensor: &Tensor, batch_size: usize) -> Result<(), RunError> {
    let shape = tensor.shape();
    let fits = match spec.batch_axis {
        Some(axis) => fits_batch(&spec.dims, axis, shape, batch_size),
        None => fits(&spec.dims, shape),
    };
    if tensor.datatype() == spec.datatype && fits {
        return Ok(());
    }
    let advice = match spec.batch_axis {
        Some(axis) if shape.len() == spec.dims.len() + 1 && shape[axis] != batch_size => format!(
            "; its dimension {axis} is taken for the batch, so it must be {batch_size}: a model whose outputs have no batch is served \
             with batch = false in its manifest, one item a call"
        ),
        _ if tensor.datatype() == spec.datatype => "; if the file declares it wrongly, give its dims in [[outputs]]".to_owned(),
        _ => String::new(),
    };
    Err(RunError::WrongOutput(format!(
        "'{}' came as {} {shape:?} for {batch_size} items, but is declared as {} {:?} ({}){advice}",
        spec.name,
        tensor.datatype(),
        spec.datatype,
        spec.shape_with_batch(),
        spec.legend(),
    )))
}

/// Whether `shape` is that of `batch_size` items of the dimensions `dims`.
fn fits_batch(dims: &[Option<usize>], axis: usize, shape: &[usize], batch_size: usize) -> bool {
    let (Some((before, rest)), Some((first, last))) = (shape.split_at_checked(axis), dims.split_at_checked(axis)) else {
        return false;
    };
    rest.split_first().is_some_and(|(batch, after)| *batch == batch_size && fits(first, before) && fits(last, after))
}

/// Whether items of these shapes may share a batch.
fn meet(left: &[usize], right: &[usize], padded_axis: Option<usize>) -> bool {
    let equal = |(axis, (left, right)): (usize, (&usize, &usize))| left == right || Some(axis) == padded_axis;
    left.len() == right.len() && left.iter().zip(right).enumerate().all(equal)
}

fn fits(dims: &[Option<usize>], shape: &[usize]) -> bool {
    dims.len() == shape.len() && dims.iter().zip(shape).all(|(dim, size)| dim.is_none_or(|dim| dim == *size))
}
