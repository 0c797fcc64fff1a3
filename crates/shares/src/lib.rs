//! Who may hold how much of something limited, and who is next to get some.
//!
//! Pure: no clock, no thread, no protocol; [`Pool`] puts a lock around it.
//!
//! # The rule
//! Whoever holds less than seven times what is still free may take more. So one holder alone may have seven eighths, two may have
//! seven fifteenths each, and so on: those who want a lot get equal amounts, those who want little get what they want, and
//! something is always left for whoever comes next. Nobody knows how many will come, so a share fixed in advance would be too
//! small or too large.
//!
//! Holders are nested ([`Path`]): the connections of an address share what the address may hold, by the same rule, and the
//! tenants of a connection share what the connection may hold. More connections from one address, or more tenants named on one
//! connection, gain nothing.
//!
//! As long as half is free the rule refuses nobody, so it need not be consulted.
//!
//! What is limited by the second rather than at once is a [`Rate`]; it knows no holders.

mod path;
mod pool;
mod rate;
mod turns;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slotmap::{Key as _, SlotMap};

pub use path::{Owner, Path};
pub use pool::{Claim, Full, Member, Pool};
pub use rate::Rate;
pub use turns::Turns;

/// How many times what is free a holder may hold.
const TIMES_FREE: usize = 7;

slotmap::new_key_type! {
    /// A holder, at one level.
    pub struct HolderKey;
}

/// Something limited in `N` measures, such as items and bytes, and who holds how much of it.
#[derive(Debug)]
pub struct Shares<const N: usize> {
    limits: [usize; N],
    held: [usize; N],
    holders: SlotMap<HolderKey, Holder<N>>,
    /// Looked up for each call, by names that clients cannot choose freely: addresses and numbers.
    names: HashMap<(HolderKey, Owner), HolderKey, RandomState>,
}

#[derive(Debug)]
struct Holder<const N: usize> {
    /// The level around it; null for the outermost.
    above: HolderKey,
    owner: Owner,
    held: [usize; N],
    /// Users of this level itself, and levels inside it.
    users: usize,
}

impl<const N: usize> Shares<N> {
    /// A limited amount, of which nobody holds anything yet.
    #[must_use]
    pub fn new(limits: [usize; N]) -> Self {
        Self { limits, held: [0; N], holders: SlotMap::with_key(), names: HashMap::default() }
    }

    /// The whole amount.
    #[must_use]
    pub const fn limits(&self) -> [usize; N] {
        self.limits
    }

    /// What everyone holds together.
    #[must_use]
    pub const fn held(&self) -> [usize; N] {
        self.held
    }

    /// What a holder has, including everything inside it. Null holds nothing.
    #[must_use]
    pub fn held_by(&self, holder: HolderKey) -> [usize; N] {
        self.holders.get(holder).map_or([0; N], |holder| holder.held)
    }

    /// The number of holders remembered, on all levels.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.holders.len()
    }

    /// The holder at the inner end of `path`, remembered until it has been left as often as it was entered. Null, which the rule
    /// does not bind, for an empty path.
    pub fn enter(&mut self, path: &Path) -> HolderKey {
        let mut at = HolderKey::null();
        for owner in path.owners() {
            let above = at;
            at = *self.names.entry((above, owner)).or_insert_with(|| {
                if let Some(above) = self.holders.get_mut(above) {
                    above.users += 1;
                }
                self.holders.insert(Holder { above, owner, held: [0; N], users: 0 })
            });
        }
        if let Some(holder) = self.holders.get_mut(at) {
            holder.users += 1;
        }
        at
    }

    /// Undoes one [`Shares::enter`]; by then its caller must hold nothing.
    pub fn leave(&mut self, holder: HolderKey) {
        let mut at = holder;
        while let Some(holder) = self.holders.get_mut(at) {
            holder.users = holder.users.saturating_sub(1);
            if holder.users > 0 {
                return;
            }
            let (above, owner) = (holder.above, holder.owner);
            self.holders.remove(at);
            self.names.remove(&(above, owner));
            at = above;
        }
    }

    /// Books what a holder takes. Whether it may is checked beforehand.
    pub fn add(&mut self, holder: HolderKey, amounts: [usize; N]) {
        self.each_up(holder, |held| held.iter_mut().zip(amounts).for_each(|(held, amount)| *held += amount));
    }

    /// Books what a holder gives back.
    pub fn remove(&mut self, holder: HolderKey, amounts: [usize; N]) {
        self.each_up(holder, |held| held.iter_mut().zip(amounts).for_each(|(held, amount)| *held -= amount));
    }

    fn each_up(&mut self, holder: HolderKey, change: impl Fn(&mut [usize; N])) {
        change(&mut self.held);
        let mut at = holder;
        while let Some(holder) = self.holders.get_mut(at) {
            change(&mut holder.held);
            at = holder.above;
        }
    }

    /// The measure in which a holder, or one around it, has used up its share; `None` if it may take more.
    #[must_use]
    pub fn over_share(&self, holder: HolderKey) -> Option<usize> {
        (0..N).find(|measure| self.held[*measure] > self.limits[*measure] / 2 && self.has_share(holder, *measure))
    }

    fn has_share(&self, holder: HolderKey, measure: usize) -> bool {
        let mut levels = [0; Path::LEVELS];
        let (mut depth, mut at) = (0, holder);
        while let Some(holder) = self.holders.get(at) {
            levels[depth] = holder.held[measure];
            depth += 1;
            at = holder.above;
        }
        let mut held = self.held[measure];
        let mut allowed = self.limits[measure];
        for level in levels[..depth].iter().rev() {
            allowed = allowed.saturating_sub(held).saturating_mul(TIMES_FREE);
            held = *level;
            // When nothing is left for anyone, a holder of nothing has still not used up its share.
            if held > 0 && held >= allowed {
                return true;
            }
        }
        false
    }

    /// The outermost level around a holder.
    #[must_use]
    pub fn outermost(&self, holder: HolderKey) -> HolderKey {
        let mut at = holder;
        while let Some(above) = self.holders.get(at).map(|holder| holder.above).filter(|above| !above.is_null()) {
            at = above;
        }
        at
    }
}

#[cfg(test)]
mod tests;
