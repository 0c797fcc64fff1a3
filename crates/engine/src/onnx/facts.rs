//! The effects that a file's operators can have on the items of a call.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::DataType;

use super::{
    constants::Constants,
    proto::{Graph, Model, Node},
};

/// Facts about a model that has not run yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Operators through which rows of a call can influence each other, each once, and with the node's name if it has one: `ReduceMean over
    /// axis 0 ('/pool')`.
    pub coupling_operators: Vec<String>,
    /// Whether anything rounds, so that a difference in the last digit can become a step: quantization, FP16, BF16, Round.
    pub lossy: bool,
    /// Operators that give different numbers in each call.
    pub random: Vec<String>,
    /// Whether it multiplies matrices, the second of which may be a weight.
    pub multiplies_matrices: bool,
    /// Each input without a default, and the names of those dimensions that have one.
    pub batch_names: Vec<(String, Vec<Option<String>>)>,
}

impl Facts {
    pub(super) fn of(model: &Model<'_>, graph: &Graph<'_>) -> Self {
        let given: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name).collect();
        let inputs = graph.inputs.iter().filter(|input| !given.contains(input.name));
        let batch_names = inputs.clone().map(|input| {
            let dims = input.dims.iter().flatten();
            (input.name.to_owned(), dims.map(|dim| dim.name.filter(|name| !name.is_empty()).map(str::to_owned)).collect())
        });
        let mut survey = Survey { opset: opset(model), ranks: HashMap::new(), facts: Self::default() };
        survey.facts.batch_names = batch_names.collect();
        let mut moving = Moving::Only(inputs.map(|input| input.name).collect());
        survey.graph(graph, &Constants::default(), &mut moving);
        for function in &model.functions {
            let mut constants = Constants::default();
            constants.add_nodes(&function.nodes);
            survey.nodes(&function.nodes, &constants, &mut Moving::All);
        }
        survey.facts
    }
}

/// Version of ONNX's own operators.
pub(super) fn opset(model: &Model<'_>) -> i64 {
    model.operator_sets.iter().find(|(domain, _)| domain.is_empty()).map_or(1, |(_, version)| *version)
}

/// Names of values that depend on the data that is sent, and not only on its shape.
enum Moving<'f> {
    Only(HashSet<&'f str>),
    /// Nothing is known.
    All,
}

impl<'f> Moving<'f> {
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// Enters a node's outputs, and says whether its inputs are moving.
    fn follow(&mut self, node: &Node<'f>) -> bool {
        let moves = node.inputs.iter().any(|name| self.holds(name)) || node.graphs().next().is_some();
        if let Self::Only(names) = self
            && moves
            && !matches!(node.operator, "Shape" | "Size" | "ConstantOfShape")
        {
            names.extend(&node.outputs);
        }
        moves
    }
}

struct Survey<'f> {
    opset: i64,
    /// Numbers of dimensions, where the file states them.
    ranks: HashMap<&'f str, usize>,
    facts: Facts,
}

impl<'f> Survey<'f> {
    fn graph(&mut self, graph: &Graph<'f>, around: &Constants<'_, 'f>, moving: &mut Moving<'f>) {
        let values = || graph.inputs.iter().chain(&graph.outputs).chain(&graph.values);
        self.ranks.extend(values().filter_map(|value| Some((value.name, value.dims.as_ref()?.len()))));
        let mut datatypes = values().filter_map(|value| value.datatype).chain(graph.initializers.iter().map(|it| it.datatype));
        self.facts.lossy |= datatypes.any(is_lossy);
        let mut constants = around.clone();
        constants.add(graph);
        self.nodes(&graph.nodes, &constants, moving);
    }

    fn nodes(&mut self, nodes: &[Node<'f>], constants: &Constants<'_, 'f>, moving: &mut Moving<'f>) {
        for node in nodes {
            if moving.follow(node)
                && let Some(coupling) = self.coupling(node, constants)
            {
                note(&mut self.facts.coupling_operators, node, &coupling);
            }
            self.facts.lossy |= rounds(node);
            self.facts.multiplies_matrices |= matches!(node.operator, "MatMul" | "MatMulInteger" | "FusedMatMul");
            if is_random(node, constants) {
                note(&mut self.facts.random, node, node.operator);
            }
            for graph in node.graphs() {
                self.graph(graph, constants, &mut Moving::All);
            }
        }
    }

    /// How this node can couple rows, if it can.
    fn coupling(&self, node: &Node<'_>, constants: &Constants<'_, '_>) -> Option<String> {
        let axis = |default: i64| node.int("axis").unwrap_or(default);
        let at_axis_0 = |axes: &[i64]| {
            let rank = node.input(0).and_then(|name| self.ranks.get(name)).and_then(|rank| i64::try_from(*rank).ok());
            let is_first = axes.iter().any(|axis| *axis == 0 || rank.is_some_and(|rank| *axis == -rank));
            is_first.then(|| format!("{} over axis 0", node.operator))
        };
        let axes = |at: usize| match node.attribute("axes") {
            Some(axes) => Some(axes.ints.clone()),
            None => node.input(at).map_or_else(|| Some(Vec::new()), |name| constants.ints(name)),
        };
        match node.operator {
            name if name.starts_with("DynamicQuantize") => Some(name.to_owned()),
            "NonZero" | "NonMaxSuppression" | "Unique" | "Loop" | "If" => Some(node.operator.to_owned()),
            "BatchNormalization" => {
                let trains = node.int("training_mode") == Some(1) || (self.opset < 14 && node.outputs.len() > 1);
                trains.then(|| "BatchNormalization in training mode".to_owned())
            }
            name if name.starts_with("Reduce") => match axes(1)? {
                axes if !axes.is_empty() => at_axis_0(&axes),
                _ if node.int("noop_with_empty_axes") == Some(1) => None,
                _ => Some(format!("{name} over all axes")),
            },
            "MeanVarianceNormalization" => match axes(1)? {
                axes if axes.is_empty() => at_axis_0(&[0]),
                axes => at_axis_0(&axes),
            },
            "Softmax" | "LogSoftmax" | "Hardmax" => at_axis_0(&[axis(if self.opset < 13 { 1 } else { -1 })]),
            "LayerNormalization" | "RMSNormalization" | "TopK" | "LpNormalization" => at_axis_0(&[axis(-1)]),
            "ArgMax" | "ArgMin" => at_axis_0(&[axis(0)]),
            "CumSum" => at_axis_0(&constants.ints(node.input(1)?)?),
            "Compress" if node.int("axis").is_none() => Some("Compress over all axes".to_owned()),
            "Compress" => at_axis_0(&[axis(0)]),
            _ => None,
        }
    }
}

fn note(list: &mut Vec<String>, node: &Node<'_>, what: &str) {
    let text = if node.name.is_empty() { what.to_owned() } else { format!("{what} ('{}')", node.name) };
    if !list.contains(&text) {
        list.push(text);
    }
}

fn rounds(node: &Node<'_>) -> bool {
    match node.operator {
        "Round" | "QuantizeLinear" => true,
        "Cast" => node.int("to").and_then(|to| i32::try_from(to).ok()).is_some_and(is_lossy),
        name => name.starts_with("DynamicQuantize") || name.starts_with("QLinear"),
    }
}

fn is_lossy(datatype: i32) -> bool {
    let datatype = DataType(datatype);
    [
        DataType::FLOAT16,
        DataType::BFLOAT16,
        DataType::FLOAT8E4M3FN,
        DataType::FLOAT8E4M3FNUZ,
        DataType::FLOAT8E5M2,
        DataType::FLOAT8E5M2FNUZ,
        DataType::FLOAT4E2M1,
    ]
    .contains(&datatype)
}

fn is_random(node: &Node<'_>, constants: &Constants<'_, '_>) -> bool {
    match node.operator {
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Multinomial" | "Bernoulli" => true,
        // It is in training if a third input says so; a computed one may.
        "Dropout" => node.input(2).is_some_and(|name| constants.ints(name).is_none_or(|is_training| is_training != [0])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{GraphProto, NodeProto};

    use super::*;
    use crate::{
        onnx::ModelFile,
        test_models::{self, longs, node, silero, value, with_graph, with_ints},
    };

    fn facts(graph: GraphProto) -> Facts {
        ModelFile::read(test_models::write(graph)).expect("a graph").facts
    }

    /// The facts about a graph of these nodes from `x`, FP32 [n, 2], with the INT64 constants `zero` and `one`, and an empty list.
    fn facts_of(nodes: Vec<NodeProto>) -> Facts {
        facts(GraphProto {
            node: nodes,
            initializer: vec![longs("zero", &[], &[0]), longs("one", &[1], &[1]), longs("none", &[0], &[])],
            input: vec![value("x", DataType::FLOAT, &[None, Some(2)])],
            output: vec![value("y", DataType::FLOAT, &[None])],
            ..GraphProto::default()
        })
    }

    #[test]
    fn operators_that_can_couple_rows_are_named_with_how_they_do() {
        let named = NodeProto { name: Some("/pool".to_owned()), ..node("ReduceMean", &["x", "zero"], "y") };
        let reduced = |axes: &'static [i64]| with_ints(node("ReduceMax", &["x"], "y"), &[("axes", axes)]);
        let at = |operator, axis: i64| with_ints(node(operator, &["x"], "y"), &[("axis", &[axis])]);
        let cases = [
            (named, Some("ReduceMean over axis 0 ('/pool')")),
            (node("ReduceMean", &["x", "one"], "y"), None),
            (node("ReduceMean", &["x"], "y"), Some("ReduceMean over all axes")),
            (node("ReduceSum", &["x", "none"], "y"), Some("ReduceSum over all axes")),
            (with_ints(node("ReduceSum", &["x"], "y"), &[("noop_with_empty_axes", &[1])]), None),
            (reduced(&[-2]), Some("ReduceMax over axis 0")),
            (reduced(&[-1]), None),
            (reduced(&[1, 0]), Some("ReduceMax over axis 0")),
            (at("Softmax", 0), Some("Softmax over axis 0")),
            (at("Softmax", -2), Some("Softmax over axis 0")),
            (node("Softmax", &["x"], "y"), None),
            (node("CumSum", &["x", "zero"], "y"), Some("CumSum over axis 0")),
            (node("CumSum", &["x", "one"], "y"), None),
            (node("ArgMax", &["x"], "y"), Some("ArgMax over axis 0")),
            (at("ArgMax", 1), None),
            (at("TopK", 0), Some("TopK over axis 0")),
            (node("TopK", &["x", "one"], "y"), None),
            (node("NonZero", &["x"], "y"), Some("NonZero")),
            (node("Compress", &["x", "b"], "y"), Some("Compress over all axes")),
            (at("Compress", 0), Some("Compress over axis 0")),
            (node("DynamicQuantizeLinear", &["x"], "y"), Some("DynamicQuantizeLinear")),
            (node("DynamicQuantizeLSTM", &["x"], "y"), Some("DynamicQuantizeLSTM")),
            (
                with_ints(node("BatchNormalization", &["x"], "y"), &[("training_mode", &[1])]),
                Some("BatchNormalization in training mode"),
            ),
            (node("BatchNormalization", &["x"], "y"), None),
            (node("MatMul", &["x", "x"], "y"), None),
        ];
        for (node, expected) in cases {
            let text = format!("{node:?}");
            assert_eq!(facts_of(vec![node]).coupling_operators, Vec::from_iter(expected), "{text}");
        }
    }

    #[test]
    fn what_is_computed_from_shapes_couples_nothing() {
        let nodes = vec![node("Shape", &["x"], "shape"), node("ReduceProd", &["shape"], "elements")];
        assert_eq!(facts_of(nodes).coupling_operators, [""; 0]);
    }

    #[test]
    fn graphs_inside_operators_are_searched() {
        let inside = || GraphProto {
            node: vec![node("ReduceSum", &["x"], "t"), node("RandomNormalLike", &["x"], "r")],
            output: vec![value("t", DataType::FLOAT16, &[])],
            ..GraphProto::default()
        };
        let branch = with_graph(node("If", &["condition"], "y"), "then_branch", inside());
        let facts = facts_of(vec![with_graph(branch, "else_branch", inside())]);
        assert_eq!(facts.coupling_operators, ["If", "ReduceSum over all axes"]);
        assert_eq!(facts.random, ["RandomNormalLike"]);
        assert!(facts.lossy);
    }

    #[test]
    fn what_rounds_makes_a_model_lossy() {
        let to = |datatype: DataType| with_ints(node("Cast", &["x"], "y"), &[("to", &[i64::from(datatype.0)])]);
        let cases = [
            (node("Round", &["x"], "y"), true),
            (node("QuantizeLinear", &["x", "one"], "y"), true),
            (node("DynamicQuantizeLinear", &["x"], "y"), true),
            (node("QLinearConv", &["x"], "y"), true),
            (to(DataType::BFLOAT16), true),
            (to(DataType::DOUBLE), false),
            (node("DequantizeLinear", &["x", "one"], "y"), false),
        ];
        for (node, lossy) in cases {
            let text = format!("{node:?}");
            assert_eq!(facts_of(vec![node]).lossy, lossy, "{text}");
        }
    }

    #[test]
    fn a_dropout_is_random_only_where_it_trains() {
        let dropout = |training: &[&str]| facts_of(vec![node("Dropout", &[&["x", ""], training].concat(), "y")]).random;
        assert_eq!(dropout(&[]), [""; 0]);
        assert_eq!(dropout(&["zero"]), [""; 0]);
        assert_eq!(dropout(&["one"]), ["Dropout"]);
        assert_eq!(dropout(&["computed"]), ["Dropout"]);
    }

    #[test]
    fn names_of_dimensions_are_those_of_inputs_without_a_default() {
        let mut shapeless = value("z", DataType::FLOAT, &[]);
        if let Some(tensor) = shapeless.r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut()) {
            tensor.shape = None;
        }
        let facts = facts(GraphProto {
            initializer: vec![longs("k", &[1], &[1])],
            input: vec![value("x", DataType::FLOAT, &[None, Some(2)]), shapeless, value("k", DataType::INT64, &[Some(1)])],
            ..GraphProto::default()
        });
        let expected = vec![("x".to_owned(), vec![Some("n".to_owned()), None]), ("z".to_owned(), Vec::new())];
        assert_eq!(facts.batch_names, expected);
    }

    #[test]
    fn silero_branches_and_couples_nothing_else() {
        let facts = ModelFile::read(silero::FILE).expect("an ONNX file").facts;
        let kinds: HashSet<&str> = facts.coupling_operators.iter().filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(kinds, HashSet::from(["If"]), "{:?}", facts.coupling_operators);
        assert!(!facts.lossy && facts.random.is_empty());
    }
}
