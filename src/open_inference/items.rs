//! A request's tensors as items, and items' outputs as a response's tensors.
//!
//! Items lie along the leading dimension, wherever the model itself has its batch. A request whose shapes are the model's without
//! a batch is one item, and its response has no batch either; for a model without a batch dimension each request is one item.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{describe::leading_batch, request::InputTensor, response::OutputTensor};
use crate::domain::{
    Fault, FaultKind, ItemInputs, ItemOutputs, ItemSlots, Shape, SharedInput, Signature, Tensor, TensorSpec, bad_dimension,
    elements_text, given_twice,
};

/// The items of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Items {
    /// At least one.
    pub(super) items: Vec<SplitItem>,
    /// Whether the request had a batch dimension, so that the response has one.
    pub(super) batched: bool,
}

/// An item as the model takes it, or the fault in it, which is its answer.
pub(super) type SplitItem = Result<ItemInputs, Fault>;

/// Which of the model's inputs a request brings, in the request's order.
pub(super) type Places = SmallVec<[Place; 4]>;

/// What a request's tensor is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The input at this position of the signature.
    Input(usize),
    /// The value at this position that the manifest has fixed.
    Shared(usize),
}

/// Finds the inputs of a request in the signature. There are no more of them than the model takes.
///
/// # Errors
/// [`FaultKind::Invalid`] with the field of a name that is unknown or repeated.
pub(super) fn places(inputs: &[InputTensor], signature: &Signature) -> Result<Places, Fault> {
    let mut places = Places::new();
    for (position, input) in inputs.iter().enumerate() {
        let shared = signature.shared.iter().position(|shared| *shared.name == *input.name);
        let place = match shared {
            Some(shared) => Place::Shared(shared),
            None => Place::Input(signature.find_input(&input.name, position)?),
        };
        if places.contains(&place) {
            let name = match place {
                Place::Input(index) => &*signature.inputs[index].name,
                Place::Shared(_) => &input.name,
            };
            return Err(given_twice(name, position));
        }
        places.push(place);
    }
    Ok(places)
}

/// Splits a request's tensors, whose places in the signature are given; the data are shared, not copied.
///
/// # Errors
/// [`FaultKind::Invalid`] with the field at fault: a shape that does not fit, data whose length does not match the shape, inputs
/// that hold different numbers of items; [`FaultKind::TooLarge`] for more than `items_max` items.
pub(super) fn split(
    inputs: Vec<(InputTensor, Bytes)>,
    places: &[Place],
    signature: &Signature,
    items_max: usize,
) -> Result<Items, Fault> {
    let mut batch: Option<(Option<usize>, String)> = None;
    let mut items: Vec<ItemSlots> = Vec::new();
    for (position, ((input, data), place)) in inputs.into_iter().zip(places).enumerate() {
        let index = match *place {
            Place::Input(index) => index,
            Place::Shared(index) => {
                check_shared(&signature.shared[index], &input, &data)
                    .map_err(|fault| fault.with_field(format!("inputs[{position}].data")))?;
                continue;
            }
        };
        let spec = &signature.inputs[index];
        let in_field = |part: &str, message: String| in_field(spec, position, part, &message);
        let count = count_items(spec, position, &input)?;
        match &batch {
            None => batch = Some((count, input.name)),
            Some((known, first)) if *known != count => {
                let (given, expected) = (described(count), described(*known));
                return Err(in_field("shape", format!(" holds {given}, but '{first}' holds {expected}")));
            }
            Some(_) => {}
        }
        check_count(count.unwrap_or(1), items_max)?;
        let shape: Shape = input.shape.iter().filter_map(|size| usize::try_from(*size).ok()).collect();
        if data.is_empty() {
            let item_shape = &shape[shape.len() - spec.dims.len()..];
            spec.check_empty(item_shape).map_err(|message| in_field("shape", format!(": {message}")))?;
        }
        let whole = Tensor::new(spec.datatype, shape, data).map_err(|error| in_field("data", format!(": {error}")))?;
        items.resize_with(count.unwrap_or(1), || signature.slots());
        if count.is_some() {
            items.iter_mut().zip(whole.rows()).for_each(|(item, row)| item[index] = Some(row));
        } else {
            items[0][index] = Some(whole);
        }
    }
    let batched = batch.is_some_and(|(count, _)| count.is_some());
    if items.is_empty() {
        // The signature says what is missing.
        items.push(signature.slots());
    }
    Ok(Items { items: items.into_iter().map(|slots| signature.complete(slots)).collect(), batched })
}

fn in_field(spec: &TensorSpec, position: usize, part: &str, message: &str) -> Fault {
    Fault::invalid(format!("inputs[{position}].{part}"), format!("input '{}'{message}", spec.name))
}

/// How many items an input holds, if its datatype and shape fit the model; `None` if it is one item without a batch dimension.
fn count_items(spec: &TensorSpec, position: usize, input: &InputTensor) -> Result<Option<usize>, Fault> {
    if input.datatype != spec.datatype {
        let message = format!(" is {}, but the model takes {}", input.datatype, spec.datatype);
        return Err(in_field(spec, position, "datatype", &message));
    }
    leading_items(spec, &input.shape).map_err(|message| in_field(spec, position, "shape", &format!(": {message}")))
}

fn check_count(count: usize, items_max: usize) -> Result<(), Fault> {
    if count <= items_max {
        return Ok(());
    }
    let message = format!(
        "the request holds {count} items, more than the {items_max} that session.window_items_max allows; send several requests"
    );
    Err(Fault::new(FaultKind::TooLarge, message).with_limit("session.window_items_max", items_max as u64))
}

/// The limits on an item, and on a request of items.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeLimits {
    pub(super) items_max: usize,
    pub(super) item_bytes_max: usize,
}

/// Whether `bytes` yet to be read could be the input at `position`: by its datatype, its shape and the limits on an item.
///
/// # Errors
/// [`FaultKind::Invalid`] with the field at fault; [`FaultKind::TooLarge`] for more items, or larger ones, than are allowed.
pub(super) fn check_size(
    input: &InputTensor,
    position: usize,
    place: Place,
    bytes: u64,
    signature: &Signature,
    limits: SizeLimits,
) -> Result<(), Fault> {
    let SizeLimits { items_max, item_bytes_max } = limits;
    let index = match place {
        Place::Input(index) => index,
        Place::Shared(index) => return check_shared_size(&signature.shared[index], position, bytes, items_max),
    };
    let spec = &signature.inputs[index];
    let count = count_items(spec, position, input)?.unwrap_or(1);
    check_count(count, items_max)?;
    let elements = input.shape.iter().try_fold(1_u64, |product, size| product.checked_mul(u64::try_from(*size).ok()?));
    let least = elements.and_then(|elements| elements.checked_mul(spec.datatype.least_size() as u64));
    let fits = match spec.datatype.fixed_size() {
        Some(_) => least == Some(bytes),
        None => least.is_some_and(|least| least <= bytes),
    };
    if !fits {
        let takes = least.map_or_else(|| "more than can be addressed".to_owned(), |least| least.to_string());
        let at_least = if spec.datatype.fixed_size().is_some() { "" } else { "at least " };
        let message =
            format!(": {bytes} bytes of data, but shape {:?} of {} takes {at_least}{takes}", input.shape, spec.datatype);
        return Err(in_field(spec, position, "data", &message));
    }
    let item_bytes = bytes / count.max(1) as u64;
    if item_bytes > item_bytes_max as u64 {
        let message = format!(
            "input '{}' has {item_bytes} bytes an item, more than the {item_bytes_max} that session.max_item_bytes allows",
            spec.name
        );
        return Err(Fault::new(FaultKind::TooLarge, message).with_limit("session.max_item_bytes", item_bytes_max as u64));
    }
    Ok(())
}

fn check_shared_size(shared: &SharedInput, position: usize, bytes: u64, items_max: usize) -> Result<(), Fault> {
    let bytes_max = (shared.value.data().len() as u64).saturating_mul(items_max as u64);
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!(
        "input '{}' has {bytes} bytes, but the model's manifest sets it for all requests, to a value that has {bytes_max} even for the \
         most items that a request may hold; leave the input out",
        shared.name
    );
    Err(Fault::invalid(format!("inputs[{position}].data"), message))
}

/// Accepts an input that the manifest fixes if it has that value, repeated as often as the client likes: clients of other servers
/// send it.
fn check_shared(shared: &SharedInput, input: &InputTensor, data: &[u8]) -> Result<(), Fault> {
    let value = shared.value.data();
    let equal =
        !data.is_empty() && data.len().is_multiple_of(value.len()) && data.chunks(value.len()).all(|chunk| chunk == value);
    if equal {
        return Ok(());
    }
    let (given, set) = (elements_text(input.datatype, data), elements_text(shared.value.datatype(), value));
    let message = format!(
        "input '{}' is {given}, but the model's manifest sets it to {set} for all requests; leave the input out",
        shared.name
    );
    Err(Fault::new(FaultKind::Invalid, message))
}

fn described(items: Option<usize>) -> String {
    items.map_or_else(|| "one item without a batch dimension".to_owned(), |items| format!("{items} items"))
}

/// How many items a tensor of this shape holds; `None` if it is one item without a batch dimension.
fn leading_items(spec: &TensorSpec, shape: &[i64]) -> Result<Option<usize>, String> {
    if let Some(axis) = shape.iter().position(|size| *size < 0) {
        return Err(bad_dimension(shape, axis));
    }
    let (batch, item) = match (shape.len().checked_sub(spec.dims.len()), spec.batch_axis) {
        (Some(0), _) => (None, shape),
        (Some(1), Some(_)) => (Some(shape[0]), &shape[1..]),
        _ => return Err(does_not_fit(spec, shape)),
    };
    let fits = |(size, dim): (&i64, &Option<usize>)| dim.is_none_or(|dim| i64::try_from(dim) == Ok(*size));
    if !item.iter().zip(&spec.dims).all(fits) {
        return Err(does_not_fit(spec, shape));
    }
    if batch == Some(0) {
        return Err(format!("shape {shape:?} holds 0 items; a request holds at least 1"));
    }
    Ok(batch.map(|items| usize::try_from(items).unwrap_or(usize::MAX)))
}

fn does_not_fit(spec: &TensorSpec, shape: &[i64]) -> String {
    format!("shape {shape:?} does not fit the model's {:?} ({})", leading_batch(spec), spec.legend())
}

/// Joins an output of a request's items: the one at `position` in the signature.
///
/// # Errors
/// [`FaultKind::Unsupported`] if the items' outputs differ in shape, so that they make no tensor.
pub(super) fn join(items: &[ItemOutputs], batched: bool, position: usize, spec: &TensorSpec) -> Result<OutputTensor, Fault> {
    let lacks = || Fault::new(FaultKind::Failed, format!("the model call gave no output '{}'", spec.name));
    let mut tensors = items.iter().map(|outputs| outputs.get(position));
    let first = tensors.next().flatten().ok_or_else(lacks)?;
    let mut data = first.data().clone();
    if items.len() > 1 {
        let mut joined = BytesMut::with_capacity(data.len() * items.len());
        joined.extend_from_slice(&data);
        for (index, tensor) in tensors.enumerate() {
            let tensor = tensor.ok_or_else(lacks)?;
            if tensor.shape() != first.shape() {
                let message = format!(
                    "output '{}' has shape {:?} for item 0 and {:?} for item {}, which make no tensor; send such items in separate requests",
                    spec.name,
                    first.shape(),
                    tensor.shape(),
                    index + 1
                );
                return Err(Fault::new(FaultKind::Unsupported, message));
            }
            joined.extend_from_slice(tensor.data());
        }
        data = joined.freeze();
    }
    let sizes = batched.then_some(items.len()).into_iter().chain(first.shape().iter().copied());
    let shape = sizes.map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    Ok(OutputTensor { name: spec.name.clone(), datatype: first.datatype(), shape, data: super::response::OutputData::Here(data) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::Datatype,
        open_inference::{OutputData, Parameters},
    };

    fn spec(name: &str, datatype: Datatype, dims: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), batch_axis: Some(dims.len()) }
    }

    fn signature() -> Signature {
        let specs = || vec![spec("a", Datatype::Uint16, &[Some(2)]), spec("b", Datatype::Uint8, &[None])];
        Signature { inputs: specs(), outputs: specs(), ..Signature::default() }
    }

    /// Splits inputs that it finds in the signature.
    fn split(inputs: Vec<(InputTensor, Bytes)>, signature: &Signature, items_max: usize) -> Result<Items, Fault> {
        let named: Vec<_> = inputs.iter().map(|(input, _)| input.clone()).collect();
        let places = places(&named, signature)?;
        super::split(inputs, &places, signature, items_max)
    }

    /// Data and shapes of an item's tensors.
    fn tensors(item: &SplitItem) -> Vec<(Vec<u8>, Vec<usize>)> {
        let inputs = item.as_ref().expect("a sound item");
        inputs.iter().map(|tensor| (tensor.data().to_vec(), tensor.shape().to_vec())).collect()
    }

    fn input(name: &str, datatype: Datatype, shape: &[i64], data: &[u8]) -> (InputTensor, Bytes) {
        let input =
            InputTensor { name: name.to_owned(), datatype, shape: shape.to_vec(), parameters: Parameters::new(), data: None };
        (input, Bytes::copy_from_slice(data))
    }

    #[test]
    fn items_lie_along_the_leading_dimension_wherever_the_model_has_its_batch() {
        let inputs = vec![
            input("b", Datatype::Uint8, &[3, 1], &[7, 8, 9]),
            input("a", Datatype::Uint16, &[3, 2], &(0..12).collect::<Vec<_>>()),
        ];
        let Items { items, batched } = split(inputs, &signature(), 3).expect("sound");
        assert!(batched);
        let found: Vec<_> = items.iter().map(tensors).collect();
        let expected = |a: [u8; 4], b: u8| vec![(a.to_vec(), vec![2]), (vec![b], vec![1])];
        assert_eq!(found, [expected([0, 1, 2, 3], 7), expected([4, 5, 6, 7], 8), expected([8, 9, 10, 11], 9)]);
    }

    #[test]
    fn the_value_that_the_manifest_fixes_may_be_sent_and_no_other() {
        let value = Tensor::new(Datatype::Uint16, Shape::new(), vec![1, 2].into()).expect("a scalar");
        let shared = vec![SharedInput { name: "rate".into(), value }];
        let signature = Signature { inputs: vec![spec("b", Datatype::Uint8, &[None])], shared, ..Signature::default() };
        let sent = |rate: &[u8]| {
            let rates = (rate.len() / 2) as i64;
            split(
                vec![input("rate", Datatype::Uint16, &[rates, 1], rate), input("b", Datatype::Uint8, &[2, 1], &[7, 8])],
                &signature,
                2,
            )
        };
        for sound in [&[1, 2][..], &[1, 2, 1, 2]] {
            let Items { items, .. } = sent(sound).expect("the same value");
            assert_eq!(items.iter().map(tensors).collect::<Vec<_>>(), [[(vec![7], vec![1])], [(vec![8], vec![1])]]);
        }
        for wrong in [&[1, 3][..], &[1, 2, 2, 1], &[]] {
            let fault = sent(wrong).expect_err("another value");
            assert_eq!(fault.field(), Some("inputs[0].data"), "{fault}");
        }
        assert_eq!(
            sent(&[1, 2, 2, 1]).expect_err("another value").message(),
            "input 'rate' is UINT16 [513, 258], but the model's manifest sets it to UINT16 513 for all requests; leave the input out"
        );
    }

    #[test]
    fn without_a_batch_dimension_a_request_is_one_item_in_the_models_own_shape() {
        let own = |spec: TensorSpec| TensorSpec { batch_axis: None, ..spec };
        let inputs = vec![own(spec("a", Datatype::Uint16, &[Some(1), Some(2)])), own(spec("b", Datatype::Uint8, &[]))];
        let signature = Signature { inputs, ..Signature::default() };
        let sent = |a: &[i64], b: &[i64]| {
            split(vec![input("a", Datatype::Uint16, a, &[0; 4]), input("b", Datatype::Uint8, b, &[7])], &signature, 4)
        };
        let Items { items, batched } = sent(&[1, 2], &[]).expect("the model's own shapes");
        assert_eq!((items.len(), batched), (1, false));
        assert_eq!(tensors(&items[0]), [(vec![0; 4], vec![1, 2]), (vec![7], vec![])]);
        for (a, b, field) in
            [(&[1, 1, 2][..], &[][..], "inputs[0].shape"), (&[2], &[], "inputs[0].shape"), (&[1, 2], &[1], "inputs[1].shape")]
        {
            let fault = sent(a, b).expect_err("another shape");
            assert_eq!(fault.field(), Some(field), "{fault}");
            assert!(fault.message().ends_with("(-1: dynamic; the model has no batch dimension)"), "{fault}");
        }
    }

    #[test]
    fn an_item_may_be_empty_where_its_dimension_is_dynamic() {
        let numbers = Signature { inputs: vec![spec("b", Datatype::Uint8, &[None])], ..Signature::default() };
        let one = split(vec![input("b", Datatype::Uint8, &[0], &[])], &numbers, 4).expect("one item");
        assert_eq!((one.items.len(), one.batched, tensors(&one.items[0])), (1, false, vec![(vec![], vec![0])]));
        let three = split(vec![input("b", Datatype::Uint8, &[3, 0], &[])], &numbers, 4).expect("three items");
        assert_eq!((three.items.len(), three.batched, tensors(&three.items[2])), (3, true, vec![(vec![], vec![0])]));
        let specs = vec![spec("s", Datatype::Bytes, &[None])];
        let strings = Signature { inputs: specs, ..Signature::default() };
        let Items { items, .. } = split(vec![input("s", Datatype::Bytes, &[2, 0], &[])], &strings, 2).expect("no texts");
        assert_eq!((items.len(), tensors(&items[1])), (2, vec![(vec![], vec![0])]));
    }

    #[test]
    fn strings_are_split_where_their_elements_end() {
        let specs = vec![spec("s", Datatype::Bytes, &[Some(2)])];
        let signature = Signature { inputs: specs, ..Signature::default() };
        let data = b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc\x01\0\0\0d";
        let Items { items, .. } = split(vec![input("s", Datatype::Bytes, &[2, 2], data)], &signature, 2).expect("sound");
        assert_eq!([tensors(&items[0]), tensors(&items[1])], [[(data[..9].to_vec(), vec![2])], [(data[9..].to_vec(), vec![2])]]);
        let fault = split(vec![input("s", Datatype::Bytes, &[2, 2], &data[..15])], &signature, 2).expect_err("cut off");
        assert_eq!(fault.field(), Some("inputs[0].data"), "{fault}");
    }

    #[test]
    fn a_request_without_a_batch_dimension_is_one_item() {
        let inputs = vec![input("a", Datatype::Uint16, &[2], &[0; 4]), input("b", Datatype::Uint8, &[5], &[0; 5])];
        let Items { items, batched } = split(inputs, &signature(), 1).expect("sound");
        assert_eq!((items.len(), batched), (1, false));
    }

    #[test]
    fn what_an_item_lacks_is_its_answer() {
        let Items { items, .. } =
            split(vec![input("a", Datatype::Uint16, &[2, 2], &[0; 8])], &signature(), 2).expect("two items");
        for item in items {
            assert_eq!(item.expect_err("half of it").message(), "input 'b' is missing");
        }
    }

    #[test]
    fn each_fault_names_its_field_and_value() {
        let a = |shape: &[i64], bytes: usize| input("a", Datatype::Uint16, shape, &vec![0; bytes]);
        let cases = [
            (vec![input("x", Datatype::Uint8, &[1], &[0])], "inputs[0].name", "no input 'x'; its inputs are 'a', 'b'"),
            (vec![input("a", Datatype::Uint8, &[2], &[0; 4])], "inputs[0].datatype", "is UINT8, but the model takes UINT16"),
            (vec![a(&[2, 3], 12)], "inputs[0].shape", "shape [2, 3] does not fit the model's [-1, 2]"),
            (vec![a(&[1, 1, 2], 4)], "inputs[0].shape", "does not fit"),
            (vec![a(&[0, 2], 0)], "inputs[0].shape", "shape [0, 2] holds 0 items; a request holds at least 1"),
            (vec![a(&[2, 0], 0)], "inputs[0].shape", "shape [2, 0] does not fit the model's [-1, 2] (-1: batch or dynamic)"),
            (vec![a(&[-1, 2], 4)], "inputs[0].shape", "dimension 0 of shape [-1, 2] is -1; dimensions must be 0 or more"),
            (vec![a(&[2, 2], 7)], "inputs[0].data", "7 bytes of data, but shape [2, 2] of UINT16 takes 8"),
            (vec![a(&[i64::MAX, 2], 8)], "", "more than the 4 that session.window_items_max allows"),
            (
                vec![a(&[2, 2], 8), input("b", Datatype::Uint8, &[3, 1], &[0; 3])],
                "inputs[1].shape",
                "holds 3 items, but 'a' holds 2",
            ),
            (vec![a(&[1, 2], 4), input("b", Datatype::Uint8, &[1], &[0])], "inputs[1].shape", "without a batch dimension"),
        ];
        for (inputs, field, message) in cases {
            let fault = split(inputs, &signature(), 4).expect_err("must be refused");
            assert_eq!(fault.field().unwrap_or_default(), field, "{fault}");
            assert!(fault.message().contains(message), "{fault}");
        }
    }

    fn outputs(shapes: [&[usize]; 2]) -> ItemOutputs {
        let tensor = |datatype: Datatype, shape: &[usize]| {
            let bytes = shape.iter().product::<usize>() * datatype.least_size();
            Tensor::new(datatype, Shape::from_slice(shape), vec![shape[0] as u8; bytes].into()).expect("as long as it must be")
        };
        ItemOutputs::from_iter([tensor(Datatype::Uint16, shapes[0]), tensor(Datatype::Uint8, shapes[1])])
    }

    #[test]
    fn what_could_be_no_input_is_refused_before_it_is_read() {
        let limits = SizeLimits { items_max: 4, item_bytes_max: 100 };
        let check = |(input, _): &(InputTensor, Bytes), bytes| {
            check_size(
                input,
                0,
                places(std::slice::from_ref(input), &signature()).expect("known")[0],
                bytes,
                &signature(),
                limits,
            )
        };
        let a = |shape: &[i64]| input("a", Datatype::Uint16, shape, &[]);
        let b = |shape: &[i64]| input("b", Datatype::Uint8, shape, &[]);
        assert_eq!(check(&a(&[2, 2]), 8), Ok(()));
        assert_eq!(check(&a(&[2]), 4), Ok(()));
        assert_eq!(check(&b(&[4, 100]), 400), Ok(()));
        let cases = [
            (a(&[2, 2]), 9, "9 bytes of data, but shape [2, 2] of UINT16 takes 8"),
            (a(&[1, 2]), 64 << 20, "of UINT16 takes 4"),
            (a(&[3, 3]), 18, "does not fit the model's"),
            (input("a", Datatype::Uint8, &[1, 2], &[]), 2, "but the model takes UINT16"),
            (a(&[5, 2]), 20, "session.window_items_max"),
            (b(&[1, 101]), 101, "session.max_item_bytes"),
            (b(&[4, i64::MAX]), u64::MAX, "takes more than can be addressed"),
        ];
        for (input, bytes, message) in cases {
            let fault = check(&input, bytes).expect_err(message);
            assert!(fault.message().contains(message), "{fault}");
        }
    }

    #[test]
    fn outputs_have_the_requests_batch_dimension() {
        let items = [outputs([&[2], &[3]]), outputs([&[2], &[3]])];
        let specs = signature().outputs;
        let data = OutputData::Here(vec![3; 6].into());
        let expected = OutputTensor { name: "b".into(), datatype: Datatype::Uint8, shape: vec![2, 3], data };
        assert_eq!(join(&items, true, 1, &specs[1]), Ok(expected));
        assert_eq!(join(&items[..1], false, 0, &specs[0]).expect("one item").shape, [2]);
    }

    #[test]
    fn outputs_of_different_shapes_make_no_tensor() {
        let items = [outputs([&[2], &[3]]), outputs([&[2], &[4]])];
        let specs = signature().outputs;
        let fault = join(&items, true, 1, &specs[1]).expect_err("different");
        assert!(fault.message().contains("'b' has shape [3] for item 0 and [4] for item 1"), "{fault}");
        assert!(join(&items, true, 0, &specs[0]).is_ok());
    }

    proptest! {
        #[test]
        fn no_shape_or_length_panics(shape in proptest::collection::vec(any::<i64>(), 0..4), bytes in 0_usize..64, name in "a|b|") {
            let _ = split(vec![input(&name, Datatype::Uint8, &shape, &vec![0; bytes])], &signature(), 8);
        }
    }
}
