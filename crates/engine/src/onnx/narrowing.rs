//! Whether an engine that computes in FP32 and 32-bit integers gives the results that a file intends.
//!
//! If that depends on how large the numbers that clients send are, it finds limits within which results are right.

use rten_onnx::onnx::DataType;

use super::{
    proto::{self, Graph},
    survey::survey,
    values::Value,
};

/// How many reasons are given at most.
const REASONS_MAX: usize = 5;

/// One more than the largest number of 32 bits: no limit. Its negative is the smallest.
const UNLIMITED: i64 = 1 << 31;
/// The limits that are tried, from generous to tight. Ids, lengths and sampling rates are below the last one; timestamps are not.
const LIMITS: [i64; 4] = [i32::MAX as i64, (1 << 30) - 1, (1 << 28) - 1, (1 << 24) - 1];
/// Those that are also tried for an input whose name says that it is a mask.
const MASK_LIMITS: [i64; 2] = [63, 1];

/// What happens to a file's numbers in FP32 and 32 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Narrowing {
    /// Nothing.
    None,
    /// Nothing, as long as inputs stay within these limits.
    Limited {
        /// Largest absolute value, by the inputs' names.
        limits: Vec<(String, i64)>,
        /// What goes wrong beyond them.
        reasons: Vec<String>,
    },
    /// Results can be wrong.
    Possible {
        /// Where, such as `operator Mul ('scale_ms') computes INT64 that may not fit in 32 bits`.
        reasons: Vec<String>,
    },
}

impl Narrowing {
    pub(super) fn of(graph: &Graph<'_>) -> Self {
        let mut limits = vec![UNLIMITED; graph.inputs.len()];
        let reasons = within(graph, &limits);
        if reasons.is_empty() {
            return Self::None;
        }
        let reasons_of_some = shortened(reasons);
        match candidates(graph).find(|limits| within(graph, limits).is_empty()) {
            Some(found) => limits = found,
            None => return Self::Possible { reasons: reasons_of_some },
        }
        // An input without a limit may bring any number.
        for at in 0..limits.len() {
            let limit = std::mem::replace(&mut limits[at], UNLIMITED);
            if !within(graph, &limits).is_empty() {
                limits[at] = limit;
            }
        }
        let limits = graph.inputs.iter().zip(limits).filter(|(_, limit)| *limit < UNLIMITED);
        Self::Limited { limits: limits.map(|(input, limit)| (input.name.to_owned(), limit)).collect(), reasons: reasons_of_some }
    }

    /// The largest absolute value that an input may bring; `None` for everything that 32 bits hold.
    #[must_use]
    pub fn limit(&self, input: &str) -> Option<i64> {
        match self {
            Self::Limited { limits, .. } => limits.iter().find(|(name, _)| name == input).map(|(_, limit)| *limit),
            Self::None | Self::Possible { .. } => None,
        }
    }
}

fn is_mask(input: &proto::Value<'_>) -> bool {
    input.name.to_ascii_lowercase().contains("mask")
}

/// Limits for each input, from generous ones to tight ones.
fn candidates(graph: &Graph<'_>) -> impl Iterator<Item = Vec<i64>> {
    let has_mask = graph.inputs.iter().any(is_mask);
    let equal = LIMITS.into_iter().map(|limit| (limit, limit));
    let of_masks = MASK_LIMITS.into_iter().filter(move |_| has_mask);
    let limits = equal.chain(of_masks.flat_map(|mask| [UNLIMITED].into_iter().chain(LIMITS).map(move |limit| (limit, mask))));
    limits.map(|(limit, mask)| graph.inputs.iter().map(|input| if is_mask(input) { mask } else { limit }).collect())
}

/// Why results can be wrong although inputs stay within their limits.
fn within(graph: &Graph<'_>, limits: &[i64]) -> Vec<String> {
    survey(graph, |at, input| {
        let limit = limits.get(at).copied().unwrap_or(UNLIMITED) as f64;
        let any = Value::any(input.datatype.map_or(DataType::FLOAT, DataType));
        let is_limited = [DataType::INT64, DataType::UINT64, DataType::INT32, DataType::UINT32].contains(&any.datatype);
        if is_limited { Value { low: any.low.max(-limit), high: any.high.min(limit), ..any } } else { any }
    })
}

fn shortened(mut reasons: Vec<String>) -> Vec<String> {
    let left_out = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    if left_out > 0 {
        reasons.push(format!("{left_out} more like these"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{GraphProto, NodeProto, TensorProto};

    use super::*;
    use crate::{
        onnx::ModelFile,
        test_models::{self, longs, node, silero, value, with_graph, with_ints},
    };

    const ANY: &[Option<usize>] = &[None, None];

    fn narrowing(graph: GraphProto) -> Narrowing {
        ModelFile::read(test_models::write(graph)).expect("a graph").narrowing().clone()
    }

    fn doubles(name: &str, value: f64) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            dims: vec![1],
            data_type: Some(DataType::DOUBLE),
            double_data: vec![value],
            ..TensorProto::default()
        }
    }

    /// A graph of these nodes from `x`, and `mask` of the same type, to `y`.
    fn graph(from: DataType, nodes: Vec<NodeProto>, to: DataType) -> GraphProto {
        GraphProto {
            node: nodes,
            initializer: vec![
                longs("zero", &[1], &[0]),
                longs("one", &[1], &[1]),
                longs("two", &[1], &[2]),
                longs("thousand", &[1], &[1_000]),
                longs("big", &[1], &[5_000_000_000]),
                longs("end", &[1], &[i64::MAX]),
                longs("table", &[3], &[7, -7, 70_000]),
                doubles("half", 0.5),
                doubles("tiny", 1e-9),
            ],
            input: vec![value("x", from, ANY), value("mask", from, ANY)],
            output: vec![value("y", to, ANY)],
            ..GraphProto::default()
        }
    }

    fn cast(from: &str, datatype: DataType, to: &str) -> NodeProto {
        with_ints(node("Cast", &[from], to), &[("to", &[i64::from(datatype.0)])])
    }

    fn of_longs(nodes: Vec<NodeProto>) -> Narrowing {
        narrowing(graph(DataType::INT64, nodes, DataType::INT64))
    }

    #[test]
    fn what_only_moves_numbers_or_counts_them_is_harmless() {
        let cases = [
            vec![node("Identity", &["x"], "y")],
            vec![node("Gather", &["table", "x"], "y")],
            vec![node("Equal", &["x", "two"], "e"), node("Where", &["e", "x", "zero"], "y")],
            vec![node("ArgMax", &["x"], "y")],
            vec![node("Slice", &["x", "zero", "end", "one"], "y")],
            vec![node("Concat", &["one", "end"], "ends"), node("Slice", &["x", "zero", "ends", "one"], "y")],
            vec![node("Clip", &["x", "zero", "end"], "y")],
            vec![node("Min", &["x", "end"], "y")],
            vec![node("Mod", &["x", "thousand"], "y")],
            vec![node("Div", &["x", "two"], "y")],
            vec![node("Equal", &["x", "two"], "e"), cast("e", DataType::INT64, "n"), node("CumSum", &["n", "one"], "y")],
            vec![node("NonZero", &["x"], "n"), node("Add", &["n", "one"], "y")],
        ];
        for nodes in cases {
            let text = format!("{nodes:?}");
            assert_eq!(of_longs(nodes), Narrowing::None, "{text}");
        }
    }

    #[test]
    fn arithmetic_of_shapes_is_harmless_as_long_as_it_stays_one_of_shapes() {
        let sizes = || {
            vec![
                node("Shape", &["x"], "s"),
                node("Gather", &["s", "zero"], "height"),
                node("Gather", &["s", "one"], "width"),
                node("Mul", &["height", "width"], "area"),
            ]
        };
        let with = |more: Vec<NodeProto>| of_longs([sizes(), more].concat());
        assert_eq!(with(vec![node("Concat", &["area", "one"], "to"), node("Reshape", &["x", "to"], "y")]), Narrowing::None);
        let doubled = vec![node("Mul", &["area", "thousand"], "to"), node("Expand", &["x", "to"], "y")];
        assert_eq!(with(doubled), Narrowing::None, "no tensor is that large");
        assert_eq!(with(vec![node("Identity", &["area"], "y")]), Narrowing::None);
        let scaled = with(vec![node("Mul", &["height", "thousand"], "y")]);
        let output = "output 'y' is INT64 that may not fit in 32 bits".to_owned();
        assert_eq!(scaled, Narrowing::Possible { reasons: vec![output] });
        let halves = vec![
            cast("height", DataType::FLOAT, "f"),
            node("Sqrt", &["f"], "r"),
            node("Floor", &["r"], "w"),
            cast("w", DataType::INT64, "to"),
            node("Expand", &["x", "to"], "y"),
        ];
        assert_eq!(with(halves), Narrowing::None);
    }

    #[test]
    fn what_leaves_32_bits_is_named() {
        let computes = |operator: &str| format!("operator {operator} computes INT64 that may not fit in 32 bits");
        let named = NodeProto { name: Some("scale_ms".to_owned()), ..node("Mul", &["x", "thousand"], "y") };
        let cases = [
            (vec![node("Mul", &["x", "x"], "y")], computes("Mul")),
            (vec![named], computes("Mul ('scale_ms')")),
            (vec![node("Pow", &["x", "two"], "y")], computes("Pow")),
            (vec![node("CumSum", &["x", "one"], "y")], computes("CumSum")),
            (vec![node("ReduceSum", &["x"], "y")], computes("ReduceSum")),
            (vec![node("MatMul", &["x", "x"], "y")], computes("MatMul")),
            (vec![node("Add", &["x", "big"], "y")], computes("Add")),
            (vec![node("BitShift", &["x", "one"], "y")], computes("BitShift")),
            (vec![node("Equal", &["x", "big"], "y")], "operator Equal takes INT64 'big' beyond 32 bits".to_owned()),
            (vec![node("Identity", &["big"], "y")], "output 'y' is INT64 that may not fit in 32 bits".to_owned()),
            (
                vec![cast("big", DataType::FLOAT, "f"), node("Mul", &["f", "f"], "y")],
                "operator Cast makes FP32 from INT64 that may not fit in 32 bits".to_owned(),
            ),
            (
                vec![node("Div", &["big", "thousand"], "k"), node("Equal", &["x", "k"], "y")],
                "operator Equal takes INT64 'k' beyond 32 bits".to_owned(),
            ),
            (
                vec![node("Div", &["big", "thousand"], "k"), node("Gather", &["x", "k"], "y")],
                "operator Gather takes INT64 beyond 32 bits".to_owned(),
            ),
        ];
        for (nodes, reason) in cases {
            let text = format!("{nodes:?}");
            assert_eq!(of_longs(nodes), Narrowing::Possible { reasons: vec![reason] }, "{text}");
        }
    }

    #[test]
    fn limits_are_found_for_the_inputs_that_need_them() {
        let limits = |nodes| match of_longs(nodes) {
            Narrowing::Limited { limits, reasons } => {
                assert!(!reasons.is_empty());
                limits.into_iter().map(|(input, limit)| format!("{input} {limit}")).collect::<Vec<_>>().join(", ")
            }
            other => format!("{other:?}"),
        };
        assert_eq!(limits(vec![node("Add", &["x", "x"], "y")]), "x 1073741823");
        assert_eq!(limits(vec![node("Neg", &["x"], "y")]), "x 2147483647");
        assert_eq!(limits(vec![node("Sub", &["one", "mask"], "y")]), "mask 1073741823");
        assert_eq!(limits(vec![node("Add", &["x", "mask"], "y")]), "x 1073741823, mask 1073741823");
        assert_eq!(limits(vec![node("CumSum", &["mask", "one"], "y")]), "mask 63");
        assert_eq!(
            limits(vec![node("Add", &["x", "thousand"], "o"), node("CumSum", &["mask", "one"], "y")]),
            "x 1073741823, mask 63"
        );
    }

    #[test]
    fn the_length_of_a_sum_counts_where_the_file_says_it() {
        let mut rows = graph(DataType::INT64, vec![node("CumSum", &["x", "one"], "y")], DataType::INT64);
        rows.input[0] = value("x", DataType::INT64, &[None, Some(3)]);
        let limits = vec![("x".to_owned(), (1 << 28) - 1)];
        assert!(matches!(narrowing(rows), Narrowing::Limited { limits: found, .. } if found == limits));
    }

    #[test]
    fn small_integers_wrap_at_their_own_bits() {
        let of = |datatype, operator: &str| narrowing(graph(datatype, vec![node(operator, &["x", "x"], "y")], datatype));
        let leaves = |datatype: &str| Narrowing::Possible {
            reasons: vec![format!("operator Add computes {datatype} that may not fit in 16 bits")],
        };
        assert_eq!(of(DataType::INT16, "Add"), leaves("INT16"));
        assert_eq!(of(DataType::UINT16, "Add"), leaves("UINT16"));
        assert_eq!(of(DataType::INT16, "Max"), Narrowing::None);
        assert_eq!(of(DataType::INT32, "Mul"), Narrowing::None, "there it wraps as it should");
        assert!(matches!(of(DataType::UINT32, "Sub"), Narrowing::Possible { .. }), "below zero is a large number");
    }

    #[test]
    fn fractions_become_integers_only_where_their_bounds_are_known() {
        let of = |nodes| narrowing(graph(DataType::FLOAT, nodes, DataType::INT64));
        assert_eq!(
            of(vec![cast("x", DataType::INT64, "y")]),
            Narrowing::Possible { reasons: vec!["operator Cast makes INT64 from FP32 that may not fit in 32 bits".to_owned()] }
        );
        assert_eq!(of(vec![node("Sigmoid", &["x"], "p"), cast("p", DataType::INT64, "y")]), Narrowing::None);
        assert_eq!(of(vec![cast("x", DataType::INT32, "y")]), Narrowing::None);
        assert_eq!(
            of(vec![cast("x", DataType::BOOL, "y")]),
            Narrowing::Possible { reasons: vec!["operator Cast makes BOOL from FP32, which may have a fraction".to_owned()] }
        );
        assert_eq!(
            of(vec![
                node("Round", &["x"], "r"),
                node("Tanh", &["r"], "t"),
                node("Floor", &["t"], "w"),
                cast("w", DataType::BOOL, "y")
            ]),
            Narrowing::None
        );
    }

    #[test]
    fn booleans_of_other_numbers_are_not_counted() {
        let truth = || cast("x", DataType::BOOL, "t");
        assert_eq!(of_longs(vec![truth(), node("Where", &["t", "x", "zero"], "y")]), Narrowing::None);
        let counted = of_longs(vec![truth(), cast("t", DataType::INT64, "y")]);
        assert!(matches!(counted, Narrowing::Limited { .. } | Narrowing::Possible { .. }), "{counted:?}");
        assert_eq!(of_longs(vec![truth(), node("Not", &["t"], "n"), cast("n", DataType::INT64, "y")]), Narrowing::None);
    }

    #[test]
    fn fp64_is_harmless_where_fp32_has_the_same_numbers() {
        let of = |from, nodes, to| narrowing(graph(from, nodes, to));
        let computes = |operator: &str| Narrowing::Possible { reasons: vec![format!("operator {operator} computes FP64")] };
        let (single, double) = (DataType::FLOAT, DataType::DOUBLE);
        assert_eq!(of(double, vec![node("Add", &["x", "half"], "y")], double), computes("Add"));
        assert_eq!(of(single, vec![cast("x", double, "d"), node("Mul", &["d", "d"], "y")], double), computes("Mul"));
        assert_eq!(of(double, vec![node("Softmax", &["x"], "y")], double), computes("Softmax"));
        assert_eq!(of(double, vec![cast("x", single, "f"), node("Mul", &["f", "f"], "y")], single), Narrowing::None);
        assert_eq!(of(single, vec![cast("x", double, "y")], double), Narrowing::None);
        assert_eq!(of(single, vec![cast("x", double, "d"), node("Less", &["d", "half"], "y")], DataType::BOOL), Narrowing::None);
        let less = of(single, vec![cast("x", double, "d"), node("Less", &["d", "tiny"], "y")], DataType::BOOL);
        assert_eq!(less, Narrowing::Possible { reasons: vec!["operator Less compares FP64".to_owned()] });
        let same = of(double, vec![node("Identity", &["x"], "y")], double);
        assert_eq!(same, Narrowing::Possible { reasons: vec!["output 'y' is FP64".to_owned()] });
    }

    #[test]
    fn graphs_inside_operators_are_followed() {
        let branch = |operator: &str| GraphProto {
            node: vec![node(operator, &["x", "x"], "r")],
            output: vec![value("r", DataType::INT64, ANY)],
            ..GraphProto::default()
        };
        let choice = |operator| {
            let both = with_graph(node("If", &["c"], "y"), "then_branch", branch(operator));
            of_longs(vec![node("Equal", &["x", "zero"], "c"), with_graph(both, "else_branch", branch("Max"))])
        };
        assert_eq!(choice("Min"), Narrowing::None);
        assert!(matches!(choice("Mul"), Narrowing::Possible { .. }));
        let body = GraphProto {
            node: vec![node("Add", &["n", "one"], "m"), node("Identity", &["go"], "goes")],
            input: vec![value("i", DataType::INT64, &[]), value("go", DataType::BOOL, &[]), value("n", DataType::INT64, &[])],
            output: vec![value("goes", DataType::BOOL, &[]), value("m", DataType::INT64, &[])],
            ..GraphProto::default()
        };
        let counts = of_longs(vec![with_graph(node("Loop", &["thousand", "", "zero"], "y"), "body", body)]);
        assert!(matches!(counts, Narrowing::Possible { .. }), "{counts:?}");
    }

    #[test]
    fn reasons_are_not_listed_without_end() {
        let name = |at: usize| format!("v{at}");
        let nodes = (0..9).map(|at| NodeProto { name: Some(name(at)), ..node("Mul", &["x", "x"], &name(at)) });
        let Narrowing::Possible { reasons } = of_longs(nodes.collect()) else { panic!("it multiplies") };
        assert_eq!((reasons.len(), reasons[5].as_str()), (6, "4 more like these"));
    }

    #[test]
    fn silero_is_harmless() {
        assert_eq!(*ModelFile::read(silero::FILE).expect("an ONNX file").narrowing(), Narrowing::None);
    }
}
