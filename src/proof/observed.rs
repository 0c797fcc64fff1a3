//! The results of trial calls, in figures; [`verdict`](super::verdict) decides what they mean.

use std::{collections::BTreeMap, time::Duration};

use super::compare::Distance;
use crate::engine::RunError;

/// A difference that was found: how large, in which output, in calls of which size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Worst {
    pub(super) apart: f64,
    pub(super) output: usize,
    pub(super) size: usize,
}

impl Worst {
    pub(super) fn take(&mut self, apart: f64, output: usize, size: usize) {
        if apart > self.apart {
            *self = Self { apart, output, size };
        }
    }
}

/// How rows compare with what their items get alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Far {
    /// Each row: its item, how far its numbers were off, and whether a label differed.
    pub(super) rows: Vec<(usize, f64, bool)>,
    pub(super) worst: Worst,
}

impl Far {
    pub(super) fn take(&mut self, item: usize, distance: Distance, size: usize) {
        self.rows.push((item, distance.numbers, distance.labels));
        self.worst.take(distance.strict(), distance.output, size);
    }
}

/// How far rounding can move the answers to items that were found to be off, by item.
pub(super) type Fragile = BTreeMap<usize, Distance>;

/// The results of calls with several items.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// How far rows moved when only their neighbours changed.
    pub(super) near: Worst,
    /// Rows as long as their call, at each size.
    pub(super) far: BTreeMap<usize, Far>,
    /// Rows that were padded.
    pub(super) padded: Far,
    /// What rounding alone does to items that are off.
    pub(super) fragile: Fragile,
    /// Whether copies of an item get what it gets alone.
    pub(super) copies_hold: bool,
    /// Whether rows in another order get the same in another order.
    pub(super) order_holds: bool,
    /// A call that failed although its items run alone: its size, and why.
    pub(super) failed: Option<(usize, RunError)>,
    /// The same, if calls of fewer items run, so that its size is too large.
    pub(super) limit: Option<(usize, RunError)>,
    /// Largest power of two, and largest size at all, in which items were compared.
    pub(super) largest: usize,
    /// The time of calls of 2, 4, 8 … items.
    pub(super) medians: Vec<Duration>,
}

/// The results of the steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// How far a stream moved when only its neighbours changed.
    pub(super) near: Worst,
    /// How far a stream in company was from the same stream alone.
    pub(super) far: Far,
    /// What rounding alone does to streams that are off.
    pub(super) fragile: Fragile,
    /// A call that failed.
    pub(super) failed: Option<RunError>,
    /// Whether all steps were made.
    pub(super) is_whole: bool,
}
