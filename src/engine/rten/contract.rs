//! Reads what an ONNX file declares.
//!
//! rten's own metadata would not do: it runs INT64 and BOOL as 32-bit integers and says so, while clients and manifests speak
//! of the file's datatypes.

use std::collections::HashSet;

use rten_onnx::onnx::{DataType, ModelProto, ValueInfoProto};

use super::reader;
use crate::{
    domain::Datatype,
    engine::{Contract, DeclaredTensor},
};

/// The first version of the format in which an initializer of an input's name is a default; before, all weights were inputs.
const DEFAULTS_SINCE: i64 = 4;

/// The inputs, without weights, and the outputs that `file` declares; or why it is not an ONNX model.
pub(super) fn read(file: &[u8]) -> Result<Contract, String> {
    let model = reader::decode::<ModelProto>(file).map_err(|error| format!("the file is not an ONNX model: {error}"))?;
    let graph = model.graph.ok_or("the file is not an ONNX model: it holds no graph")?;
    let given: HashSet<&str> = graph.initializer.iter().filter_map(|weight| weight.name.as_deref()).collect();
    let has_defaults = model.ir_version.is_some_and(|version| version >= DEFAULTS_SINCE);
    let inputs = graph.input.iter().map(|input| declared(input, input.name.as_deref().is_some_and(|name| given.contains(name))));
    Ok(Contract {
        inputs: inputs.filter(|input| !input.has_default || has_defaults).collect(),
        outputs: graph.output.iter().map(|output| declared(output, false)).collect(),
    })
}

fn declared(value: &ValueInfoProto, has_default: bool) -> DeclaredTensor {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        // A size below zero is how some exporters write a dynamic dimension.
        shape.dim.iter().map(|dim| dim.dim_value.and_then(|size| usize::try_from(size).ok())).collect()
    });
    DeclaredTensor {
        name: value.name.clone().unwrap_or_default(),
        datatype: tensor.and_then(|tensor| tensor.elem_type).and_then(datatype_of),
        dims,
        has_default,
    }
}

fn datatype_of(declared: DataType) -> Option<Datatype> {
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
