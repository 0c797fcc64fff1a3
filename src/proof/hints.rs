//! Hints in a model's file about how its items may depend on each other.

use crate::{domain::Signature, engine::Engine};

/// Names of first dimensions along which order matters: beginnings of words, in lower case.
const ORDERED: [&str; 14] = [
    "time",
    "seq",
    "len",
    "sample",
    "frame",
    "step",
    "node",
    "point",
    "token",
    "num_node",
    "num_point",
    "num_frame",
    "num_sample",
    "n_",
];
/// The same as whole words.
const ORDERED_WORDS: [&str; 2] = ["t", "l"];

/// Hints about a model that has not run yet. None of them overrules what its calls show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Whether the model rounds coarsely inside: it computes in 8 bits or in half precision.
    pub lossy: bool,
    /// Operators that couple items, such as `DynamicQuantizeLinear`.
    pub suspects: Vec<String>,
    /// What the file calls the dimension that is taken to be the batch, if that is a word for time, nodes or points, or if another
    /// dimension of the same input has the same name.
    pub ordered_axis: Option<String>,
    /// Whether that dimension has a name in the file, other than one that an exporter numbered, such as `unk__7`.
    pub named: bool,
    /// Whether the file calls it a batch, in so many words.
    pub named_batch: bool,
    /// Whether the engine always computes items apart, as the synthetic one does.
    pub apart_by_construction: bool,
}

impl Hints {
    /// The hints in the file of `engine` about a model with this signature.
    #[must_use]
    pub fn of(engine: &dyn Engine, signature: &Signature) -> Self {
        let apart_by_construction = engine.computes_items_apart();
        let Some(facts) = engine.facts() else { return Self { apart_by_construction, ..Self::default() } };
        let named = signature.inputs.iter().filter_map(|input| {
            let (_, dims) = facts.batch_names.iter().find(|(name, _)| **name == *input.name)?;
            let name = dims.get(input.batch_axis?)?.as_deref()?;
            let is_twice = dims.iter().flatten().filter(|other| *other == name).count() > 1;
            Some((name, is_twice))
        });
        let is_batch = |name: &str| name.to_lowercase().contains("batch");
        let mut ordered = named.clone().filter(|(name, is_twice)| *is_twice || is_ordered(name));
        Self {
            lossy: facts.lossy,
            suspects: facts.coupling_operators.clone(),
            ordered_axis: ordered.next().map(|(name, _)| format!("'{name}'")),
            named: named.clone().any(|(name, _)| !name.contains(|letter: char| letter.is_ascii_digit())),
            named_batch: named.clone().any(|(name, is_twice)| !is_twice && is_batch(name)),
            apart_by_construction,
        }
    }
}

fn is_ordered(name: &str) -> bool {
    let name = name.to_lowercase();
    ORDERED.iter().any(|start| name.starts_with(start)) || ORDERED_WORDS.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_order_are_known_and_those_for_a_batch_are_not_among_them() {
        for name in ["time", "T", "seq_len", "sequence_length", "Samples", "num_nodes", "n_points", "frames"] {
            assert!(is_ordered(name), "{name}");
        }
        for name in ["batch", "batch_size", "N", "b", "unk__7", "s6", "p2o.DynamicDimension.0", "B", "n"] {
            assert!(!is_ordered(name), "{name}");
        }
    }
}
