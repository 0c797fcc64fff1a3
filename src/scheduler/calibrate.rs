//! Measures what a model's calls cost before it serves.

use std::{sync::Arc, thread, time::Duration};

use super::cost::CostCurve;
use crate::{
    clock,
    domain::{Datatype, ItemInputs, StateSlot, Tensor},
    engine::{Executable, ItemCall, LaneThreads, RunError},
};

/// Calls at each batch size; their median counts. Fewer than five would under-estimate too often.
const CALLS: usize = 9;
/// Calls at sizes so slow that [`CALLS`] would break the budget.
const CALLS_MIN: usize = 3;
/// Size given to dynamic dimensions, such as the length of a text.
const DYNAMIC_DIM: usize = 32;

/// Why the cost could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A call on zeros failed.
    #[error("a trial call with {batch} items of zeros failed: {error}")]
    Call {
        /// Items in the call.
        batch: usize,
        /// What the engine said.
        error: RunError,
    },
    /// An input is too large to make up.
    #[error("input '{0}' is too large for a trial call")]
    Input(Arc<str>),
}

/// Runs the model on zeros at batch sizes 1, 2, 4, … up to `max_batch`, on all lanes at once, because calls slow each other down
/// and the scheduler needs the cost under load. Stops early when `budget` is spent; larger batches are not formed then.
///
/// # Errors
/// [`CalibrationError`] if a call fails.
pub fn calibrate(
    executable: &Executable,
    lanes: &[LaneThreads],
    max_batch: usize,
    budget: Duration,
) -> Result<CostCurve, CalibrationError> {
    let item = zero_item(executable)?;
    let mut medians: Vec<Duration> = Vec::new();
    let started = clock::now();
    for batch in (0..usize::BITS).map(|power| 1_usize << power).take_while(|batch| *batch <= max_batch.max(1)) {
        let left = budget.saturating_sub(clock::now().since(started));
        let expected = medians.last().map_or(Duration::ZERO, |last| *last * 2);
        if !medians.is_empty() && expected * CALLS_MIN as u32 > left {
            break;
        }
        let affordable = left.as_nanos() / expected.as_nanos().max(1);
        let calls = usize::try_from(affordable).unwrap_or(CALLS).clamp(CALLS_MIN, CALLS);
        medians.push(measure(executable, lanes, &item, batch, calls).map_err(|error| CalibrationError::Call { batch, error })?);
    }
    Ok(CostCurve::new(medians))
}

/// The median over all calls of all lanes, after one call each to warm up.
fn measure(
    executable: &Executable,
    lanes: &[LaneThreads],
    item: &ItemInputs,
    batch: usize,
    calls: usize,
) -> Result<Duration, RunError> {
    let lane_durations = |lane: usize| -> Result<Vec<Duration>, RunError> {
        let states: Vec<StateSlot> = (0..batch).map(|_| StateSlot::default()).collect();
        let items: Vec<_> = states.iter().map(|state| ItemCall { inputs: item, state: Some(state) }).collect();
        executable.run(lane, &items)?;
        let timed = |_| {
            let start = clock::now();
            executable.run(lane, &items)?;
            Ok(clock::now().since(start))
        };
        (0..calls).map(timed).collect()
    };
    let results = thread::scope(|scope| {
        let lane_durations = &lane_durations;
        let spawned: Vec<_> =
            lanes.iter().enumerate().map(|(index, compute)| scope.spawn(move || compute.run(|| lane_durations(index)))).collect();
        spawned
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err(RunError::Panicked("a lane died while it measured".to_owned()))))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut durations: Vec<Duration> = results.into_iter().flatten().collect();
    durations.sort_unstable();
    Ok(durations.get(durations.len() / 2).copied().unwrap_or_default())
}

/// One item of zeros.
fn zero_item(executable: &Executable) -> Result<ItemInputs, CalibrationError> {
    let zeros = |datatype: Datatype, dims: &[Option<usize>]| {
        let shape: crate::domain::Shape = dims.iter().map(|dim| dim.unwrap_or(DYNAMIC_DIM)).collect();
        let bytes = crate::domain::element_count(&shape)?.checked_mul(datatype.size()).filter(|bytes| *bytes <= 1 << 30)?;
        Tensor::new(datatype, shape, vec![0; bytes].into()).ok()
    };
    let inputs = &executable.signature().inputs;
    inputs
        .iter()
        .map(|input| zeros(input.datatype, &input.dims).ok_or_else(|| CalibrationError::Input(Arc::clone(&input.name))))
        .collect()
}
