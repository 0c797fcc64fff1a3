//! Items to batches and back: gathers items into one model call and scatters its outputs.
//!
//! Knows signatures and engines, and when the parts of a call are over. Knows no queue, no stream and no metrics.
//!
//! # Padding
//! Items of a padded model may differ in length. They are gathered into a batch of one length, and of each output every dynamic
//! dimension must come out with that length, so that each item gets back its own length. State is never padded.
//!
//! # BYTES
//! Their elements differ in length, so nothing about them can be computed from shapes alone; `byte_strings` has what they need.
//!
//! # State
//! A call reads the items' states before it runs and writes them after everything that can fail: a call that returns an error has
//! changed no state. Only the engine knows what a state is; see [`StateKeeper`]. No two items of a call may share a
//! [`StreamState`].
//!
//! # Panics of an engine
//! They end the call with [`RunError::Panicked`]. The lane's instance is dropped, and the lane's next call makes a new one.

mod gather;
mod instances;
mod scatter;
#[cfg(test)]
mod tests;

use std::{ops::ControlFlow, sync::Arc};

use smallvec::SmallVec;
use tidemill_clock as clock;
use tidemill_domain::{Shape, Signature, StateSpec, Tensor, TensorSpec};

use self::instances::{Instances, LaneSlot};
use super::{
    Call, CallPlan, CallThreads, Engine, EngineError, ItemCall, ItemParts, LaneThreads, Milestones, PaddingCount, Parts, Ran,
    RunError, StateKeeper, StreamState, TensorView,
    buffer::{AlignedBuffer, BufferPool},
    byte_strings,
    checks::{check_axes, check_items},
    lengths::Lengths,
};

/// How many unused buffers a model keeps for outputs that cannot be slices of a call's.
const POOLED_BUFFERS_MAX: usize = 16;
/// Bytes of all these buffers.
const POOLED_BYTES_MAX: usize = 16 << 20;

/// A model that can be called: an engine, a signature, and one instance for each lane.
pub struct Executable {
    signature: Arc<Signature>,
    /// Where each of the signature's outputs, then states, stands in the plan's outputs.
    output_positions: Vec<usize>,
    /// The shared inputs' values, aligned.
    shared: Vec<AlignedBuffer>,
    states: Box<dyn StateKeeper>,
    /// The outputs that are the next states.
    next_states: Vec<TensorSpec>,
    instances: Instances,
    /// Whether an item may get several answers; kept, because each call asks.
    is_decoupled: bool,
    pool: Arc<BufferPool>,
}

type Shapes = SmallVec<[Shape; 4]>;

impl Executable {
    /// Binds `engine` to `signature` and makes one instance for each of `lanes` except the long ones, where most models never
    /// run.
    ///
    /// # Errors
    /// [`EngineError`] if a batch axis of the signature does not exist, only some of its tensors have one, a tensor of BYTES stands where none can, or the engine
    /// lacks one of the signature's names or fails.
    pub fn new(engine: Arc<dyn Engine>, signature: Arc<Signature>, lanes: &[LaneThreads]) -> Result<Self, EngineError> {
        check_axes(&signature)?;
        byte_strings::check(&signature)?;
        let (plan, output_positions) = plan_call(&signature);
        let scratch_count = signature.inputs.len() + signature.states.len();
        let shared = signature.shared.iter().map(|shared| aligned(shared.value.data())).collect();
        let is_decoupled = engine.is_decoupled();
        let states = engine.state_keeper(&signature.states)?;
        let next_states = signature.states.iter().map(next_state).collect();
        let instances = Instances::new(engine, plan, lanes, scratch_count)?;
        let pool = BufferPool::new(POOLED_BUFFERS_MAX, POOLED_BYTES_MAX);
        Ok(Self { signature, output_positions, shared, states, next_states, instances, is_decoupled, pool })
    }

    /// The model's inputs and outputs.
    #[must_use]
    pub const fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    /// The engine that runs the calls.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.instances.engine()
    }

    /// The engine's name, for people and metrics.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.engine().name()
    }

    /// Whether a call gains anything from [`CallThreads::All`]: the engine can use them, and there is more than one lane.
    #[must_use]
    #[inline]
    pub fn can_widen(&self) -> bool {
        self.engine().can_widen() && self.lanes() > 1
    }

    /// Whether an item may get several answers.
    #[must_use]
    pub const fn is_decoupled(&self) -> bool {
        self.is_decoupled
    }

    /// Instances made again because a call panicked.
    #[must_use]
    pub fn rebuilds(&self) -> u64 {
        self.instances.rebuilds()
    }

    /// Why an instance could not be made again after a panic, if that happened: until one can, the model is
    /// unreliable.
    #[must_use]
    pub fn lost(&self) -> Option<Arc<str>> {
        self.instances.lost()
    }

    /// Returns memory that was needed only for batches larger than any since the previous call. Call it now and then; otherwise one
    /// unusually large call is paid for until the model goes.
    pub fn trim(&self) {
        self.instances.trim();
        self.pool.trim();
        self.engine().trim();
    }

    /// How many lanes can run calls at the same time, besides the long ones, which come after them.
    #[must_use]
    #[inline]
    pub fn lanes(&self) -> usize {
        self.instances.lanes()
    }

    /// A stream's state that holds these tensors, one for each of the signature's states, without batch dimension.
    ///
    /// # Errors
    /// [`RunError::BadBatch`] if they are not what the signature says.
    pub fn state_of(&self, tensors: &[Tensor]) -> Result<StreamState, RunError> {
        self.states.make(tensors)
    }

    /// The tensors that a stream's state holds; `None` if it is empty.
    #[must_use]
    pub fn state_tensors(&self, state: &StreamState) -> Option<Vec<Tensor>> {
        self.states.read(state)
    }

    /// Runs `items` as one call on lane number `lane`, computing on `threads`. Never panics.
    ///
    /// # Errors
    /// [`RunError`], for all the items.
    pub fn run(&self, lane: usize, items: &[ItemCall<'_>], threads: CallThreads) -> Result<Ran, RunError> {
        self.run_giving(lane, items, threads, None)
    }

    /// The same, where items may get several answers: those before the last go to `parts` as soon as they are there, if the model gives
    /// any ([`Executable::is_decoupled`]).
    ///
    /// # Errors
    /// As [`Executable::run`]; what `parts` has taken stays.
    pub fn run_in_parts(
        &self,
        lane: usize,
        items: &[ItemCall<'_>],
        threads: CallThreads,
        parts: &mut dyn ItemParts,
    ) -> Result<Ran, RunError> {
        self.run_giving(lane, items, threads, self.is_decoupled.then_some(parts))
    }

    fn run_giving(
        &self,
        lane: usize,
        items: &[ItemCall<'_>],
        threads: CallThreads,
        parts: Option<&mut dyn ItemParts>,
    ) -> Result<Ran, RunError> {
        let Some((lane, mut slot)) = self.instances.occupy(lane) else {
            return Err(RunError::BadBatch(format!("there is no lane {lane}; the model has {}", self.instances.count())));
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
        let inputs = self.views(&shapes, scratch);
        let call = Call { inputs: &inputs, batch_size: items.len(), threads };
        let outputs = match parts {
            None => self.instances.call(lane, instance, &call, None)?,
            Some(parts) => {
                let mut cutter = Cutter { executable: self, items, lengths: lengths.as_ref(), parts, fault: None };
                let outputs = self.instances.call(lane, instance, &call, Some(&mut cutter))?;
                cutter.fault.map_or(Ok(outputs), Err)?
            }
        };
        let computed = clock::now();
        let outputs = self.scatter(items, lengths.as_ref(), &outputs)?;
        Ok(Ran { outputs, padding, milestones: Milestones { gathered, computed } })
    }

    /// The inputs of a call in the plan's order.
    fn views<'a>(&'a self, shapes: &'a [Shape], scratch: &'a [AlignedBuffer]) -> SmallVec<[TensorView<'a>; 4]> {
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
        inputs
    }
}

/// Cuts the answers of a running call into items.
struct Cutter<'a> {
    executable: &'a Executable,
    items: &'a [ItemCall<'a>],
    lengths: Option<&'a Lengths>,
    parts: &'a mut dyn ItemParts,
    /// The fault in one of them.
    fault: Option<RunError>,
}

impl Parts for Cutter<'_> {
    fn give(&mut self, outputs: Vec<Tensor>) -> ControlFlow<()> {
        match self.executable.item_outputs(self.items, self.lengths, &outputs) {
            Ok(outputs) => self.parts.give(outputs),
            Err(fault) => {
                self.fault = Some(fault);
                ControlFlow::Break(())
            }
        }
    }
}

/// The gathered inputs of a call.
struct Gathered {
    /// The batch shapes of the inputs, then of the states.
    shapes: Shapes,
    padding: PaddingCount,
}

/// The plan of a call, and where each output, then state, stands in it. A state's output may be one of the item's outputs as
/// well; the engine is asked for it once.
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

/// A state as it comes out of a call.
fn next_state(spec: &StateSpec) -> TensorSpec {
    let dims = spec.dims.iter().map(|size| Some(*size)).collect();
    TensorSpec { name: Arc::clone(&spec.output), datatype: spec.datatype, dims, batch_axis: spec.batch_axis }
}

fn aligned(bytes: &[u8]) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::with_capacity(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}
