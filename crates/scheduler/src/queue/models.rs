//! The models of the queue: how they come and go, and what can be asked about them.

use std::time::Duration;

use tidemill_domain::DropReason;

use super::{Queue, model::ModelQueue};
use crate::{
    by_shape::CostsByShape,
    cost::{CostCurve, CostModel},
    keys::{ModelKey, ShapeKey},
    ledger::Ledger,
    options::ModelOptions,
    ready::ReadyStreams,
    statistics::Statistics,
};

impl<H: Clone, P> Queue<H, P> {
    /// Adds a model.
    pub fn add_model(&mut self, options: ModelOptions) -> ModelKey {
        let costs = CostsByShape::new(&options.curve, options.max_batch, options.item_bytes, options.wide_ratio);
        let key = self.models.insert(ModelQueue {
            options,
            costs,
            slack: 0,
            ready: ReadyStreams::default(),
            flows: Default::default(),
            held: self.admission.of_model(),
            running: 0,
            streams: 0,
            retired: false,
            ledger: Ledger::default(),
            drops: [0; DropReason::ALL.len()],
            repairs: 0,
            statistics: Statistics::default(),
        });
        self.models[key].find_slack();
        key
    }

    /// Lets no more streams of a model open. Open ones go on; once they have ended, the model can be removed.
    pub fn retire_model(&mut self, key: ModelKey) {
        if let Some(model) = self.models.get_mut(key) {
            model.retired = true;
        }
    }

    /// Whether a model was retired.
    #[must_use]
    pub fn is_retired(&self, key: ModelKey) -> bool {
        self.models.get(key).is_some_and(|model| model.retired)
    }

    /// Whether a model is retired and its last stream has ended, including all its items.
    #[must_use]
    pub fn is_spent(&self, key: ModelKey) -> bool {
        self.models.get(key).is_some_and(|model| model.retired && model.streams == 0)
    }

    /// Removes a model if it is spent. Returns whether it was.
    pub fn remove_spent(&mut self, key: ModelKey) -> bool {
        self.is_spent(key) && self.models.remove(key).is_some()
    }

    /// Models present, including retired ones that still have streams.
    #[must_use]
    pub fn models(&self) -> usize {
        self.models.len()
    }

    /// One model's items: how many are queued, and how many are running.
    #[must_use]
    pub fn load(&self, model: ModelKey) -> (usize, usize) {
        self.models.get(model).map_or((0, 0), |model| (model.held.items(), model.running))
    }

    /// Streams of one model that are open, or closed with items still running.
    #[must_use]
    pub fn streams_of(&self, model: ModelKey) -> usize {
        self.models.get(model).map_or(0, |model| model.streams)
    }

    /// The account of one model.
    #[must_use]
    pub fn ledger(&self, model: ModelKey) -> Ledger {
        self.models.get(model).map(|model| model.ledger).unwrap_or_default()
    }

    /// What one model's calls and items took.
    #[must_use]
    pub fn statistics(&self, model: ModelKey) -> Statistics {
        self.models.get(model).map(|model| model.statistics.clone()).unwrap_or_default()
    }

    /// Items of one model given up in the queue for this reason.
    #[must_use]
    pub fn dropped(&self, model: ModelKey, reason: DropReason) -> u64 {
        self.models.get(model).map_or(0, |model| model.drops[reason as usize])
    }

    /// The running cost estimate of one model, for items of the measured shape.
    #[must_use]
    pub fn cost(&self, model: ModelKey) -> Option<&CostModel> {
        self.models.get(model).map(|model| model.costs.base())
    }

    /// How many of a model's items could share a batch, if nothing else is in the queue.
    #[must_use]
    pub fn only_ready(&self, model: ModelKey) -> Option<usize> {
        let model = self.models.get(model)?;
        (model.held.items() == self.held.items()).then(|| model.ready_items(ShapeKey::default()))
    }

    /// Expected time of a call with one item of this shape; zero if there is no such model.
    #[must_use]
    pub fn cost_of(&self, model: ModelKey, shape: ShapeKey) -> Duration {
        self.models.get(model).map_or(Duration::ZERO, |model| model.costs.of(shape).call(1))
    }

    /// The longest call of any model and shape, as far as is known.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        let longest = |cost: &CostModel| cost.curve().points().map(|(_, duration)| duration).max();
        let costs = self.models.values().map(|model| &model.costs);
        let all = costs.flat_map(|costs| std::iter::once(costs.base()).chain(costs.by_shape().map(|(_, cost)| cost)));
        all.filter_map(longest).max().unwrap_or_default()
    }

    /// The running cost estimates for a model's other shapes, each with an item's input bytes.
    #[must_use]
    pub fn costs_by_shape(&self, model: ModelKey) -> Vec<(usize, CostCurve)> {
        let costs = self.models.get(model).into_iter().flat_map(|model| model.costs.by_shape());
        let mut costs: Vec<_> = costs.map(|(bytes, cost)| (bytes, cost.curve())).collect();
        costs.sort_unstable_by_key(|(bytes, _)| *bytes);
        costs
    }
}
