//! What a model takes and gives, and the check of a client's tensors against it.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Datatype, Fault, ItemInputs, PaddingRule, Shape, Tensor, TensorSpec, TensorSpecs, element_count};

/// A state tensor: an input of each call; its next value is one of the call's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// The model's input.
    pub input: Arc<str>,
    /// The model's output for the next value.
    pub output: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions without the batch.
    pub dims: Shape,
    /// Where the batch dimension is; `None` if there is none.
    pub batch_axis: Option<usize>,
}

impl StateSpec {
    /// Bytes of one stream's state; `None` if there are more than can be addressed, or if they vary from state to state.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        element_count(&self.dims)?.checked_mul(self.datatype.fixed_size()?)
    }
}

/// An input with one value for the whole batch, fixed by the manifest; clients do not send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInput {
    /// The model's input.
    pub name: Arc<str>,
    /// Its value, with the shape that the model declares (no dimensions for a scalar).
    pub value: Tensor,
}

/// All inputs and outputs of a model, by their role in a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// What each item brings.
    pub inputs: TensorSpecs,
    /// What each item gets.
    pub outputs: TensorSpecs,
    /// What the server keeps for each stream.
    pub states: Vec<StateSpec>,
    /// What the whole batch shares.
    pub shared: Vec<SharedInput>,
    /// Names of inputs that clients do not send because the model file has a default for each.
    pub defaults: Vec<Arc<str>>,
    /// How items of different lengths meet in a batch; without this they do not.
    pub padding: Option<PaddingRule>,
}

/// A tensor as a client sent it, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedTensor {
    /// Empty means the model's only input.
    pub name: String,
    /// `None` means the model's own.
    pub datatype: Option<Datatype>,
    /// With or without a batch dimension of 1, if the model has one; empty means the model's own shape.
    pub shape: Vec<i64>,
    /// The elements, laid out as in a [`Tensor`].
    pub data: Bytes,
}

/// An item's tensors so far, in their signature's order.
pub type ItemSlots = SmallVec<[Option<Tensor>; 4]>;

impl Signature {
    /// Whether streams of this model carry state.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        !self.states.is_empty()
    }

    /// Whether the model has a batch dimension. Without one, a call takes one item, in the model's own shapes.
    #[must_use]
    pub fn has_batch(&self) -> bool {
        self.inputs.first().is_none_or(|input| input.batch_axis.is_some())
    }

    /// Whether all items have the same shapes, so that any two may meet in a batch without padding.
    #[must_use]
    #[inline]
    pub fn has_fixed_shapes(&self) -> bool {
        self.inputs.iter().all(|input| input.dims.iter().all(Option::is_some))
    }

    /// Checks one item's tensors and puts them in the signature's order.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the field at fault: an unknown, missing or repeated name, a wrong
    /// datatype, a shape that does not fit, data whose length does not match shape and datatype, or padded inputs that differ in
    /// length or are empty; [`FaultKind::TooLarge`](super::FaultKind::TooLarge) if the item exceeds the last bucket of the
    /// padding.
    pub fn check(&self, mut tensors: Vec<NamedTensor>) -> Result<ItemInputs, Fault> {
        // A single tensor, the usual case, skips the slots that several would be sorted into.
        if let ([spec], None, 1) = (&*self.inputs, &self.padding, tensors.len())
            && let Some(tensor) = tensors.pop()
        {
            self.find_input(&tensor.name, 0)?;
            return Ok(ItemInputs::from_buf([check_tensor(spec, tensor, 0)?]));
        }
        let mut slots = self.slots();
        for (position, tensor) in tensors.into_iter().enumerate() {
            let index = self.find_input(&tensor.name, position)?;
            let spec = &self.inputs[index];
            if slots[index].is_some() {
                return Err(given_twice(&spec.name, position));
            }
            slots[index] = Some(check_tensor(spec, tensor, position)?);
        }
        self.complete(slots)
    }

    /// A slot for each of an item's tensors, in the signature's order.
    #[must_use]
    #[inline]
    pub fn slots(&self) -> ItemSlots {
        SmallVec::from_elem(None, self.inputs.len())
    }

    /// The item made of tensors that each fit their input.
    ///
    /// # Errors
    /// As [`Signature::check`], for faults of the item as a whole: a missing tensor, padded inputs that differ in length or are
    /// empty, a length beyond the last bucket of the padding.
    pub fn complete(&self, mut slots: ItemSlots) -> Result<ItemInputs, Fault> {
        if let Some(padding) = &self.padding {
            padding.complete(&self.inputs, &mut slots)?;
        }
        let mut inputs = ItemInputs::with_capacity(slots.len());
        for (slot, spec) in slots.into_iter().zip(&self.inputs) {
            inputs.push(slot.ok_or_else(|| Fault::invalid("inputs", format!("input '{}' is missing", spec.name)))?);
        }
        Ok(inputs)
    }

    /// Position of the output with this name. `position` is its place in the request.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the names that exist.
    #[inline]
    pub fn find_output(&self, name: &str, position: usize) -> Result<usize, Fault> {
        self.outputs.iter().position(|output| &*output.name == name).ok_or_else(|| {
            let known = quoted_list(self.outputs.iter().map(|output| &*output.name));
            let message = format!("the model has no output '{name}'; its outputs are {known}");
            Fault::invalid(format!("outputs[{position}].name"), message)
        })
    }

    /// Position of the input with this name; an empty name means the only input. `position` is the tensor's place in the request.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the names that exist.
    #[inline]
    pub fn find_input(&self, name: &str, position: usize) -> Result<usize, Fault> {
        if name.is_empty() && self.inputs.len() == 1 {
            return Ok(0);
        }
        if let Some(index) = self.inputs.iter().position(|input| &*input.name == name) {
            return Ok(index);
        }
        let known = quoted_list(self.inputs.iter().map(|input| &*input.name));
        let kept =
            self.states.iter().any(|state| &*state.input == name) || self.shared.iter().any(|shared| &*shared.name == name);
        let why = if name.is_empty() {
            "the tensor has no name, and the model has several inputs".to_owned()
        } else if kept {
            format!("input '{name}' is the server's own (state, or shared by the batch) and is not sent by clients")
        } else if self.defaults.iter().any(|default| **default == *name) {
            format!(
                "input '{name}' has a default in the model file and is not sent by clients, unless [[inputs]] in the model's \
                 manifest names it"
            )
        } else {
            format!("the model has no input '{name}'")
        };
        Err(Fault::invalid(format!("inputs[{position}].name"), format!("{why}; its inputs are {known}")))
    }
}

/// The fault that the tensor at `position` of a request gives the input `name` a second time.
#[must_use]
pub fn given_twice(name: &str, position: usize) -> Fault {
    Fault::invalid(format!("inputs[{position}].name"), format!("input '{name}' is given twice"))
}

/// `'a', 'b' and 'c'`.
#[must_use]
pub fn quoted_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

fn check_tensor(spec: &TensorSpec, tensor: NamedTensor, position: usize) -> Result<Tensor, Fault> {
    let NamedTensor { datatype, shape, data, .. } = tensor;
    if let Some(datatype) = datatype
        && datatype != spec.datatype
    {
        return Err(Fault::invalid(
            format!("inputs[{position}].datatype"),
            format!("input '{}' is {datatype}, but the model takes {}", spec.name, spec.datatype),
        ));
    }
    let shape = item_shape(spec, &shape)
        .map_err(|message| Fault::invalid(format!("inputs[{position}].shape"), format!("input '{}': {message}", spec.name)))?;
    Tensor::new(spec.datatype, shape, data)
        .map_err(|error| Fault::invalid(format!("inputs[{position}].data"), format!("input '{}': {error}", spec.name)))
}

/// The client's shape without its batch dimension, if it fits the spec.
fn item_shape(spec: &TensorSpec, given: &[i64]) -> Result<Shape, String> {
    if given.is_empty() && !spec.dims.is_empty() {
        return spec.fixed_shape().ok_or_else(|| {
            format!("the shape is missing, and the model's shape {:?} has dynamic dimensions", spec.shape_with_batch())
        });
    }
    let mut sizes = Shape::with_capacity(given.len());
    for (axis, size) in given.iter().enumerate() {
        sizes.push(usize::try_from(*size).map_err(|_| bad_dimension(given, axis))?);
    }
    let bytes = element_count(&sizes).and_then(|count| count.checked_mul(spec.datatype.least_size()));
    let bytes = bytes.ok_or_else(|| format!("shape {given:?} has more elements than can be addressed"))?;
    if let Some(axis) = spec.batch_axis
        && sizes.len() == spec.dims.len() + 1
    {
        let batch = sizes.remove(axis.min(spec.dims.len()));
        if batch != 1 {
            return Err(format!(
                "shape {given:?} holds {batch} items; an item must be one; send them one by one, and the server will batch them"
            ));
        }
    }
    let fits =
        sizes.len() == spec.dims.len() && sizes.iter().zip(&spec.dims).all(|(size, dim)| dim.is_none_or(|dim| dim == *size));
    if !fits {
        return Err(format!("shape {given:?} does not fit the model's {:?} ({})", spec.shape_with_batch(), spec.legend()));
    }
    if bytes == 0 {
        spec.check_empty(&sizes)?;
    }
    Ok(sizes)
}

/// Says that a dimension of `shape` is not a size.
#[must_use]
pub fn bad_dimension(shape: &[i64], axis: usize) -> String {
    format!(
        "dimension {axis} of shape {shape:?} is {}; dimensions must be 0 or more",
        shape.get(axis).copied().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::FaultKind;

    fn signature() -> Signature {
        let spec = |name: &str, dims: Vec<Option<usize>>| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims,
            batch_axis: Some(0),
        };
        Signature { inputs: vec![spec("audio", vec![Some(4)]), spec("text", vec![None, Some(2)])], ..Signature::default() }
    }

    fn tensor(name: &str, shape: &[i64], bytes: usize) -> NamedTensor {
        NamedTensor { name: name.to_owned(), datatype: None, shape: shape.to_vec(), data: vec![0; bytes].into() }
    }

    #[test]
    fn tensors_are_put_into_the_models_order_and_lose_their_batch_dimension() {
        let inputs = signature().check(vec![tensor("text", &[3, 2], 24), tensor("audio", &[1, 4], 16)]).expect("a good item");
        assert_eq!(inputs[0].shape(), &[4]);
        assert_eq!(inputs[1].shape(), &[3, 2]);
    }

    #[test]
    fn a_fixed_shape_may_be_left_out_and_a_dynamic_one_may_not() {
        let good = signature().check(vec![tensor("audio", &[], 16), tensor("text", &[1, 2], 8)]);
        assert!(good.is_ok(), "{good:?}");
        let bad = signature().check(vec![tensor("audio", &[], 16), tensor("text", &[], 8)]).expect_err("dynamic");
        assert_eq!(bad.field(), Some("inputs[1].shape"));
    }

    #[test]
    fn each_fault_names_its_field_and_value() {
        let check = |tensors| signature().check(tensors).expect_err("must be refused");
        let text = || tensor("text", &[1, 2], 8);
        let cases = [
            (check(vec![text()]), "inputs", "input 'audio' is missing"),
            (check(vec![text(), text()]), "inputs[1].name", "given twice"),
            (check(vec![tensor("video", &[4], 16)]), "inputs[0].name", "no input 'video'; its inputs are 'audio', 'text'"),
            (check(vec![tensor("", &[4], 16)]), "inputs[0].name", "has no name"),
            (check(vec![tensor("audio", &[5], 20)]), "inputs[0].shape", "does not fit"),
            (check(vec![tensor("audio", &[2, 4], 32)]), "inputs[0].shape", "holds 2 items"),
            (check(vec![tensor("audio", &[0], 0)]), "inputs[0].shape", "shape [0] does not fit the model's [-1, 4]"),
            (check(vec![tensor("audio", &[0, 4], 0)]), "inputs[0].shape", "shape [0, 4] holds 0 items"),
            (check(vec![tensor("audio", &[-4], 16)]), "inputs[0].shape", "is -4; dimensions must be 0 or more"),
            (check(vec![tensor("text", &[0, 3], 0)]), "inputs[0].shape", "does not fit"),
            (check(vec![tensor("text", &[0, 2], 8)]), "inputs[0].data", "8 bytes of data, but shape [0, 2] of FP32 takes 0"),
            (check(vec![tensor("text", &[i64::MAX, 2], 16)]), "inputs[0].shape", "more elements"),
            (check(vec![tensor("audio", &[4], 15)]), "inputs[0].data", "15 bytes"),
        ];
        for (fault, field, message) in cases {
            assert_eq!(fault.kind(), FaultKind::Invalid);
            assert_eq!(fault.field(), Some(field), "{fault}");
            assert!(fault.message().contains(message), "{fault}");
        }
    }

    #[test]
    fn a_dynamic_dimension_may_be_empty() {
        let inputs = signature().check(vec![tensor("audio", &[4], 16), tensor("text", &[0, 2], 0)]).expect("no text");
        assert_eq!((inputs[1].shape(), inputs[1].data().len()), (&[0, 2][..], 0));
        let with_batch = signature().check(vec![tensor("audio", &[4], 16), tensor("text", &[1, 0, 2], 0)]);
        assert_eq!(with_batch, Ok(inputs));
    }

    #[test]
    fn the_other_dimensions_of_an_empty_tensor_are_bounded() {
        let spec = TensorSpec { name: "x".into(), datatype: Datatype::Uint8, dims: vec![None, None], batch_axis: None };
        let signature = Signature { inputs: vec![spec], ..Signature::default() };
        let check = |shape: &[i64]| signature.check(vec![tensor("x", shape, 0)]);
        assert!(check(&[0, 1 << 20]).is_ok());
        let fault = check(&[(1 << 20) + 1, 0]).expect_err("too large for nothing");
        assert_eq!(
            fault.message(),
            "input 'x': shape [1048577, 0] holds no element, and the product of its other dynamic dimensions is 1048577; for an \
             empty tensor it may be at most 1048576"
        );
        assert!(check(&[i64::MAX, 0]).is_err());
    }

    #[test]
    fn without_a_batch_dimension_the_shape_is_the_models_own() {
        let spec = |name: &str, dims: Vec<Option<usize>>| TensorSpec {
            name: name.into(),
            datatype: Datatype::Uint8,
            dims,
            batch_axis: None,
        };
        let inputs = vec![spec("one", vec![Some(1), None]), spec("scalar", vec![])];
        let signature = Signature { inputs, ..Signature::default() };
        assert!(!signature.has_batch());
        let check = |one: &[i64], scalar: &[i64]| signature.check(vec![tensor("one", one, 3), tensor("scalar", scalar, 1)]);
        let item = check(&[1, 3], &[]).expect("the model's own shapes");
        assert_eq!((item[0].shape(), item[1].shape()), (&[1, 3][..], &[][..]));
        for (one, scalar, wanted) in [(&[3][..], &[][..], "[1, -1]"), (&[1, 1, 3], &[], "[1, -1]"), (&[1, 3], &[1], "[]")] {
            let fault = check(one, scalar).expect_err("another shape");
            let expected = format!("does not fit the model's {wanted} (-1: dynamic; the model has no batch dimension)");
            assert!(fault.message().ends_with(&expected), "{fault}");
        }
    }

    #[test]
    fn an_input_whose_default_applies_is_not_sent() {
        let signature = Signature { defaults: vec!["limit".into()], ..signature() };
        let fault = signature.check(vec![tensor("limit", &[], 4)]).expect_err("it is not taken");
        assert_eq!(
            fault.message(),
            "input 'limit' has a default in the model file and is not sent by clients, unless [[inputs]] in the model's manifest \
             names it; its inputs are 'audio', 'text'"
        );
    }

    #[test]
    fn another_datatype_is_refused() {
        let mut wrong = tensor("audio", &[4], 16);
        wrong.datatype = Some(Datatype::Int32);
        let fault = signature().check(vec![wrong]).expect_err("another datatype");
        assert_eq!(fault.message(), "input 'audio' is INT32, but the model takes FP32");
    }

    #[test]
    fn a_bytes_tensor_is_checked_element_by_element() {
        let spec = TensorSpec { name: "names".into(), datatype: Datatype::Bytes, dims: vec![None], batch_axis: Some(0) };
        let signature = Signature { inputs: vec![spec], ..Signature::default() };
        let check = |shape: &[i64], data: &'static [u8]| {
            let data = Bytes::from_static(data);
            signature.check(vec![NamedTensor {
                name: String::new(),
                datatype: Some(Datatype::Bytes),
                shape: shape.to_vec(),
                data,
            }])
        };
        let inputs = check(&[2], b"\x02\0\0\0ab\0\0\0\0").expect("two elements");
        assert_eq!((inputs[0].datatype(), inputs[0].shape()), (Datatype::Bytes, &[2][..]));
        assert_eq!(check(&[1, 2], b"\x02\0\0\0ab\0\0\0\0"), Ok(inputs), "with the batch dimension");
        let fault = check(&[2], b"\x02\0\0\0ab\x05\0\0\0abc").expect_err("cut short");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("inputs[0].data")));
        assert_eq!(fault.message(), "input 'names': element 1 claims to have 5 bytes, but 3 are left");
        let fault = check(&[i64::MAX], b"").expect_err("their lengths alone cannot be addressed");
        assert_eq!(fault.field(), Some("inputs[0].shape"));
    }

    proptest! {
        #[test]
        fn no_shape_or_length_panics(shape in proptest::collection::vec(any::<i64>(), 0..5), bytes in 0_usize..64, name in "audio|text|x|") {
            let _ = signature().check(vec![tensor(&name, &shape, bytes)]);
        }
    }
}
