//! Batches of BYTES tensors, whose elements differ in length: gathered by appending the items, scattered by walking the elements.
//!
//! So the batch is on the first axis, where an item's elements lie together. Tensors laid out from shapes alone cannot be BYTES: a
//! state, a padded input, an output that is cut back to an item's own length. Knows no engine.

use bytes::Bytes;
use tidemill_domain::{ByteElements, Datatype, ItemOutputs, Shape, Signature, Tensor, TensorError, TensorSpec, element_count};

use super::{EngineError, buffer::AlignedBuffer};

/// Checks that tensors of BYTES are only where they can be.
///
/// # Errors
/// [`EngineError::Load`] with the name of one that is not, and why.
pub(super) fn check(signature: &Signature) -> Result<(), EngineError> {
    let refused = |name: &str, cause: &str| Err(EngineError::Load(format!("tensor '{name}' is of BYTES and {cause}")));
    let of_bytes = |spec: &&TensorSpec| spec.datatype == Datatype::Bytes;
    let mut tensors = signature.inputs.iter().chain(&signature.outputs).filter(of_bytes);
    if let Some(spec) = tensors.find(|spec| spec.batch_axis.is_some_and(|axis| axis != 0)) {
        let axis = spec.batch_axis.unwrap_or_default();
        return refused(&spec.name, &format!("has its batch on axis {axis}; only axis 0 will do"));
    }
    if let Some(state) = signature.states.iter().find(|state| state.datatype == Datatype::Bytes) {
        return refused(&state.input, "cannot be a state");
    }
    if let Some(shared) = signature.shared.iter().find(|shared| shared.value.datatype() == Datatype::Bytes) {
        return refused(&shared.name, "cannot be shared by the batch");
    }
    let Some(padding) = &signature.padding else { return Ok(()) };
    let mut padded = padding.inputs.iter().filter_map(|padded| signature.inputs.get(padded.position));
    if let Some(spec) = padded.find(of_bytes) {
        return refused(&spec.name, "cannot be padded");
    }
    match signature.outputs.iter().filter(of_bytes).find(|spec| spec.dims.contains(&None)) {
        Some(spec) => refused(&spec.name, "cannot have a dynamic dimension, which would follow the padding"),
        None => Ok(()),
    }
}

/// Copies the items' data into `buffer`, one after another.
pub(super) fn gather<'a>(items: impl Iterator<Item = &'a Bytes>, buffer: &mut AlignedBuffer) {
    buffer.clear();
    items.for_each(|data| buffer.extend_from_slice(data));
}

/// Cuts a tensor of BYTES, whose first dimension counts the results, into one slice for each of them. Without a batch dimension it belongs
/// to the one result as it is.
///
/// # Errors
/// [`TensorError`] if its first dimension counts something else.
pub(super) fn split(spec: &TensorSpec, tensor: &Tensor, results: &mut [ItemOutputs]) -> Result<(), TensorError> {
    if spec.batch_axis.is_none() {
        results.iter_mut().for_each(|result| result.push(tensor.clone()));
        return Ok(());
    }
    let dims = Shape::from_slice(tensor.shape().get(1..).unwrap_or_default());
    let count = element_count(&dims).unwrap_or(usize::MAX);
    let data = tensor.data();
    let mut elements = ByteElements::new(data);
    for result in results {
        let start = data.len() - elements.rest().len();
        elements.by_ref().take(count).for_each(drop);
        let end = data.len() - elements.rest().len();
        result.push(Tensor::new(Datatype::Bytes, dims.clone(), data.slice(start..end))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection::vec, prelude::*};
    use smallvec::smallvec;

    use super::*;
    use crate::{
        CallThreads, Executable, ItemCall, LaneThreads,
        synthetic::{Script, SyntheticEngine, SyntheticKind},
    };
    use tidemill_domain::{ElementBytes, PaddedInput, PaddingRule, SharedInput, StateSpec, push_element};

    fn spec(name: &str, datatype: Datatype, dims: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), batch_axis: Some(0) }
    }

    fn strings(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        spec(name, Datatype::Bytes, dims)
    }

    fn tensor(shape: &[usize], elements: &[Vec<u8>]) -> Tensor {
        let mut data = Vec::new();
        elements.iter().for_each(|element| push_element(&mut data, element).expect("short"));
        Tensor::new(Datatype::Bytes, Shape::from_slice(shape), data.into()).expect("as many elements as the shape takes")
    }

    fn executable(signature: Signature) -> Executable {
        let (signature, script) = (Arc::new(signature), Script { kind: SyntheticKind::Identity, ..Script::default() });
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature")
    }

    fn run(model: &Executable, items: &[Vec<Tensor>]) -> Vec<ItemOutputs> {
        let calls: Vec<_> = items.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
        model.run(0, &calls, CallThreads::One).expect("no fault planned").outputs
    }

    #[test]
    fn items_get_slices_of_the_batch_whatever_their_lengths() {
        let signature =
            Signature { inputs: vec![strings("x", &[Some(2)])], outputs: vec![strings("y", &[Some(2)])], ..Signature::default() };
        let items = [tensor(&[2], &[b"long".to_vec(), vec![]]), tensor(&[2], &[b"a".to_vec(), b"bc".to_vec()])];
        let outputs = run(&executable(signature), &items.clone().map(|item| vec![item]));
        assert_eq!([&outputs[0][0], &outputs[1][0]], [&items[0], &items[1]]);
        let addresses = [&outputs[0], &outputs[1]].map(|outputs| outputs[0].data().as_ptr().addr());
        assert_eq!(addresses[1] - addresses[0], items[0].data().len());
    }

    #[test]
    fn an_input_that_is_not_padded_goes_with_one_that_is() {
        let rule = PaddingRule {
            inputs: vec![PaddedInput { position: 0, axis: 0, value: ElementBytes::from_elem(0, 4) }],
            mask: None,
            buckets: vec![],
            pad_to_bucket: false,
        };
        let signature = Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[None]), strings("name", &[Some(1)])],
            outputs: vec![spec("y", Datatype::Fp32, &[None]), strings("name_again", &[Some(1)])],
            padding: Some(rule),
            ..Signature::default()
        };
        let item = |numbers: &[f32], name: &str| vec![Tensor::from_f32(numbers), tensor(&[1], &[name.into()])];
        let items = [item(&[1.0, 2.0, 3.0], "three"), item(&[4.0], "")];
        let outputs = run(&executable(signature), &items);
        assert_eq!(outputs.iter().map(|outputs| outputs.to_vec()).collect::<Vec<_>>(), items);
    }

    #[test]
    fn tensors_of_bytes_where_none_can_be_are_refused_by_name() {
        let good =
            || Signature { inputs: vec![strings("x", &[None])], outputs: vec![strings("y", &[None])], ..Signature::default() };
        assert_eq!(check(&good()), Ok(()));
        let padded = |position| PaddingRule {
            inputs: vec![PaddedInput { position, axis: 0, value: ElementBytes::new() }],
            mask: None,
            buckets: vec![],
            pad_to_bucket: false,
        };
        let state = StateSpec {
            input: "h".into(),
            output: "h_next".into(),
            datatype: Datatype::Bytes,
            dims: smallvec![1],
            batch_axis: Some(0),
        };
        let shared = SharedInput { name: "rate".into(), value: tensor(&[], &[vec![]]) };
        let refused = |change: &dyn Fn(&mut Signature)| {
            let mut signature = good();
            change(&mut signature);
            check(&signature).expect_err("it must be refused").to_string()
        };
        let cases = [
            (
                refused(&|of| of.inputs[0].batch_axis = Some(1)),
                "'x' is of BYTES and has its batch on axis 1; only axis 0 will do",
            ),
            (
                refused(&|of| of.outputs[0].batch_axis = Some(1)),
                "'y' is of BYTES and has its batch on axis 1; only axis 0 will do",
            ),
            (refused(&|of| of.states.push(state.clone())), "'h' is of BYTES and cannot be a state"),
            (refused(&|of| of.shared.push(shared.clone())), "'rate' is of BYTES and cannot be shared by the batch"),
            (refused(&|of| of.padding = Some(padded(0))), "'x' is of BYTES and cannot be padded"),
            (
                refused(&|of| {
                    of.inputs.push(spec("z", Datatype::Fp32, &[None]));
                    of.padding = Some(padded(1));
                }),
                "'y' is of BYTES and cannot have a dynamic dimension, which would follow the padding",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, format!("tensor {expected}"));
        }
    }

    #[test]
    fn a_batch_of_another_size_is_not_a_batch() {
        let two = tensor(&[2], &[vec![], vec![]]);
        assert!(split(&strings("y", &[]), &two, &mut vec![ItemOutputs::new(); 3]).is_err());
    }

    proptest! {
        #[test]
        fn gather_and_scatter_are_inverse(
            dims in vec(0_usize..4, 0..3), texts in vec(vec(any::<u8>(), 0..12), 1..80), batch_size in 1_usize..6,
        ) {
            let declared: Vec<_> = dims.iter().map(|size| Some(*size)).collect();
            let signature =
                Signature { inputs: vec![strings("x", &declared)], outputs: vec![strings("y", &declared)], ..Signature::default() };
            let model = executable(signature);
            let mut texts = texts.iter().cycle().cloned();
            let count = dims.iter().product();
            // Twice, so that the second batch meets the buffers of the first.
            for batch_size in [batch_size, 1] {
                let items: Vec<Vec<Tensor>> = (0..batch_size)
                    .map(|_| vec![tensor(&dims, &texts.by_ref().take(count).collect::<Vec<_>>())])
                    .collect();
                for (item, result) in items.iter().zip(run(&model, &items)) {
                    prop_assert_eq!(&item[..], &result[..]);
                }
            }
        }
    }
}
