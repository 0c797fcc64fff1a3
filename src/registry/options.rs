//! How models are loaded.

use crate::{
    engine::{EngineChoice, LaneThreads},
    proof::{Kept, SEED_DEFAULT, Store, Subject},
};

/// How to load.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Engine of the models that leave the choice open; [`EngineChoice::Auto`] means one that is always there.
    pub engine_default: EngineChoice,
    /// The lanes that will run the models.
    pub lanes: &'a [LaneThreads],
    /// Whether to go on without the models that cannot be loaded; they are in the registry as failed.
    pub keep_going: bool,
    /// Proofs of earlier starts.
    pub proofs: &'a Store,
    /// Whether to prove models that earlier starts have proven.
    pub proves_anew: bool,
    /// The seed that made-up items are drawn from.
    pub seed: u64,
}

static NO_PROOFS: Store = Store::none();

impl<'a> LoadOptions<'a> {
    /// The findings of an earlier start, unless they are to be found out again.
    pub(super) fn kept(&self, subject: &Subject) -> Option<Kept> {
        if self.proves_anew { None } else { self.proofs.get(subject) }
    }

    /// Without proofs of earlier starts.
    #[must_use]
    pub const fn new(engine_default: EngineChoice, lanes: &'a [LaneThreads], keep_going: bool) -> Self {
        Self { engine_default, lanes, keep_going, proofs: &NO_PROOFS, proves_anew: false, seed: SEED_DEFAULT }
    }
}
