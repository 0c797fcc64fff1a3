//! The embedded engine: rten, pure Rust, one model shared by all lanes.
//!
//! Weights are held once. A call computes in the pool of its lane, or in that of all lanes, and borrows the gathered inputs where the datatype allows
//! (see [`convert`]). A run cannot be stopped.
//!
//! Knows ONNX files as bytes; no paths, no manifests, no state.

mod contract;
mod convert;
mod half;
mod reader;

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rten::{Model, ModelOptions, NodeId, RunOptions};

use super::{Call, CallPlan, Contract, DeclaredTensor, Engine, EngineError, Instance, LaneThreads, stack::panic_message};
use crate::domain::{Datatype, Tensor};

/// A model loaded into rten.
#[derive(Debug)]
pub struct Rten {
    model: Arc<Model>,
    contract: Contract,
}

impl Rten {
    /// Loads the ONNX file with these bytes.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is not an ONNX model, or uses an operator that rten lacks; the text names it.
    pub fn load(file: impl Into<Cow<'static, [u8]>>) -> Result<Self, EngineError> {
        let file = file.into();
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            // First, because this is what finds a broken file out; see `reader`.
            let contract = contract::read(&file)?;
            let options = ModelOptions::with_all_ops();
            let model = match file {
                Cow::Borrowed(file) => options.load_static_slice(file),
                Cow::Owned(file) => options.load(file),
            };
            let model = model.map_err(|error| error.to_string())?;
            Ok(Self { model: Arc::new(model), contract })
        }));
        let loaded = loaded.unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_message(&*panic))));
        loaded.map_err(|cause: String| EngineError::Load(format!("rten cannot load the model: {cause}")))
    }

    fn node(&self, kind: &str, declared: &[DeclaredTensor], name: &str) -> Result<Node, EngineError> {
        let datatype = declared.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.datatype);
        let (Some(datatype), Some(id)) = (datatype, self.model.find_node(name)) else {
            let known: Vec<_> = declared.iter().map(|tensor| format!("'{}'", tensor.name)).collect();
            let known = known.join(", ");
            return Err(EngineError::Load(format!("rten: the model has no {kind} '{name}'; its {kind}s are {known}")));
        };
        Ok(Node { name: name.into(), id, datatype })
    }
}

impl Engine for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn can_widen(&self) -> bool {
        true
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn instance(&self, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        let inputs = plan.inputs.iter().map(|name| self.node("input", &self.contract.inputs, name)).collect::<Result<_, _>>()?;
        let outputs: Vec<Node> =
            plan.outputs.iter().map(|name| self.node("output", &self.contract.outputs, name)).collect::<Result<_, _>>()?;
        let output_ids = outputs.iter().map(|node| node.id).collect();
        Ok(Box::new(RtenInstance { model: Arc::clone(&self.model), threads: threads.clone(), inputs, outputs, output_ids }))
    }
}

/// An input or output of the model.
struct Node {
    name: Box<str>,
    id: NodeId,
    /// What the file declares.
    datatype: Option<Datatype>,
}

struct RtenInstance {
    model: Arc<Model>,
    threads: LaneThreads,
    inputs: Vec<Node>,
    outputs: Vec<Node>,
    output_ids: Vec<NodeId>,
}

impl Instance for RtenInstance {
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
        let failed = |kind: &str, node: &Node, cause: String| EngineError::Run(format!("rten: {kind} '{}': {cause}", node.name));
        let inputs = self.inputs.iter().zip(call.inputs).map(|(node, view)| {
            let value = convert::input(view).map_err(|cause| failed("input", node, cause))?;
            Ok((node.id, value))
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.threads.pool(call.threads)));
        let values = self
            .model
            .run(inputs, &self.output_ids, Some(options))
            .map_err(|error| EngineError::Run(format!("rten: the model call failed: {error}")))?;
        let outputs = self.outputs.iter().zip(values);
        outputs
            .map(|(node, value)| convert::output(value, node.datatype).map_err(|cause| failed("output", node, cause)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{DataType, TensorProto};
    use smallvec::smallvec;

    use super::*;
    use crate::{
        domain::{Shape, Signature, TensorSpec},
        engine::{
            CallThreads, Executable, ItemCall, RunError,
            test_models::{self, silero},
        },
    };

    fn load(file: Vec<u8>) -> Result<Rten, EngineError> {
        Rten::load(file)
    }

    fn identity(datatype: DataType) -> Vec<u8> {
        test_models::one_operator("Identity", datatype, &[None, Some(2)])
    }

    fn run(engine: Rten, datatype: Datatype, data: Vec<u8>) -> Result<Vec<u8>, RunError> {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype, dims: vec![Some(2)], batch_axis: 0 };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
        let model = Executable::new(Arc::new(engine), Arc::new(signature), &[LaneThreads::new()]).expect("it has x and y");
        let shape: Shape = smallvec![2];
        let inputs = [Tensor::new(datatype, shape, data.into()).expect("right length")];
        Ok(model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One)?.outputs[0][0].data().to_vec())
    }

    #[test]
    fn the_contract_is_what_the_file_declares() {
        let engine = Rten::load(silero::FILE).expect("rten runs Silero");
        assert_eq!(*engine.contract(), silero::contract());
        let engine = load(identity(DataType::BOOL)).expect("rten knows Identity");
        let declared = |name: &str| DeclaredTensor {
            name: name.to_owned(),
            datatype: Some(Datatype::Bool),
            dims: Some(vec![None, Some(2)]),
        };
        assert_eq!(*engine.contract(), Contract { inputs: vec![declared("x")], outputs: vec![declared("y")] });
    }

    #[test]
    fn weights_among_the_inputs_are_left_out() {
        let mut model = test_models::parse(&identity(DataType::FLOAT));
        let graph = model.graph.as_mut().expect("it has a graph");
        let weight = TensorProto {
            name: Some("w".to_owned()),
            dims: vec![1],
            data_type: Some(DataType::FLOAT),
            float_data: vec![1.0],
            ..TensorProto::default()
        };
        graph.initializer.push(weight);
        graph.input.push(test_models::value("w", DataType::FLOAT, &[Some(1)]));
        let engine = load(model.write_buf().expect("it can be written")).expect("rten knows Identity");
        let names: Vec<_> = engine.contract().inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn datatypes_that_rten_lacks_come_back_as_declared() {
        let cases: [(DataType, Datatype, Vec<u8>); 3] = [
            (DataType::INT64, Datatype::Int64, bytemuck::cast_slice(&[-5_i64, 5]).to_vec()),
            (DataType::BOOL, Datatype::Bool, vec![1, 0]),
            (DataType::FLOAT16, Datatype::Fp16, vec![0x00, 0x3c, 0x00, 0xc0]),
        ];
        for (declared, datatype, data) in cases {
            let engine = load(identity(declared)).expect("rten knows Identity");
            assert_eq!(run(engine, datatype, data.clone()), Ok(data), "{datatype}");
        }
    }

    #[test]
    fn a_number_that_rten_cannot_hold_fails_the_call_by_name() {
        let engine = load(identity(DataType::INT64)).expect("rten knows Identity");
        let error = run(engine, Datatype::Int64, bytemuck::cast_slice(&[0_i64, 3_000_000_000]).to_vec()).expect_err("too large");
        assert!(error.to_string().starts_with("rten: input 'x': element 1 is 3000000000"), "{error}");
    }

    #[test]
    fn an_operator_that_rten_lacks_is_named() {
        let file = test_models::one_operator("Frobnicate", DataType::FLOAT, &[None, Some(2)]);
        let error = load(file).expect_err("no such operator");
        assert!(matches!(&error, EngineError::Load(text) if text.contains("Frobnicate")), "{error}");
    }

    #[test]
    fn what_is_not_an_onnx_model_is_refused() {
        for garbage in [Vec::new(), b"not a model".to_vec(), vec![0xff; 1000], silero::FILE[..silero::FILE.len() / 2].to_vec()] {
            let error = load(garbage).expect_err("garbage");
            assert!(matches!(&error, EngineError::Load(text) if text.starts_with("rten cannot load the model: ")), "{error}");
        }
    }

    #[test]
    fn a_name_that_the_model_lacks_is_refused_with_those_it_has() {
        let engine = load(identity(DataType::FLOAT)).expect("rten knows Identity");
        let plan = CallPlan { inputs: vec!["z".into()], outputs: Vec::new() };
        let error = engine.instance(&plan, &LaneThreads::new()).err().expect("no such input");
        assert_eq!(error, EngineError::Load("rten: the model has no input 'z'; its inputs are 'x'".to_owned()));
    }

    #[test]
    fn silero_gives_each_stream_the_same_in_any_batch() {
        let engine = Rten::load(silero::FILE).expect("rten runs Silero");
        silero::check_batches(&silero::executable(Arc::new(engine)));
    }
}
