//! Why rten cannot load a model, in plain words: what is missing, where, and what to do.
//!
//! rten's own messages name build features, which the operator of a server cannot set.

use crate::ONNXRUNTIME_WAY;

/// ONNX operators that rten lacks, or supports only in part, and that onnxruntime has. They include those that rten has behind build
/// features, which are not built in. Tests compare this list with rten, and `docs/models.md` with this list.
const LACKING: [&str; 60] = [
    "AffineGrid",
    "Bernoulli",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "CausalConvWithState",
    "Celu",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "CumProd",
    "DFT",
    "DeformConv",
    "Det",
    "Dropout",
    "GlobalLpPool",
    "GroupNormalization",
    "HammingWindow",
    "HannWindow",
    "Hardmax",
    "LRN",
    "LinearAttention",
    "LpPool",
    "MaxRoiPool",
    "MaxUnpool",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Mish",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RegexFullMatch",
    "RoiAlign",
    "STFT",
    "Scan",
    "Selu",
    "SequenceMap",
    "Shrink",
    "SoftmaxCrossEntropyLoss",
    "SpaceToDepth",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "SwiGLU",
    "TensorScatter",
    "TfIdfVectorizer",
    "ThresholdedRelu",
    "Unique",
];

/// Operator sets other than ONNX's own. onnxruntime has many of their operators, rten has none.
const OTHER_SETS: [&str; 2] = ["com.microsoft", "ai.onnx.ml"];

/// Explains an error from rten in our words. `functions` are operators that the file itself defines.
pub(super) fn explained(error: &str, functions: &[String]) -> String {
    let (node, cause) = node_and_cause(error);
    // Only operator names come before these words.
    let operator = cause.split_once(" operator not ").map(|(before, _)| before).filter(|name| !name.contains(' '));
    match operator {
        // Operators that the build leaves out are either ONNX's own or onnxruntime's.
        Some(operator) if cause.contains("not enabled because") => {
            lacks(operator.strip_suffix("Microsoft").unwrap_or(operator), node, functions, true)
        }
        Some(operator) => lacks(operator, node, functions, false),
        None => {
            let place = node.map(|node| format!("node '{node}': ")).unwrap_or_default();
            format!("{place}{cause}; onnxruntime takes all of ONNX ({ONNXRUNTIME_WAY})")
        }
    }
}

fn lacks(operator: &str, node: Option<&str>, functions: &[String], is_known: bool) -> String {
    let (set, name) = operator.rsplit_once('/').unwrap_or(("", operator));
    // A node without a name was given that of its operator.
    let place = node.filter(|node| *node != name).map(|node| format!(" (node '{node}')")).unwrap_or_default();
    if functions.iter().any(|function| function == name) {
        return format!(
            "rten has no functions, and the file defines {operator}{place} as one; onnxruntime has them ({ONNXRUNTIME_WAY})"
        );
    }
    if is_known || OTHER_SETS.contains(&set) || (set.is_empty() && LACKING.contains(&name)) {
        return format!("rten lacks the operator {operator}{place}; onnxruntime has it ({ONNXRUNTIME_WAY})");
    }
    format!("rten lacks the operator {operator}{place}, and onnxruntime is not known to have it either")
}

/// The innermost named node, and what is wrong with it.
fn node_and_cause(error: &str) -> (Option<&str>, &str) {
    let (mut node, mut cause) = (None, error);
    // There is one such prefix for each graph that an operator contains.
    while let Some((before, rest)) = cause.split_once("in node \"")
        && let Some((name, inner)) = rest.split_once("\": ")
        && before.split(": ").all(|part| part.is_empty() || part.ends_with("error"))
    {
        (node, cause) = (Some(name).filter(|name| !name.is_empty()), inner);
    }
    for prefix in ["operator error: ", "graph error: ", "graph optimization error: "] {
        cause = cause.strip_prefix(prefix).unwrap_or(cause);
    }
    (node, cause)
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{DataType, NodeProto};

    use super::*;
    use crate::{
        EngineError,
        rten::Rten,
        test_models::{self, node, value, with_graph},
    };

    fn refused(file: Vec<u8>) -> String {
        match Rten::load(file) {
            Err(EngineError::Load(text)) => {
                text.strip_prefix("rten cannot load the model: ").expect("the usual words").to_owned()
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }

    fn of_operator(operator: &str, domain: &str, name: &str) -> String {
        let mut model = test_models::parse(&test_models::one_operator(operator, DataType::FLOAT, &[None, Some(2)]));
        let node = &mut model.graph.as_mut().expect("it has a graph").node[0];
        node.domain = Some(domain.to_owned());
        node.name = Some(name.to_owned());
        refused(model.write_buf().expect("it can be written"))
    }

    #[test]
    fn each_operator_that_is_listed_as_lacking_is_lacking() {
        assert!(LACKING.is_sorted());
        for operator in LACKING {
            let way = "onnxruntime has it (pip install onnxruntime, then --onnxruntime auto)";
            assert_eq!(of_operator(operator, "", ""), format!("rten lacks the operator {operator}; {way}"));
        }
    }

    #[test]
    fn the_page_names_them_all() {
        let page = include_str!("../../../../docs/models.md");
        let expected = LACKING.map(|operator| format!("`{operator}`")).join(", ");
        let one_line = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(one_line.contains(&expected), "docs/models.md must name: {expected}");
    }

    #[test]
    fn an_operator_of_another_set_or_of_none_is_named_with_what_to_do() {
        let has_it = "onnxruntime has it (pip install onnxruntime, then --onnxruntime auto)";
        assert_eq!(
            of_operator("DynamicQuantizeLSTM", "com.microsoft", "/lstm"),
            format!("rten lacks the operator DynamicQuantizeLSTM (node '/lstm'); {has_it}")
        );
        assert_eq!(
            of_operator("TreeEnsembleClassifier", "ai.onnx.ml", ""),
            format!("rten lacks the operator ai.onnx.ml/TreeEnsembleClassifier; {has_it}")
        );
        let unknown = "rten lacks the operator Frobnicate, and onnxruntime is not known to have it either";
        assert_eq!(of_operator("Frobnicate", "", ""), unknown);
    }

    #[test]
    fn a_node_inside_an_operator_is_named() {
        let branch = || rten_onnx::onnx::GraphProto {
            node: vec![NodeProto { name: Some("/inner".to_owned()), ..node("Unique", &["x"], "r") }],
            output: vec![value("r", DataType::FLOAT, &[])],
            ..Default::default()
        };
        let choice = with_graph(node("If", &["c"], "y"), "then_branch", branch());
        let graph = rten_onnx::onnx::GraphProto {
            node: vec![with_graph(choice, "else_branch", branch())],
            input: vec![value("x", DataType::FLOAT, &[None]), value("c", DataType::BOOL, &[])],
            output: vec![value("y", DataType::FLOAT, &[None])],
            ..Default::default()
        };
        let text = refused(test_models::write(graph));
        assert!(text.starts_with("rten lacks the operator Unique (node '/inner'); onnxruntime has it"), "{text}");
    }

    #[test]
    fn other_causes_keep_their_words_and_say_what_to_do() {
        let cases = [
            (
                "in node \"/a\": operator error: error in attribute \"direction\": unsupported",
                "node '/a': error in attribute \"direction\": unsupported; onnxruntime takes all of ONNX",
            ),
            ("parse error: it is odd", "parse error: it is odd; onnxruntime takes all of ONNX"),
            (
                "in node \"\": operator error: subgraph error: in node \"/b\": operator error: operator has 8 inputs but maximum is 7",
                "node '/b': operator has 8 inputs but maximum is 7; onnxruntime takes all of ONNX",
            ),
        ];
        for (error, expected) in cases {
            let text = explained(error, &[]);
            assert!(text.starts_with(expected), "{text} is not {expected}");
            assert!(text.contains("--onnxruntime auto"), "{text}");
        }
        let function =
            explained("in node \"f\": operator error: local/Twice operator not supported or not enabled", &["Twice".to_owned()]);
        assert!(function.starts_with("rten has no functions, and the file defines local/Twice (node 'f') as one"), "{function}");
    }
}
