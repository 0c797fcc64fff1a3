//! What a model takes and gives, and the check of a client's tensors against it.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Datatype, Fault, ItemInputs, PaddingRule, Shape, Tensor, element_count};

/// A tensor that each item brings or gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The model's name for it.
    pub name: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions without the batch; `None` is dynamic.
    pub dims: Vec<Option<usize>>,
    /// Where the batch dimension stands in the model's own shape.
    pub batch_axis: usize,
}

impl TensorSpec {
    /// The shape as a client reads it: -1 for the batch, in its place, and for dynamic dimensions.
    #[must_use]
    pub fn shape_with_batch(&self) -> Vec<i64> {
        let mut shape: Vec<i64> =
            self.dims.iter().map(|dim| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX))).collect();
        shape.insert(self.batch_axis.min(shape.len()), -1);
        shape
    }

    /// The shape if no dimension is dynamic.
    #[must_use]
    pub fn fixed_shape(&self) -> Option<Shape> {
        self.dims.iter().copied().collect()
    }
}

/// Several specs.
pub type TensorSpecs = Vec<TensorSpec>;

/// A state tensor: an input of each call, whose next value is one of the call's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// The model's input.
    pub input: Arc<str>,
    /// The model's output that gives the next value.
    pub output: Arc<str>,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions without the batch.
    pub dims: Shape,
    /// Where the batch dimension stands.
    pub batch_axis: usize,
}

impl StateSpec {
    /// Bytes of one stream's state; `None` if they are more than can be addressed, or differ from state to state.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        element_count(&self.dims)?.checked_mul(self.datatype.fixed_size()?)
    }
}

/// An input that has one value for the whole batch, fixed by the manifest; clients do not send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInput {
    /// The model's input.
    pub name: Arc<str>,
    /// Its value, with the shape that the model declares (no dimensions for a scalar).
    pub value: Tensor,
}

/// All inputs and outputs of a model, by their part in a call.
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
    /// How items of different lengths meet in a batch; without it they do not.
    pub padding: Option<PaddingRule>,
}

/// A tensor as a client sent it, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedTensor {
    /// Empty means the model's only input.
    pub name: String,
    /// `None` means the model's own.
    pub datatype: Option<Datatype>,
    /// With or without a leading batch dimension of 1; empty means the model's own.
    pub shape: Vec<i64>,
    /// The elements, as in a [`Tensor`].
    pub data: Bytes,
}

impl Signature {
    /// Whether streams of this model carry state.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        !self.states.is_empty()
    }

    /// Whether all items have the same shapes, so that any two may meet in a batch without padding.
    #[must_use]
    pub fn has_fixed_shapes(&self) -> bool {
        self.inputs.iter().all(|input| input.dims.iter().all(Option::is_some))
    }

    /// Checks one item's tensors and puts them into the signature's order.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the field at fault: an unknown, missing or repeated name, another datatype, a shape that
    /// does not fit, a dimension below 1, data of another length than shape and datatype take, or padded inputs of different
    /// lengths; [`FaultKind::TooLarge`](super::FaultKind::TooLarge) if the item exceeds the last bucket of the padding.
    pub fn check(&self, mut tensors: Vec<NamedTensor>) -> Result<ItemInputs, Fault> {
        // One tensor, as most models have it, without the places that several would be sorted into.
        if let ([spec], None, 1) = (&*self.inputs, &self.padding, tensors.len())
            && let Some(tensor) = tensors.pop()
        {
            self.find_input(&tensor.name, 0)?;
            return Ok(ItemInputs::from_buf([check_tensor(spec, tensor, 0)?]));
        }
        let mut slots: SmallVec<[Option<Tensor>; 4]> = SmallVec::from_elem(None, self.inputs.len());
        for (position, tensor) in tensors.into_iter().enumerate() {
            let index = self.find_input(&tensor.name, position)?;
            let spec = &self.inputs[index];
            if slots[index].is_some() {
                return Err(given_twice(&spec.name, position));
            }
            slots[index] = Some(check_tensor(spec, tensor, position)?);
        }
        if let Some(padding) = &self.padding {
            padding.complete(&self.inputs, &mut slots)?;
        }
        let mut inputs = ItemInputs::with_capacity(slots.len());
        for (slot, spec) in slots.into_iter().zip(&self.inputs) {
            inputs.push(slot.ok_or_else(|| Fault::invalid("inputs", format!("input '{}' is missing", spec.name)))?);
        }
        Ok(inputs)
    }

    /// Position of the output of this name. `position` is its place in the request.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the names that there are.
    pub fn find_output(&self, name: &str, position: usize) -> Result<usize, Fault> {
        self.outputs.iter().position(|output| &*output.name == name).ok_or_else(|| {
            let known = quoted_list(self.outputs.iter().map(|output| &*output.name));
            let message = format!("the model has no output '{name}'; its outputs are {known}");
            Fault::invalid(format!("outputs[{position}].name"), message)
        })
    }

    /// Position of the input of this name; no name is that of an only input. `position` is the tensor's in the request.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](super::FaultKind::Invalid) with the names that there are.
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
        let why = match (name.is_empty(), kept) {
            (true, _) => "the tensor has no name, and the model has several inputs".to_owned(),
            (false, true) => {
                format!("input '{name}' is the server's own (state or shared by the batch) and is not sent by clients")
            }
            (false, false) => format!("the model has no input '{name}'"),
        };
        Err(Fault::invalid(format!("inputs[{position}].name"), format!("{why}; its inputs are {known}")))
    }
}

/// That the tensor at `position` of a request is the input `name` once more.
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
        match usize::try_from(*size) {
            Ok(size) if size > 0 => sizes.push(size),
            _ => return Err(format!("dimension {axis} of shape {given:?} is {size}; dimensions must be at least 1")),
        }
    }
    if element_count(&sizes).and_then(|count| count.checked_mul(spec.datatype.least_size())).is_none() {
        return Err(format!("shape {given:?} has more elements than can be addressed"));
    }
    if sizes.len() == spec.dims.len() + 1 {
        let batch = sizes.remove(spec.batch_axis.min(spec.dims.len()));
        if batch != 1 {
            return Err(format!(
                "shape {given:?} holds {batch} items; an item is one: send them one by one, the server batches them"
            ));
        }
    }
    let fits =
        sizes.len() == spec.dims.len() && sizes.iter().zip(&spec.dims).all(|(size, dim)| dim.is_none_or(|dim| dim == *size));
    if !fits {
        return Err(format!("shape {given:?} does not fit the model's {:?} (-1: batch or dynamic)", spec.shape_with_batch()));
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::FaultKind;

    fn signature() -> Signature {
        let spec = |name: &str, dims: Vec<Option<usize>>| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims,
            batch_axis: 0,
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
            (check(vec![tensor("audio", &[0], 0)]), "inputs[0].shape", "at least 1"),
            (check(vec![tensor("audio", &[-4], 16)]), "inputs[0].shape", "at least 1"),
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
    fn another_datatype_is_refused() {
        let mut wrong = tensor("audio", &[4], 16);
        wrong.datatype = Some(Datatype::Int32);
        let fault = signature().check(vec![wrong]).expect_err("another datatype");
        assert_eq!(fault.message(), "input 'audio' is INT32, but the model takes FP32");
    }

    #[test]
    fn a_bytes_tensor_is_checked_element_by_element() {
        let spec = TensorSpec { name: "names".into(), datatype: Datatype::Bytes, dims: vec![None], batch_axis: 0 };
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
