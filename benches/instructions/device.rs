//! A queue with one lane that works when asked to, and a model that copies its input.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidemill::{
    device::{Device, StreamHandle},
    domain::{Datatype, Shape, StateSpec, Tensor},
    engine::{Call, CallPlan, Contract, Engine, EngineError, Executable, Instance, LaneThreads},
    registry::Model,
    scheduler::{CostCurve, ModelKey, ModelOptions, StreamOptions},
    telemetry::Telemetry,
};

use crate::{
    BATCH, BYTES,
    identity::{ADMISSION, install, signature},
};

/// The assumed times of a call smaller than a batch, and of a whole batch. The scheduler learns what calls really take from the
/// clock, and that differs from run to run. Starting with these, it never comes to prefer smaller batches.
const SMALL_CALL: Duration = Duration::from_secs(1);
pub(crate) const FULL_CALL: Duration = Duration::from_millis(1);

/// FP32 values in the state of a stream.
const STATE_VALUES: usize = 256;

pub(crate) struct Bench {
    device: Arc<Device>,
    pub(crate) model: Arc<Model>,
    pub(crate) telemetry: Telemetry,
}

impl Bench {
    pub(crate) fn new(stateful: bool) -> Self {
        let telemetry = Telemetry::new();
        let device = Device::new(1, ADMISSION, &telemetry);
        let model = install(&device, &telemetry, executable(stateful), model_options(stateful));
        Self { device, model, telemetry }
    }

    /// An open stream.
    pub(crate) fn open(&self) -> StreamHandle {
        self.device.open(StreamOptions::of(self.model.key)).expect("the model is there")
    }

    /// Has the lane run the queued batch. Finding the lane idle afterwards is left to the next turn, as under load.
    pub(crate) fn turn(&self) {
        assert!(self.device.turn(0), "a batch is queued");
    }

    /// Items that wait.
    pub(crate) fn queued(&self) -> usize {
        queued(&self.device, self.model.key)
    }
}

/// Items of a model that wait.
pub(crate) fn queued(device: &Device, model: ModelKey) -> usize {
    device.status(model).expect("the model is there").queued
}

/// Batches are as large as they may be.
pub(crate) fn model_options(stateful: bool) -> ModelOptions {
    ModelOptions {
        curve: CostCurve::new([[SMALL_CALL; 4].as_slice(), &[FULL_CALL]].concat()),
        item_bytes: BYTES,
        max_batch: BATCH,
        max_delay: Duration::ZERO,
        max_call_bytes: 1 << 30,
        stateful,
        padding_waste_max: None,
        wide_ratio: None,
    }
}

/// A model that copies.
pub(crate) fn executable(stateful: bool) -> Executable {
    let state = StateSpec {
        input: "h".into(),
        output: "next_h".into(),
        datatype: Datatype::Fp32,
        dims: Shape::from_slice(&[STATE_VALUES]),
        batch_axis: Some(0),
    };
    let signature = signature(if stateful { vec![state] } else { Vec::new() });
    let engine = Copier { contract: Contract::default() };
    Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound model")
}

/// The bytes of an item.
pub(crate) fn data() -> Bytes {
    Bytes::from(vec![1; BYTES])
}

/// Each output and next state is the input or state in its place: so what is counted is what the server does around the engine.
struct Copier {
    contract: Contract,
}

impl Engine for Copier {
    fn name(&self) -> &'static str {
        "copier"
    }

    fn contract(&self) -> &Contract {
        &self.contract
    }

    fn instance(&self, _plan: &CallPlan, _threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        Ok(Box::new(Self { contract: Contract::default() }))
    }
}

impl Instance for Copier {
    fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
        let copied = call.inputs.iter().map(|input| {
            let (shape, data) = (Shape::from_slice(input.shape), Bytes::copy_from_slice(input.data));
            Tensor::new(input.datatype, shape, data).map_err(|error| EngineError::Run(error.to_string()))
        });
        copied.collect()
    }
}
