//! What the queue holds of a model.

use tidemill_domain::{DropReason, Priority};

use crate::{
    admission::Held,
    by_shape::CostsByShape,
    fair::{Flow, Work},
    keys::ShapeKey,
    ledger::Ledger,
    options::ModelOptions,
    ready::ReadyStreams,
    statistics::Statistics,
};

/// Calls that a stream may be ahead of its fair share while its items have deadlines.
const SLACK_CALLS: u32 = 4;

/// How many priorities there are.
pub(super) const CLASSES: usize = Priority::ALL.len();

/// A model: its ready streams, its costs and its accounts.
pub(super) struct ModelQueue {
    pub(super) options: ModelOptions,
    pub(super) costs: CostsByShape,
    /// Lane time that a stream may be ahead of its fair share while its items have deadlines.
    pub(super) slack: Work,
    pub(super) ready: ReadyStreams,
    /// The model's account among all models, by priority.
    pub(super) flows: [Flow; CLASSES],
    pub(super) held: Held,
    pub(super) running: usize,
    /// Streams that are open, or closed with items still running.
    pub(super) streams: usize,
    /// No stream opens any more; the model goes with its last one.
    pub(super) retired: bool,
    pub(super) ledger: Ledger,
    pub(super) drops: [u64; DropReason::ALL.len()],
    pub(super) repairs: u64,
    pub(super) statistics: Statistics,
}

impl ModelQueue {
    #[inline]
    pub(super) fn find_slack(&mut self) {
        let cost = self.costs.base();
        self.slack = u64::try_from((cost.call(cost.cap()) * SLACK_CALLS).as_nanos()).unwrap_or(u64::MAX);
    }

    /// Items that could be in one batch with one of this shape.
    #[inline]
    pub(super) fn ready_items(&self, shape: ShapeKey) -> usize {
        let queued = self.costs.queued(shape).unwrap_or(self.held.items());
        if self.options.stateful { queued.min(self.ready.len()) } else { queued }
    }
}
