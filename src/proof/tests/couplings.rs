//! Couplings that are weak, that reach only from one place to another, that set in on a condition, or that act only on a state; and models
//! that look coupled because they amplify rounding.

use super::*;

/// What the output of [`bounded`] models is made from: `z` lies between 0 and 1, and `c` is what is coupled.
fn bounded_nodes(coupling: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut nodes = vec![node("Sigmoid", &["x"], "z")];
    nodes.extend(coupling);
    nodes.extend([node("Mul", &["c", "k"], "e"), node("Add", &["z", "e"], "y")]);
    nodes
}

fn constants(strength: f32) -> Vec<TensorProto> {
    let int = |name: &str, value: i64| longs(name, &[1], &[value]);
    vec![
        floats("k", &[], &[strength]),
        floats("none", &[], &[0.0]),
        floats("large", &[], &[50.0]),
        int("m3", -3),
        int("m2", -2),
        int("m1", -1),
        int("c0", 0),
        int("c1", 1),
        int("end", i64::MAX),
    ]
}

/// `y = sigmoid(x) + strength * c` of rows of 4.
fn bounded(coupling: Vec<NodeProto>, strength: f32) -> Arc<Executable> {
    rows(bounded_nodes(coupling), constants(strength))
}

fn float_of(input: &str, output: &str) -> NodeProto {
    with_ints(node("Cast", &[input], output), &[("to", &[i64::from(DataType::FLOAT.0)])])
}

/// The largest of all items, as `output`.
fn largest_of_items(input: &str, output: &str) -> NodeProto {
    with_ints(node("ReduceMax", &[input], output), &[("axes", &[0])])
}

/// Rows moved by this many places.
fn rolled(places: &str) -> Vec<NodeProto> {
    vec![
        node("Slice", &["z", places, "end", "c0"], "tail"),
        node("Slice", &["z", "c0", places, "c0"], "head"),
        with_ints(node("Concat", &["tail", "head"], "c"), &[("axis", &[0])]),
    ]
}

#[test]
fn a_trace_in_the_last_places_of_a_bounded_output_is_found_with_any_seed() {
    for seed in 0..10 {
        let model = bounded(vec![largest_of_items("z", "c")], 4e-6);
        let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
        assert_eq!(proof.batching.verdict, Verdict::Dependent, "seed {seed}: {}", proof.batching.detail);
    }
}

#[test]
fn a_row_that_reads_the_one_before_or_two_or_three_before_is_found() {
    for places in ["m1", "m2", "m3"] {
        for seed in 0..5 {
            let model = bounded(rolled(places), 1e-5);
            let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
            assert_eq!(proof.batching.verdict, Verdict::Dependent, "{places}, seed {seed}: {}", proof.batching.detail);
        }
    }
}

#[test]
fn a_rule_that_sets_in_when_some_row_is_zero_negative_or_large_is_found() {
    let least_size = |output: &str| {
        vec![
            node("Abs", &["x"], "size"),
            with_ints(node("ReduceMax", &["size"], "of_rows"), &[("axes", &[1])]),
            with_ints(node("ReduceMin", &["of_rows"], output), &[("axes", &[0])]),
        ]
    };
    let conditions = [
        ("some row is zero", [least_size("m"), vec![node("Equal", &["m", "none"], "is")]].concat()),
        ("a number is negative", vec![node("ReduceMin", &["x"], "m"), node("Less", &["m", "none"], "is")]),
        (
            "a number is large",
            vec![node("Abs", &["x"], "size"), node("ReduceMax", &["size"], "m"), node("Greater", &["m", "large"], "is")],
        ),
        ("all numbers are positive", vec![node("ReduceMin", &["x"], "m"), node("Greater", &["m", "none"], "is")]),
    ];
    for (name, condition) in conditions {
        let model = bounded([condition, vec![float_of("is", "c")]].concat(), 1e-5);
        let (verdict, detail) = verdict_of(&model);
        assert_eq!(verdict, Verdict::Dependent, "{name}: {detail}");
    }
}

#[test]
fn what_only_large_rows_do_to_each_other_is_found() {
    // Zero except for rows with numbers above 50, which share their mean.
    let coupling = vec![
        node("Sub", &["x", "large"], "above"),
        node("Relu", &["above"], "kept"),
        node("Tanh", &["kept"], "t"),
        with_ints(node("ReduceMean", &["t"], "m"), &[("axes", &[0])]),
        node("Mul", &["m", "t"], "c"),
    ];
    assert_verdict(&bounded(coupling, 1e-5), Verdict::Dependent);
}

#[test]
fn a_vote_of_all_items_is_found_with_any_seed() {
    // The sign that most of their sums have: large items and their opposites cancel out.
    let coupling = vec![
        node("ReduceSum", &["x", "c1"], "sums"),
        node("Sign", &["sums"], "votes"),
        with_ints(node("ReduceMean", &["votes"], "c"), &[("axes", &[0])]),
    ];
    for seed in 0..10 {
        let model = bounded(coupling.clone(), 1e-5);
        let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
        assert_eq!(proof.batching.verdict, Verdict::Dependent, "seed {seed}: {}", proof.batching.detail);
    }
}

#[test]
fn labels_that_only_few_items_show_to_be_coupled_are_found_with_any_seed() {
    let file = write(GraphProto {
        node: vec![
            node("Tanh", &["x"], "z"),
            largest_of_items("z", "c"),
            node("Mul", &["c", "k"], "e"),
            node("Add", &["x", "e"], "d"),
            node("Greater", &["d", "bound"], "is"),
            with_ints(node("Cast", &["is"], "y"), &[("to", &[i64::from(DataType::INT64.0)])]),
        ],
        initializer: vec![floats("k", &[], &[0.2]), floats("bound", &[], &[0.7])],
        input: vec![fp32("x", &[BATCH, Some(4)])],
        output: vec![value("y", DataType::INT64, &[BATCH, Some(4)])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
            outputs: vec![spec("y", Datatype::Int64, &[Some(4)])],
            ..Signature::default()
        },
    );
    for seed in 0..10 {
        let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
        assert_eq!(proof.batching.verdict, Verdict::Dependent, "seed {seed}: {}", proof.batching.detail);
    }
}

#[test]
fn a_neighbour_that_the_model_does_not_take_accuses_nothing() {
    let signature = Signature {
        inputs: vec![spec("x", Datatype::Fp32, &[Some(4)])],
        outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
        ..Signature::default()
    };
    let terms = Terms::default();
    let maker = items::Maker::new(&signature, &terms);
    let stranger = maker.stranger(items::Character::Loud, 0).expect("four numbers");
    let first = items::floats(&stranger.inputs[0]).next().expect("four numbers");
    let faults = vec![PlannedFault { when: Trigger::FirstElement(first), what: Misbehaviour::Error }];
    let (model, _) = synthetic(Script { kind: SyntheticKind::Identity, faults, ..Script::default() });
    let detail = assert_verdict(&model, Verdict::Independent);
    assert!(detail.contains("no dependence was found"), "{detail}");
}

#[test]
fn masks_of_others_that_reach_an_item_are_found() {
    let file = write(GraphProto {
        node: bounded_nodes(vec![node("Sub", &["one", "mask"], "left_out"), largest_of_items("left_out", "c")]),
        initializer: [constants(1e-4), vec![floats("one", &[], &[1.0])]].concat(),
        input: vec![fp32("x", &[BATCH, Some(4)]), fp32("mask", &[BATCH, Some(4)])],
        output: vec![fp32("y", &[BATCH, Some(4)])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)]), spec("mask", Datatype::Fp32, &[Some(4)])],
            outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
            ..Signature::default()
        },
    );
    assert_verdict(&model, Verdict::Dependent);
}

#[test]
fn a_flag_of_any_item_that_reaches_all_is_found_with_any_seed() {
    let file = write(GraphProto {
        node: vec![
            float_of("flag", "f"),
            largest_of_items("f", "c"),
            node("Sigmoid", &["x"], "z"),
            node("Mul", &["z", "c"], "y"),
        ],
        input: vec![fp32("x", &[BATCH, Some(4)]), value("flag", DataType::BOOL, &[BATCH, Some(1)])],
        output: vec![fp32("y", &[BATCH, Some(4)])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[Some(4)]), spec("flag", Datatype::Bool, &[Some(1)])],
            outputs: vec![spec("y", Datatype::Fp32, &[Some(4)])],
            ..Signature::default()
        },
    );
    for seed in 0..40 {
        let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("one item a call");
        assert_eq!(proof.batching.verdict, Verdict::Dependent, "seed {seed}: {}", proof.batching.detail);
    }
}

#[test]
fn the_largest_of_the_lengths_that_items_state_is_found() {
    let file = write(GraphProto {
        node: vec![
            with_ints(node("ReduceMean", &["x"], "z"), &[("axes", &[1]), ("keepdims", &[0])]),
            float_of("lengths", "f"),
            with_ints(node("ReduceMax", &["f"], "c"), &[("axes", &[0])]),
            node("Mul", &["c", "k"], "e"),
            node("Add", &["z", "e"], "y"),
        ],
        initializer: constants(1e-4),
        input: vec![fp32("x", &[BATCH, None]), value("lengths", DataType::INT64, &[BATCH])],
        output: vec![fp32("y", &[BATCH])],
        ..GraphProto::default()
    });
    let model = bind(
        file,
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[None]), spec("lengths", Datatype::Int64, &[])],
            outputs: vec![spec("y", Datatype::Fp32, &[])],
            ..Signature::default()
        },
    );
    assert_verdict(&model, Verdict::Dependent);
}

/// A model with a state of one number that counts its steps, `y = sigmoid(x) + strength * c` from step `first` on.
fn late(first: u8, coupling: Vec<NodeProto>, strength: f32) -> Arc<Executable> {
    let mut nodes = vec![
        node("Add", &["steps", "one"], "next"),
        node("Greater", &["next", "first"], "is_late"),
        float_of("is_late", "late"),
        node("Sigmoid", &["x"], "z"),
    ];
    nodes.extend(coupling);
    nodes.extend([node("Mul", &["c", "late"], "l"), node("Mul", &["l", "k"], "e"), node("Add", &["z", "e"], "y")]);
    let file = write(GraphProto {
        node: nodes,
        initializer: [
            constants(strength),
            vec![
                floats("one", &[], &[1.0]),
                floats("first", &[], &[f32::from(first) - 0.5]),
                floats("few", &[], &[4.5]),
                longs("zero", &[], &[0]),
            ],
        ]
        .concat(),
        input: vec![fp32("x", &[BATCH, Some(4)]), fp32("steps", &[BATCH, Some(1)])],
        output: vec![fp32("y", &[BATCH, Some(4)]), fp32("next", &[BATCH, Some(1)])],
        ..GraphProto::default()
    });
    bind_with_state(file, "steps", 1)
}

#[test]
fn what_sets_in_along_a_stream_is_found_at_other_places_and_in_other_sizes() {
    let size = vec![
        node("Shape", &["x"], "shape"),
        node("Gather", &["shape", "zero"], "size"),
        float_of("size", "items"),
        node("Greater", &["items", "few"], "are_many"),
        float_of("are_many", "many"),
        largest_of_items("z", "m"),
        node("Mul", &["m", "many"], "c"),
    ];
    for first in [5, 12] {
        for (name, coupling) in [
            ("the largest", vec![largest_of_items("z", "c")]),
            ("two places before", rolled("m2")),
            ("the largest of five and more", size.clone()),
        ] {
            let (verdict, detail) = verdict_of(&late(first, coupling, 1e-5));
            assert_eq!(verdict, Verdict::Dependent, "{name} from step {first} on: {detail}");
            assert!(detail.starts_with("along a stream of 16 steps"), "{detail}");
        }
    }
    assert_verdict(&late(5, vec![node("Neg", &["z"], "c")], 1.0), Verdict::Independent);
}

#[test]
fn padding_that_reaches_only_the_shortest_items_is_found() {
    let leaking = |buckets: &[usize]| {
        let padded = PaddedInput { position: 0, axis: 0, value: ElementBytes::from_slice(&0_f32.to_le_bytes()) };
        let rule = PaddingRule { inputs: vec![padded], mask: None, buckets: buckets.to_vec(), pad_to_bucket: false };
        // Only calls with items less than seven long have their length in their answers.
        let file = write(GraphProto {
            node: vec![
                node("Abs", &["x"], "size"),
                with_ints(node("ReduceSum", &["size", "c1"], "sum"), &[("keepdims", &[1])]),
                node("Equal", &["x", "x"], "are"),
                float_of("are", "ones"),
                with_ints(node("ReduceSum", &["ones", "c1"], "length"), &[("keepdims", &[1])]),
                node("Less", &["length", "seven"], "is_short"),
                float_of("is_short", "short"),
                node("Mul", &["length", "short"], "leak"),
                node("Add", &["sum", "leak"], "y"),
            ],
            initializer: [constants(1.0), vec![floats("seven", &[], &[7.0])]].concat(),
            input: vec![fp32("x", &[BATCH, None])],
            output: vec![fp32("y", &[BATCH, Some(1)])],
            ..GraphProto::default()
        });
        bind(
            file,
            Signature {
                inputs: vec![spec("x", Datatype::Fp32, &[None])],
                outputs: vec![spec("y", Datatype::Fp32, &[Some(1)])],
                padding: Some(rule),
                ..Signature::default()
            },
        )
    };
    assert_verdict(&leaking(&[6, 12]), Verdict::PaddingLeaks);
    assert_verdict(&leaking(&[12]), Verdict::PaddingLeaks);
}

#[test]
fn a_model_that_amplifies_rounding_is_not_accused() {
    // The sum of 512 numbers minus the same sum in another order: rounding alone decides its sign.
    let weights: Vec<f32> = (0..512 * 8).map(|at| ((at * 37 % 101) as f32 - 50.0) / 71.0).collect();
    let order: Vec<i64> = (0..512).map(|at| at * 77 % 512).collect();
    let turned: Vec<f32> = order.iter().flat_map(|row| weights[*row as usize * 8..][..8].to_vec()).collect();
    let nodes = |last: &[NodeProto]| {
        let mut nodes = vec![
            node("MatMul", &["x", "w"], "a"),
            with_ints(node("Gather", &["x", "order"], "p"), &[("axis", &[1])]),
            node("MatMul", &["p", "turned"], "b"),
        ];
        nodes.extend_from_slice(last);
        nodes
    };
    let steps = [
        ("a step", nodes(&[node("Sub", &["a", "b"], "d"), node("Floor", &["d"], "y")])),
        ("a sign", nodes(&[node("Sub", &["a", "b"], "d"), node("Sign", &["d"], "y")])),
        ("a root", nodes(&[node("Sub", &["a", "b"], "d"), node("Sqrt", &["d"], "y")])),
        ("a large angle", nodes(&[node("Mul", &["a", "far"], "d"), node("Sin", &["d"], "y")])),
    ];
    for (name, nodes) in steps {
        let file = write(GraphProto {
            node: nodes,
            initializer: vec![
                floats("w", &[512, 8], &weights),
                floats("turned", &[512, 8], &turned),
                longs("order", &[512], &order),
                floats("far", &[], &[1e3]),
            ],
            input: vec![fp32("x", &[BATCH, Some(512)])],
            output: vec![fp32("y", &[BATCH, Some(8)])],
            ..GraphProto::default()
        });
        let model = bind(
            file,
            Signature {
                inputs: vec![spec("x", Datatype::Fp32, &[Some(512)])],
                outputs: vec![spec("y", Datatype::Fp32, &[Some(8)])],
                ..Signature::default()
            },
        );
        for seed in 0..3 {
            let proof = prove(&model, 0, &Terms { seed, ..patient() }, None).expect("it runs");
            assert_eq!(proof.batching.verdict, Verdict::Independent, "{name}, seed {seed}: {}", proof.batching.detail);
        }
    }
}

#[test]
fn what_the_file_calls_a_batch_is_not_refused_though_its_items_mean_nothing_alone() {
    let centered = || rows(vec![mean_of_items(), node("Sub", &["x", "m"], "y")], vec![]);
    let error = proof_of(&centered()).expect_err("an item alone is zero");
    assert!(error.to_string().contains("every item alone gets the same answer"), "{error}");
    let hints = Hints { named: true, named_batch: true, ..Hints::default() };
    let proof = prove(&centered(), 0, &Terms { hints, ..patient() }, None).expect("one item a call");
    assert_eq!((proof.batching.verdict, proof.batching.shares_calls), (Verdict::Dependent, false));
    assert!(proof.batching.detail.contains("every item alone gets the same answer"), "{}", proof.batching.detail);
}

#[test]
fn single_numbers_whose_place_matters_are_not_a_batch_unless_the_file_names_one() {
    let summed = || {
        let file = write(GraphProto {
            node: vec![node("CumSum", &["x", "axis"], "y")],
            initializer: vec![longs("axis", &[], &[0])],
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
    };
    let error = proof_of(&summed()).expect_err("a wave without a name");
    assert!(error.to_string().contains("an item is a single number"), "{error}");
    let hints = Hints { named: true, ..Hints::default() };
    let proof = prove(&summed(), 0, &Terms { hints, ..patient() }, None).expect("one item a call");
    assert_eq!(proof.batching.verdict, Verdict::Dependent);
}
