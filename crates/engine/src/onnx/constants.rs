//! Small tensors of a file as numbers: axes, shapes and the like.

use std::collections::HashMap;

use rten_onnx::onnx::DataType;

use super::{
    proto::{Graph, Node, Tensor},
    values::{Fit, Origin, Value},
};

/// The constants of a graph and of the graphs around it, by name.
#[derive(Debug, Default, Clone)]
pub(super) struct Constants<'a, 'f> {
    tensors: HashMap<&'f str, Constant<'a, 'f>>,
}

/// The value of a node without inputs, or of an initializer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Constant<'a, 'f> {
    /// A tensor in the file.
    Tensor(&'a Tensor<'f>),
    /// Whole numbers from a node's attribute.
    Ints(&'a [i64]),
}

impl<'a, 'f> Constants<'a, 'f> {
    /// These constants, and those of `graph`.
    pub(super) fn add(&mut self, graph: &'a Graph<'f>) {
        self.tensors.extend(graph.initializers.iter().map(|tensor| (tensor.name, Constant::Tensor(tensor))));
        self.add_nodes(&graph.nodes);
    }

    /// Those that are written as nodes.
    pub(super) fn add_nodes(&mut self, nodes: &'a [Node<'f>]) {
        let constants = nodes.iter().filter(|node| node.is_standard() && node.operator == "Constant");
        self.tensors.extend(constants.filter_map(|node| Some((*node.outputs.first()?, constant(node)?))));
    }

    /// The constant of this name.
    pub(super) fn get(&self, name: &str) -> Option<Constant<'a, 'f>> {
        self.tensors.get(name).copied()
    }

    /// The whole numbers of this name.
    pub(super) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.get(name)? {
            Constant::Tensor(tensor) => integers(tensor),
            Constant::Ints(ints) => Some(ints.to_vec()),
        }
    }
}

/// The value of a node `Constant`; `None` for fractions and strings that are not tensors.
fn constant<'a, 'f>(node: &'a Node<'f>) -> Option<Constant<'a, 'f>> {
    node.attributes.iter().find_map(|attribute| match (attribute.name, &attribute.tensor, &attribute.int) {
        ("value", Some(tensor), _) => Some(Constant::Tensor(tensor)),
        ("value_int", _, Some(int)) => Some(Constant::Ints(std::slice::from_ref(int))),
        ("value_ints", ..) => Some(Constant::Ints(&attribute.ints)),
        _ => None,
    })
}

/// How many elements of a weight are looked at, at most.
const LOOKED_AT_MAX: usize = 1_024;

impl Constant<'_, '_> {
    /// The bounds of its numbers; none if there are too many to look at, or if they are in another file.
    pub(super) fn value(self) -> Value {
        let tensor = match self {
            Self::Ints(ints) => return Value::constant(DataType::INT64, ints.iter().map(|int| *int as f64)),
            Self::Tensor(tensor) => tensor,
        };
        let datatype = tensor.datatype();
        let unknown = Value { exact: false, ..Value::any(datatype) }.from(Origin::Constant);
        if tensor.is_elsewhere() || (unknown.is_narrowed() && datatype != DataType::INT64) {
            return Value { fit: if unknown.is_narrowed() { Fit::Saturated } else { Fit::Held }, ..unknown };
        }
        if let Some(ints) = integers(tensor) {
            return Value::constant(datatype, ints.into_iter().map(|int| int as f64));
        }
        let numbers = fractions(tensor);
        if numbers.is_empty() { unknown } else { Value::constant(datatype, numbers) }
    }
}

/// The elements of a small FP32 tensor, or of any FP64 tensor; nothing for others.
fn fractions(tensor: &Tensor<'_>) -> Vec<f64> {
    let single = |bytes: &[u8]| bytes.try_into().map_or(f64::NAN, |bytes| f64::from(f32::from_le_bytes(bytes)));
    let double = |bytes: &[u8]| bytes.try_into().map_or(f64::NAN, f64::from_le_bytes);
    match tensor.datatype() {
        DataType::FLOAT => {
            let bytes = tensor.raw.unwrap_or(tensor.floats);
            if bytes.len() > LOOKED_AT_MAX * size_of::<f32>() { Vec::new() } else { bytes.chunks_exact(4).map(single).collect() }
        }
        DataType::DOUBLE => tensor.raw.unwrap_or(tensor.doubles).chunks_exact(8).map(double).collect(),
        _ => Vec::new(),
    }
}

/// The elements of a tensor of INT64, INT32, INT8, UINT8 or BOOL, if they are in the file.
fn integers(tensor: &Tensor<'_>) -> Option<Vec<i64>> {
    if tensor.is_elsewhere() {
        return None;
    }
    let wide = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_le_bytes);
    let narrow = |bytes: &[u8]| bytes.try_into().map_or(0, |bytes| i64::from(i32::from_le_bytes(bytes)));
    match (tensor.datatype(), tensor.raw) {
        (DataType::INT64, Some(raw)) => Some(raw.chunks_exact(8).map(wide).collect()),
        (DataType::INT64, None) => Some(tensor.longs.clone()),
        (DataType::INT32, Some(raw)) => Some(raw.chunks_exact(4).map(narrow).collect()),
        // Quantized weights do not matter here, and there are many.
        (DataType::UINT8 | DataType::INT8, Some(raw)) if raw.len() > LOOKED_AT_MAX => None,
        (DataType::UINT8, Some(raw)) => Some(raw.iter().map(|byte| i64::from(*byte)).collect()),
        (DataType::INT8, Some(raw)) => Some(raw.iter().map(|byte| i64::from(byte.cast_signed())).collect()),
        (DataType::BOOL, Some(raw)) => Some(raw.iter().map(|byte| i64::from(*byte)).collect()),
        (DataType::INT32 | DataType::UINT8 | DataType::INT8 | DataType::BOOL, None) => {
            Some(tensor.ints.iter().map(|int| i64::from(*int)).collect())
        }
        _ => None,
    }
}
