//! The inputs and outputs that an ONNX file declares.
//!
//! What engines say about a loaded model is not enough: rten reports INT64 and BOOL as the 32-bit integers that it uses for them, and
//! onnxruntime does not distinguish a scalar from a tensor of unknown shape.

use std::collections::HashSet;

use rten_onnx::onnx::DataType;
use tidemill_domain::Datatype;

use super::proto::{Graph, Value};
use crate::{Contract, DeclaredTensor};

/// The first version of the format in which an input's initializer is a default; before that, all weights were inputs.
const DEFAULTS_SINCE: i64 = 4;

/// The inputs, without weights, and the outputs of `graph`.
pub(super) fn of(graph: &Graph<'_>, ir_version: i64) -> Contract {
    let dense = graph.initializers.iter().map(|tensor| tensor.name);
    let sparse = graph.sparse_initializers.iter().flatten().map(|tensor| tensor.name);
    let given: HashSet<&str> = dense.chain(sparse.filter(|name| !name.is_empty())).collect();
    let inputs = graph.inputs.iter().map(|input| declared(input, given.contains(input.name)));
    Contract {
        inputs: inputs.filter(|input| !input.has_default || ir_version >= DEFAULTS_SINCE).collect(),
        outputs: graph.outputs.iter().map(|output| declared(output, false)).collect(),
    }
}

fn declared(value: &Value<'_>, has_default: bool) -> DeclaredTensor {
    let dims = value.dims.as_ref().map(|dims| {
        // Some exporters write a dynamic dimension as a negative size.
        dims.iter().map(|dim| dim.size.and_then(|size| usize::try_from(size).ok())).collect()
    });
    DeclaredTensor {
        name: value.name.to_owned(),
        datatype: value.datatype.and_then(|datatype| datatype_of(DataType(datatype))),
        dims,
        has_default,
    }
}

/// The datatype of this name; `None` for INT4 and the like.
pub(super) fn datatype_of(declared: DataType) -> Option<Datatype> {
    Some(match declared {
        DataType::BOOL => Datatype::Bool,
        DataType::UINT8 => Datatype::Uint8,
        DataType::UINT16 => Datatype::Uint16,
        DataType::UINT32 => Datatype::Uint32,
        DataType::UINT64 => Datatype::Uint64,
        DataType::INT8 => Datatype::Int8,
        DataType::INT16 => Datatype::Int16,
        DataType::INT32 => Datatype::Int32,
        DataType::INT64 => Datatype::Int64,
        DataType::FLOAT16 => Datatype::Fp16,
        DataType::FLOAT => Datatype::Fp32,
        DataType::DOUBLE => Datatype::Fp64,
        DataType::BFLOAT16 => Datatype::Bf16,
        DataType::STRING => Datatype::Bytes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{GraphProto, ValueInfoProto};

    use super::*;
    use crate::{
        onnx::ModelFile,
        test_models::{self, longs, value},
    };

    fn shapeless(name: &str) -> ValueInfoProto {
        let mut value = value(name, DataType::FLOAT, &[]);
        if let Some(tensor) = value.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()) {
            tensor.shape = None;
        }
        value
    }

    fn contract(ir_version: i64) -> Contract {
        let file = test_models::write(GraphProto {
            initializer: vec![longs("k", &[1], &[7])],
            input: vec![value("x", DataType::INT64, &[]), shapeless("z"), value("k", DataType::INT64, &[Some(1)])],
            output: vec![shapeless("y")],
            ..GraphProto::default()
        });
        let mut model = test_models::parse(&file);
        model.ir_version = Some(ir_version);
        ModelFile::read(model.write_buf().expect("it can be written")).expect("an ONNX file").contract
    }

    #[test]
    fn no_shape_is_not_a_scalar() {
        let contract = contract(8);
        let dims: Vec<_> = contract.inputs.iter().map(|input| input.dims.clone()).collect();
        assert_eq!(dims, [Some(vec![]), None, Some(vec![Some(1)])]);
        assert_eq!(contract.outputs[0].dims, None);
    }

    #[test]
    fn an_input_with_a_value_in_the_file_has_a_default_but_in_old_files_it_is_a_weight() {
        let defaults = |contract: &Contract| -> Vec<_> {
            contract.inputs.iter().filter(|input| input.has_default).map(|input| input.name.clone()).collect()
        };
        assert_eq!(defaults(&contract(8)), ["k"]);
        assert_eq!((contract(3).inputs.len(), defaults(&contract(3))), (2, Vec::new()));
    }
}
