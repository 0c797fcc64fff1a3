//! Measures what a model's calls cost before it serves.

use std::{sync::Arc, thread, time::Duration};

use super::cost::CostCurve;
use crate::{
    clock,
    domain::{Datatype, ItemInputs, Shape, Signature, StateSlot, Tensor, TensorSpec, element_count, push_element},
    engine::{CallThreads, Executable, ItemCall, LaneThreads, RunError},
};

/// Calls at each batch size; their median counts. Fewer than five would under-estimate too often.
const CALLS: usize = 9;
/// Calls at sizes so slow that [`CALLS`] would break the budget.
const CALLS_MIN: usize = 3;
/// Size given to dynamic dimensions, such as the length of a text, and to strings.
const DYNAMIC_DIM: usize = 32;
/// The gain of all threads is measured by two series of calls, each within this part of the budget, so that larger batches are
/// still measured.
const WIDE_SHARE: u32 = 8;
/// Bytes of an input that is made up.
const INPUT_BYTES_MAX: usize = 1 << 30;

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

/// What a model's calls cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The time of a call at each batch size, while all lanes compute.
    pub curve: CostCurve,
    /// What a call gains from all threads; `None` if it cannot use them.
    pub wide: Option<WideGain>,
    /// Input bytes of the made-up item that was measured. Dynamic dimensions had a size of 32, or that of the last bucket of
    /// the padding if it is smaller.
    pub item_bytes: usize,
}

/// The time of a call with one item on all threads, divided by its time on one, both on an otherwise idle device.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct WideGain(pub f64);

/// Runs the model on zeros at batch sizes 1, 2, 4, … up to `max_batch`, on all lanes at once, because calls slow each other down
/// and the scheduler needs the cost under load. Stops early when `budget` is spent; larger batches are not formed then. If the
/// engine can use all threads for one call, that is measured as well, on one lane with the others idle.
///
/// # Errors
/// [`CalibrationError`] if a call fails.
pub fn calibrate(
    executable: &Executable,
    lanes: &[LaneThreads],
    max_batch: usize,
    budget: Duration,
) -> Result<Calibration, CalibrationError> {
    let item = zero_item(executable.signature())?;
    let mut medians: Vec<Duration> = Vec::new();
    let mut wide = None;
    let started = clock::now();
    for batch in (0..usize::BITS).map(|power| 1_usize << power).take_while(|batch| *batch <= max_batch.max(1)) {
        let failed = |error| CalibrationError::Call { batch, error };
        let left = budget.saturating_sub(clock::now().since(started));
        let expected = medians.last().map_or(Duration::ZERO, |last| *last * 2);
        if !medians.is_empty() && expected * CALLS_MIN as u32 > left {
            break;
        }
        medians.push(measure(executable, lanes, &item, batch, left).map_err(failed)?);
        if batch == 1 && executable.can_widen() {
            wide = measure_wide(executable, lanes, &item, budget / WIDE_SHARE).map_err(failed)?;
        }
    }
    let item_bytes = item.iter().map(|tensor| tensor.data().len()).sum();
    Ok(Calibration { curve: CostCurve::new(medians), wide, item_bytes })
}

/// The same beside lanes that are at work, on one thread that is none of theirs: it takes no lane's time, only its share of a core.
/// The cost is that of the machine as busy as it is. Then each lane's instance is called once, as far as another `budget` goes, so that
/// no client pays for its first call.
///
/// # Errors
/// [`CalibrationError`] if a call fails.
pub fn calibrate_beside(executable: &Executable, max_batch: usize, budget: Duration) -> Result<Calibration, CalibrationError> {
    let beside = LaneThreads::new();
    let calibration = calibrate(executable, std::slice::from_ref(&beside), max_batch, budget)?;
    let item = zero_item(executable.signature())?;
    let call = ItemCall { inputs: &item, state: None };
    let failed = |error| CalibrationError::Call { batch: 1, error };
    let started = clock::now();
    for lane in (1..executable.lanes()).take_while(|_| clock::now().since(started) <= budget) {
        beside.run(|| executable.run(lane, &[call], CallThreads::One)).map_err(failed)?;
    }
    Ok(calibration)
}

/// How many calls that take `each` fit into `time`, within reason.
fn affordable(time: Duration, each: Duration) -> usize {
    let affordable = time.as_nanos() / each.as_nanos().max(1);
    usize::try_from(affordable).unwrap_or(CALLS).clamp(CALLS_MIN, CALLS)
}

/// The median over all calls of all lanes.
fn measure(
    executable: &Executable,
    lanes: &[LaneThreads],
    item: &ItemInputs,
    batch: usize,
    budget: Duration,
) -> Result<Duration, RunError> {
    let work = |lane: usize| durations(executable, lane, (item, batch), CallThreads::One, budget);
    let results = thread::scope(|scope| {
        let work = &work;
        let spawned: Vec<_> =
            lanes.iter().enumerate().map(|(index, compute)| scope.spawn(move || compute.run(|| work(index)))).collect();
        spawned
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err(RunError::Panicked("a lane died while it measured".to_owned()))))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(median(results.into_iter().flatten().collect()))
}

/// One item on the first lane, with its own thread and with all, while the other lanes are idle.
fn measure_wide(
    executable: &Executable,
    lanes: &[LaneThreads],
    item: &ItemInputs,
    budget: Duration,
) -> Result<Option<WideGain>, RunError> {
    let Some(lane) = lanes.first() else { return Ok(None) };
    let [one, all] =
        [CallThreads::One, CallThreads::All].map(|threads| lane.run(|| durations(executable, 0, (item, 1), threads, budget)));
    let (one, all) = (median(one?), median(all?));
    Ok(Some(WideGain(all.as_secs_f64() / one.max(Duration::from_nanos(1)).as_secs_f64())))
}

/// What calls with `batch` times the same item take, as many as fit into `budget`. One to warm up comes first and says how many:
/// nothing else is known of a model's first call.
fn durations(
    executable: &Executable,
    lane: usize,
    (item, batch): (&ItemInputs, usize),
    threads: CallThreads,
    budget: Duration,
) -> Result<Vec<Duration>, RunError> {
    let states: Vec<StateSlot> = (0..batch).map(|_| StateSlot::default()).collect();
    let items: Vec<_> = states.iter().map(|state| ItemCall { inputs: item, state: Some(state) }).collect();
    let timed = || {
        let start = clock::now();
        executable.run(lane, &items, threads)?;
        Ok(clock::now().since(start))
    };
    let first = timed()?;
    (0..affordable(budget.saturating_sub(first), first)).map(|_| timed()).collect()
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}

/// Zero, or one for a mask. A string is a text of zeros: a model may read a number in it, and what it costs follows its length.
fn made_up_element(datatype: Datatype, is_mask: bool) -> Option<Vec<u8>> {
    if is_mask {
        return datatype.one().map(<[u8]>::to_vec);
    }
    let Some(bytes) = datatype.fixed_size() else {
        let mut element = Vec::new();
        push_element(&mut element, &[b'0'; DYNAMIC_DIM]).ok()?;
        return Some(element);
    };
    Some(vec![0; bytes])
}

/// One item of zeros, with a mask of ones if the model has one.
fn zero_item(signature: &Signature) -> Result<ItemInputs, CalibrationError> {
    let padding = signature.padding.as_ref();
    let length = padding.and_then(|rule| rule.buckets.last()).map_or(DYNAMIC_DIM, |limit| (*limit).min(DYNAMIC_DIM));
    let mask = padding.and_then(|rule| rule.mask);
    let tensor = |position: usize, input: &TensorSpec| {
        let shape: Shape = input.dims.iter().map(|dim| dim.unwrap_or(length)).collect();
        let elements = element_count(&shape)?;
        let element = made_up_element(input.datatype, mask == Some(position))?;
        elements.checked_mul(element.len()).filter(|bytes| *bytes <= INPUT_BYTES_MAX)?;
        Tensor::new(input.datatype, shape, element.repeat(elements).into()).ok()
    };
    let inputs = signature.inputs.iter().enumerate();
    inputs
        .map(|(position, input)| tensor(position, input).ok_or_else(|| CalibrationError::Input(Arc::clone(&input.name))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{ElementBytes, PaddedInput, PaddingRule},
        engine::synthetic::{CostMode, Script, SyntheticEngine, SyntheticKind},
    };

    fn signature() -> Signature {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![None], batch_axis: Some(0) };
        let padded = |position| PaddedInput { position, axis: 0, value: ElementBytes::from_elem(0, 4) };
        let rule = PaddingRule { inputs: vec![padded(0), padded(1)], mask: Some(1), buckets: vec![4, 8], pad_to_bucket: false };
        Signature { inputs: vec![spec("x"), spec("mask")], outputs: vec![spec("y")], padding: Some(rule), ..Signature::default() }
    }

    fn calibrate_with(wide_speedup: Option<f64>, lanes: usize) -> Calibration {
        let cost_per_call = Duration::from_millis(4);
        let kind = SyntheticKind::Identity;
        let script = Script { kind, cost_per_call, cost_mode: CostMode::Blocked, wide_speedup, ..Script::default() };
        let signature = Arc::new(signature());
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        let lanes = LaneThreads::device(lanes);
        let executable = Executable::new(Arc::new(engine), signature, &lanes).expect("a sound signature");
        calibrate(&executable, &lanes, 1, Duration::from_secs(1)).expect("no fault planned")
    }

    #[test]
    fn a_model_whose_first_call_spends_the_budget_is_called_as_seldom_as_can_be() {
        let cost_per_call = Duration::from_millis(4);
        let script = Script { cost_per_call, cost_mode: CostMode::Blocked, ..Script::default() };
        let signature = Arc::new(signature());
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        let (control, lanes) = (engine.control(), LaneThreads::device(1));
        let executable = Executable::new(Arc::new(engine), signature, &lanes).expect("a sound signature");
        calibrate(&executable, &lanes, 64, cost_per_call).expect("no fault planned");
        assert_eq!(control.calls(), 1 + CALLS_MIN as u64);
    }

    #[test]
    fn what_all_threads_gain_is_measured_only_where_they_can_be_used() {
        assert!(calibrate_with(Some(4.0), 2).wide.is_some());
        assert_eq!(calibrate_with(None, 2).wide, None);
        assert_eq!(calibrate_with(Some(4.0), 1).wide, None);
    }

    #[test]
    fn beside_busy_lanes_one_thread_measures_and_each_instance_is_called() {
        let signature = Arc::new(signature());
        let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
        let (control, lanes) = (engine.control(), LaneThreads::device(3));
        let executable = Executable::new(Arc::new(engine), signature, &lanes).expect("a sound signature");
        calibrate_beside(&executable, 1, Duration::from_secs(30)).expect("no fault planned");
        assert_eq!(control.calls(), 1 + CALLS as u64 + 2);
    }

    #[test]
    fn the_made_up_item_fits_the_last_bucket_and_its_mask_is_ones() {
        let item = zero_item(&signature()).expect("small");
        assert_eq!(item[0], Tensor::from_f32(&[0.0; 8]));
        assert_eq!(item[1], Tensor::from_f32(&[1.0; 8]));
        assert_eq!(calibrate_with(None, 1).item_bytes, 64);
    }
    #[test]
    fn a_made_up_string_is_a_text_that_is_a_number_too() {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Bytes, dims: vec![Some(2)], batch_axis: Some(0) };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
        let item = zero_item(&signature).expect("small");
        let texts: Vec<_> = item[0].byte_elements().expect("BYTES").map(std::str::from_utf8).collect();
        assert_eq!(texts, [Ok("0".repeat(32).as_str()); 2]);
        assert_eq!("0".repeat(32).parse(), Ok(0_i64));
    }
}
