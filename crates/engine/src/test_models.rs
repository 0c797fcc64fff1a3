//! Models for tests: Silero, and ONNX files made on the spot.

use std::{borrow::Cow, sync::Arc};

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};
#[cfg(test)]
use tidemill_domain::Datatype;

use crate::{Engine, EngineError, EngineFactory, Runs, Wishes, engine_named, onnx::ModelFile};

/// A file, loaded into the engine of this name.
///
/// # Errors
/// As [`FileEngine::open`](crate::FileEngine::open).
pub fn loaded(engine: &str, file: impl Into<Cow<'static, [u8]>>, wishes: Wishes) -> Result<Arc<dyn Engine>, EngineError> {
    let Some(Runs::Files(found)) = engine_named(engine).map(EngineFactory::runs) else {
        return Err(EngineError::Load(format!("no engine '{engine}' runs files")));
    };
    found.open(ModelFile::read(file)?, wishes)
}

/// A file with one operator from `x` to `y`, both of this datatype and shape.
pub fn one_operator(operator: &str, datatype: DataType, dims: &[Option<usize>]) -> Vec<u8> {
    let graph = GraphProto {
        node: vec![node(operator, &["x"], "y")],
        input: vec![value("x", datatype, dims)],
        output: vec![value("y", datatype, dims)],
        ..GraphProto::default()
    };
    write(graph)
}

/// A file whose INT64 output `y` is the numbers that the strings of `x` spell.
#[cfg(test)]
pub(crate) fn numbers_of_strings(dims: &[Option<usize>]) -> Vec<u8> {
    let to = AttributeProto {
        name: Some("to".to_owned()),
        r#type: Some(AttributeType::INT),
        i: Some(i64::from(DataType::INT64.0)),
        ..AttributeProto::default()
    };
    write(GraphProto {
        node: vec![NodeProto { attribute: vec![to], ..node("Cast", &["x"], "y") }],
        input: vec![value("x", DataType::STRING, dims)],
        output: vec![value("y", DataType::INT64, dims)],
        ..GraphProto::default()
    })
}

/// A file whose output is its input `x`.
#[cfg(test)]
pub(crate) fn no_operator(datatype: DataType, dims: &[Option<usize>]) -> Vec<u8> {
    let x = value("x", datatype, dims);
    write(GraphProto { input: vec![x.clone()], output: vec![x], ..GraphProto::default() })
}

/// A file over rows of any length, `x`, and a mask of 1 and 0 for each of their elements: `mean` is the mean of the elements that the mask
/// marks, `sum` the sum of all, and `twice` each element doubled.
pub fn masked_mean() -> Vec<u8> {
    let rows: &[Option<usize>] = &[None, None];
    let ones: &[Option<usize>] = &[None, Some(1)];
    let last_axis = TensorProto {
        name: Some("last_axis".to_owned()),
        dims: vec![1],
        data_type: Some(DataType::INT64),
        int64_data: vec![1],
        ..TensorProto::default()
    };
    write(GraphProto {
        node: vec![
            node("Mul", &["x", "mask"], "marked"),
            node("ReduceSum", &["marked", "last_axis"], "marked_sum"),
            node("ReduceSum", &["mask", "last_axis"], "marks"),
            node("Div", &["marked_sum", "marks"], "mean"),
            node("ReduceSum", &["x", "last_axis"], "sum"),
            node("Add", &["x", "x"], "twice"),
        ],
        initializer: vec![last_axis],
        input: vec![value("x", DataType::FLOAT, rows), value("mask", DataType::FLOAT, rows)],
        output: vec![
            value("mean", DataType::FLOAT, ones),
            value("sum", DataType::FLOAT, ones),
            value("twice", DataType::FLOAT, rows),
        ],
        ..GraphProto::default()
    })
}

/// A file with `layers` square matrices of this size, by which an input `x` is multiplied one after another.
pub fn matrices(size: usize, layers: usize) -> Vec<u8> {
    let weight = |layer: usize| TensorProto {
        name: Some(format!("w{layer}")),
        dims: vec![i64::try_from(size).expect("small"); 2],
        data_type: Some(DataType::FLOAT),
        float_data: (0..size * size).map(|at| if at % (size + 1) == layer % 2 { 1.0 } else { 0.0 }).collect(),
        ..TensorProto::default()
    };
    let name = |layer: usize| {
        if layer == 0 {
            "x".to_owned()
        } else if layer == layers {
            "y".to_owned()
        } else {
            format!("h{layer}")
        }
    };
    let multiply = |layer: usize| node("MatMul", &[&name(layer), &format!("w{layer}")], &name(layer + 1));
    let shape = [None, Some(size)];
    write(GraphProto {
        node: (0..layers).map(multiply).collect(),
        initializer: (0..layers).map(weight).collect(),
        input: vec![value("x", DataType::FLOAT, &shape)],
        output: vec![value("y", DataType::FLOAT, &shape)],
        ..GraphProto::default()
    })
}

/// A node without a name or attributes.
pub fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// The node with these whole numbers as attributes: one, or a list.
pub fn with_ints(mut node: NodeProto, attributes: &[(&str, &[i64])]) -> NodeProto {
    node.attribute.extend(attributes.iter().map(|(name, ints)| {
        let (i, ints, kind) = match ints {
            [int] if *name != "axes" => (Some(*int), Vec::new(), AttributeType::INT),
            ints => (None, ints.to_vec(), AttributeType::INTS),
        };
        AttributeProto { name: Some((*name).to_owned()), r#type: Some(kind), i, ints, ..AttributeProto::default() }
    }));
    node
}

/// The node with a graph as an attribute.
pub fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::GRAPH),
        g: Some(graph),
        ..AttributeProto::default()
    });
    node
}

/// A weight of INT64.
pub fn longs(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::INT64),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// The file of a graph.
pub fn write(graph: GraphProto) -> Vec<u8> {
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..ModelProto::default()
    };
    model.write_buf().expect("a model can be written to memory")
}

/// The file format's name for a datatype.
#[cfg(test)]
pub(crate) fn onnx_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::BOOL,
        Datatype::Uint8 => DataType::UINT8,
        Datatype::Uint16 => DataType::UINT16,
        Datatype::Uint32 => DataType::UINT32,
        Datatype::Uint64 => DataType::UINT64,
        Datatype::Int8 => DataType::INT8,
        Datatype::Int16 => DataType::INT16,
        Datatype::Int32 => DataType::INT32,
        Datatype::Int64 => DataType::INT64,
        Datatype::Fp16 => DataType::FLOAT16,
        Datatype::Fp32 => DataType::FLOAT,
        Datatype::Fp64 => DataType::DOUBLE,
        Datatype::Bf16 => DataType::BFLOAT16,
        Datatype::Bytes => DataType::STRING,
    }
}

/// An input or output.
pub fn value(name: &str, datatype: DataType, dims: &[Option<usize>]) -> ValueInfoProto {
    let dim = |size: &Option<usize>| Dimension {
        dim_value: size.map(|size| i64::try_from(size).expect("a small dimension")),
        dim_param: size.is_none().then(|| "n".to_owned()),
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(datatype), shape: Some(shape) };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
}

#[cfg(test)]
pub(crate) fn parse(file: &[u8]) -> ModelProto {
    ModelProto::parse_buf(file).expect("an ONNX file")
}

/// Silero VAD: recurrent, its state on axis 1, its sample rate shared by the batch.
#[cfg(test)]
pub(crate) mod silero {
    use std::sync::Arc;

    use smallvec::smallvec;

    use crate::{CallThreads, Contract, DeclaredTensor, Engine, Executable, ItemCall, LaneThreads, StreamState};
    use tidemill_domain::{Datatype, Shape, SharedInput, Signature, StateSpec, Tensor, TensorSpec};

    pub(crate) const FILE: &[u8] = include_bytes!(env!("TIDEMILL_SILERO_ONNX"));

    const WINDOW: usize = 576;

    pub(crate) fn contract() -> Contract {
        let tensor = |name: &str, datatype: Datatype, dims: &[Option<usize>]| DeclaredTensor {
            name: name.to_owned(),
            datatype: Some(datatype),
            dims: Some(dims.to_vec()),
            has_default: false,
        };
        Contract {
            inputs: vec![
                tensor("input", Datatype::Fp32, &[None, None]),
                tensor("state", Datatype::Fp32, &[Some(2), None, Some(128)]),
                tensor("sr", Datatype::Int64, &[]),
            ],
            outputs: vec![
                tensor("output", Datatype::Fp32, &[None, Some(1)]),
                tensor("stateN", Datatype::Fp32, &[None, None, None]),
            ],
        }
    }

    pub(crate) fn signature() -> Signature {
        let spec = |name: &str, size: usize| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims: vec![Some(size)],
            batch_axis: Some(0),
        };
        let rate = Tensor::new(Datatype::Int64, Shape::new(), 16_000_i64.to_le_bytes().to_vec().into());
        Signature {
            inputs: vec![spec("input", WINDOW)],
            outputs: vec![spec("output", 1)],
            states: vec![StateSpec {
                input: "state".into(),
                output: "stateN".into(),
                datatype: Datatype::Fp32,
                dims: smallvec![2, 128],
                batch_axis: Some(1),
            }],
            shared: vec![SharedInput { name: "sr".into(), value: rate.expect("one number") }],
            ..Signature::default()
        }
    }

    pub(crate) fn executable(engine: Arc<dyn Engine>) -> Executable {
        Executable::new(engine, Arc::new(signature()), &[LaneThreads::new()]).expect("the signature is Silero's")
    }

    /// A window of a hum with overtones and noise, different for each stream and step.
    pub(crate) fn window(stream: usize, step: usize) -> Tensor {
        let mut noise = (stream * 7919 + step * 104_729 + 1) as u32;
        let pitch = 100.0 + 15.0 * stream as f32;
        let samples: Vec<f32> = (0..WINDOW)
            .map(|at| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let time = (step * 512 + at) as f32 / 16_000.0;
                let phase = time * pitch * std::f32::consts::TAU;
                let hum = phase.sin() + 0.5 * (2.0 * phase).sin() + 0.3 * (3.0 * phase).sin();
                0.2 * hum * (time * 4.0).sin() + 0.02 * (noise as f32 / u32::MAX as f32 - 0.5)
            })
            .collect();
        Tensor::from_f32(&samples)
    }

    /// Runs one step of some streams as one call and returns their outputs.
    pub(crate) fn step(model: &Executable, slots: &[StreamState], streams: &[usize], step: usize) -> Vec<f32> {
        let windows: Vec<[Tensor; 1]> = streams.iter().map(|stream| [window(*stream, step)]).collect();
        let items: Vec<ItemCall<'_>> =
            streams.iter().zip(&windows).map(|(stream, inputs)| ItemCall { inputs, state: Some(&slots[*stream]) }).collect();
        let results = model.run(0, &items, CallThreads::One).expect("the model runs").outputs;
        results.iter().flat_map(|outputs| outputs[0].iter_f32().expect("FP32")).collect()
    }

    pub(crate) fn state(model: &Executable, stream: &StreamState) -> Vec<f32> {
        model.state_tensors(stream).expect("it has run")[0].iter_f32().expect("FP32").collect()
    }

    pub(crate) fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right) {
            assert!((left - right).abs() <= tolerance, "{left} and {right} differ by more than {tolerance}");
        }
    }

    /// Batches of 1, 3, 8 and 16 in changing compositions give each of 16 streams what it gets alone, both results and
    /// state.
    pub(crate) fn check_batches(model: &Executable) {
        let together: Vec<StreamState> = (0..16).map(|_| StreamState::default()).collect();
        let alone: Vec<StreamState> = (0..16).map(|_| StreamState::default()).collect();
        let mut largest = 0.0_f32;
        for (round, size) in [16, 1, 3, 8, 16, 3, 8, 16].into_iter().enumerate() {
            let streams: Vec<usize> = (0..size).map(|index| (index * 5 + round * 3) % 16).collect();
            let batched = step(model, &together, &streams, round);
            for (stream, result) in streams.iter().zip(batched) {
                let single = step(model, &alone, &[*stream], round);
                assert_close(&[result], &single, 1e-5);
                assert_close(&state(model, &together[*stream]), &state(model, &alone[*stream]), 1e-5);
                largest = largest.max(result);
            }
        }
        assert!(largest > 0.02, "the hum moves the model: {largest}");
    }
}
