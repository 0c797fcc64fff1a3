//! What calls of one model cost, by the shape of their items.

use std::{collections::HashMap, time::Duration};

use tidemill_domain::Timestamp;

use super::{
    calls::Call,
    cost::{CostCurve, CostModel},
    keys::ShapeKey,
};

/// How many shapes with nothing queued keep their remembered cost.
const IDLE_SHAPES_MAX: usize = 256;
/// A lone call uses all cores if that takes less than this fraction of its time on one.
const WIDE_WORTH: f64 = 0.9;
/// Weight of the newest lone call in comparing all cores with one.
const LONE_GAIN: f64 = 0.1;
/// One in this many lone calls is made the other way, to learn whether the comparison still holds.
const CALLS_PER_LONE_TRIAL: u32 = 64;

/// Costs of one model.
#[derive(Debug)]
pub(super) struct CostsByShape {
    /// For the shape measured at load, and for models with only one shape.
    base: CostModel,
    item_bytes: usize,
    shapes: HashMap<ShapeKey, ShapeCost>,
    lone: Option<LoneCalls>,
    /// When an item last arrived.
    pushed_at: Option<Timestamp>,
}

#[derive(Debug)]
struct ShapeCost {
    cost: CostModel,
    item_bytes: usize,
    queued: usize,
    pushed_at: Timestamp,
}

/// Lone calls: durations relative to the learned cost, which was learned on a busy machine.
#[derive(Debug)]
struct LoneCalls {
    narrow: f64,
    wide: f64,
    since_trial: u32,
}

impl CostsByShape {
    pub(super) fn new(curve: &CostCurve, max_batch: usize, item_bytes: usize, wide_ratio: Option<f64>) -> Self {
        Self {
            base: CostModel::new(curve, max_batch),
            item_bytes: item_bytes.max(1),
            shapes: HashMap::new(),
            lone: wide_ratio.map(|wide| LoneCalls { narrow: 1.0, wide, since_trial: 0 }),
            pushed_at: None,
        }
    }

    #[inline]
    pub(super) const fn base(&self) -> &CostModel {
        &self.base
    }

    /// The cost of calls with items of this shape.
    #[inline]
    pub(super) fn of(&self, shape: ShapeKey) -> &CostModel {
        if self.shapes.is_empty() {
            return &self.base;
        }
        self.shapes.get(&shape).map_or(&self.base, |shape| &shape.cost)
    }

    /// Queued items of this shape; `None` if the model has only one.
    pub(super) fn queued(&self, shape: ShapeKey) -> Option<usize> {
        if self.shapes.is_empty() {
            return None;
        }
        self.shapes.get(&shape).map(|shape| shape.queued)
    }

    /// For every shape, an item's input bytes and the cost, if there are several shapes.
    pub(super) fn by_shape(&self) -> impl Iterator<Item = (usize, &CostModel)> {
        self.shapes.values().map(|shape| (shape.item_bytes, &shape.cost))
    }

    /// Shortest call with one item, among the shapes seen since `since`.
    #[inline]
    pub(super) fn shortest_since(&self, since: Timestamp) -> Option<Duration> {
        if self.shapes.is_empty() {
            return self.pushed_at.filter(|at| *at >= since).map(|_| self.base.call(1));
        }
        self.shapes.values().filter(|shape| shape.pushed_at >= since).map(|shape| shape.cost.call(1)).min()
    }

    /// Notes that an item was queued.
    #[inline]
    pub(super) fn push(&mut self, shape: ShapeKey, item_bytes: usize, at: Timestamp) {
        self.pushed_at = Some(at);
        if shape == ShapeKey::default() {
            return;
        }
        if self.shapes.len() >= IDLE_SHAPES_MAX && !self.shapes.contains_key(&shape) {
            let idle = self.shapes.iter().filter(|(_, cost)| cost.queued == 0).min_by_key(|(_, cost)| cost.pushed_at);
            if let Some(oldest) = idle.map(|(key, _)| *key) {
                self.shapes.remove(&oldest);
            }
        }
        let (base, base_bytes) = (&self.base, self.item_bytes);
        let entry = self.shapes.entry(shape).or_insert_with(|| {
            let cost = base.scaled(item_bytes.max(1) as f64 / base_bytes as f64);
            ShapeCost { cost, item_bytes, queued: 0, pushed_at: at }
        });
        entry.queued += 1;
        entry.pushed_at = at;
    }

    /// Notes that an item is no longer queued.
    #[inline]
    pub(super) fn pop(&mut self, shape: ShapeKey) {
        if shape != ShapeKey::default()
            && let Some(shape) = self.shapes.get_mut(&shape)
        {
            shape.queued -= 1;
        }
    }

    /// Whether a call that is alone on the machine should use all its cores.
    pub(super) fn widens(&mut self) -> bool {
        let Some(lone) = &mut self.lone else { return false };
        let wide = lone.wide < WIDE_WORTH * lone.narrow;
        lone.since_trial += 1;
        if lone.since_trial >= CALLS_PER_LONE_TRIAL {
            lone.since_trial = 0;
            return !wide;
        }
        wide
    }

    /// Learns from a call that succeeded.
    #[inline]
    pub(super) fn observe(&mut self, call: &Call, took: Duration) {
        let lone = self.lone.as_mut();
        let cost = match self.shapes.get_mut(&call.shape) {
            Some(shape) => &mut shape.cost,
            None => &mut self.base,
        };
        if call.lone
            && let Some(lone) = lone
        {
            let ratio = took.as_secs_f64() / cost.call(call.items).as_secs_f64().max(1e-9);
            let learned = if call.wide { &mut lone.wide } else { &mut lone.narrow };
            *learned += LONE_GAIN * (ratio - *learned);
        }
        // The curve describes calls on a lane's own core.
        if !call.wide {
            cost.observe(call.items, took);
        }
    }
}
