//! Models of the synthetic engine, and of one that returns what the test prepares.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*, sample::select};
use smallvec::smallvec;
use tidemill_domain::{Datatype, ElementBytes, ItemOutputs, PaddedInput, PaddingRule, SharedInput, StateSpec, TensorSpec};

use super::*;
use crate::{
    Contract, DeclaredTensor, Instance,
    synthetic::{Misbehaviour, PlannedFault, Script, SyntheticEngine, SyntheticKind, Trigger},
};

fn spec(name: &str, datatype: Datatype, dims: &[Option<usize>], batch_axis: usize) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), batch_axis: Some(batch_axis) }
}

pub(super) fn fp32(name: &str, dims: &[Option<usize>]) -> TensorSpec {
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

pub(super) fn executable(signature: Signature, script: Script) -> Executable {
    let signature = Arc::new(signature);
    let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
    Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature")
}

pub(super) fn script(faults: &[(Trigger, Misbehaviour)]) -> Script {
    let faults = faults.iter().map(|(when, what)| PlannedFault { when: *when, what: *what }).collect();
    Script { kind: SyntheticKind::Identity, faults, ..Script::default() }
}

fn numbers(outputs: &ItemOutputs) -> Vec<f32> {
    outputs[0].iter_f32().expect("FP32").collect()
}

fn state_of(model: &Executable, stream: &StreamState) -> Option<Vec<f32>> {
    model.state_tensors(stream).map(|tensors| tensors[0].iter_f32().expect("FP32").collect())
}

/// One step of the given streams, by (stream, first number).
fn step(model: &Executable, streams: &[StreamState], items: &[(usize, f32)]) -> Result<Vec<Vec<f32>>, RunError> {
    let inputs: Vec<[Tensor; 1]> = items.iter().map(|(_, value)| [Tensor::from_f32(&[*value, 1.0])]).collect();
    let calls: Vec<ItemCall<'_>> =
        items.iter().zip(&inputs).map(|((stream, _), inputs)| ItemCall { inputs, state: Some(&streams[*stream]) }).collect();
    Ok(model.run(0, &calls, CallThreads::One)?.outputs.iter().map(numbers).collect())
}

fn slots(count: usize) -> Vec<StreamState> {
    (0..count).map(|_| StreamState::default()).collect()
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
    assert_eq!(state_of(&model, &together[1]), Some(vec![63.0; 4]), "10 + 20 + 30, and one for each step");
    for (together, alone) in together.iter().zip(&alone) {
        assert_eq!(state_of(&model, together), state_of(&model, alone));
    }
}

/// Keeps a stream's one number in its own form.
struct Thousandths;

impl StateKeeper for Thousandths {
    fn gather(&self, items: &[ItemCall<'_>], batch: &mut [AlignedBuffer]) -> Result<(), RunError> {
        let number = |state: &StreamState| {
            let thousandths: Option<i64> = state.with(|kept| kept.as_ref()?.downcast_ref().copied());
            thousandths.unwrap_or_default() as f32 / 1_000.0
        };
        batch[0].clear();
        for item in items {
            batch[0].extend_from_slice(&item.state.map_or(0.0, number).to_le_bytes());
        }
        Ok(())
    }

    fn scatter(&self, items: &[ItemCall<'_>], next: &[&Tensor]) -> Result<(), RunError> {
        for (item, number) in items.iter().zip(next[0].iter_f32().expect("FP32")) {
            if let Some(state) = item.state {
                state.with(|kept| *kept = Some(Box::new((number * 1_000.0) as i64)));
            }
        }
        Ok(())
    }

    fn make(&self, _: &[Tensor]) -> Result<StreamState, RunError> {
        Ok(StreamState::default())
    }

    fn read(&self, _: &StreamState) -> Option<Vec<Tensor>> {
        None
    }
}

/// The synthetic engine with such states.
struct Peculiar(SyntheticEngine);

impl Engine for Peculiar {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn contract(&self) -> &Contract {
        self.0.contract()
    }

    fn state_keeper(&self, _: &[StateSpec]) -> Result<Box<dyn StateKeeper>, EngineError> {
        Ok(Box::new(Thousandths))
    }

    fn instance(&self, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        self.0.instance(plan, threads)
    }
}

#[test]
fn an_engine_may_keep_states_in_a_form_of_its_own() {
    let mut signature = stateful();
    (signature.states[0].dims, signature.states[0].batch_axis) = (smallvec![1], Some(0));
    let signature = Arc::new(signature);
    let engine = SyntheticEngine::new(Arc::clone(&signature), script(&[(Trigger::FirstElement(-1.0), Misbehaviour::Error)]));
    let engine = Peculiar(engine.expect("a sound script"));
    let model = Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature");
    let streams = slots(2);
    assert_eq!(step(&model, &streams, &[(0, 1.0), (1, 4.0)]), Ok(vec![vec![3.0, 3.0], vec![9.0, 6.0]]));
    step(&model, &streams, &[(0, 1.0), (1, -1.0)]).expect_err("planned");
    assert_eq!(step(&model, &streams, &[(1, 1.0)]), Ok(vec![vec![8.0, 8.0]]), "5 of the first step and 2 of this one");
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
    assert_eq!(state_of(&model, &streams[0]), Some(vec![6.0; 4]));
    assert_eq!(state_of(&model, &streams[1]), None);
    assert_eq!(step(&model, &streams, &[(1, 1.0), (0, 1.0)]), Ok(vec![vec![3.0, 3.0], vec![9.0, 9.0]]));
}

#[test]
fn the_state_of_another_model_is_refused() {
    let model = executable(stateful(), script(&[]));
    let streams = slots(1);
    let mut wider = stateful();
    wider.states[0].dims = smallvec![2, 3];
    let other = executable(wider, script(&[]));
    step(&other, &streams, &[(0, 1.0)]).expect("no fault planned");
    let error = step(&model, &streams, &[(0, 1.0)]).expect_err("24 bytes are not 16");
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
    let items = [(&long, 0), (&short, 1)].map(|(inputs, stream): (_, usize)| ItemCall { inputs, state: Some(&streams[stream]) });
    let outputs = model.run(0, &items, CallThreads::One).expect("no fault planned").outputs;
    assert_eq!(numbers(&outputs[0]), [8.0, 9.0, 11.0]);
    assert_eq!(numbers(&outputs[1]), [16.0]);
    assert_eq!([state_of(&model, &streams[0]), state_of(&model, &streams[1])], [Some(vec![7.0; 4]), Some(vec![8.0; 4])]);
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
         the dynamic dimensions of its declared shape [-1, -1] must come out with that length, so for a dimension that does \
         not follow it, give its size in [[outputs]]"
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

/// Returns prepared outputs, panics or refuses to start again, and keeps its inputs.
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
fn a_broken_instance_is_made_again_and_its_loss_is_told_apart() {
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
    assert_eq!((model.lost(), model.rebuilds()), (None, 1), "it was made again, though it broke again");
    // The remains must not run their destructor.
    model.instances.by_lane[0].slot.lock().instance = None;
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
        assert_eq!(state_of(&model, &streams[0]), None);
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
