//! The other limit: the engine, called directly with nothing around it.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use tidemill::{
    clock,
    domain::{ItemInputs, Signature, Tensor},
    engine::{CallThreads, Executable, ItemCall, LaneThreads, RunError, StreamState},
    registry::{Embedded, Folder, LoadOptions, LoadedModel, ModelSource, Unproven, load_all},
    scheduler::ModelKey,
};
use tidemill_client::wire::v1;

use crate::{
    stats::Durations,
    subject::Subject,
    workload::{Workload, item_of},
};

/// Batch sizes to find the best among. Large models gain nothing from a batch, and some lose.
const BATCH_SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// How long each is tried.
const TRIAL: Duration = Duration::from_millis(400);

/// A model on its own lanes. Clones share the model.
#[derive(Clone)]
pub(crate) struct BareEngine {
    executable: Arc<Executable>,
    lanes: Vec<LaneThreads>,
    inputs: ItemInputs,
    workload: Workload,
}

impl BareEngine {
    pub(crate) fn load(subject: &Subject, lanes: usize) -> anyhow::Result<Self> {
        let lanes = LaneThreads::device(lanes.max(1));
        let options = LoadOptions::new(subject.engine.prepare()?, &lanes, false);
        let source: Box<dyn ModelSource> = match &subject.models {
            Some(folder) => Box::new(Folder::new(folder.clone())),
            None => Box::new(Embedded::SILERO_VAD),
        };
        let registry = load_all(&[&*source], &options, &Unproven(|_: &LoadedModel| Ok(ModelKey::default())))?;
        let model = registry.get(subject.model(), None).map_err(|fault| anyhow!("{fault}"))?;
        let executable = Arc::clone(&model.loaded.executable);
        let mut workload = match subject.models {
            Some(_) => Workload { model: subject.model().to_owned(), item: item_of(&model)?, output_bytes: 0 },
            None => Workload::silero(),
        };
        let inputs = inputs_of(model.signature(), &workload.item)?;
        let call = [ItemCall { inputs: &inputs, state: Some(&StreamState::default()) }];
        let outputs = lanes[0].run(|| executable.run(0, &call, CallThreads::One))?.outputs;
        workload.output_bytes = outputs.iter().flatten().map(|tensor| tensor.data().len()).sum();
        Ok(Self { executable, lanes, inputs, workload })
    }

    /// The items that it is called with, and that are sent to a server of the model.
    pub(crate) const fn workload(&self) -> &Workload {
        &self.workload
    }

    /// One call with one item, on this thread if the engine runs on any.
    pub(crate) fn call(&self, state: &StreamState) -> Result<(), RunError> {
        let item = [ItemCall { inputs: &self.inputs, state: Some(state) }];
        let run = || self.executable.run(0, &item, CallThreads::One).map(|_| ());
        if self.executable.engine().runs_on_any_thread() { run() } else { self.lanes[0].run(run) }
    }

    /// Durations of calls with one item, one after another, on one lane.
    pub(crate) async fn single_calls(&self, calls: usize) -> anyhow::Result<Durations> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let state = StreamState::default();
            let item = [ItemCall { inputs: &engine.inputs, state: Some(&state) }];
            let mut durations = Durations::new()?;
            engine.lanes[0].run(|| -> anyhow::Result<()> {
                for _ in 0..calls {
                    let start = clock::now();
                    engine.executable.run(0, &item, CallThreads::One)?;
                    durations.record(clock::now().since(start));
                }
                Ok(())
            })?;
            Ok(durations)
        })
        .await?
    }

    /// The batch size with the most items per second.
    pub(crate) async fn best_batch(&self) -> anyhow::Result<usize> {
        let mut best = (0.0, 1);
        for batch in BATCH_SIZES {
            let found = self.items_per_s(batch, TRIAL).await?;
            if found > best.0 {
                best = (found, batch);
            }
        }
        Ok(best.1)
    }

    /// Items per second of all lanes together, at one batch size.
    pub(crate) async fn items_per_s(&self, batch: usize, duration: Duration) -> anyhow::Result<f64> {
        let engine = self.clone();
        Ok(tokio::task::spawn_blocking(move || engine.saturate(batch, duration)).await??)
    }

    fn saturate(&self, batch: usize, duration: Duration) -> Result<f64, RunError> {
        let end = clock::now() + duration;
        let lane_rate = |lane: usize| -> Result<f64, RunError> {
            let states: Vec<_> = (0..batch).map(|_| StreamState::default()).collect();
            let items: Vec<_> = states.iter().map(|state| ItemCall { inputs: &self.inputs, state: Some(state) }).collect();
            let start = clock::now();
            let mut calls = 0_u32;
            while clock::now() < end {
                self.executable.run(lane, &items, CallThreads::One)?;
                calls += 1;
            }
            Ok(f64::from(calls) * batch as f64 / clock::now().since(start).as_secs_f64())
        };
        thread::scope(|scope| {
            let lane_rate = &lane_rate;
            let running: Vec<_> = self
                .lanes
                .iter()
                .enumerate()
                .map(|(lane, threads)| scope.spawn(move || threads.run(|| lane_rate(lane))))
                .collect();
            running
                .into_iter()
                .map(|lane| lane.join().unwrap_or_else(|_| Err(RunError::Panicked("a lane died".to_owned()))))
                .sum()
        })
    }
}

/// An item as the engine takes it.
fn inputs_of(signature: &Signature, item: &v1::Item) -> anyhow::Result<ItemInputs> {
    let specs = signature.inputs.iter();
    specs
        .map(|spec| {
            let sent = item.inputs.iter().find(|tensor| *tensor.name == *spec.name);
            let sent = sent.with_context(|| format!("there is nothing for input '{}'", spec.name))?;
            let shape = sent.shape.iter().map(|size| *size as usize).collect();
            Ok(Tensor::new(spec.datatype, shape, sent.data.clone())?)
        })
        .collect()
}
