//! The other limit: the engine called directly, with nothing around it.

use std::{sync::Arc, thread, time::Duration};

use anyhow::anyhow;
use smallvec::smallvec;
use tidemill::{
    clock,
    domain::{Datatype, ItemInputs, StateSlot, Tensor},
    engine::{CallThreads, Executable, ItemCall, LaneThreads, RunError},
    registry::{Embedded, EngineChoice, LoadOptions, load_all},
    scheduler::ModelKey,
};

use crate::{
    stats::Durations,
    workload::{SILERO_VALUES, Workload},
};

/// Batch sizes that are tried for the best.
const BATCH_SIZES: [usize; 5] = [4, 8, 16, 32, 64];
/// How long each of them is tried.
const TRIAL: Duration = Duration::from_millis(400);

/// Silero VAD on lanes of its own. Clones share the model.
#[derive(Clone)]
pub(crate) struct BareEngine {
    executable: Arc<Executable>,
    lanes: Vec<LaneThreads>,
    inputs: ItemInputs,
}

impl BareEngine {
    pub(crate) fn silero(lanes: usize) -> anyhow::Result<Self> {
        let lanes = LaneThreads::device(lanes.max(1));
        let options = LoadOptions { engine_default: EngineChoice::Rten, lanes: &lanes, keep_going: false };
        let workload = Workload::silero();
        let registry = load_all(&[&Embedded], &options, &|_| Ok(ModelKey::default()))?;
        let model = registry.get(&workload.model, None).map_err(|fault| anyhow!("{fault}"))?;
        let tensor = Tensor::new(Datatype::Fp32, smallvec![SILERO_VALUES], workload.data())?;
        Ok(Self { executable: Arc::clone(&model.loaded.executable), lanes, inputs: smallvec![tensor] })
    }

    /// Durations of calls with one item, one after the other, on one lane.
    pub(crate) async fn single_calls(&self, calls: usize) -> anyhow::Result<Durations> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let state = StateSlot::default();
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
            let states: Vec<_> = (0..batch).map(|_| StateSlot::default()).collect();
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
