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

/// The inputs, without weights, and the outputs that `file` declares; or why it is not an ONNX model.
pub(super) fn read(file: &[u8]) -> Result<Contract, String> {
    let model = reader::decode::<ModelProto>(file).map_err(|error| format!("the file is not an ONNX model: {error}"))?;
    let graph = model.graph.ok_or("the file is not an ONNX model: it holds no graph")?;
    // Files of old versions list their weights as inputs too.
    let weights: HashSet<&str> = graph.initializer.iter().filter_map(|weight| weight.name.as_deref()).collect();
    let inputs = graph.input.iter().map(declared).filter(|input| !weights.contains(input.name.as_str())).collect();
    Ok(Contract { inputs, outputs: graph.output.iter().map(declared).collect() })
}

fn declared(value: &ValueInfoProto) -> DeclaredTensor {
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let dims = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        // A size below zero is how some exporters write a dynamic dimension.
        shape.dim.iter().map(|dim| dim.dim_value.and_then(|size| usize::try_from(size).ok())).collect()
    });
    DeclaredTensor {
        name: value.name.clone().unwrap_or_default(),
        datatype: tensor.and_then(|tensor| tensor.elem_type).and_then(datatype_of),
        dims,
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
