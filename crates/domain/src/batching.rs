//! Whether the items of a model may share its calls, and how this was found out.

use std::{fmt, sync::Arc};

/// What the trial calls showed about a model's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No item changed another item's answer.
    Independent,
    /// An item's answer depends on the other items of its call.
    Dependent,
    /// The dimension taken for the batch is not one: elements along it belong together.
    NotABatch,
    /// Items of equal length do not change each other, but padding changes answers.
    PaddingLeaks,
    /// The same item gets a different answer each time, so answers cannot be compared.
    Random,
    /// The trial calls failed, showed nothing, or took too long.
    Unproven,
    /// The manifest rules out shared calls, so there is nothing to prove.
    Off,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Independent, Self::Dependent, Self::NotABatch, Self::PaddingLeaks, Self::Random, Self::Unproven, Self::Off];

    /// In lower case, for logs, metric labels and files.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Dependent => "dependent",
            Self::NotABatch => "not_a_batch",
            Self::PaddingLeaks => "padding_leaks",
            Self::Random => "random",
            Self::Unproven => "unproven",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What the manifest says about batching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchingRule {
    /// Items share calls if no dependence between them is found.
    #[default]
    Proven,
    /// They also share calls if nothing can be proven, but not if a dependence is found.
    Assumed,
    /// One item per call.
    Off,
}

/// How the items of a model being served are batched, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// What the trial calls showed.
    pub verdict: Verdict,
    /// Whether items share calls.
    pub shares_calls: bool,
    /// What was found, as a sentence for people; may be empty.
    pub detail: Arc<str>,
    /// Largest call in which items were compared; 1 if there was none.
    pub proven_batch: usize,
    /// Seed of the made-up items.
    pub seed: u64,
}

impl Batching {
    /// Batching that was not examined.
    #[must_use]
    pub fn off(detail: impl Into<Arc<str>>) -> Self {
        Self { verdict: Verdict::Off, shares_calls: false, detail: detail.into(), proven_batch: 1, seed: 0 }
    }
}
