//! What a device keeps for a model besides its queue, and what can be asked about it.

use std::sync::Arc;

use super::{live::LiveBatch, shapes::Shapes};
use crate::{
    domain::{DropReason, Outcome},
    engine::Executable,
    scheduler::{CostCurve, Ledger, Statistics},
    telemetry::{Gauge, ModelMetrics},
};

/// What a lane needs to run a model and to count its work.
pub struct ModelRuntime {
    /// Runs calls.
    pub executable: Arc<Executable>,
    /// Where calls are counted.
    pub metrics: ModelMetrics,
    /// Where the learned cost is published, at batch sizes 1, 2, 4, …
    pub costs: Vec<Gauge>,
}

/// What can be asked about a model's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueStatus {
    /// The cost learned so far.
    pub curve: CostCurve,
    /// The same for items of other shapes, each with an item's input bytes.
    pub shape_curves: Vec<(usize, CostCurve)>,
    /// Largest batch that will be formed.
    pub batch_cap: usize,
    /// Streams that are open, or closed with items still running.
    pub streams: usize,
    /// Items queued.
    pub queued: usize,
    /// How many may be queued.
    pub queued_max: usize,
    /// Items in calls now running.
    pub running: usize,
    /// The account of items.
    pub ledger: Ledger,
    /// What calls and items took, as of the same moment.
    pub statistics: Statistics,
}

/// A batch, and what runs it.
pub(super) struct Job {
    pub(super) batch: LiveBatch,
    pub(super) runtime: Arc<ModelRuntime>,
}

/// A model with a queue.
pub(super) struct Hosted {
    pub(super) runtime: Arc<ModelRuntime>,
    pub(super) shapes: Arc<Shapes>,
    /// Name and version, which also label its series.
    pub(super) labels: (Box<str>, Box<str>),
    /// What its metrics currently show.
    pub(super) shown: Account,
}

impl Hosted {
    pub(super) fn new((name, version): (&str, &str), runtime: ModelRuntime) -> Self {
        Self {
            runtime: Arc::new(runtime),
            shapes: Arc::default(),
            labels: (name.into(), version.into()),
            shown: Account::default(),
        }
    }
}

/// What the item counters and gauges show.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    pub(super) ledger: Ledger,
    pub(super) drops: [u64; DropReason::ALL.len()],
    pub(super) rebuilds: u64,
    pub(super) repairs: u64,
    pub(super) queued: usize,
    pub(super) running: usize,
}

impl Account {
    /// Adds to the metrics whatever this account has beyond `shown`, the one they show.
    pub(super) fn show(&self, shown: &Self, metrics: &ModelMetrics) {
        metrics.rebuilds.increment(self.rebuilds - shown.rebuilds);
        metrics.queue_repairs.increment(self.repairs - shown.repairs);
        metrics.received.increment(self.ledger.received() - shown.ledger.received());
        for outcome in Outcome::ALL {
            metrics.outcome(outcome).increment(self.ledger.outcome(outcome) - shown.ledger.outcome(outcome));
        }
        for reason in DropReason::ALL {
            metrics.dropped(reason).increment(self.drops[reason as usize] - shown.drops[reason as usize]);
        }
        metrics.queued_items.increment(self.queued as f64 - shown.queued as f64);
        metrics.in_flight_items.increment(self.running as f64 - shown.running as f64);
    }
}

/// A model whose queue contradicted itself, as the log reports it.
pub(super) struct Repaired {
    pub(super) labels: (Box<str>, Box<str>),
    pub(super) times: u64,
}

impl Repaired {
    /// Call it outside the lock.
    pub(super) fn report(self) {
        let Self { labels: (model, version), times } = self;
        tracing::error!(
            %model,
            %version,
            times,
            "the model's queue contradicted itself and was rebuilt from its streams without losing any item; \
             this is a bug in the server, please report it (tidemill_queue_repairs_total counts these)"
        );
    }
}
