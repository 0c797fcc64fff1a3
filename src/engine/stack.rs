//! From items to batches and back: gathers items into one model call and scatters its outputs.
//!
//! Knows signatures and engines, and when the parts of a call are over. Knows no queue, no stream and no metrics.
//!
//! # Padding
//! Items of a padded model may differ in length. They are gathered into a batch of one length, and every dynamic dimension of each output
//! must come out with that length, so that each item gets back its own. State is never padded.
//!
//! # BYTES
//! Their elements differ in length, so nothing about them can be computed from shapes alone; `byte_strings` has what they need.
//!
//! # State
//! A call reads the items' state before it runs, and writes it after everything that can fail: a call that returns an error has changed no
//! state. No two items of a call may share a [`StateSlot`].
//!
//! # Panics of an engine
//! A panic ends the call with [`RunError::Panicked`]. The lane's instance is dropped, and the lane's next call makes a new one.

use std::{
    any::Any,
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{
    Call, CallPlan, CallThreads, Engine, EngineError, Instance, LaneThreads, TensorView,
    buffer::{AlignedBuffer, BufferPool},
    byte_strings,
    checks::{check_axes, check_items, check_output, padded_input},
    crop::Crop,
    lengths::Lengths,
    strips::Strips,
};
use crate::{
    clock,
    domain::{ItemOutputs, Shape, Signature, StateBuffers, StateSlot, StateSpec, Tensor, TensorSpec, Timestamp},
};

/// Unused buffers that a model keeps for outputs that cannot be slices of a call's outputs.
const POOLED_BUFFERS_MAX: usize = 16;
/// Their bytes in all.
const POOLED_BYTES_MAX: usize = 16 << 20;

/// One item of a model call.
#[derive(Debug, Clone, Copy)]
pub struct ItemCall<'a> {
    /// Its tensors in the signature's order, without batch dimension.
    pub inputs: &'a [Tensor],
    /// Its stream's state; without one, a stateful model starts from zeros and the new state is discarded.
    pub state: Option<&'a StateSlot>,
}

/// What a model call gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// The items' outputs, in their order.
    pub outputs: Vec<ItemOutputs>,
    /// What the call spent on padding.
    pub padding: PaddingCount,
    /// When the parts of the call were over.
    pub milestones: Milestones,
}

/// How far a call had got when: between the two, the engine ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Milestones {
    /// The items had been put together.
    pub gathered: Timestamp,
    /// The engine had its results.
    pub computed: Timestamp,
}

/// How much of what a model computed was padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PaddingCount {
    /// Elements of the padded inputs, padding included; 0 for a model without padding.
    pub elements: usize,
    /// Those of them that are padding.
    pub padded: usize,
}

/// Why a model call gave no results; none of its items has one, and no state has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The items do not make a batch: their shapes differ, or they are not what the signature says.
    #[error("the items do not make a batch: {0}")]
    BadBatch(String),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine panicked, with this message.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// The outputs are not what the signature says.
    #[error("the model's outputs are not what its signature says: {0}")]
    WrongOutput(String),
    /// The engine panicked in an earlier call, and a new instance cannot be made.
    #[error("the engine could not be started again after a panic: {0}")]
    InstanceLost(String),
}

/// A model that can be called: an engine, a signature, and one instance for each lane.
pub struct Executable {
    engine: Arc<dyn Engine>,
    signature: Arc<Signature>,
    plan: CallPlan,
    /// Where each of the signature's outputs, then states, is in the plan's outputs.
    output_positions: Vec<usize>,
    /// The shared inputs' values, aligned.
    shared: Vec<AlignedBuffer>,
    lanes: Vec<Lane>,
    pool: Arc<BufferPool>,
    /// Instances rebuilt.
    rebuilds: AtomicU64,
    /// Why the last attempt to rebuild one failed.
    lost: Mutex<Option<Arc<str>>>,
}

struct Lane {
    threads: LaneThreads,
    slot: Mutex<LaneSlot>,
}

/// What one lane needs for a call. The lane is its only user, so the lock around it is free.
struct LaneSlot {
    instance: Option<Box<dyn Instance>>,
    /// Whether there has been one: a long lane's is made for its first call.
    was_made: bool,
    /// One buffer for each input, then state. They keep the memory of the largest batch.
    scratch: Vec<AlignedBuffer>,
}

type Shapes = SmallVec<[Shape; 4]>;

impl Executable {
    /// Binds `engine` to `signature` and makes an instance for each of `lanes`, except for long ones: most models never run there.
    ///
    /// # Errors
    /// [`EngineError`] if a batch axis of the signature does not exist, only some of its tensors have one, a tensor of BYTES is where none
    /// can be, or the engine lacks one of the signature's names or fails.
    pub fn new(engine: Arc<dyn Engine>, signature: Arc<Signature>, lanes: &[LaneThreads]) -> Result<Self, EngineError> {
        check_axes(&signature)?;
        byte_strings::check(&signature)?;
        let (plan, output_positions) = plan_call(&signature);
        let scratch_count = signature.inputs.len() + signature.states.len();
        let shared = signature.shared.iter().map(|shared| aligned(shared.value.data())).collect();
        let lanes = lanes
            .iter()
            .map(|threads| {
                let was_made = !threads.is_long_lane();
                let instance = was_made.then(|| make_instance(&*engine, &plan, threads)).transpose()?;
                let scratch = (0..scratch_count).map(|_| AlignedBuffer::default()).collect();
                Ok(Lane { threads: threads.clone(), slot: Mutex::new(LaneSlot { instance, was_made, scratch }) })
            })
            .collect::<Result<_, EngineError>>()?;
        let pool = BufferPool::new(POOLED_BUFFERS_MAX, POOLED_BYTES_MAX);
        Ok(Self {
            engine,
            signature,
            plan,
            output_positions,
            shared,
            lanes,
            pool,
            rebuilds: AtomicU64::new(0),
            lost: Mutex::new(None),
        })
    }

    /// What the model takes and gives.
    #[must_use]
    pub const fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    /// The engine that runs the calls.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The engine's name, for people and metrics.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// Whether a call gains anything from [`CallThreads::All`]: the engine can use them, and there is more than one lane.
    #[must_use]
    pub fn can_widen(&self) -> bool {
        self.engine.can_widen() && self.lanes() > 1
    }

    /// Instances rebuilt because a call panicked.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    /// Why an instance could not be rebuilt after a panic, if that is so: until one can, the model cannot be relied on.
    #[must_use]
    pub fn lost(&self) -> Option<Arc<str>> {
        self.lost.lock().clone()
    }

    /// How many lanes can run calls at the same time, not counting the long ones, which come after them.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.iter().filter(|lane| !lane.threads.is_long_lane()).count()
    }

    /// The lane with this number, for its only user. If a long lane's instance cannot be made, perhaps because memory is short, it shares
    /// that of an ordinary lane.
    fn occupy(&self, lane: usize) -> Option<(&Lane, MutexGuard<'_, LaneSlot>)> {
        let own = self.lanes.get(lane)?;
        let mut slot = own.slot.lock();
        if slot.was_made {
            return Some((own, slot));
        }
        match make_instance(&*self.engine, &self.plan, &own.threads) {
            Ok(instance) => {
                (slot.instance, slot.was_made) = (Some(instance), true);
                Some((own, slot))
            }
            Err(error) => {
                drop(slot);
                tracing::debug!(%error, lane, "a long lane could not get its own instance and shares that of another lane");
                let other = self.lanes.get(lane % self.lanes().max(1))?;
                Some((other, other.slot.lock()))
            }
        }
    }

    /// Runs `items` as one call on lane number `lane`, computing on `threads`. Never panics.
    ///
    /// # Errors
    /// [`RunError`], for all the items.
    pub fn run(&self, lane: usize, items: &[ItemCall<'_>], threads: CallThreads) -> Result<Ran, RunError> {
        let Some((lane, mut slot)) = self.occupy(lane) else {
            return Err(RunError::BadBatch(format!("there is no lane {lane}; the model has {}", self.lanes.len())));
        };
        if items.is_empty() {
            let now = clock::now();
            let milestones = Milestones { gathered: now, computed: now };
            return Ok(Ran { outputs: Vec::new(), padding: PaddingCount::default(), milestones });
        }
        let LaneSlot { instance, scratch, .. } = &mut *slot;
        check_items(&self.signature, items)?;
        let lengths = self.signature.padding.as_ref().map(|rule| Lengths::of(rule, items)).transpose()?;
        let Gathered { shapes, padding } = self.gather(items, lengths.as_ref(), scratch)?;
        let gathered = clock::now();
        let outputs = self.call(lane, instance, &shapes, scratch, items.len(), threads)?;
        let computed = clock::now();
        let outputs = self.scatter(items, lengths.as_ref(), &outputs)?;
        Ok(Ran { outputs, padding, milestones: Milestones { gathered, computed } })
    }

    /// Copies the items' inputs and states into `scratch`.
    fn gather(
        &self,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        scratch: &mut [AlignedBuffer],
    ) -> Result<Gathered, RunError> {
        let (input_buffers, state_buffers) = scratch.split_at_mut(self.signature.inputs.len());
        let mut shapes = Shapes::with_capacity(input_buffers.len() + state_buffers.len());
        let mut padding = PaddingCount::default();
        for (position, buffer) in input_buffers.iter_mut().enumerate() {
            shapes.push(self.gather_input(position, items, lengths, buffer, &mut padding)?);
        }
        self.gather_states(items, state_buffers, &mut shapes)?;
        Ok(Gathered { shapes, padding })
    }

    /// Copies one input of the items into `buffer`, and returns its batch shape.
    fn gather_input(
        &self,
        position: usize,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        buffer: &mut AlignedBuffer,
        padding: &mut PaddingCount,
    ) -> Result<Shape, RunError> {
        let spec = &self.signature.inputs[position];
        let mut dims = Shape::from_slice(items[0].inputs[position].shape());
        let Some(element_bytes) = spec.datatype.fixed_size() else {
            byte_strings::gather(items.iter().map(|item| item.inputs[position].data()), buffer);
            return Ok(with_batch(&dims, spec.batch_axis, items.len()));
        };
        let padded = padded_input(&self.signature, position).zip(lengths);
        if let Some((input, lengths)) = padded {
            dims[input.axis] = lengths.padded();
        }
        let strips = layout(&spec.name, &dims, spec.batch_axis, element_bytes, items.len())?;
        let batch = buffer.overwrite(strips.batch_bytes());
        for (index, item) in items.iter().enumerate() {
            let data = item.inputs[position].data();
            match padded {
                Some((input, lengths)) if lengths.is_shorter(index) => {
                    strips.put_padded(batch, index, data, &lengths.rows(index, input, &dims, element_bytes));
                    padding.padded += (strips.item_bytes() - data.len()) / element_bytes;
                }
                _ => strips.put(batch, index, data),
            }
        }
        if padded.is_some() {
            padding.elements += strips.batch_bytes() / element_bytes;
        }
        Ok(with_batch(&dims, spec.batch_axis, items.len()))
    }

    fn gather_states(&self, items: &[ItemCall<'_>], buffers: &mut [AlignedBuffer], shapes: &mut Shapes) -> Result<(), RunError> {
        let layouts = self.state_layouts(items.len())?;
        for ((spec, strips), buffer) in self.signature.states.iter().zip(&layouts).zip(&mut *buffers) {
            buffer.overwrite(strips.batch_bytes());
            shapes.push(with_batch(&spec.dims, spec.batch_axis, items.len()));
        }
        let mut put = |index: usize, state: Option<&StateBuffers>| -> Result<(), RunError> {
            for (position, (strips, buffer)) in layouts.iter().zip(&mut *buffers).enumerate() {
                match state.map(|state| state.get(position)) {
                    None => strips.put_zeros(buffer, index),
                    Some(Some(bytes)) if bytes.len() == strips.item_bytes() => strips.put(buffer, index, bytes),
                    Some(_) => return Err(RunError::BadBatch(format!("item {index} brings the state of another model"))),
                }
            }
            Ok(())
        };
        for (index, item) in items.iter().enumerate() {
            match item.state {
                Some(slot) => slot.with(|state| put(index, state.as_ref()))?,
                None => put(index, None)?,
            }
        }
        Ok(())
    }

    fn call(
        &self,
        lane: &Lane,
        instance: &mut Option<Box<dyn Instance>>,
        shapes: &[Shape],
        scratch: &[AlignedBuffer],
        batch_size: usize,
        threads: CallThreads,
    ) -> Result<Vec<Tensor>, RunError> {
        let signature = &self.signature;
        let datatypes =
            signature.inputs.iter().map(|spec| spec.datatype).chain(signature.states.iter().map(|spec| spec.datatype));
        let mut inputs: SmallVec<[TensorView<'_>; 4]> = SmallVec::new();
        for ((datatype, shape), buffer) in datatypes.zip(shapes).zip(scratch) {
            inputs.push(TensorView { datatype, shape, data: buffer });
        }
        for (shared, buffer) in signature.shared.iter().zip(&self.shared) {
            inputs.push(TensorView { datatype: shared.value.datatype(), shape: shared.value.shape(), data: buffer });
        }
        let running = match instance {
            Some(running) => running,
            None => {
                let made = make_instance(&*self.engine, &self.plan, &lane.threads).map_err(|error| error.to_string());
                *self.lost.lock() = made.as_ref().err().map(|error| error.as_str().into());
                let made = instance.insert(made.map_err(RunError::InstanceLost)?);
                self.rebuilds.fetch_add(1, Ordering::Relaxed);
                made
            }
        };
        let call = Call { inputs: &inputs, batch_size, threads };
        match catch_unwind(AssertUnwindSafe(|| running.run(&call))) {
            Ok(outputs) => Ok(outputs?),
            Err(panic) => {
                // Dropping what a panic left behind may panic too.
                let broken = instance.take();
                let _ = catch_unwind(AssertUnwindSafe(move || drop(broken)));
                Err(RunError::Panicked(panic_message(&*panic)))
            }
        }
    }

    /// Checks all outputs, cuts them into items, and only then writes the states.
    fn scatter(
        &self,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        tensors: &[Tensor],
    ) -> Result<Vec<ItemOutputs>, RunError> {
        let signature = &self.signature;
        if tensors.len() != self.plan.outputs.len() {
            return Err(RunError::WrongOutput(format!("{} outputs came, not {}", tensors.len(), self.plan.outputs.len())));
        }
        let (output_positions, state_positions) = self.output_positions.split_at(signature.outputs.len());
        for (spec, position) in signature.outputs.iter().zip(output_positions) {
            check_output(spec, &tensors[*position], items.len())?;
            if let Some(lengths) = lengths {
                lengths.check(spec, &tensors[*position])?;
            }
        }
        for (spec, position) in signature.states.iter().zip(state_positions) {
            let dims = spec.dims.iter().map(|size| Some(*size)).collect();
            let spec = TensorSpec { name: Arc::clone(&spec.output), datatype: spec.datatype, dims, batch_axis: spec.batch_axis };
            check_output(&spec, &tensors[*position], items.len())?;
        }
        let mut results: Vec<ItemOutputs> = items.iter().map(|_| ItemOutputs::with_capacity(signature.outputs.len())).collect();
        for (spec, position) in signature.outputs.iter().zip(output_positions) {
            let tensor = &tensors[*position];
            match spec.datatype.fixed_size() {
                Some(element_bytes) => self.cut(spec, tensor, element_bytes, lengths, &mut results)?,
                None => byte_strings::split(spec, tensor, &mut results).map_err(|error| wrong_output(spec, &error))?,
            }
        }
        self.scatter_states(items, tensors, state_positions)?;
        Ok(results)
    }

    /// Cuts one output into items: slices of it if each item's bytes are contiguous, otherwise slices of a rearranged copy.
    fn cut(
        &self,
        spec: &TensorSpec,
        tensor: &Tensor,
        element_bytes: usize,
        lengths: Option<&Lengths>,
        results: &mut [ItemOutputs],
    ) -> Result<(), RunError> {
        let mut dims = Shape::from_slice(tensor.shape());
        if let Some(axis) = spec.batch_axis {
            dims.remove(axis);
        }
        let strips = layout(&spec.name, &dims, spec.batch_axis, element_bytes, results.len())?;
        let data = if strips.are_contiguous() {
            tensor.data().clone()
        } else {
            let mut buffer = self.pool.take(strips.batch_bytes());
            for strip in (0..results.len()).flat_map(|index| strips.strips(tensor.data(), index)) {
                buffer.extend_from_slice(strip);
            }
            buffer.freeze()
        };
        for (index, result) in results.iter_mut().enumerate() {
            let start = index * strips.item_bytes();
            let item = data.slice(start..start + strips.item_bytes());
            let (dims, item) = match lengths {
                Some(lengths) if lengths.is_shorter(index) => {
                    let own = lengths.own_dims(index, spec, &dims);
                    let crop = Crop::new(&own, &dims, element_bytes).ok_or_else(|| wrong_output(spec, &"it is too large"))?;
                    let item = self.cropped(&crop, item);
                    (own, item)
                }
                _ => (dims.clone(), item),
            };
            result.push(Tensor::new(spec.datatype, dims, item).map_err(|error| wrong_output(spec, &error))?);
        }
        Ok(())
    }

    /// An item without its padding: a slice if its bytes are contiguous, otherwise a copy.
    fn cropped(&self, crop: &Crop<'_>, item: Bytes) -> Bytes {
        if crop.is_prefix() {
            return item.slice(..crop.own_bytes());
        }
        let mut buffer = self.pool.take(crop.own_bytes());
        for start in crop.starts() {
            buffer.extend_from_slice(&item[start..start + crop.run_bytes()]);
        }
        buffer.freeze()
    }

    /// Writes the new states into the items' slots, reusing their memory.
    fn scatter_states(&self, items: &[ItemCall<'_>], tensors: &[Tensor], positions: &[usize]) -> Result<(), RunError> {
        if positions.is_empty() {
            return Ok(());
        }
        let layouts = self.state_layouts(items.len())?;
        for (index, item) in items.iter().enumerate() {
            let Some(slot) = item.state else { continue };
            slot.with(|state| {
                let buffers =
                    state.get_or_insert_with(|| layouts.iter().map(|strips| vec![0; strips.item_bytes()].into()).collect());
                for ((strips, position), buffer) in layouts.iter().zip(positions).zip(buffers) {
                    strips.get(tensors[*position].data(), index, buffer);
                }
            });
        }
        Ok(())
    }

    fn state_layouts(&self, batch_size: usize) -> Result<SmallVec<[Strips; 2]>, RunError> {
        let layout_of = |spec: &StateSpec| {
            let element_bytes = spec.datatype.fixed_size().ok_or_else(|| {
                RunError::BadBatch(format!("'{}' is {}, which has no size that a state could have", spec.input, spec.datatype))
            })?;
            layout(&spec.input, &spec.dims, spec.batch_axis, element_bytes, batch_size)
        };
        self.signature.states.iter().map(layout_of).collect()
    }
}

/// What has been gathered for a call.
struct Gathered {
    /// The batch shapes of the inputs, then of the states.
    shapes: Shapes,
    padding: PaddingCount,
}

/// The plan of a call, and where each output, then state, is in it. A state's output may also be one of the item's outputs; the engine is
/// asked for it only once.
fn plan_call(signature: &Signature) -> (CallPlan, Vec<usize>) {
    let inputs = signature.inputs.iter().map(|spec| &spec.name);
    let states = signature.states.iter().map(|spec| &spec.input);
    let shared = signature.shared.iter().map(|shared| &shared.name);
    let mut plan = CallPlan { inputs: inputs.chain(states).chain(shared).cloned().collect(), outputs: Vec::new() };
    let outputs = signature.outputs.iter().map(|spec| &spec.name);
    let mut positions = Vec::new();
    for name in outputs.chain(signature.states.iter().map(|spec| &spec.output)) {
        let position = plan.outputs.iter().position(|known| known == name).unwrap_or_else(|| {
            plan.outputs.push(Arc::clone(name));
            plan.outputs.len() - 1
        });
        positions.push(position);
    }
    (plan, positions)
}

fn wrong_output(spec: &TensorSpec, cause: &dyn Display) -> RunError {
    RunError::WrongOutput(format!("output '{}': {cause}", spec.name))
}

/// Without a batch dimension there is one item, which goes into the call as it is.
fn layout(
    name: &str,
    dims: &[usize],
    batch_axis: Option<usize>,
    element_bytes: usize,
    batch_size: usize,
) -> Result<Strips, RunError> {
    Strips::new(dims, batch_axis.unwrap_or_default(), element_bytes, batch_size).ok_or_else(|| {
        RunError::BadBatch(format!("'{name}': {batch_size} items of shape {dims:?} are larger than can be addressed"))
    })
}

fn with_batch(dims: &[usize], batch_axis: Option<usize>, batch_size: usize) -> Shape {
    let mut shape = Shape::from_slice(dims);
    if let Some(axis) = batch_axis {
        shape.insert(axis, batch_size);
    }
    shape
}

fn aligned(bytes: &[u8]) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::with_capacity(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}

fn make_instance(engine: &dyn Engine, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| engine.instance(plan, threads))).unwrap_or_else(|panic| {
        Err(EngineError::Load(format!("{} panicked while it was starting: {}", engine.name(), panic_message(&*panic))))
    })
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*, sample::select};
    use smallvec::smallvec;

    use super::*;
    use crate::{
        domain::{Datatype, ElementBytes, PaddedInput, PaddingRule, SharedInput},
        engine::{
            Contract, DeclaredTensor,
            synthetic::{Misbehaviour, PlannedFault, Script, SyntheticEngine, SyntheticKind, Trigger},
        },
    };

    fn spec(name: &str, datatype: Datatype, dims: &[Option<usize>], batch_axis: usize) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), batch_axis: Some(batch_axis) }
    }

    fn fp32(name: &str, dims: &[Option<usize>]) -> TensorSpec {
        spec(name, Datatype::Fp32, dims, 0)
    }

    /// One input of two numbers, and a state of [2, 2] with the batch on axis 1.
    fn stateful() -> Signature {
        Signature {
            inputs: vec![fp32("x", &[Some(2)])],
            outputs: vec![fp32("y", &[Some(2)])],
            states: vec![StateSpec {
                input: "h".into(),
                output: "h_next".into(),
                datatype: Datatype::Fp32,
                dims: smallvec![2, 2],
                batch_axis: Some(1),
            }],
            ..Signature::default()
        }
    }

    fn executable(signature: Signature, script: Script) -> Executable {
        let signature = Arc::new(signature);
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature")
    }

    fn script(faults: &[(Trigger, Misbehaviour)]) -> Script {
        let faults = faults.iter().map(|(when, what)| PlannedFault { when: *when, what: *what }).collect();
        Script { kind: SyntheticKind::Identity, faults, ..Script::default() }
    }

    fn numbers(outputs: &ItemOutputs) -> Vec<f32> {
        outputs[0].iter_f32().expect("FP32").collect()
    }

    fn state_of(slot: &StateSlot) -> Option<Vec<f32>> {
        slot.with(|state| state.as_ref().map(|buffers| bytemuck::pod_collect_to_vec(&buffers[0])))
    }

    /// One step of the given streams, as (stream, first number).
    fn step(model: &Executable, streams: &[StateSlot], items: &[(usize, f32)]) -> Result<Vec<Vec<f32>>, RunError> {
        let inputs: Vec<[Tensor; 1]> = items.iter().map(|(_, value)| [Tensor::from_f32(&[*value, 1.0])]).collect();
        let calls: Vec<ItemCall<'_>> =
            items.iter().zip(&inputs).map(|((stream, _), inputs)| ItemCall { inputs, state: Some(&streams[*stream]) }).collect();
        Ok(model.run(0, &calls, CallThreads::One)?.outputs.iter().map(numbers).collect())
    }

    fn slots(count: usize) -> Vec<StateSlot> {
        (0..count).map(|_| StateSlot::default()).collect()
    }

    #[test]
    fn each_stream_has_its_own_state_however_batches_interleave() {
        let model = executable(stateful(), script(&[]));
        let (together, alone) = (slots(3), slots(3));
        let batches: [&[(usize, f32)]; 4] =
            [&[(0, 1.0), (1, 10.0), (2, 100.0)], &[(2, 200.0), (0, 2.0)], &[(1, 20.0)], &[(1, 30.0), (2, 300.0), (0, 3.0)]];
        for batch in batches {
            let batched = step(&model, &together, batch).expect("no fault planned");
            for (item, result) in batch.iter().zip(batched) {
                assert_eq!(step(&model, &alone, &[*item]), Ok(vec![result]));
            }
        }
        assert_eq!(state_of(&together[1]), Some(vec![63.0; 4]), "10 + 20 + 30, and one for each step");
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(state_of(together), state_of(alone));
        }
    }

    #[test]
    fn a_state_keeps_its_memory() {
        let model = executable(stateful(), script(&[]));
        let streams = slots(1);
        let address = || streams[0].with(|state| state.as_ref().map(|buffers| buffers[0].as_ptr()));
        step(&model, &streams, &[(0, 1.0)]).expect("no fault planned");
        let first = address();
        step(&model, &streams, &[(0, 1.0)]).expect("no fault planned");
        assert!(first.is_some());
        assert_eq!(address(), first);
    }

    #[test]
    fn an_item_without_a_slot_starts_from_zeros_beside_one_with_state() {
        let model = executable(stateful(), script(&[]));
        let streams = slots(1);
        step(&model, &streams, &[(0, 4.0)]).expect("no fault planned");
        let inputs = [Tensor::from_f32(&[1.0, 1.0])];
        let with = ItemCall { inputs: &inputs, state: Some(&streams[0]) };
        let without = ItemCall { inputs: &inputs, state: None };
        let results = model.run(0, &[without, with], CallThreads::One).expect("no fault planned").outputs;
        assert_eq!(numbers(&results[0]), [3.0, 3.0]);
        assert_eq!(numbers(&results[1]), [8.0, 8.0]);
    }

    #[test]
    fn a_failed_call_changes_no_state() {
        let planned = [
            (Trigger::FirstElement(-1.0), Misbehaviour::Error),
            (Trigger::FirstElement(-2.0), Misbehaviour::Panic),
            (Trigger::FirstElement(-3.0), Misbehaviour::WrongShape),
        ];
        let model = executable(stateful(), script(&planned));
        let streams = slots(2);
        step(&model, &streams, &[(0, 5.0)]).expect("no fault planned for this value");
        let failures = [-1.0, -2.0, -3.0].map(|value| step(&model, &streams, &[(0, 7.0), (1, value)]).expect_err("planned"));
        assert_eq!(failures[0], EngineError::Run("synthetic engine: planned failure of call 2".to_owned()).into());
        assert_eq!(failures[1], RunError::Panicked("planned panic of call 3".to_owned()));
        assert_eq!(
            failures[2].to_string(),
            "the model's outputs are not what its signature says: 'y' came as FP32 [2, 2, 1] for 2 items, but is declared as FP32 [-1, 2] (-1: batch or dynamic); if the file declares it wrongly, give its dims in [[outputs]]"
        );
        assert_eq!(state_of(&streams[0]), Some(vec![6.0; 4]));
        assert_eq!(state_of(&streams[1]), None);
        assert_eq!(step(&model, &streams, &[(1, 1.0), (0, 1.0)]), Ok(vec![vec![3.0, 3.0], vec![9.0, 9.0]]));
    }

    #[test]
    fn the_state_of_another_model_is_refused() {
        let model = executable(stateful(), script(&[]));
        let streams = slots(1);
        streams[0].with(|state| *state = Some(Box::new([vec![0; 12].into()])));
        let error = step(&model, &streams, &[(0, 1.0)]).expect_err("12 bytes are not 16");
        assert_eq!(error, RunError::BadBatch("item 0 brings the state of another model".to_owned()));
    }

    #[test]
    fn items_that_do_not_make_a_batch_are_refused_with_the_reason() {
        let signature = Signature { inputs: vec![fp32("x", &[None])], outputs: vec![fp32("y", &[None])], ..Signature::default() };
        let model = executable(signature, script(&[]));
        let bytes = Tensor::new(Datatype::Int8, smallvec![2], Bytes::from_static(b"ab")).expect("two bytes");
        let square = Tensor::new(Datatype::Fp32, smallvec![1, 1], Bytes::from_static(&[0; 4])).expect("one number");
        let good = [Tensor::from_f32(&[1.0, 2.0])];
        let cases: [(&[Tensor], &str); 4] = [
            (&[Tensor::from_f32(&[1.0])], "'x' of item 1 has shape [1], but that of item 0 is [2]"),
            (&[bytes], "'x' of item 1 is INT8, but the model takes FP32"),
            (&[square], "'x' of item 1 has shape [1, 1], which does not fit the model's [-1, -1]"),
            (&[], "item 1 brings 0 tensors, but the model takes 1"),
        ];
        for (inputs, message) in cases {
            let items = [ItemCall { inputs: &good, state: None }, ItemCall { inputs, state: None }];
            assert_eq!(model.run(0, &items, CallThreads::One), Err(RunError::BadBatch(message.to_owned())));
        }
        let item = ItemCall { inputs: &good, state: None };
        let error = model.run(1, &[item], CallThreads::One).expect_err("one lane");
        assert_eq!(error, RunError::BadBatch("there is no lane 1; the model has 1".to_owned()));
        let none = model.run(0, &[], CallThreads::One).expect("nothing to do");
        assert_eq!((none.outputs, none.padding), (Vec::new(), PaddingCount::default()));
    }

    #[test]
    fn the_engines_time_lies_between_the_milestones() {
        let model = executable(stateful(), Script { cost_per_call: Duration::from_millis(5), ..script(&[]) });
        let inputs = [Tensor::from_f32(&[1.0, 2.0])];
        let before = clock::now();
        let ran = model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One).expect("no fault planned");
        let Milestones { gathered, computed } = ran.milestones;
        assert!(before <= gathered && computed <= clock::now(), "{before} {gathered} {computed}");
        assert!(computed.since(gathered) >= Duration::from_millis(5), "{gathered} {computed}");
    }

    #[test]
    fn outputs_on_the_first_axis_are_slices_of_the_batch() {
        let signature =
            Signature { inputs: vec![fp32("x", &[Some(2)])], outputs: vec![fp32("y", &[Some(2)])], ..Signature::default() };
        let model = executable(signature, script(&[]));
        let inputs = [Tensor::from_f32(&[1.0, 2.0])];
        let items = [ItemCall { inputs: &inputs, state: None }; 3];
        let results = model.run(0, &items, CallThreads::One).expect("no fault planned").outputs;
        let addresses: Vec<usize> = results.iter().map(|outputs| outputs[0].data().as_ptr().addr()).collect();
        assert_eq!(addresses[1] - addresses[0], 8);
        assert_eq!(addresses[2] - addresses[1], 8);
    }

    /// A model whose input and output have a dynamic dimension at `axis`, which is padded.
    fn padded(datatype: Datatype, dims: &[Option<usize>], batch_axis: usize, buckets: &[usize]) -> Signature {
        let axis = dims.iter().position(Option::is_none).expect("a dynamic one");
        let input = PaddedInput { position: 0, axis, value: ElementBytes::from_elem(0, size_of_one(datatype)) };
        let pad_to_bucket = !buckets.is_empty();
        Signature {
            inputs: vec![spec("x", datatype, dims, batch_axis)],
            outputs: vec![spec("y", datatype, dims, batch_axis)],
            padding: Some(PaddingRule { inputs: vec![input], mask: None, buckets: buckets.to_vec(), pad_to_bucket }),
            ..Signature::default()
        }
    }

    fn run_rows(model: &Executable, lengths: &[usize]) -> Result<Ran, RunError> {
        let rows: Vec<[Tensor; 1]> = lengths.iter().map(|length| [Tensor::from_f32(&vec![1.0; *length])]).collect();
        let items: Vec<_> = rows.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
        model.run(0, &items, CallThreads::One)
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_item_or_to_its_bucket() {
        for (buckets, elements) in [(&[][..], 3 * 4), (&[8, 16], 3 * 8)] {
            let model = executable(padded(Datatype::Fp32, &[None], 0, buckets), script(&[]));
            let Ran { outputs, padding, .. } = run_rows(&model, &[2, 4, 3]).expect("no fault planned");
            assert_eq!(padding, PaddingCount { elements, padded: elements - (2 + 4 + 3) });
            assert_eq!(outputs.iter().map(|outputs| outputs[0].shape()[0]).collect::<Vec<_>>(), [2, 4, 3]);
        }
    }

    #[test]
    fn a_shorter_items_rows_are_a_slice_of_the_batch() {
        let model = executable(padded(Datatype::Fp32, &[None], 0, &[]), script(&[]));
        let outputs = run_rows(&model, &[1, 3]).expect("no fault planned").outputs;
        let addresses: Vec<usize> = outputs.iter().map(|outputs| outputs[0].data().as_ptr().addr()).collect();
        assert_eq!(addresses[1] - addresses[0], 3 * 4);
    }

    #[test]
    fn state_goes_with_items_of_any_length_and_is_not_padded() {
        let mut signature = padded(Datatype::Fp32, &[None], 0, &[]);
        signature.states = stateful().states;
        let model = executable(signature, script(&[]));
        let streams = slots(2);
        let long = [Tensor::from_f32(&[1.0, 2.0, 4.0])];
        let short = [Tensor::from_f32(&[8.0])];
        let items =
            [(&long, 0), (&short, 1)].map(|(inputs, stream): (_, usize)| ItemCall { inputs, state: Some(&streams[stream]) });
        let outputs = model.run(0, &items, CallThreads::One).expect("no fault planned").outputs;
        assert_eq!(numbers(&outputs[0]), [8.0, 9.0, 11.0]);
        assert_eq!(numbers(&outputs[1]), [16.0]);
        assert_eq!([state_of(&streams[0]), state_of(&streams[1])], [Some(vec![7.0; 4]), Some(vec![8.0; 4])]);
    }

    #[test]
    fn an_output_that_does_not_follow_the_length_is_refused() {
        let tensor = |shape: &[usize]| {
            let bytes = element_count_of(shape) * 4;
            Tensor::new(Datatype::Fp32, Shape::from_slice(shape), vec![0; bytes].into()).expect("as long as it must be")
        };
        let run = |dims: &[Option<usize>], output: &[usize]| {
            let mut signature = padded(Datatype::Fp32, &[None], 0, &[]);
            signature.outputs = vec![fp32("y", dims)];
            let puppet = Puppet { outputs: vec![tensor(output)], ..Puppet::default() };
            let model = Executable::new(Arc::new(puppet), Arc::new(signature), &[LaneThreads::new()]).expect("it starts");
            let outputs = run_rows(&model, &[2, 4])?.outputs;
            Ok::<_, RunError>(outputs.iter().map(|outputs| outputs[0].shape().to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(run(&[None, Some(3)], &[2, 4, 3]), Ok(vec![vec![2, 3], vec![4, 3]]));
        assert_eq!(run(&[Some(3), None], &[2, 3, 4]), Ok(vec![vec![3, 2], vec![3, 4]]));
        assert_eq!(run(&[None, None], &[2, 4, 4]), Ok(vec![vec![2, 2], vec![4, 4]]));
        assert_eq!(run(&[Some(4)], &[2, 4]), Ok(vec![vec![4], vec![4]]), "of fixed size");
        let error = run(&[None], &[2, 2]).expect_err("half the length");
        assert_eq!(
            error.to_string(),
            "the model's outputs are not what its signature says: 'y' came with shape [2, 2] for items padded to a length of 4; \
             the dynamic dimensions of its declared shape [-1, -1] must come out with that length, so give a dimension that does \
             not follow it its size in [[outputs]]"
        );
        assert!(run(&[None, None], &[2, 4, 3]).is_err(), "one of two");
    }

    #[test]
    fn items_whose_padded_inputs_have_no_common_length_are_refused() {
        let mut signature = padded(Datatype::Fp32, &[None], 0, &[]);
        signature.inputs.push(fp32("z", &[None]));
        if let Some(rule) = &mut signature.padding {
            rule.inputs.push(PaddedInput { position: 1, ..rule.inputs[0].clone() });
        }
        let model = executable(signature, script(&[]));
        let run = |x: &[f32], z: &[f32]| {
            let inputs = [Tensor::from_f32(x), Tensor::from_f32(z)];
            model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One).map(|_| ())
        };
        let refused = RunError::BadBatch("the padded inputs of item 0 have no common length above 0".to_owned());
        assert_eq!(run(&[1.0], &[2.0]), Ok(()));
        assert_eq!(run(&[1.0], &[2.0, 3.0]), Err(refused.clone()));
        assert_eq!(run(&[], &[]), Err(refused));
    }

    #[test]
    fn a_state_that_is_an_output_as_well_is_given_to_both() {
        let mut signature = stateful();
        let state = &signature.states[0];
        signature.inputs[0] = spec("x", Datatype::Fp32, &[Some(2), Some(2)], 1);
        signature.outputs[0] = spec(&state.output, Datatype::Fp32, &[Some(2), Some(2)], 1);
        let (plan, positions) = plan_call(&signature);
        assert_eq!(plan.outputs, ["h_next".into()]);
        assert_eq!(positions, [0, 0]);
    }

    #[test]
    fn an_axis_that_is_not_there_is_refused_at_once() {
        let mut signature = stateful();
        signature.inputs[0].batch_axis = Some(2);
        let error = check_axes(&signature).expect_err("x has one dimension and the batch");
        assert_eq!(error.to_string(), "tensor 'x' has its batch on axis 2, but its last axis is 1");
    }

    /// Returns prepared outputs, panics or refuses to start again, and keeps what it was given.
    #[derive(Default)]
    struct Puppet {
        contract: Contract,
        starts: Mutex<Vec<bool>>,
        outputs: Vec<Tensor>,
        shapes_seen: Arc<Mutex<Vec<Vec<usize>>>>,
        panics: bool,
    }

    struct PuppetInstance {
        outputs: Vec<Tensor>,
        shapes_seen: Arc<Mutex<Vec<Vec<usize>>>>,
        panics: bool,
    }

    impl Engine for Puppet {
        fn name(&self) -> &'static str {
            "puppet"
        }

        fn contract(&self) -> &Contract {
            &self.contract
        }

        fn instance(&self, _: &CallPlan, _: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
            let mut starts = self.starts.lock();
            if starts.pop() == Some(false) {
                return Err(EngineError::Load("out of strings".to_owned()));
            }
            let (outputs, shapes_seen) = (self.outputs.clone(), Arc::clone(&self.shapes_seen));
            Ok(Box::new(PuppetInstance { outputs, shapes_seen, panics: self.panics }))
        }
    }

    impl Instance for PuppetInstance {
        fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
            assert!(!self.panics, "the strings tore");
            self.shapes_seen.lock().extend(call.inputs.iter().map(|input| input.shape.to_vec()));
            assert!(call.inputs.iter().all(|input| input.data.as_ptr().align_offset(64) == 0));
            Ok(self.outputs.clone())
        }
    }

    impl Drop for PuppetInstance {
        fn drop(&mut self) {
            assert!(!self.panics || std::thread::panicking(), "and it fell over");
        }
    }

    #[test]
    fn a_broken_instance_is_rebuilt_and_its_loss_is_reported_separately() {
        let signature = Arc::new(Signature { inputs: vec![fp32("x", &[Some(1)])], ..Signature::default() });
        // Taken from the end: the first start succeeds, the next fails, the third succeeds.
        let puppet = Puppet { starts: Mutex::new(vec![true, false, true]), panics: true, ..Puppet::default() };
        let model = Executable::new(Arc::new(puppet), signature, &[LaneThreads::new()]).expect("the first start");
        let inputs = [Tensor::from_f32(&[1.0])];
        let run = || model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One);
        assert_eq!(run(), Err(RunError::Panicked("the strings tore".to_owned())));
        assert_eq!((model.lost(), model.rebuilds()), (None, 0));
        assert_eq!(run(), Err(RunError::InstanceLost("out of strings".to_owned())));
        assert_eq!((model.lost().as_deref(), model.rebuilds()), (Some("out of strings"), 0));
        assert_eq!(run(), Err(RunError::Panicked("the strings tore".to_owned())));
        assert_eq!((model.lost(), model.rebuilds()), (None, 1), "it was rebuilt, though it broke again");
        // The destructor of what is left must not run.
        model.lanes[0].slot.lock().instance = None;
    }

    #[test]
    fn shared_inputs_go_in_once_and_scalars_stay_scalars() {
        let value = Tensor::new(Datatype::Int64, smallvec![], Bytes::from_static(&[0; 8])).expect("one number");
        let shared = vec![SharedInput { name: "rate".into(), value }];
        let mut signature = stateful();
        signature.shared = shared;
        signature.outputs.clear();
        signature.states.clear();
        let puppet = Puppet::default();
        let seen = Arc::clone(&puppet.shapes_seen);
        let model = Executable::new(Arc::new(puppet), Arc::new(signature), &[LaneThreads::new()]).expect("it starts");
        let inputs = [Tensor::from_f32(&[1.0, 2.0])];
        model.run(0, &[ItemCall { inputs: &inputs, state: None }; 3], CallThreads::One).expect("no outputs, no faults");
        assert_eq!(*seen.lock(), [vec![3, 2], vec![]]);
    }

    #[test]
    fn wrong_outputs_are_refused_before_anything_is_written() {
        let tensor = |datatype: Datatype, shape: &[usize]| {
            let bytes = element_count_of(shape) * size_of_one(datatype);
            Tensor::new(datatype, Shape::from_slice(shape), vec![0; bytes].into()).expect("as long as it must be")
        };
        let good_state = tensor(Datatype::Fp32, &[2, 1, 2]);
        let cases = [
            (vec![tensor(Datatype::Fp32, &[1, 2])], "1 outputs came, not 2"),
            (vec![tensor(Datatype::Fp64, &[1, 2]), good_state.clone()], "'y' came as FP64 [1, 2]"),
            (vec![tensor(Datatype::Fp32, &[2, 2]), good_state.clone()], "'y' came as FP32 [2, 2]"),
            (vec![tensor(Datatype::Fp32, &[2]), good_state.clone()], "'y' came as FP32 [2]"),
            (vec![tensor(Datatype::Fp32, &[1, 3]), good_state], "'y' came as FP32 [1, 3]"),
            (vec![tensor(Datatype::Fp32, &[1, 2]), tensor(Datatype::Fp32, &[1, 2, 2])], "'h_next' came as FP32 [1, 2, 2]"),
        ];
        for (outputs, message) in cases {
            let puppet = Puppet { outputs, ..Puppet::default() };
            let model = Executable::new(Arc::new(puppet), Arc::new(stateful()), &[LaneThreads::new()]).expect("it starts");
            let streams = slots(1);
            let error = step(&model, &streams, &[(0, 1.0)]).expect_err("wrong outputs");
            assert!(matches!(error, RunError::WrongOutput(_)) && error.to_string().contains(message), "{error}");
            assert_eq!(state_of(&streams[0]), None);
        }
    }

    fn size_of_one(datatype: Datatype) -> usize {
        datatype.fixed_size().expect("not BYTES")
    }

    fn element_count_of(shape: &[usize]) -> usize {
        shape.iter().product()
    }

    #[test]
    fn a_name_that_the_model_lacks_is_refused() {
        let signature = Arc::new(stateful());
        let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
        assert!(engine.contract().outputs.contains(&DeclaredTensor {
            name: "h_next".to_owned(),
            datatype: Some(Datatype::Fp32),
            dims: Some(vec![Some(2), None, Some(2)]),
            has_default: false,
        }));
        let mut other = stateful();
        other.outputs[0].name = "z".into();
        let error = Executable::new(Arc::new(engine), Arc::new(other), &[LaneThreads::new()]).err().expect("no such output");
        assert_eq!(error, EngineError::Load("synthetic engine: there is no output 'z'".to_owned()));
    }

    #[test]
    fn lanes_run_side_by_side() {
        let signature = Arc::new(stateful());
        let engine = SyntheticEngine::new(Arc::clone(&signature), script(&[])).expect("a sound script");
        let control = engine.control();
        let lanes = [LaneThreads::new(), LaneThreads::new()];
        let model = Executable::new(Arc::new(engine), signature, &lanes).expect("a sound signature");
        assert_eq!((model.lanes(), model.engine_name()), (2, "synthetic"));
        control.close_gate();
        std::thread::scope(|scope| {
            let inputs = [Tensor::from_f32(&[1.0, 2.0])];
            let model = &model;
            let running = [0, 1].map(|lane| {
                let inputs = inputs.clone();
                scope.spawn(move || model.run(lane, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One))
            });
            let both = control.wait_until_held(2, Duration::from_secs(60));
            control.open_gate();
            both.expect("two lanes at the gate at the same time");
            for running in running {
                running.join().expect("no panic").expect("no fault planned");
            }
        });
        assert_eq!((control.calls(), control.held()), (2, 0));
    }

    proptest! {
        #[test]
        fn gather_and_scatter_are_inverse(
            dims in vec(1_usize..5, 0..4), axis in 0_usize..4, batch_size in 1_usize..6,
            datatype in select(&Datatype::ALL[..]).prop_filter("BYTES have no size", |datatype| datatype.fixed_size().is_some()), seed in any::<u8>(),
        ) {
            let declared: Vec<_> = dims.iter().map(|size| Some(*size)).collect();
            let axis = axis.min(dims.len());
            let signature = Signature {
                inputs: vec![spec("x", datatype, &declared, axis)],
                outputs: vec![spec("y", datatype, &declared, axis)],
                ..Signature::default()
            };
            let model = executable(signature, script(&[]));
            let bytes = element_count_of(&dims) * size_of_one(datatype);
            let items: Vec<[Tensor; 1]> = (0..batch_size)
                .map(|index| {
                    let data: Vec<u8> = (0..bytes).map(|at| (at * 31 + index * 7 + usize::from(seed)).to_le_bytes()[0]).collect();
                    [Tensor::new(datatype, Shape::from_slice(&dims), data.into()).expect("as long as it must be")]
                })
                .collect();
            let calls: Vec<_> = items.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
            let results = model.run(0, &calls, CallThreads::One).expect("no fault planned").outputs;
            for (item, result) in items.iter().zip(&results) {
                prop_assert_eq!(&item[..], &result[..]);
            }
        }

        #[test]
        fn padded_items_come_back_as_they_went(
            datatype in select(&[Datatype::Uint8, Datatype::Fp32, Datatype::Int64][..]), before in vec(1_usize..4, 0..3),
            after in vec(1_usize..4, 0..3), batch_axis in 0_usize..6, lengths in vec(1_usize..5, 1..5),
        ) {
            let fixed = |sizes: &[usize]| sizes.iter().map(|size| Some(*size)).collect::<Vec<_>>();
            let dims: Vec<Option<usize>> = [fixed(&before), vec![None], fixed(&after)].concat();
            let model = executable(padded(datatype, &dims, batch_axis.min(dims.len()), &[]), script(&[]));
            let item = |length: &usize| {
                let shape: Shape = dims.iter().map(|dim| dim.unwrap_or(*length)).collect();
                let data: Vec<u8> = (0..element_count_of(&shape) * size_of_one(datatype)).map(|at| (at * 31 + length).to_le_bytes()[0]).collect();
                [Tensor::new(datatype, shape, data.into()).expect("as long as it must be")]
            };
            let items: Vec<[Tensor; 1]> = lengths.iter().map(item).collect();
            let calls: Vec<_> = items.iter().map(|inputs| ItemCall { inputs, state: None }).collect();
            let Ran { outputs, padding, .. } = model.run(0, &calls, CallThreads::One).expect("no fault planned");
            for (item, result) in items.iter().zip(&outputs) {
                prop_assert_eq!(&item[..], &result[..]);
            }
            let longest = lengths.iter().max().copied().unwrap_or_default();
            let rest = element_count_of(&before) * element_count_of(&after);
            let own: usize = lengths.iter().sum();
            let elements = longest * lengths.len() * rest;
            prop_assert_eq!(padding, PaddingCount { elements, padded: elements - own * rest });
        }
    }
}
