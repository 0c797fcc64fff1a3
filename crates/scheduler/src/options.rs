//! What models and streams specify on arrival: how batches are formed, who goes first, what may be given up.

use std::time::Duration;

use tidemill_domain::{Peer, Priority};
use tidemill_shares::Path;

use super::{cost::CostCurve, keys::ModelKey};

/// How a model's batches are formed.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOptions {
    /// Measured cost of calls with items of [`ModelOptions::item_bytes`] bytes.
    pub curve: CostCurve,
    /// Input bytes of an item in the measured calls; costs of other shapes start out in proportion to it.
    pub item_bytes: usize,
    /// Largest batch; it can only lower what the curve suggests.
    pub max_batch: usize,
    /// How long a batch that is not full waits for more items, counted from its oldest; normally zero.
    pub max_delay: Duration,
    /// Input bytes in one call; a single larger item still runs.
    pub max_call_bytes: usize,
    /// Whether streams of this model carry state.
    pub stateful: bool,
    /// Largest fraction of padding among the elements of a call, 0 to 1; `None` where nothing is padded.
    pub padding_waste_max: Option<f64>,
    /// Duration of a lone call that may use all cores, relative to one on its lane's own core, both measured on an idle machine;
    /// `None` if the engine cannot do that.
    pub wide_ratio: Option<f64>,
}

/// On whose behalf a stream runs: streams with equal keys together get one fair share of the lanes. 0 where tenants are not
/// distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TenantKey(pub u64);

/// What happens to an item that arrives while others of its stream are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It waits behind them; at a full window, the sender waits.
    #[default]
    Block,
    /// Only this much of the stream may wait, and its newest item always may; the oldest make room.
    DropOldest {
        /// Waiting items, not counting those that run.
        items_max: usize,
        /// Their input bytes.
        bytes_max: usize,
    },
}

/// What a stream specifies when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// The model version it stays on.
    pub model: ModelKey,
    /// The connection it came over.
    pub peer: Peer,
    /// On whose behalf it runs.
    pub tenant: TenantKey,
    /// The tenant's share of lane time, relative to that of others next to it; 1 or more. It applies to the tenant's streams from when
    /// the first of them that asks for it has work.
    pub weight: u32,
    /// Which other streams it goes before.
    pub priority: Priority,
    /// What gives way when it sends more than can be run.
    pub overflow: Overflow,
}

impl StreamOptions {
    /// A stream of `model` that asks for nothing special.
    #[must_use]
    pub fn of(model: ModelKey) -> Self {
        let (peer, tenant) = (Peer::default(), TenantKey::default());
        Self { model, peer, tenant, weight: 1, priority: Priority::default(), overflow: Overflow::default() }
    }

    /// Whose shares it counts towards.
    #[must_use]
    #[inline]
    pub fn path(&self) -> Path {
        Path::of(self.peer, self.tenant.0)
    }
}
