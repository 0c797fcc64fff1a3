//! Models that couple their items, each in its own way, and models that do not, on the engine inside the binary.

mod couplings;

use std::sync::Arc;

use rten_onnx::onnx::{DataType, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use smallvec::smallvec;

use super::*;
use crate::{
    domain::{Datatype, ElementBytes, PaddedInput, PaddingRule, Signature, StateSpec, Tensor, TensorSpec},
    engine::{
        Wishes,
        synthetic::{CostMode, Misbehaviour, PlannedFault, Script, SyntheticControl, SyntheticEngine, SyntheticKind, Trigger},
        test_models::{self, longs, node, value, with_graph, with_ints, write},
    },
};

const BATCH: Option<usize> = None;

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn fp32(name: &str, dims: &[Option<usize>]) -> ValueInfoProto {
    value(name, DataType::FLOAT, dims)
}

fn spec(name: &str, datatype: Datatype, dims: &[Option<usize>]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), batch_axis: Some(0) }
}

/// A model from FP32 `x` [batch, 4] to FP32 `y` [batch, 4].
fn rows(nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> Arc<Executable> {
    let file = write(GraphProto {
        node: nodes,
        initializer: weights,
        input: vec![fp32("x", &[BATCH, Some(4)])],
        output: vec![fp32("y", &[BATCH, Some(4)])],
        ..GraphProto::default()
    });
    bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
            outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
            ..Signature::default()
        },
    )
}

fn bind(file: Vec<u8>, signature: Signature) -> Arc<Executable> {
    let engine = test_models::loaded("rten", file, Wishes::default()).expect("rten knows its operators");
    Arc::new(Executable::new(engine, Arc::new(signature), &[LaneThreads::new()]).expect("the signature fits"))
}

/// Enough time for any of these models on a machine under load.
fn patient() -> Terms {
    Terms { budget: Duration::from_secs(60), ..Terms::default() }
}

fn proof_of(executable: &Arc<Executable>) -> Result<Proof, ProofError> {
    prove(executable, 0, &patient(), None)
}

fn verdict_of(executable: &Arc<Executable>) -> (Verdict, String) {
    match proof_of(executable) {
        Ok(proof) => (proof.batching.verdict, proof.batching.detail.to_string()),
        Err(ProofError::NotABatch(detail)) => (Verdict::NotABatch, detail),
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn assert_verdict(executable: &Arc<Executable>, wanted: Verdict) -> String {
    let (verdict, detail) = verdict_of(executable);
    assert_eq!(verdict, wanted, "{detail}");
    detail
}

/// The mean over the items of a call, as `m`.
fn mean_of_items() -> NodeProto {
    with_ints(node("ReduceMean", &["x"], "m"), &[("axes", &[0])])
}

/// `y = x + strength * mean of all items`.
fn leak(strength: f32) -> Arc<Executable> {
    let nodes = vec![mean_of_items(), node("Mul", &["m", "k"], "s"), node("Add", &["x", "s"], "y")];
    rows(nodes, vec![floats("k", &[], &[strength])])
}

#[test]
fn rows_that_are_computed_apart_are_independent_up_to_the_largest_call() {
    let weights = floats("w", &[4, 4], &(0..16).map(|at| at as f32 / 7.0 - 1.0).collect::<Vec<_>>());
    let models = [
        rows(vec![node("MatMul", &["x", "w"], "h"), node("Tanh", &["h"], "y")], vec![weights]),
        rows(vec![with_ints(node("Softmax", &["x"], "y"), &[("axis", &[1])])], vec![]),
        rows(vec![node("Log", &["x"], "y")], vec![]),
        rows(vec![node("Relu", &["x"], "y")], vec![]),
    ];
    for model in models {
        let proof = proof_of(&model).expect("it runs");
        assert_eq!(proof.batching.verdict, Verdict::Independent, "{}", proof.batching.detail);
        assert!(proof.batching.shares_calls);
        assert_eq!((proof.batching.proven_batch, proof.medians.len(), proof.item_bytes), (64, 7, 16));
    }
}

#[test]
fn a_mean_over_the_items_of_a_call_is_found_however_weak_its_trace() {
    for strength in [1.0, 1e-3, 1e-6] {
        let model = leak(strength);
        let detail = assert_verdict(&model, Verdict::Dependent);
        assert!(detail.contains("output 'y'"), "{detail}");
        let proof = proof_of(&model).expect("one item a call");
        assert_eq!((proof.batching.shares_calls, proof.batching.proven_batch, proof.medians.len()), (false, 1, 1));
    }
}

#[test]
fn a_dependence_is_found_with_any_seed() {
    let model = leak(1e-6);
    for seed in 0..20 {
        let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
        assert_eq!(proof.batching.verdict, Verdict::Dependent, "seed {seed}");
    }
}

#[test]
fn what_sorts_scans_or_looks_at_other_places_is_found() {
    let zero = || longs("zero", &[1], &[0]);
    let axis = || longs("axis", &[], &[0]);
    let models = [
        (
            "the largest of a call",
            rows(vec![with_ints(node("ReduceMax", &["x"], "m"), &[("axes", &[0])]), node("Sub", &["x", "m"], "y")], vec![]),
        ),
        ("a sum over the items so far", rows(vec![node("CumSum", &["x", "axis"], "y")], vec![axis()])),
        ("the first item", rows(vec![node("Gather", &["x", "zero"], "f"), node("Add", &["x", "f"], "y")], vec![zero()])),
        ("softmax over the items", rows(vec![with_ints(node("Softmax", &["x"], "y"), &[("axis", &[0])])], vec![])),
    ];
    for (name, model) in models {
        let (verdict, detail) = verdict_of(&model);
        assert!(matches!(verdict, Verdict::Dependent | Verdict::NotABatch), "{name}: {verdict}: {detail}");
    }
}

/// `y = x + strength * number of items`, which no neighbour's value changes.
fn adds_size(strength: f32) -> Arc<Executable> {
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Gather", &["shape", "zero"], "size"),
        with_ints(node("Cast", &["size"], "f"), &[("to", &[i64::from(DataType::FLOAT.0)])]),
        node("Mul", &["f", "k"], "s"),
        node("Add", &["x", "s"], "y"),
    ];
    rows(nodes, vec![longs("zero", &[], &[0]), floats("k", &[], &[strength])])
}

#[test]
fn an_answer_that_depends_on_the_size_of_the_call_is_found() {
    for strength in [1.0, 1e-3] {
        let detail = assert_verdict(&adds_size(strength), Verdict::Dependent);
        assert!(detail.contains("from what the item gets alone"), "{detail}");
    }
}

#[test]
fn a_rule_for_one_size_that_is_not_a_power_of_two_is_found() {
    // 1 where the call has 37 items, else 0.
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Gather", &["shape", "zero"], "size"),
        node("Equal", &["size", "rare"], "is_rare"),
        with_ints(node("Cast", &["is_rare"], "f"), &[("to", &[i64::from(DataType::FLOAT.0)])]),
        node("Add", &["x", "f"], "y"),
    ];
    let model = rows(nodes, vec![longs("zero", &[], &[0]), longs("rare", &[], &[37])]);
    assert_verdict(&model, Verdict::Dependent);
}

#[test]
fn dynamic_quantization_is_found_and_the_operator_is_named() {
    let nodes = vec![
        NodeProto { output: ["q", "s", "z"].map(str::to_owned).to_vec(), ..node("DynamicQuantizeLinear", &["x"], "q") },
        node("DequantizeLinear", &["q", "s", "z"], "y"),
    ];
    let model = rows(nodes, vec![]);
    let hints = Hints { lossy: true, suspects: vec!["DynamicQuantizeLinear".to_owned()], ..Hints::default() };
    let proof = prove(&model, 0, &Terms { hints, ..patient() }, None).expect("one item a call");
    assert_eq!(proof.batching.verdict, Verdict::Dependent);
    assert!(proof.batching.detail.ends_with("; suspected: DynamicQuantizeLinear"), "{}", proof.batching.detail);
}

#[test]
fn a_branch_that_all_items_choose_together_is_found() {
    let branch = |operator: NodeProto, output: &str| GraphProto {
        node: vec![operator],
        output: vec![fp32(output, &[BATCH, Some(4)])],
        ..GraphProto::default()
    };
    let choice = with_graph(node("If", &["c"], "y"), "then_branch", branch(node("Add", &["x", "x"], "t"), "t"));
    let choice = with_graph(choice, "else_branch", branch(node("Neg", &["x"], "e"), "e"));
    let nodes =
        vec![with_ints(node("ReduceSum", &["x"], "sum"), &[("keepdims", &[0])]), node("Greater", &["sum", "zero"], "c"), choice];
    assert_verdict(&rows(nodes, vec![floats("zero", &[], &[0.0])]), Verdict::Dependent);
}

/// A wave without a batch: its first dimension is time.
fn wave() -> Arc<Executable> {
    let file = write(GraphProto {
        node: vec![mean_of_items(), node("Sub", &["x", "m"], "y")],
        input: vec![fp32("x", &[BATCH])],
        output: vec![fp32("y", &[BATCH])],
        ..GraphProto::default()
    });
    bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[])],
            outputs: vec![spec("y", Datatype::Fp32, &[])],
            ..Signature::default()
        },
    )
}

#[test]
fn a_dimension_that_is_not_a_batch_is_refused_unless_the_manifest_wants_single_elements() {
    let error = proof_of(&wave()).expect_err("single samples tell nothing");
    assert!(matches!(error, ProofError::NotABatch(_)), "{error}");
    assert!(error.to_string().contains("batch = false"), "{error}");
    let single = prove(&wave(), 0, &Terms { rule: BatchingRule::Off, ..patient() }, None).expect("as the manifest says");
    assert_eq!((single.batching.verdict, single.batching.shares_calls), (Verdict::Off, false));
}

#[test]
fn the_name_of_an_ordered_dimension_decides_where_numbers_cannot() {
    let cumulative = || rows(vec![node("CumSum", &["x", "axis"], "y")], vec![longs("axis", &[], &[0])]);
    assert_verdict(&cumulative(), Verdict::Dependent);
    let hints = Hints { ordered_axis: Some("'time'".to_owned()), ..Hints::default() };
    let error = prove(&cumulative(), 0, &Terms { hints: hints.clone(), ..patient() }, None).expect_err("it is time");
    assert!(error.to_string().contains("its first dimension is 'time'"), "{error}");
    // A name never overrules the numbers.
    let model = rows(vec![node("Relu", &["x"], "y")], vec![]);
    let proof = prove(&model, 0, &Terms { hints, ..patient() }, None).expect("it is independent");
    assert_eq!(proof.batching.verdict, Verdict::Independent);
}

/// Rows of any length, with outputs of the masked mean, of the sum that ignores the mask, or of both.
fn masked(outputs: &[&str]) -> Arc<Executable> {
    let padded = |position, value: f32| PaddedInput { position, axis: 0, value: ElementBytes::from_slice(&value.to_le_bytes()) };
    let rule = PaddingRule { inputs: vec![padded(0, 5.0), padded(1, 0.0)], mask: Some(1), buckets: vec![], pad_to_bucket: false };
    bind(
        test_models::masked_mean(),
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[None]), spec("mask", Datatype::Fp32, &[None])],
            outputs: outputs.iter().map(|name| spec(name, Datatype::Fp32, &[Some(1)])).collect(),
            padding: Some(rule),
            ..Signature::default()
        },
    )
}

#[test]
fn padding_that_reaches_an_output_is_distinguished_from_dependence() {
    assert_verdict(&masked(&["mean"]), Verdict::Independent);
    let leaking = proof_of(&masked(&["mean", "sum"])).expect("equal lengths hold");
    assert_eq!((leaking.batching.verdict, leaking.batching.shares_calls), (Verdict::PaddingLeaks, true));
    assert!(leaking.batching.detail.contains("padding changed output 'sum'"), "{}", leaking.batching.detail);
}

/// A model from `x` to `y`, four numbers each, that keeps `size` numbers of its stream: `state` going in, `next` coming out.
fn bind_with_state(file: Vec<u8>, state: &str, size: usize) -> Arc<Executable> {
    let state = StateSpec {
        input: state.into(),
        output: "next".into(),
        datatype: Datatype::Fp32,
        dims: smallvec![size],
        batch_axis: Some(0),
    };
    bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
            outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
            states: vec![state],
            ..Signature::default()
        },
    )
}

/// `y = state`, `next = state + x + strength * mean of all items`, of rows of 4.
fn stateful(strength: f32) -> Arc<Executable> {
    let file = write(GraphProto {
        node: vec![
            mean_of_items(),
            node("Mul", &["m", "k"], "s"),
            node("Add", &["x", "s"], "moved"),
            node("Mul", &["state", "half"], "kept"),
            node("Add", &["kept", "moved"], "next"),
            node("Neg", &["state"], "y"),
        ],
        initializer: vec![floats("k", &[], &[strength]), floats("half", &[], &[0.5])],
        input: vec![fp32("x", &[BATCH, Some(4)]), fp32("state", &[BATCH, Some(4)])],
        output: vec![fp32("y", &[BATCH, Some(4)]), fp32("next", &[BATCH, Some(4)])],
        ..GraphProto::default()
    });
    bind_with_state(file, "state", 4)
}

#[test]
fn what_only_a_state_shows_is_found() {
    assert_verdict(&stateful(0.0), Verdict::Independent);
    let detail = assert_verdict(&stateful(1e-3), Verdict::Dependent);
    assert!(detail.contains("output 'next'"), "{detail}");
}

#[test]
fn integers_stay_within_what_the_model_takes() {
    let file = write(GraphProto {
        node: vec![node("Gather", &["table", "x"], "y")],
        initializer: vec![floats("table", &[10, 2], &(0..20).map(|at| at as f32).collect::<Vec<_>>())],
        input: vec![value("x", DataType::INT64, &[BATCH, None])],
        output: vec![fp32("y", &[BATCH, None, Some(2)])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Int64, &[None])],
            outputs: vec![spec("y", Datatype::Fp32, &[None, Some(2)])],
            ..Signature::default()
        },
    );
    assert_verdict(&model, Verdict::Independent);
}

#[test]
fn a_label_of_all_items_is_found() {
    let file = write(GraphProto {
        node: vec![
            mean_of_items(),
            node("Add", &["x", "m"], "d"),
            with_ints(node("ArgMax", &["d"], "y"), &[("axis", &[1]), ("keepdims", &[0])]),
        ],
        input: vec![fp32("x", &[BATCH, Some(4)])],
        output: vec![value("y", DataType::INT64, &[BATCH])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
            outputs: vec![spec("y", Datatype::Int64, &[])],
            ..Signature::default()
        },
    );
    assert_verdict(&model, Verdict::Dependent);
}

#[test]
fn equal_answers_prove_nothing_and_the_manifest_decides() {
    // All made-up numbers are smaller than this.
    let model = || rows(vec![node("Max", &["x", "k"], "y")], vec![floats("k", &[], &[1e9])]);
    let proof = proof_of(&model()).expect("one item a call");
    assert_eq!((proof.batching.verdict, proof.batching.shares_calls), (Verdict::Unproven, false), "{}", proof.batching.detail);
    let assumed = prove(&model(), 0, &Terms { rule: BatchingRule::Assumed, ..patient() }, None).expect("as the manifest says");
    assert_eq!((assumed.batching.verdict, assumed.batching.shares_calls, assumed.medians.len()), (Verdict::Unproven, true, 7));
    // Items from the manifest show more.
    let examples = [[2e9, 1.0, 3e9, 4e9], [5e9, 6e9, 7e9, 8e9]].map(|row| smallvec![Tensor::from_f32(&row)]).to_vec();
    let shown = prove(&model(), 0, &Terms { examples, ..patient() }, None).expect("it runs");
    assert_eq!(shown.batching.verdict, Verdict::Independent, "{}", shown.batching.detail);
}

#[test]
fn equal_answers_prove_nothing_however_calls_round_them() {
    let weight = |name: &str, dims: [i64; 2]| floats(name, &dims, &vec![1.0 / dims[0] as f32; (dims[0] * dims[1]) as usize]);
    let nodes = vec![
        node("Max", &["x", "k"], "large"),
        node("MatMul", &["large", "spread"], "many"),
        node("MatMul", &["many", "mix"], "mixed"),
        node("MatMul", &["mixed", "gather"], "y"),
    ];
    let weights =
        vec![floats("k", &[], &[1e9]), weight("spread", [4, 300]), weight("mix", [300, 300]), weight("gather", [300, 4])];
    assert_verdict(&rows(nodes, weights), Verdict::Unproven);
}

#[test]
fn what_is_found_dependent_shares_no_calls_whatever_the_manifest_assumes() {
    let proof = prove(&leak(1.0), 0, &Terms { rule: BatchingRule::Assumed, ..patient() }, None).expect("one item a call");
    assert_eq!((proof.batching.verdict, proof.batching.shares_calls), (Verdict::Dependent, false));
}

fn synthetic(script: Script) -> (Arc<Executable>, Arc<SyntheticControl>) {
    let signature = Arc::new(Signature {
        inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
        outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
        ..Signature::default()
    });
    let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
    let control = engine.control();
    let lanes = LaneThreads::device(2);
    (Arc::new(Executable::new(Arc::new(engine), signature, &lanes).expect("a sound signature")), control)
}

#[test]
fn a_model_whose_time_runs_out_is_unproven_and_called_no_more() {
    let cost_per_call = Duration::from_millis(4);
    let (model, control) = synthetic(Script { cost_per_call, cost_mode: CostMode::Blocked, ..Script::default() });
    let proof = prove(&model, 0, &Terms { budget: cost_per_call, ..Terms::default() }, None).expect("it runs");
    assert_eq!((proof.batching.verdict, proof.batching.shares_calls), (Verdict::Unproven, false));
    assert!(proof.batching.detail.contains("raise trial.seconds"), "{}", proof.batching.detail);
    assert!(control.calls() <= 4, "{}", control.calls());
}

#[test]
fn while_lanes_serve_the_same_is_found() {
    let aside = Aside::new(|| ());
    let proof = prove_beside(&leak(1e-3), &patient(), &aside).expect("one item a call");
    assert_eq!(proof.batching.verdict, Verdict::Dependent, "{}", proof.batching.detail);
    let apart = rows(vec![node("Relu", &["x"], "y")], vec![]);
    let proof = prove_beside(&apart, &patient(), &aside).expect("it runs");
    assert_eq!((proof.batching.verdict, proof.medians.len()), (Verdict::Independent, 7), "{}", proof.batching.detail);
    // Its calls do not give way, so all of their time counts.
    let cost_per_call = Duration::from_millis(4);
    let (slow, control) = synthetic(Script { cost_per_call, cost_mode: CostMode::Blocked, ..Script::default() });
    let proof = prove_beside(&slow, &Terms { budget: cost_per_call, ..Terms::default() }, &aside).expect("it runs");
    assert_eq!(proof.batching.verdict, Verdict::Unproven);
    assert!(control.calls() <= 4, "{}", control.calls());
}

#[test]
fn a_model_that_takes_no_made_up_item_is_unproven_with_the_cause() {
    let faults = (1..200).map(|call| PlannedFault { when: Trigger::Call(call), what: Misbehaviour::Error }).collect();
    let (model, _) = synthetic(Script { faults, ..Script::default() });
    let proof = proof_of(&model).expect("it may run yet");
    assert_eq!(proof.batching.verdict, Verdict::Unproven);
    assert!(proof.batching.detail.contains("give items that it takes in [trial]"), "{}", proof.batching.detail);
}

#[test]
fn outputs_that_are_not_what_the_signature_says_keep_a_model_from_serving() {
    let faults = vec![PlannedFault { when: Trigger::Call(3), what: Misbehaviour::WrongShape }];
    let (model, _) = synthetic(Script { faults, ..Script::default() });
    let error = proof_of(&model).expect_err("an output has a dimension too many");
    assert!(matches!(error, ProofError::Outputs(_)), "{error}");
}

#[test]
fn an_item_that_fails_alone_is_left_out() {
    let faults = vec![PlannedFault { when: Trigger::FirstElement(0.0), what: Misbehaviour::Error }];
    let (model, _) = synthetic(Script { kind: SyntheticKind::Identity, faults, ..Script::default() });
    assert_verdict(&model, Verdict::Independent);
}

#[test]
fn what_all_threads_gain_is_measured_only_where_they_can_be_used() {
    let script = |wide_speedup| Script {
        cost_per_call: Duration::from_millis(2),
        cost_mode: CostMode::Blocked,
        wide_speedup,
        ..Script::default()
    };
    let lane = LaneThreads::new();
    let gain = wide_gain(&synthetic(script(Some(4.0))).0, &lane, &Terms::default()).expect("it can use them");
    assert!(gain < 1.0, "{gain}");
    assert_eq!(wide_gain(&synthetic(script(None)).0, &lane, &Terms::default()), None);
}
