//! The embedded engine: rten, pure Rust, one model shared by all lanes.
//!
//! Weights are held once, or twice: as they are in the file, and packed in the form that matrix products read, so that calls need not
//! convert them. A call computes in the pool of its lane, or in that of all lanes, and borrows the gathered inputs where the datatype
//! allows it (see [`convert`]). A run cannot be stopped.
//!
//! Knows ONNX files as bytes; no paths, no manifests, no state.

mod convert;
mod half;
mod messages;
mod pools;

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rten::{Model, ModelOptions, NodeId, RunOptions};
use tidemill_domain::{Datatype, Tensor};
use tracing::{info, warn};

use self::pools::Pools;
use super::{
    Call, CallPlan, Contract, DeclaredTensor, Engine, EngineError, EngineFactory, FileEngine, Instance, LaneHost, LaneThreads,
    ONNXRUNTIME_WAY, Runs, Wishes,
    onnx::{Facts, ModelFile, Narrowing},
    panic_message,
};

const NAME: &str = "rten";
const VERSION: &str = env!("TIDEMILL_RTEN");

/// rten without a model.
pub(crate) struct Factory;

impl EngineFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn runs(&self) -> Runs<'_> {
        Runs::Files(self)
    }

    fn lane_hosts(&self, lanes: usize, long_lanes: usize) -> Vec<Arc<dyn LaneHost>> {
        Pools::of_device(lanes, long_lanes).map(|pools| Arc::new(pools) as Arc<dyn LaneHost>).collect()
    }
}

impl FileEngine for Factory {
    fn narrows(&self) -> Option<&'static str> {
        Some("has only 32-bit integers and FP32")
    }

    fn doubt(&self, narrowing: &Narrowing) -> Option<&'static str> {
        (*narrowing != Narrowing::None).then_some("32 bits may not hold all that it computes")
    }

    fn announce(&self, model: &str, narrowing: &Narrowing, allow_narrowing: bool) {
        match narrowing {
            Narrowing::Limited { reasons, .. } | Narrowing::Possible { reasons } if allow_narrowing => {
                let reasons = reasons.join(", ");
                warn!(%model, %reasons, "rten computes this model in 32 bits, as allow_narrowing says: results can be wrong");
            }
            Narrowing::Limited { limits, .. } => {
                let limits: Vec<String> = limits.iter().map(|(input, limit)| format!("{input} up to {limit}")).collect();
                info!(
                    %model,
                    limits = limits.join(", "),
                    "rten has only 32-bit integers, so the model takes no larger numbers than these"
                );
            }
            Narrowing::None | Narrowing::Possible { .. } => {}
        }
    }

    fn packs_weights(&self) -> bool {
        true
    }

    fn open(&self, file: ModelFile, wishes: Wishes) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(Rten::open(file, wishes)?))
    }
}

/// A model loaded into rten.
#[derive(Debug)]
pub(crate) struct Rten {
    model: Arc<Model>,
    contract: Contract,
    facts: Facts,
    /// The limits that inputs must stay within, so that 32 bits hold everything that is computed.
    narrowing: Narrowing,
    packs_weights: bool,
}

impl Rten {
    /// Loads the ONNX file with these bytes, if 32 bits hold everything that it computes.
    ///
    /// # Errors
    /// As [`ModelFile::read`] and [`Rten::open`].
    #[cfg(test)]
    pub(crate) fn load(file: impl Into<Cow<'static, [u8]>>) -> Result<Self, EngineError> {
        Self::open(ModelFile::read(file)?, Wishes::default())
    }

    /// Loads a file that has been read. 32 bits must hold all that it computes, unless `wishes` allow otherwise; packed weights are
    /// matrices as products read them.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it takes or gives strings, uses an operator that rten lacks, or computes what FP32 and 32-bit integers
    /// do not hold; the text names it.
    pub(crate) fn open(file: ModelFile, wishes: Wishes) -> Result<Self, EngineError> {
        let narrowing = match (file.narrowing(), wishes.allow_narrowing) {
            (Narrowing::Possible { reasons }, false) => return Err(EngineError::Load(narrows(reasons))),
            (_, true) => Narrowing::None,
            (narrowing, false) => narrowing.clone(),
        };
        let ModelFile { bytes, contract, facts, weights, functions, .. } = file.tidied()?;
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            refuse_types(&contract)?;
            let mut options = ModelOptions::with_all_ops();
            options.prepack_weights(wishes.pack_weights);
            for file in &weights {
                options.external_data(&file.name, file.to_vec()?);
            }
            let model = match bytes {
                Cow::Borrowed(bytes) => options.load_static_slice(bytes),
                Cow::Owned(bytes) => options.load(bytes),
            };
            let model = model.map_err(|error| messages::explained(&error.to_string(), &functions))?;
            Ok(Self { model: Arc::new(model), contract, facts, narrowing, packs_weights: wishes.pack_weights })
        }));
        let loaded = loaded.unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_message(&*panic))));
        loaded.map_err(|cause: String| EngineError::Load(format!("rten cannot load the model: {cause}")))
    }

    fn node(&self, kind: &str, declared: &[DeclaredTensor], name: &str) -> Result<Node, EngineError> {
        if declared.iter().any(|tensor| tensor.name == name && tensor.has_default) {
            return Err(EngineError::Load(format!(
                "rten: {kind} '{name}' has a default in the model file, which rten makes part of the model and cannot replace; leave it \
                 out of the manifest, or use the engine onnxruntime, which can"
            )));
        }
        let datatype = declared.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.datatype);
        let (Some(datatype), Some(id)) = (datatype, self.model.find_node(name)) else {
            let known: Vec<_> = declared.iter().map(|tensor| format!("'{}'", tensor.name)).collect();
            let known = known.join(", ");
            return Err(EngineError::Load(format!("rten: the model has no {kind} '{name}'; its {kind}s are {known}")));
        };
        Ok(Node { name: name.into(), id, datatype, limit: self.narrowing.limit(name) })
    }
}

impl Engine for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn can_widen(&self) -> bool {
        true
    }

    fn packs_weights(&self) -> bool {
        self.packs_weights
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn facts(&self) -> Option<&Facts> {
        Some(&self.facts)
    }

    fn instance(&self, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        let inputs = plan.inputs.iter().map(|name| self.node("input", &self.contract.inputs, name)).collect::<Result<_, _>>()?;
        let outputs: Vec<Node> =
            plan.outputs.iter().map(|name| self.node("output", &self.contract.outputs, name)).collect::<Result<_, _>>()?;
        let output_ids = outputs.iter().map(|node| node.id).collect();
        Ok(Box::new(RtenInstance { model: Arc::clone(&self.model), pools: Pools::of(threads), inputs, outputs, output_ids }))
    }
}

/// Why a model is not served on rten, and what to do.
fn narrows(reasons: &[String]) -> String {
    format!(
        "rten has only 32-bit integers and FP32, so results can be wrong: {}; serve the model on onnxruntime, which computes as the file \
         says ({ONNXRUNTIME_WAY}), or accept that with engine = \"rten\" and allow_narrowing = true in model.toml",
        reasons.join(", ")
    )
}

/// Refuses tensors that would make every call fail.
fn refuse_types(contract: &Contract) -> Result<(), String> {
    let tensors =
        contract.inputs.iter().map(|tensor| ("input", tensor)).chain(contract.outputs.iter().map(|tensor| ("output", tensor)));
    for (kind, tensor) in tensors {
        let (what, them) = match tensor.datatype {
            Some(Datatype::Bytes) => ("strings (BYTES)", "them"),
            Some(Datatype::Bf16) => ("BF16", "it"),
            _ => continue,
        };
        return Err(format!(
            "{kind} '{}' holds {what}, which rten lacks; the engine onnxruntime has {them} ({ONNXRUNTIME_WAY})",
            tensor.name
        ));
    }
    Ok(())
}

/// An input or output of the model.
struct Node {
    name: Box<str>,
    id: NodeId,
    /// What the file declares.
    datatype: Option<Datatype>,
    /// For an input: the largest number that it may bring.
    limit: Option<i64>,
}

struct RtenInstance {
    model: Arc<Model>,
    pools: Arc<Pools>,
    inputs: Vec<Node>,
    outputs: Vec<Node>,
    output_ids: Vec<NodeId>,
}

impl Instance for RtenInstance {
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
        let failed = |node: &Node, cause: String| EngineError::Run(format!("rten: output '{}': {cause}", node.name));
        let inputs = self.inputs.iter().zip(call.inputs).map(|(node, view)| {
            let value = convert::input(view, node.limit);
            Ok((node.id, value.map_err(|cause| EngineError::Input(format!("rten: input '{}': {cause}", node.name)))?))
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.pools.pool(call.threads)));
        let values = self
            .model
            .run(inputs, &self.output_ids, Some(options))
            .map_err(|error| EngineError::Run(format!("rten: the model call failed: {error}")))?;
        let outputs = self.outputs.iter().zip(values);
        outputs.map(|(node, value)| convert::output(value, node.datatype).map_err(|cause| failed(node, cause))).collect()
    }
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{DataType, TensorProto};
    use smallvec::smallvec;

    use super::*;
    use crate::{
        CallThreads, Executable, ItemCall, PaddingCount, Ran, RunError,
        test_models::{self, silero},
    };
    use tidemill_domain::{NamedTensor, PaddedInput, PaddingRule, Shape, Signature, TensorSpec};

    fn load(file: Vec<u8>) -> Result<Rten, EngineError> {
        Rten::load(file)
    }

    fn identity(datatype: DataType) -> Vec<u8> {
        test_models::one_operator("Identity", datatype, &[None, Some(2)])
    }

    fn run(engine: Rten, datatype: Datatype, data: Vec<u8>) -> Result<Vec<u8>, RunError> {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype, dims: vec![Some(2)], batch_axis: Some(0) };
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
            has_default: false,
        };
        assert_eq!(*engine.contract(), Contract { inputs: vec![declared("x")], outputs: vec![declared("y")] });
    }

    #[test]
    fn a_value_that_the_file_gives_to_an_input_is_a_default_that_rten_cannot_replace() {
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
        let inputs: Vec<_> = engine.contract().inputs.iter().map(|input| (input.name.as_str(), input.has_default)).collect();
        assert_eq!(inputs, [("x", false), ("w", true)]);
        let plan =
            |inputs: &[&str]| CallPlan { inputs: inputs.iter().map(|name| (*name).into()).collect(), outputs: vec!["y".into()] };
        assert!(engine.instance(&plan(&["x"]), &LaneThreads::new()).is_ok());
        let error = engine.instance(&plan(&["x", "w"]), &LaneThreads::new()).err().map(|error| error.to_string());
        let expected = "rten: input 'w' has a default in the model file, which rten makes part of the model and cannot replace; leave \
                        it out of the manifest, or use the engine onnxruntime, which can";
        assert_eq!(error.as_deref(), Some(expected));
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
    fn strings_are_refused_by_the_tensors_name_and_with_the_engine_that_has_them() {
        let refused = |kind_and_name: &str| {
            let text = format!(
                "rten cannot load the model: {kind_and_name} holds strings (BYTES), which rten lacks; the engine onnxruntime has them \
                 (pip install onnxruntime, then --onnxruntime auto)"
            );
            Some(EngineError::Load(text))
        };
        assert_eq!(load(identity(DataType::STRING)).err(), refused("input 'x'"));
        let mut model = test_models::parse(&identity(DataType::FLOAT));
        let graph = model.graph.as_mut().expect("it has a graph");
        graph.output = vec![test_models::value("y", DataType::STRING, &[None, Some(2)])];
        assert_eq!(load(model.write_buf().expect("it can be written")).err(), refused("output 'y'"));
    }

    #[test]
    fn what_is_not_an_onnx_model_is_refused() {
        for garbage in [Vec::new(), b"not a model".to_vec(), vec![0xff; 1000], silero::FILE[..silero::FILE.len() / 2].to_vec()] {
            let error = load(garbage).expect_err("garbage");
            assert!(matches!(&error, EngineError::Load(text) if text.starts_with("the file is not an ONNX model: ")), "{error}");
        }
    }

    #[test]
    fn a_name_that_the_model_lacks_is_refused_with_those_it_has() {
        let engine = load(identity(DataType::FLOAT)).expect("rten knows Identity");
        let plan = CallPlan { inputs: vec!["z".into()], outputs: Vec::new() };
        let error = engine.instance(&plan, &LaneThreads::new()).err().expect("no such input");
        assert_eq!(error, EngineError::Load("rten: the model has no input 'z'; its inputs are 'x'".to_owned()));
    }

    /// The masked mean of rows of these lengths, as one batch.
    fn masked_means(lengths: &[usize]) -> Ran {
        let spec = |name: &str, dims: &[Option<usize>]| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims: dims.to_vec(),
            batch_axis: Some(0),
        };
        let padded = |position, value: f32| PaddedInput { position, axis: 0, value: value.to_le_bytes()[..].into() };
        let rule = PaddingRule {
            inputs: vec![padded(0, 1_000.0), padded(1, 0.0)],
            mask: Some(1),
            buckets: vec![],
            pad_to_bucket: false,
        };
        let signature = Arc::new(Signature {
            inputs: vec![spec("x", &[None]), spec("mask", &[None])],
            outputs: vec![spec("mean", &[Some(1)]), spec("sum", &[Some(1)]), spec("twice", &[None])],
            padding: Some(rule),
            ..Signature::default()
        });
        let engine = Arc::new(load(test_models::masked_mean()).expect("rten knows its operators"));
        let model = Executable::new(engine, Arc::clone(&signature), &[LaneThreads::new()]).expect("it has them all");
        let row = |length: &usize| {
            let values: Vec<f32> = (1..=*length).map(|value| value as f32).collect();
            let x = NamedTensor {
                name: "x".to_owned(),
                datatype: None,
                shape: vec![i64::try_from(*length).expect("small")],
                data: Tensor::from_f32(&values).into_data(),
            };
            signature.check(vec![x]).expect("the mask may be left out")
        };
        let rows: Vec<_> = lengths.iter().map(row).collect();
        let items: Vec<_> = rows.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
        model.run(0, &items, CallThreads::One).expect("it runs")
    }

    #[test]
    fn a_model_that_honours_its_mask_gives_the_same_to_items_of_any_company() {
        let together = masked_means(&[3, 1, 4]);
        for (length, outputs) in [3, 1, 4].into_iter().zip(&together.outputs) {
            let alone = masked_means(&[length]);
            assert_eq!((&outputs[0], &outputs[2]), (&alone.outputs[0][0], &alone.outputs[0][2]));
            assert_eq!(alone.padding, PaddingCount { elements: 2 * length, padded: 0 });
        }
        let first_sum = together.outputs[0][1].iter_f32().expect("FP32").next();
        assert_eq!(first_sum, Some(1.0 + 2.0 + 3.0 + 1_000.0), "what ignores the mask sees the padding");
        assert_eq!(together.padding, PaddingCount { elements: 24, padded: 2 * (1 + 3) });
    }

    #[test]
    fn all_threads_compute_what_one_does() {
        const SIZE: usize = 256;
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(SIZE)], batch_axis: Some(0) };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
        let engine = Arc::new(load(test_models::matrices(SIZE, 4)).expect("rten multiplies matrices"));
        let lanes = LaneThreads::device(2);
        let model = Executable::new(engine, Arc::new(signature), &lanes).expect("it has x and y");
        assert!(model.can_widen());
        let inputs = [Tensor::from_f32(&(0..SIZE).map(|value| value as f32).collect::<Vec<_>>())];
        let run = |threads| {
            let ran = lanes[0].run(|| model.run(0, &[ItemCall { inputs: &inputs, state: None }; 8], threads));
            ran.expect("it runs").outputs
        };
        assert_eq!(run(CallThreads::All), run(CallThreads::One));
    }

    #[test]
    fn silero_gives_each_stream_the_same_in_any_batch() {
        let engine = Rten::load(silero::FILE).expect("rten runs Silero");
        silero::check_batches(&silero::executable(Arc::new(engine)));
    }
}
