//! Checks of a call: that its items fit together, and that its outputs are what the signature says.
//!
//! Knows signatures and shapes. Copies nothing and runs nothing.

use tidemill_domain::{PaddedInput, Signature, Tensor, TensorSpec};

use super::{EngineError, ItemCall, RunError};

pub(super) fn padded_input(signature: &Signature, position: usize) -> Option<&PaddedInput> {
    signature.padding.as_ref()?.input(position)
}

/// Checks that each batch axis exists, and that either all tensors have one or none has.
pub(super) fn check_axes(signature: &Signature) -> Result<(), EngineError> {
    let tensors = signature.inputs.iter().chain(&signature.outputs).map(|spec| (&spec.name, spec.batch_axis, spec.dims.len()));
    let states = signature.states.iter().map(|spec| (&spec.input, spec.batch_axis, spec.dims.len()));
    let has_batch = signature.has_batch();
    for (name, axis, rank) in tensors.chain(states) {
        if axis.is_some() != has_batch {
            let message =
                format!("either all tensors have a batch dimension or none has, but '{name}' differs from the first input");
            return Err(EngineError::Load(message));
        }
        if let Some(axis) = axis.filter(|axis| *axis > rank) {
            return Err(EngineError::Load(format!("tensor '{name}' has its batch on axis {axis}, but its last axis is {rank}")));
        }
    }
    Ok(())
}

/// Checks that items fit together in a call.
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

/// Checks that an output is what its spec says for a call with `batch_size` items.
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
    let items = if batch_size == 1 { "item" } else { "items" };
    Err(RunError::WrongOutput(format!(
        "'{}' came as {} {shape:?} for {batch_size} {items}, but is declared as {} {:?} ({}){advice}",
        spec.name,
        tensor.datatype(),
        spec.datatype,
        spec.shape_with_batch(),
        spec.legend(),
    )))
}

/// Whether `shape` is that of `batch_size` items with the dimensions `dims`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_domain::{Datatype, Shape};

    fn spec(dims: &[Option<usize>], batch_axis: Option<usize>) -> TensorSpec {
        TensorSpec { name: "y".into(), datatype: Datatype::Uint8, dims: dims.to_vec(), batch_axis }
    }

    fn tensor(shape: &[usize]) -> Tensor {
        let elements = vec![0; shape.iter().product()];
        Tensor::new(Datatype::Uint8, Shape::from_slice(shape), elements.into()).expect("as many as it takes")
    }

    #[test]
    fn all_tensors_have_a_batch_or_none_has() {
        let signature = |input, output| Signature {
            inputs: vec![spec(&[Some(2)], input)],
            outputs: vec![spec(&[Some(2)], output)],
            ..Signature::default()
        };
        assert_eq!((check_axes(&signature(Some(0), Some(1))), check_axes(&signature(None, None))), (Ok(()), Ok(())));
        for mixed in [signature(Some(0), None), signature(None, Some(0))] {
            let error = check_axes(&mixed).expect_err("half a batch");
            assert!(error.to_string().contains("but 'y' differs from the first input"), "{error}");
        }
        let error = check_axes(&signature(Some(0), Some(2))).expect_err("no such axis");
        assert_eq!(error.to_string(), "tensor 'y' has its batch on axis 2, but its last axis is 1");
    }

    #[test]
    fn without_a_batch_dimension_a_call_takes_one_item() {
        let signature =
            Signature { inputs: vec![spec(&[None], None)], outputs: vec![spec(&[None], None)], ..Signature::default() };
        let inputs = [tensor(&[3])];
        let item = ItemCall { inputs: &inputs, state: None };
        assert_eq!(check_items(&signature, &[item]), Ok(()));
        let error = check_items(&signature, &[item, item]).expect_err("two items");
        assert_eq!(error, RunError::BadBatch("the model has no batch dimension, so a call takes 1 item, not 2".to_owned()));
    }

    #[test]
    fn an_output_comes_as_declared_or_the_message_says_what_can_be_done() {
        for (spec, shape, batch_size) in [
            (spec(&[None, Some(2)], Some(0)), &[3, 0, 2][..], 3),
            (spec(&[Some(2), None], Some(1)), &[2, 3, 5], 3),
            (spec(&[], Some(0)), &[1], 1),
            (spec(&[], None), &[], 1),
            (spec(&[None, Some(4)], None), &[0, 4], 1),
        ] {
            assert_eq!(check_output(&spec, &tensor(shape), batch_size), Ok(()), "{shape:?}");
        }
        let batch = "its dimension 0 is taken for the batch, so it must be";
        let wrongly = "if the file declares it wrongly, give its dims in [[outputs]]";
        for (spec, shape, batch_size, expected) in [
            (spec(&[Some(4)], Some(0)), &[0, 4][..], 1, batch),
            (spec(&[Some(4)], Some(0)), &[3, 4], 2, batch),
            (spec(&[Some(4)], Some(0)), &[2, 5], 2, wrongly),
            (spec(&[Some(4)], Some(0)), &[2], 2, wrongly),
            (spec(&[Some(4)], Some(2)), &[], 2, wrongly),
            (spec(&[Some(1)], None), &[2], 1, wrongly),
        ] {
            let error = check_output(&spec, &tensor(shape), batch_size).expect_err("another shape").to_string();
            assert!(error.contains(expected), "{shape:?}: {error}");
        }
    }
}
