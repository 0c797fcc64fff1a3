//! How much may be queued, and what a refusal says.

use std::time::Duration;

use tidemill_shares::{HolderKey, Path, Shares};

use super::cost::CostModel;

/// Limits on what may be queued, over all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Items, over all models.
    pub items: usize,
    /// Input bytes, over all models.
    pub bytes: usize,
    /// Items of one model.
    pub model_items: usize,
    /// Input bytes of one model.
    pub model_bytes: usize,
}

/// The limit that a push ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Configuration key of the limit.
    pub limit: &'static str,
    /// Its value.
    pub value: usize,
    /// Whether there is still room, but only for others: the stream's connection, address or tenant has used up its share.
    pub by_share: bool,
    /// When there should be room, judging by the cost of what is queued.
    pub retry_after: Duration,
}

/// What is queued already, of all models or of one. Its owners are counted only once more than half of a limit is taken, until
/// less than a quarter is: before that nobody can have used up a share, see [`tidemill_shares`].
#[derive(Debug)]
pub(super) struct Held {
    held: [usize; 2],
    limits: [usize; 2],
    shares: Option<Box<Shares<2>>>,
}

impl Held {
    pub(super) const fn within(items: usize, bytes: usize) -> Self {
        Self { held: [0; 2], limits: [items, bytes], shares: None }
    }

    pub(super) const fn items(&self) -> usize {
        self.held[0]
    }

    const fn is_to_change(&self) -> bool {
        let ([items, bytes], [items_max, bytes_max]) = (self.held, self.limits);
        match self.shares {
            None => items > items_max / 2 || bytes > bytes_max / 2,
            Some(_) => items < items_max / 4 && bytes < bytes_max / 4,
        }
    }

    /// Makes that change. Returns whether all owners must now be counted, by [`Held::enter`] and [`Held::count`].
    #[inline]
    pub(super) fn change(&mut self) -> bool {
        self.shares = if self.shares.is_some() { None } else { Some(Box::new(Shares::new(self.limits))) };
        self.shares.is_some()
    }

    /// The account of the owner that `path` names; null while owners are not counted.
    #[inline]
    pub(super) fn enter(&mut self, path: &Path) -> HolderKey {
        self.shares.as_mut().map(|shares| shares.enter(path)).unwrap_or_default()
    }

    #[inline]
    pub(super) fn leave(&mut self, holder: HolderKey) {
        if let Some(shares) = &mut self.shares {
            shares.leave(holder);
        }
    }

    /// Counts what was queued before owners were counted.
    #[inline]
    pub(super) fn count(&mut self, holder: HolderKey, items: usize, bytes: usize) {
        if let Some(shares) = &mut self.shares {
            shares.add(holder, [items, bytes]);
        }
    }

    /// Counts one more item. Returns whether counting owners should now start or stop.
    #[inline]
    pub(super) fn add(&mut self, holder: HolderKey, bytes: usize) -> bool {
        self.held[0] += 1;
        self.held[1] += bytes;
        if let Some(shares) = &mut self.shares {
            shares.add(holder, [1, bytes]);
        }
        self.is_to_change()
    }

    #[inline]
    pub(super) fn remove(&mut self, holder: HolderKey, bytes: usize) {
        self.held[0] -= 1;
        self.held[1] -= bytes;
        if let Some(shares) = &mut self.shares {
            shares.remove(holder, [1, bytes]);
        }
    }

    /// Whether there is room for one more item of `bytes` bytes from any owner. If not, [`Admission::refuses`] says who may still
    /// queue one.
    #[inline]
    pub(super) const fn has_room(&self, bytes: usize) -> bool {
        let ([items, queued_bytes], [items_max, bytes_max]) = (self.held, self.limits);
        self.shares.is_none() && items < items_max && queued_bytes.saturating_add(bytes) <= bytes_max
    }

    /// Whether one more item of `bytes` bytes would break a limit: the index of the measure, and whether only the owner's share
    /// is used up. An item of any size fits an empty queue.
    #[inline]
    fn refuses(&self, holder: HolderKey, bytes: usize) -> Option<(usize, bool)> {
        let ([items, queued_bytes], [items_max, bytes_max]) = (self.held, self.limits);
        if items >= items_max {
            Some((0, false))
        } else if queued_bytes > 0 && queued_bytes.saturating_add(bytes) > bytes_max {
            Some((1, false))
        } else {
            self.shares.as_ref()?.over_share(holder).map(|measure| (measure, true))
        }
    }
}

/// A limit that one more item would break.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    pub(super) limit: &'static str,
    pub(super) value: usize,
    pub(super) by_share: bool,
}

impl Admission {
    /// The limits on everything queued.
    pub(super) const fn of_all(&self) -> Held {
        Held::within(self.items, self.bytes)
    }

    /// The limits on what is queued of one model.
    pub(super) const fn of_model(&self) -> Held {
        Held::within(self.model_items, self.model_bytes)
    }

    /// The limit that one more item of `bytes` bytes would break; `holders` are its owner's accounts in `all` and in `model`.
    #[inline]
    pub(super) fn refuses(&self, all: &Held, model: &Held, holders: [HolderKey; 2], bytes: usize) -> Option<Reached> {
        const ALL: [&str; 2] = ["scheduler.max_queued_items", "scheduler.max_queued_bytes"];
        const MODEL: [&str; 2] = ["scheduler.max_queued_items_per_model", "scheduler.max_queued_bytes_per_model"];
        let of_all = all.refuses(holders[0], bytes).map(|(measure, by_share)| {
            let value = [self.items, self.bytes][measure];
            Reached { limit: ALL[measure], value, by_share }
        });
        of_all.or_else(|| {
            let (measure, by_share) = model.refuses(holders[1], bytes)?;
            let value = [self.model_items, self.model_bytes][measure];
            Some(Reached { limit: MODEL[measure], value, by_share })
        })
    }

    /// Why an owner waiting for room may not queue anything yet.
    pub(super) const fn waits(&self) -> Reached {
        Reached { limit: "scheduler.max_queued_items", value: self.items, by_share: false }
    }

    /// How many of those waiting may try again.
    pub(super) const fn room(&self, all: &Held) -> usize {
        let [items, bytes] = all.held;
        if bytes >= self.bytes { 0 } else { self.items.saturating_sub(items) }
    }
}

/// How long `items` queued items keep `lanes` lanes busy.
#[inline]
pub(super) fn time_to_drain(items: usize, cost: &CostModel, lanes: usize) -> Duration {
    let calls = items.max(1).div_ceil(cost.cap() * lanes);
    cost.call(cost.cap()).saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX))
}
