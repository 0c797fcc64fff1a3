//! An engine whose results, costs and faults are scripted, for tests and benches that need no model file.
//!
//! Output number k is input number k, doubled or copied. With a state, which must be FP32, the engine accumulates: each element
//! of an item's state grows by the sum of the item's first input, and each element of its FP32 outputs by the first element of
//! that new state. So a test can tell from a single result which items its stream has had, and that the other items in the batch
//! change nothing.
//!
//! Knows no wire, no queue and no stream.

mod compute;
mod control;
mod script;

use std::sync::Arc;

use serde::Deserialize as _;
use smallvec::SmallVec;
use tidemill_domain::{Datatype, Shape, Signature, Tensor, TensorSpec};
use toml::Value;

use super::{
    Call, CallPlan, CallThreads, Contract, DeclaredTensor, Engine, EngineError, EngineFactory, Instance, LaneThreads, Parts,
    Runs, ScriptEngine, TensorView, buffer::BufferPool,
};

pub use control::{CostMode, SyntheticControl};
pub use script::{Misbehaviour, PlannedFault, Script, SyntheticKind, Trigger};

use script::SyntheticConfig;

const NAME: &str = "synthetic";

/// How many unused output buffers an engine keeps.
const POOLED_BUFFERS_MAX: usize = 64;
/// Bytes of all these buffers.
const POOLED_BYTES_MAX: usize = 64 << 20;

/// The engine without a script.
pub(crate) struct Factory;

impl EngineFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn runs(&self) -> Runs<'_> {
        Runs::Scripts(self)
    }
}

/// A manifest's table is a [`SyntheticConfig`].
impl ScriptEngine for Factory {
    fn read(&self, script: &Value) -> Result<(), String> {
        SyntheticConfig::deserialize(script.clone()).map(|_| ()).map_err(|error| error.message().to_owned())
    }

    fn check(&self, script: &Value) -> Result<(), EngineError> {
        scripted(script).map(|_| ())
    }

    fn make(&self, script: &Value, signature: &Arc<Signature>) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = SyntheticEngine::new(Arc::clone(signature), scripted(script)?)?;
        control::enter(signature, &engine.shared.control);
        Ok(Arc::new(engine))
    }
}

fn scripted(script: &Value) -> Result<Script, EngineError> {
    let read = SyntheticConfig::deserialize(script.clone());
    read.map_err(|error| EngineError::Load(format!("synthetic engine: {}", error.message())))?.script()
}

/// The scripted engine.
#[derive(Debug)]
pub struct SyntheticEngine {
    shared: Arc<Shared>,
    contract: Contract,
}

/// The part that the instances share.
#[derive(Debug)]
struct Shared {
    signature: Arc<Signature>,
    script: Script,
    control: Arc<SyntheticControl>,
    pool: Arc<BufferPool>,
}

impl SyntheticEngine {
    /// An engine that declares the tensors of `signature` and follows `script`.
    ///
    /// # Errors
    /// [`EngineError::Load`] if an output is not the image of the input in the same place, the script doubles FP16, BF16 or BYTES,
    /// or a state or the outputs of a stateful model are not FP32.
    pub fn new(signature: Arc<Signature>, script: Script) -> Result<Self, EngineError> {
        check(&signature, script.kind).map_err(|message| EngineError::Load(format!("synthetic engine: {message}")))?;
        let contract = declare(&signature);
        let control = Arc::new(SyntheticControl::new(script.cost_per_call, script.cost_per_item, script.cost_per_element));
        let pool = BufferPool::new(POOLED_BUFFERS_MAX, POOLED_BYTES_MAX);
        Ok(Self { shared: Arc::new(Shared { signature, script, control, pool }), contract })
    }

    /// The handle that controls the engine while it runs.
    #[must_use]
    pub fn control(&self) -> Arc<SyntheticControl> {
        Arc::clone(&self.shared.control)
    }
}

impl Engine for SyntheticEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Unless the gate is closed: a call that is held there must not hold up the session that pushes its items.
    fn runs_on_any_thread(&self) -> bool {
        !self.shared.control.gate_is_closed()
    }

    fn can_widen(&self) -> bool {
        self.shared.script.wide_speedup.is_some()
    }

    fn is_decoupled(&self) -> bool {
        self.shared.script.parts > 1
    }

    fn computes_items_apart(&self) -> bool {
        true
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn trim(&self) {
        self.shared.pool.trim();
    }

    fn instance(&self, plan: &CallPlan, _threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        let signature = &self.shared.signature;
        let position = |name: &Arc<str>| {
            plan.inputs
                .iter()
                .position(|known| known == name)
                .ok_or_else(|| EngineError::Load(format!("synthetic engine: the plan lacks input '{name}'")))
        };
        let inputs = signature.inputs.iter().map(|spec| position(&spec.name)).collect::<Result<_, _>>()?;
        let states = signature.states.iter().map(|spec| position(&spec.input)).collect::<Result<_, _>>()?;
        let outputs = plan.outputs.iter().map(|name| source_of(signature, name)).collect::<Result<_, _>>()?;
        Ok(Box::new(SyntheticInstance { shared: Arc::clone(&self.shared), inputs, states, outputs }))
    }
}

/// What an output of the plan is made from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Input(usize),
    State(usize),
}

struct SyntheticInstance {
    shared: Arc<Shared>,
    /// Where the signature's inputs are in the plan.
    inputs: SmallVec<[usize; 2]>,
    /// Where its states are.
    states: SmallVec<[usize; 2]>,
    outputs: SmallVec<[Source; 2]>,
}

impl Instance for SyntheticInstance {
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
        let number = self.begin(call);
        self.answer(call, number)
    }

    fn run_in_parts(&mut self, call: &Call<'_>, parts: &mut dyn Parts) -> Result<Vec<Tensor>, EngineError> {
        let number = self.begin(call);
        for _ in 1..self.shared.script.parts {
            if parts.give(self.answer(call, number)?).is_break() {
                break;
            }
        }
        self.answer(call, number)
    }
}

impl SyntheticInstance {
    /// Begins a call, and returns its number.
    fn begin(&self, call: &Call<'_>) -> u64 {
        let control = &self.shared.control;
        let number = control.begin_call(call.batch_size);
        control.pass_gate();
        number
    }

    /// One answer to each item of a call.
    fn answer(&self, call: &Call<'_>, number: u64) -> Result<Vec<Tensor>, EngineError> {
        let Shared { script, control, .. } = &*self.shared;
        let speedup = script.wide_speedup.filter(|_| call.threads == CallThreads::All).unwrap_or(1.0);
        let elements = self.inputs.first().map_or(0, |first| call.inputs[*first].shape.iter().product());
        control.spend(script.cost_mode, call.batch_size, elements, speedup);
        let fault = script.faults.iter().find(|fault| self.applies(fault.when, number, call));
        match fault.map(|fault| fault.what) {
            Some(Misbehaviour::Error) => Err(EngineError::Run(format!("synthetic engine: planned failure of call {number}"))),
            Some(Misbehaviour::Panic) => planned_panic(number),
            Some(Misbehaviour::WrongShape) => self.compute(call, Shape::from_slice(&[1])),
            None => self.compute(call, Shape::new()),
        }
    }

    fn applies(&self, when: Trigger, number: u64, call: &Call<'_>) -> bool {
        let value = match when {
            Trigger::Call(planned) => return planned == number,
            Trigger::FirstElement(value) => value,
        };
        let (Some(spec), Some(position)) = (self.shared.signature.inputs.first(), self.inputs.first()) else {
            return false;
        };
        let view = &call.inputs[*position];
        let after: usize = view.shape.iter().skip(spec.batch_axis.map_or(0, |axis| axis + 1)).product();
        let Some(element_bytes) = view.datatype.fixed_size() else { return false };
        (0..call.batch_size).any(|index| {
            let start = index * after * element_bytes;
            let element = view.data.get(start..start + element_bytes);
            element.and_then(|bytes| compute::element_as_f64(view.datatype, bytes)) == Some(value)
        })
    }

    /// The outputs, with `excess` dimensions after the proper ones.
    fn compute(&self, call: &Call<'_>, excess: Shape) -> Result<Vec<Tensor>, EngineError> {
        let sums = self.sums(call);
        let carried: Option<Vec<f32>> = self.states.first().map(|position| {
            let batch_axis = self.shared.signature.states[0].batch_axis;
            let mut carried = vec![None; call.batch_size];
            for (item, value) in compute::elements_by_item(&call.inputs[*position], batch_axis) {
                carried[item].get_or_insert(value + sums[item]);
            }
            carried.into_iter().map(Option::unwrap_or_default).collect()
        });
        let outputs = self.outputs.iter().map(|source| match *source {
            Source::Input(index) => {
                let batch_axis = self.shared.signature.inputs[index].batch_axis;
                let kind = self.shared.script.kind;
                self.output(&call.inputs[self.inputs[index]], batch_axis, &excess, kind, carried.as_deref())
            }
            Source::State(index) => {
                let batch_axis = self.shared.signature.states[index].batch_axis;
                self.output(&call.inputs[self.states[index]], batch_axis, &excess, SyntheticKind::Identity, Some(&sums))
            }
        });
        outputs.collect()
    }

    /// For each item, the sum of its first input, if the model has a state.
    fn sums(&self, call: &Call<'_>) -> Vec<f32> {
        let mut sums = vec![0.0; call.batch_size];
        if let (false, Some(position)) = (self.states.is_empty(), self.inputs.first()) {
            let batch_axis = self.shared.signature.inputs[0].batch_axis;
            for (item, value) in compute::elements_by_item(&call.inputs[*position], batch_axis) {
                sums[item] += value;
            }
        }
        sums
    }

    /// The image of `view`, with `addends`, one for each item, added to each element.
    fn output(
        &self,
        view: &TensorView<'_>,
        batch_axis: Option<usize>,
        excess: &[usize],
        kind: SyntheticKind,
        addends: Option<&[f32]>,
    ) -> Result<Tensor, EngineError> {
        let failed = |error: &dyn std::fmt::Display| EngineError::Run(format!("synthetic engine: {error}"));
        let mut buffer = self.shared.pool.take(view.data.len());
        let out = buffer.overwrite(view.data.len());
        match kind {
            SyntheticKind::Double => compute::double(view.datatype, view.data, out).map_err(|error| failed(&error))?,
            SyntheticKind::Identity => out.copy_from_slice(view.data),
        }
        if let Some(addends) = addends {
            let values: &mut [f32] = bytemuck::try_cast_slice_mut(out).map_err(|error| failed(&error))?;
            for (value, (item, _)) in values.iter_mut().zip(compute::elements_by_item(view, batch_axis)) {
                *value += addends[item];
            }
        }
        let shape = view.shape.iter().chain(excess).copied().collect();
        Tensor::new(view.datatype, shape, buffer.freeze()).map_err(|error| failed(&error))
    }
}

#[expect(clippy::panic, reason = "the script plans a panic, so that tests see what one does")]
fn planned_panic(number: u64) -> ! {
    panic!("planned panic of call {number}")
}

fn check(signature: &Signature, kind: SyntheticKind) -> Result<(), String> {
    for (index, output) in signature.outputs.iter().enumerate() {
        let Some(input) = signature.inputs.get(index) else {
            return Err(format!("output '{}' has no input in the same place to be made from", output.name));
        };
        if (output.datatype, &output.dims, output.batch_axis) != (input.datatype, &input.dims, input.batch_axis) {
            return Err(format!("output '{}' differs in datatype or shape from input '{}'", output.name, input.name));
        }
        if kind == SyntheticKind::Double && matches!(output.datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes) {
            return Err(format!("it cannot double {} ('{}'); use kind = \"identity\"", output.datatype, output.name));
        }
    }
    if signature.is_stateful() {
        let states = signature.states.iter().map(|state| (&state.input, state.datatype));
        let outputs = signature.inputs.first().into_iter().chain(&signature.outputs).map(|spec| (&spec.name, spec.datatype));
        if let Some((name, datatype)) = states.chain(outputs).find(|(_, datatype)| *datatype != Datatype::Fp32) {
            return Err(format!("'{name}' is {datatype}, but a state is accumulated only in FP32"));
        }
    }
    Ok(())
}

fn declare(signature: &Signature) -> Contract {
    let tensor = |name: &Arc<str>, datatype, mut dims: Vec<Option<usize>>, batch_axis: Option<usize>| {
        if let Some(axis) = batch_axis {
            dims.insert(axis.min(dims.len()), None);
        }
        DeclaredTensor { name: name.to_string(), datatype: Some(datatype), dims: Some(dims), has_default: false }
    };
    let plain = |spec: &TensorSpec| tensor(&spec.name, spec.datatype, spec.dims.clone(), spec.batch_axis);
    let mut contract =
        Contract { inputs: signature.inputs.iter().map(plain).collect(), outputs: signature.outputs.iter().map(plain).collect() };
    for state in &signature.states {
        let dims: Vec<Option<usize>> = state.dims.iter().map(|size| Some(*size)).collect();
        contract.inputs.push(tensor(&state.input, state.datatype, dims.clone(), state.batch_axis));
        contract.outputs.push(tensor(&state.output, state.datatype, dims, state.batch_axis));
    }
    for shared in &signature.shared {
        let dims = shared.value.shape().iter().map(|size| Some(*size)).collect();
        let (name, datatype) = (shared.name.to_string(), Some(shared.value.datatype()));
        contract.inputs.push(DeclaredTensor { name, datatype, dims: Some(dims), has_default: false });
    }
    contract
}

fn source_of(signature: &Signature, name: &Arc<str>) -> Result<Source, EngineError> {
    let output = signature.outputs.iter().position(|spec| spec.name == *name).map(Source::Input);
    let state = || signature.states.iter().position(|spec| spec.output == *name).map(Source::State);
    output.or_else(state).ok_or_else(|| EngineError::Load(format!("synthetic engine: there is no output '{name}'")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Executable, ItemCall};
    use tidemill_clock as clock;

    fn signature(datatype: Datatype) -> Arc<Signature> {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype, dims: vec![None], batch_axis: Some(0) };
        Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() })
    }

    fn run(engine: SyntheticEngine, input: Tensor) -> Vec<u8> {
        let signature = signature(input.datatype());
        let model = Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature");
        let item = ItemCall { inputs: &[input], state: None };
        let results = model.run(0, &[item], CallThreads::One).expect("no fault planned").outputs;
        results[0][0].data().to_vec()
    }

    fn doubled<T: bytemuck::Pod>(datatype: Datatype, values: &[T]) -> Vec<T> {
        let engine = SyntheticEngine::new(signature(datatype), Script::default()).expect("a sound script");
        let bytes = bytemuck::cast_slice(values).to_vec();
        let input = Tensor::new(datatype, Shape::from_slice(&[values.len()]), bytes.into()).expect("right length");
        bytemuck::pod_collect_to_vec(&run(engine, input))
    }

    #[test]
    fn integers_saturate_and_floats_do_not() {
        assert_eq!(doubled(Datatype::Uint8, &[1_u8, 200]), [2, 255]);
        assert_eq!(doubled(Datatype::Uint16, &[1_u16, 40_000]), [2, u16::MAX]);
        assert_eq!(doubled(Datatype::Uint32, &[1, u32::MAX]), [2, u32::MAX]);
        assert_eq!(doubled(Datatype::Uint64, &[1, u64::MAX]), [2, u64::MAX]);
        assert_eq!(doubled(Datatype::Int8, &[-100_i8, 100]), [-128, 127]);
        assert_eq!(doubled(Datatype::Int16, &[-3_i16, i16::MIN]), [-6, i16::MIN]);
        assert_eq!(doubled(Datatype::Int32, &[-3, i32::MAX]), [-6, i32::MAX]);
        assert_eq!(doubled(Datatype::Int64, &[-3, i64::MIN]), [-6, i64::MIN]);
        assert_eq!(doubled(Datatype::Fp32, &[1.5, f32::MAX]), [3.0, f32::INFINITY]);
        assert_eq!(doubled(Datatype::Fp64, &[1.5, f64::MAX]), [3.0, f64::INFINITY]);
        assert_eq!(doubled(Datatype::Bool, &[0_u8, 1]), [0, 1]);
    }

    #[test]
    fn what_has_no_arithmetic_is_copied_but_not_doubled() {
        let halves = [1, 2, 3, 4].to_vec();
        let cases =
            [(Datatype::Fp16, halves.clone()), (Datatype::Bf16, halves), (Datatype::Bytes, b"\x02\0\0\0ab\0\0\0\0".to_vec())];
        for (datatype, data) in cases {
            let error = SyntheticEngine::new(signature(datatype), Script::default()).expect_err("cannot be doubled");
            assert!(error.to_string().contains(&format!("cannot double {datatype} ('y')")), "{error}");
            let config = SyntheticConfig { kind: SyntheticKind::Identity, fail_value: Some(0.0), ..SyntheticConfig::default() };
            let engine = SyntheticEngine::new(signature(datatype), config.script().expect("no cost")).expect("sound");
            let input = Tensor::new(datatype, Shape::from_slice(&[2]), data.clone().into()).expect("right length");
            assert_eq!(run(engine, input), data, "and its elements equal no number");
        }
    }

    #[test]
    fn a_planted_item_fails_every_batch_that_holds_it_and_no_other() {
        for datatype in [Datatype::Fp32, Datatype::Int32] {
            let element = |value: i32| {
                let bytes = if datatype == Datatype::Fp32 { (value as f32).to_le_bytes() } else { value.to_le_bytes() };
                [Tensor::new(datatype, Shape::from_slice(&[1]), bytes.to_vec().into()).expect("one element")]
            };
            let config = SyntheticConfig { fail_value: Some(-7.0), ..SyntheticConfig::default() };
            let engine = SyntheticEngine::new(signature(datatype), config.script().expect("no cost")).expect("sound");
            let model = Executable::new(Arc::new(engine), signature(datatype), &[LaneThreads::new()]).expect("sound");
            let run = |values: &[i32]| {
                let inputs: Vec<_> = values.iter().map(|value| element(*value)).collect();
                let items: Vec<_> = inputs.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
                model.run(0, &items, CallThreads::One)
            };
            assert!(run(&[1, 2, -7]).is_err());
            assert!(run(&[-7]).is_err());
            assert!(run(&[1, 2, 7]).is_ok());
        }
    }

    #[test]
    fn the_planned_call_fails_and_no_other() {
        let fault = PlannedFault { when: Trigger::Call(2), what: Misbehaviour::Error };
        let script = Script { faults: vec![fault], ..Script::default() };
        let engine = SyntheticEngine::new(signature(Datatype::Fp32), script).expect("a sound script");
        let model = Executable::new(Arc::new(engine), signature(Datatype::Fp32), &[LaneThreads::new()]).expect("sound");
        let inputs = [Tensor::from_f32(&[1.0])];
        let item = ItemCall { inputs: &inputs, state: None };
        let outcomes = [(); 3].map(|()| model.run(0, &[item], CallThreads::One).is_ok());
        assert_eq!(outcomes, [true, false, true]);
    }

    #[test]
    fn costs_are_spent_and_can_be_changed() {
        for mode in [CostMode::Busy, CostMode::Blocked] {
            let control = SyntheticControl::new(Duration::ZERO, Duration::ZERO, Duration::from_micros(10));
            control.set_costs(Duration::from_millis(2), Duration::from_millis(1));
            let before = clock::now();
            control.spend(mode, 3, 100, 1.0);
            assert!(clock::now().since(before) >= Duration::from_millis(6), "{mode:?}");
        }
    }

    #[test]
    fn a_closed_gate_holds_calls_until_it_is_opened() {
        let control = SyntheticControl::default();
        control.close_gate();
        std::thread::scope(|scope| {
            let passing = [(); 2].map(|()| scope.spawn(|| control.pass_gate()));
            let held = control.wait_until_held(2, Duration::from_secs(60));
            control.open_gate();
            held.expect("both at the gate");
            for passing in passing {
                passing.join().expect("no panic");
            }
        });
        assert_eq!(control.held(), 0);
        let error = control.wait_until_held(1, Duration::ZERO).expect_err("nobody is there");
        assert_eq!(error.to_string(), "0 of 1 calls reached the gate in 0ns");
    }

    #[test]
    fn the_configuration_reads_as_written_and_refuses_the_rest() {
        let text = "kind = 'identity'\ncost_per_call_us = 100\ncost_per_item_us = 5\ncost_per_element_ns = 7\ncost_mode = 'blocked'\nwide_speedup = 4.0\npanic_value = -2\n";
        let config: SyntheticConfig = toml::from_str(&text.replace("-2", "-2.0")).expect("all keys known");
        let script = config.script().expect("small costs");
        assert_eq!((script.kind, script.cost_mode), (SyntheticKind::Identity, CostMode::Blocked));
        assert_eq!((script.cost_per_call, script.cost_per_item), (Duration::from_micros(100), Duration::from_micros(5)));
        assert_eq!(script.cost_per_element, Duration::from_nanos(7));
        assert_eq!(script.wide_speedup, Some(4.0));
        assert_eq!(script.faults, [PlannedFault { when: Trigger::FirstElement(-2.0), what: Misbehaviour::Panic }]);
        assert!(toml::from_str::<SyntheticConfig>("cost = 1").is_err());
        for (speedup, accepted) in [(1.0, true), (1024.0, true), (0.5, false), (f64::NAN, false), (2000.0, false)] {
            let config = SyntheticConfig { wide_speedup: Some(speedup), ..SyntheticConfig::default() };
            assert_eq!(config.script().is_ok(), accepted, "{speedup}");
        }
        let dear = SyntheticConfig { cost_per_item_us: 60_000_001, ..SyntheticConfig::default() };
        let error = dear.script().expect_err("above a minute");
        assert!(error.to_string().contains("cost_per_item_us is 60000001; at most 60000000"), "{error}");
    }

    #[test]
    fn an_output_must_be_the_image_of_its_input() {
        let mut other = (*signature(Datatype::Fp32)).clone();
        other.outputs[0].datatype = Datatype::Int32;
        let error = SyntheticEngine::new(Arc::new(other), Script::default()).expect_err("another datatype");
        assert!(error.to_string().contains("output 'y' differs in datatype or shape from input 'x'"), "{error}");
    }
}
