//! The engine based on the onnxruntime library, which is loaded at run time: all datatypes, one session for each lane.
//!
//! Inputs are read where they were gathered, and outputs are passed on where onnxruntime wrote them. Strings are copied.
//!
//! # Settings
//! A session computes on the lane that calls it and has no threads, so nothing spins. Memory patterns are off: they are plans for a
//! fixed set of shapes, and batch sizes change from call to call. The arena keeps the memory of the largest batch. Each session
//! holds its own copy of the weights.

mod library;
mod search;
mod strings;
mod value;

use std::{
    borrow::Cow,
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{
    memory::MemoryInfo,
    session::{
        HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue,
        builder::{BuilderResult, SessionBuilder},
    },
    value::{Outlet, ValueType},
};
use parking_lot::Mutex;
use tidemill_domain::Tensor;

use super::{
    Call, CallPlan, Contract, DeclaredTensor, Engine, EngineError, EngineFactory, EngineLibrary, FileEngine, Instance,
    LaneThreads, Runs, Wishes,
    onnx::{Facts, ModelFile, WeightFile},
    panic_message,
};

const NAME: &str = "onnxruntime";

/// onnxruntime without a model.
pub(crate) struct Factory;

impl EngineFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        library::version()
    }

    fn library(&self) -> Option<&dyn EngineLibrary> {
        Some(self)
    }

    fn runs(&self) -> Runs<'_> {
        Runs::Files(self)
    }
}

/// The newest of the installed Python packages `onnxruntime` and of the system, unless `ORT_DYLIB_PATH` names one.
impl EngineLibrary for Factory {
    fn find(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, EngineError> {
        search::find(Path::new("/"), variable)
    }

    fn load(&self, path: &Path) -> Result<(), EngineError> {
        library::load(path)
    }

    fn check(&self) -> Result<(), EngineError> {
        library::environment().map(|_| ())
    }
}

impl FileEngine for Factory {
    fn open(&self, file: ModelFile, _wishes: Wishes) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(OnnxRuntime::open(file)?))
    }
}

/// A model for onnxruntime.
pub(crate) struct OnnxRuntime {
    file: Cow<'static, [u8]>,
    /// The files that hold its weights.
    weights: Vec<WeightFile>,
    contract: Contract,
    facts: Facts,
    /// The session that was made to check that the library loads the file, until the first lane takes it.
    spare: Mutex<Option<Session>>,
}

impl OnnxRuntime {
    /// Loads the library at `path` into this process; does nothing if it is loaded already. Comes before [`OnnxRuntime::load`].
    ///
    /// # Errors
    /// [`EngineError::Library`] if the file is missing or not a usable library, or another one is loaded.
    #[cfg(test)]
    pub(crate) fn load_library(path: &Path) -> Result<(), EngineError> {
        library::load(path)
    }

    /// Loads the ONNX file with these bytes.
    ///
    /// # Errors
    /// As [`ModelFile::read`] and [`OnnxRuntime::open`].
    #[cfg(test)]
    pub(crate) fn load(file: impl Into<Cow<'static, [u8]>>) -> Result<Self, EngineError> {
        Self::open(ModelFile::read(file)?)
    }

    /// Loads a file that has been read.
    ///
    /// # Errors
    /// [`EngineError::Library`] if no library is loaded; [`EngineError::Load`] if the library refuses the file.
    pub(crate) fn open(file: ModelFile) -> Result<Self, EngineError> {
        let ModelFile { bytes, mut contract, facts, weights, .. } = file;
        let session = make_session(&bytes, &weights)?;
        complete("input", contract.inputs.iter_mut().filter(|input| !input.has_default), session.inputs())?;
        complete("output", contract.outputs.iter_mut(), session.outputs())?;
        Ok(Self { file: bytes, weights, contract, facts, spare: Mutex::new(Some(session)) })
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn runs_on_any_thread(&self) -> bool {
        true
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn facts(&self) -> Option<&Facts> {
        Some(&self.facts)
    }

    fn instance(&self, plan: &CallPlan, _threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        check_names("input", &plan.inputs, &self.contract.inputs)?;
        check_names("output", &plan.outputs, &self.contract.outputs)?;
        let spare = self.spare.lock().take();
        let session = match spare {
            Some(session) => session,
            None => make_session(&self.file, &self.weights)?,
        };
        let selector = plan.outputs.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(&**name));
        let options = RunOptions::new().map_err(|error| load_error(&error))?.with_outputs(selector);
        Ok(Box::new(OnnxRuntimeInstance { plan: plan.clone(), memory: MemoryInfo::default(), options, session }))
    }
}

struct OnnxRuntimeInstance {
    plan: CallPlan,
    /// Where our inputs are: in the processor's memory.
    memory: MemoryInfo<'static>,
    options: RunOptions<HasSelectedOutputs>,
    session: Session,
}

impl Instance for OnnxRuntimeInstance {
    #[expect(unsafe_code, reason = "inputs are read where they were gathered")]
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
        let failed = |kind: &str, name: &str, cause: String| EngineError::Run(format!("onnxruntime: {kind} '{name}': {cause}"));
        let mut inputs = Vec::with_capacity(call.inputs.len());
        for (name, view) in self.plan.inputs.iter().zip(call.inputs) {
            // SAFETY: the value goes into the run and is dropped with `inputs`, while `call` still borrows the memory. Outputs that refer
            // to it are copied by `value::take`.
            let value = unsafe { value::borrow(view, &self.memory, &self.session) };
            let value = value.map_err(|cause| failed("input", name, cause))?;
            inputs.push((Cow::Borrowed(&**name), SessionInputValue::Owned(value)));
        }
        let session = self.session.inner();
        let mut values = self
            .session
            .run_with_options(inputs, &self.options)
            .map_err(|error| EngineError::Run(format!("onnxruntime: the model call failed: {error}")))?;
        let outputs = self.plan.outputs.iter().map(|name| {
            let value = values.remove(&**name).ok_or_else(|| failed("output", name, "it did not come".to_owned()))?;
            value::take(value, &session, call.inputs).map_err(|cause| failed("output", name, cause))
        });
        outputs.collect()
    }
}

fn make_session(file: &[u8], weights: &[WeightFile]) -> Result<Session, EngineError> {
    let environment = library::environment()?;
    let made = catch_unwind(AssertUnwindSafe(|| {
        let builder = Session::builder(&environment).map_err(|error| load_error(&error))?;
        let mut builder = settings(builder).map_err(|error| load_error(&error))?;
        for weights in weights {
            let bytes = in_memory(weights).map_err(|cause| load_error(&cause))?;
            builder =
                builder.with_external_initializer_file_in_memory(&weights.name, bytes).map_err(|error| load_error(&error))?;
        }
        builder.commit_from_memory(file).map_err(|error| load_error(&error))
    }));
    made.unwrap_or_else(|panic| Err(load_error(&panic_message(&*panic))))
}

/// The weights in a file, for a session to copy from memory. Given a path instead, the library would map the file, and the process would
/// crash if the file were truncated.
fn in_memory(weights: &WeightFile) -> Result<Arc<[u8]>, String> {
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, weights.len()?).collect();
    weights.read(Arc::get_mut(&mut bytes).ok_or("the buffer is shared")?)?;
    Ok(bytes)
}

fn settings(builder: SessionBuilder) -> BuilderResult {
    builder
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(false)
}

fn load_error(cause: &dyn std::fmt::Display) -> EngineError {
    EngineError::Load(format!("onnxruntime cannot load the model: {cause}"))
}

fn check_names(kind: &str, names: &[Arc<str>], declared: &[DeclaredTensor]) -> Result<(), EngineError> {
    match names.iter().find(|name| declared.iter().all(|tensor| tensor.name != ***name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<_> = declared.iter().map(|tensor| format!("'{}'", tensor.name)).collect();
            let known = known.join(", ");
            Err(EngineError::Load(format!("onnxruntime: the model has no {kind} '{name}'; its {kind}s are {known}")))
        }
    }
}

/// Adds what the session has found out, types and shapes that follow from operators, to what the file declares.
fn complete<'a>(
    kind: &str,
    declared: impl Iterator<Item = &'a mut DeclaredTensor>,
    outlets: &[Outlet],
) -> Result<(), EngineError> {
    let declared: Vec<_> = declared.collect();
    let of_file = || declared.iter().map(|tensor| tensor.name.as_str());
    let of_session = || outlets.iter().map(Outlet::name);
    if !of_file().eq(of_session()) {
        let (of_file, of_session): (Vec<_>, Vec<_>) = (of_file().collect(), of_session().collect());
        return Err(load_error(&format!("its {kind}s are {of_session:?}, but the file declares {of_file:?}")));
    }
    for (tensor, outlet) in declared.into_iter().zip(outlets) {
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            continue;
        };
        tensor.datatype = tensor.datatype.or_else(|| value::datatype_of(*ty));
        let found: Vec<_> = shape.iter().map(|size| usize::try_from(*size).ok()).collect();
        match &mut tensor.dims {
            Some(dims) if dims.len() == found.len() => {
                dims.iter_mut().zip(found).for_each(|(dim, found)| *dim = found.or(*dim));
            }
            // It reports no dimensions for a scalar, but also if it does not know them.
            None if !found.is_empty() => tensor.dims = Some(found),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rten_onnx::onnx::{DataType, GraphProto, ValueInfoProto};
    use smallvec::smallvec;

    use super::*;
    use crate::{
        CallThreads, Executable, ItemCall, RunError, StreamState,
        rten::Rten,
        test_models::{self, silero},
    };
    use tidemill_domain::{Datatype, Shape, Signature, TensorSpec, push_element};

    /// Loads the library named at build time, and says whether there is one. In continuous integration there must be.
    fn library() -> Option<PathBuf> {
        let Some(path) = option_env!("TIDEMILL_TEST_ONNXRUNTIME").map(PathBuf::from) else {
            assert_ne!(option_env!("CI"), Some("true"), "TIDEMILL_TEST_ONNXRUNTIME must name an onnxruntime library here");
            eprintln!("skipped: TIDEMILL_TEST_ONNXRUNTIME names no onnxruntime library");
            return None;
        };
        OnnxRuntime::load_library(&path).expect("TIDEMILL_TEST_ONNXRUNTIME names an onnxruntime library");
        Some(path)
    }

    fn load(file: Vec<u8>) -> OnnxRuntime {
        OnnxRuntime::load(file).expect("a sound file")
    }

    fn executable(engine: OnnxRuntime, datatype: Datatype, output: &str) -> Executable {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype, dims: vec![Some(2)], batch_axis: Some(0) };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec(output)], ..Signature::default() };
        Executable::new(Arc::new(engine), Arc::new(signature), &[LaneThreads::new()]).expect("it has x and the output")
    }

    fn run(model: &Executable, datatype: Datatype, data: Vec<u8>) -> Tensor {
        let shape: Shape = smallvec![2];
        let inputs = [Tensor::new(datatype, shape, data.into()).expect("right length")];
        let item = ItemCall { inputs: &inputs, state: None };
        model.run(0, &[item], CallThreads::One).expect("it runs").outputs.remove(0).remove(0)
    }

    #[test]
    fn a_library_is_loaded_once_and_no_other_after_it() {
        let Some(path) = library() else { return };
        assert_eq!(OnnxRuntime::load_library(&path), Ok(()));
        let other = std::env::current_exe().expect("this test is a file");
        let error = OnnxRuntime::load_library(&other).expect_err("another file");
        assert!(error.to_string().contains("can hold only one"), "{error}");
    }

    #[test]
    fn all_datatypes_pass_unchanged() {
        let Some(_) = library() else { return };
        for datatype in Datatype::ALL {
            let data: Vec<u8> = match datatype.fixed_size() {
                Some(_) if datatype == Datatype::Bool => vec![1, 0],
                Some(bytes) => (1..).take(2 * bytes).collect(),
                None => b"\x04\0\0\0\0\xff\xc3\0\0\0\0\0".to_vec(),
            };
            let file = test_models::one_operator("Identity", test_models::onnx_type(datatype), &[None, Some(2)]);
            let engine = load(file);
            assert_eq!(engine.contract().inputs[0].datatype, Some(datatype));
            let tensor = run(&executable(engine, datatype, "y"), datatype, data.clone());
            assert_eq!((tensor.datatype(), &tensor.data()[..]), (datatype, &data[..]));
        }
    }

    #[test]
    fn an_output_that_is_an_input_keeps_its_values_when_the_next_call_comes() {
        let Some(_) = library() else { return };
        let model = executable(load(test_models::no_operator(DataType::INT8, &[None, Some(2)])), Datatype::Int8, "x");
        let first = run(&model, Datatype::Int8, vec![1, 2]);
        let second = run(&model, Datatype::Int8, vec![3, 4]);
        assert_eq!((&first.data()[..], &second.data()[..]), (&[1, 2][..], &[3, 4][..]));
    }

    fn strings(texts: &[&[u8]]) -> Tensor {
        let mut data = Vec::new();
        texts.iter().for_each(|text| push_element(&mut data, text).expect("short"));
        Tensor::new(Datatype::Bytes, smallvec![texts.len()], data.into()).expect("as many as there are")
    }

    fn run_strings(model: &Executable, items: &[&[&[u8]]]) -> Result<Vec<Tensor>, RunError> {
        let inputs: Vec<[Tensor; 1]> = items.iter().map(|texts| [strings(texts)]).collect();
        let items: Vec<_> = inputs.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
        let outputs = model.run(0, &items, CallThreads::One)?.outputs;
        Ok(outputs.into_iter().map(|mut outputs| outputs.remove(0)).collect())
    }

    #[test]
    fn items_with_strings_of_any_bytes_and_lengths_share_a_call() {
        let Some(_) = library() else { return };
        let long = vec![0x80; 70_000];
        let batches: [&[&[&[u8]]]; 3] = [
            &[&[b"one", b""], &["zw\u{f6}lf".as_bytes(), b"nul \0 inside"], &[&long, b"\xff"]],
            &[&[b"", b""]],
            &[&[b"a", b"b"]],
        ];
        let file = test_models::one_operator("Identity", DataType::STRING, &[None, Some(2)]);
        let model = executable(load(file), Datatype::Bytes, "y");
        for batch in batches {
            let expected: Vec<Tensor> = batch.iter().map(|texts| strings(texts)).collect();
            assert_eq!(run_strings(&model, batch), Ok(expected));
        }
    }

    #[test]
    fn a_model_that_passes_its_strings_through_keeps_them_when_the_next_call_comes() {
        let Some(_) = library() else { return };
        let model = executable(load(test_models::no_operator(DataType::STRING, &[None, Some(2)])), Datatype::Bytes, "x");
        let first = run_strings(&model, &[&[b"a", b"bc"]]).expect("it runs");
        run_strings(&model, &[&[b"xyz", b""]]).expect("it runs");
        assert_eq!(first, [strings(&[b"a", b"bc"])]);
    }

    #[test]
    fn strings_become_numbers_and_one_that_is_not_a_number_fails_the_call() {
        let Some(_) = library() else { return };
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, dims: vec![Some(2)], batch_axis: Some(0) };
        let signature = Signature {
            inputs: vec![spec("x", Datatype::Bytes)],
            outputs: vec![spec("y", Datatype::Int64)],
            ..Signature::default()
        };
        let engine = load(test_models::numbers_of_strings(&[None, Some(2)]));
        assert_eq!(engine.contract().inputs[0].datatype, Some(Datatype::Bytes));
        let model = Executable::new(Arc::new(engine), Arc::new(signature), &[LaneThreads::new()]).expect("it has x and y");
        let outputs = run_strings(&model, &[&[b"1", b"-22"], &[b"333", b"0"]]).expect("all are numbers");
        let numbers: Vec<i64> = outputs.iter().flat_map(|output| bytemuck::pod_collect_to_vec(output.data())).collect();
        assert_eq!(numbers, [1, -22, 333, 0]);
        let error = run_strings(&model, &[&[b"1", b"x"]]).expect_err("x is none");
        assert!(matches!(&error, RunError::Engine(EngineError::Run(_))), "{error}");
    }

    #[test]
    fn outputs_outlive_their_model() {
        let Some(_) = library() else { return };
        let file = test_models::one_operator("Neg", DataType::INT8, &[None, Some(2)]);
        let model = executable(load(file), Datatype::Int8, "y");
        let tensor = run(&model, Datatype::Int8, vec![1, 2]);
        drop(model);
        assert_eq!(tensor.data()[..], [0xff, 0xfe]);
    }

    #[test]
    fn garbage_and_unknown_operators_are_refused_with_the_cause() {
        let Some(_) = library() else { return };
        let cases =
            [(b"not a model".to_vec(), ""), (test_models::one_operator("Frobnicate", DataType::FLOAT, &[None]), "Frobnicate")];
        for (file, cause) in cases {
            let error = OnnxRuntime::load(file).err().expect("no model");
            assert!(matches!(&error, EngineError::Load(text) if text.contains(cause)), "{error}");
        }
        let plan = CallPlan { inputs: vec!["z".into()], outputs: Vec::new() };
        let engine = load(test_models::one_operator("Neg", DataType::FLOAT, &[None]));
        let error = engine.instance(&plan, &LaneThreads::new()).err().expect("no such input");
        assert_eq!(error, EngineError::Load("onnxruntime: the model has no input 'z'; its inputs are 'x'".to_owned()));
    }

    #[test]
    fn a_shape_that_nobody_declares_is_not_a_scalar_and_one_that_follows_is_found() {
        let Some(_) = library() else { return };
        let shapeless = |name: &str| {
            let mut value = test_models::value(name, DataType::FLOAT, &[]);
            if let Some(tensor) = value.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()) {
                tensor.shape = None;
            }
            value
        };
        let dims = |input: ValueInfoProto| {
            let output = vec![shapeless("y")];
            let node = vec![test_models::node("Neg", &["x"], "y")];
            let graph = GraphProto { node, input: vec![input], output, ..GraphProto::default() };
            let contract = load(test_models::write(graph)).contract().clone();
            (contract.inputs[0].dims.clone(), contract.outputs[0].dims.clone())
        };
        assert_eq!(dims(shapeless("x")), (None, None));
        assert_eq!(dims(test_models::value("x", DataType::FLOAT, &[])).0, Some(Vec::new()));
        let rows = Some(vec![None, Some(2)]);
        assert_eq!(dims(test_models::value("x", DataType::FLOAT, &[None, Some(2)])), (rows.clone(), rows));
    }

    #[test]
    fn silero_gives_each_stream_the_same_in_any_batch() {
        let Some(_) = library() else { return };
        let engine = OnnxRuntime::load(silero::FILE).expect("onnxruntime runs Silero");
        assert_eq!(engine.contract().inputs, silero::contract().inputs);
        silero::check_batches(&silero::executable(Arc::new(engine)));
    }

    #[test]
    fn silero_gives_the_same_on_both_engines() {
        let Some(_) = library() else { return };
        let here = silero::executable(Arc::new(OnnxRuntime::load(silero::FILE).expect("onnxruntime runs Silero")));
        let there = silero::executable(Arc::new(Rten::load(silero::FILE).expect("rten runs Silero")));
        let slots = || (0..8).map(|_| StreamState::default()).collect::<Vec<_>>();
        let (left, right) = (slots(), slots());
        let streams: Vec<usize> = (0..8).collect();
        for step in 0..20 {
            let results = [silero::step(&here, &left, &streams, step), silero::step(&there, &right, &streams, step)];
            silero::assert_close(&results[0], &results[1], 1e-3);
            for (left, right) in left.iter().zip(&right) {
                silero::assert_close(&silero::state(&here, left), &silero::state(&there, right), 1e-3);
            }
        }
    }
}
