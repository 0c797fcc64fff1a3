//! Who may hold how much of something that is bounded, and whose turn it is to wait for.
//!
//! Pure: no clock, no thread, no protocol; [`Pool`] puts a lock around it.
//!
//! # The rule
//! Whoever holds less than seven times what is still free may take more. So one alone may hold seven eighths, two may hold seven
//! fifteenths each, and so on: those who want much hold the same, those who want little have what they want, and something is always
//! left for whoever comes next. Nobody knows how many will come, so a share that was fixed beforehand would be too small or too large.
//!
//! Holders are nested ([`Path`]): the connections of an address share what the address may hold, by the same rule, and the tenants of
//! a connection what the connection may hold. More connections from one address, or more tenants named on one connection, gain nothing.
//!
//! As long as half is free the rule refuses nobody, so that it need not be asked.

mod path;
mod pool;
mod turns;

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slotmap::{Key as _, SlotMap};

pub use path::{Owner, Path};
pub use pool::{Claim, Full, Member, Pool};
pub use turns::Turns;

/// How many times what is free a holder may hold.
const TIMES_FREE: usize = 7;

slotmap::new_key_type! {
    /// Whoever holds something, at one level.
    pub struct HolderKey;
}

/// A bounded thing in `N` measures, such as items and bytes, and who holds how much of it.
#[derive(Debug)]
pub struct Shares<const N: usize> {
    limits: [usize; N],
    held: [usize; N],
    holders: SlotMap<HolderKey, Holder<N>>,
    /// Looked up for each call, by names that clients do not choose freely: addresses and numbers.
    names: HashMap<(HolderKey, Owner), HolderKey, RandomState>,
}

#[derive(Debug)]
struct Holder<const N: usize> {
    /// The level around it; null for the outermost.
    above: HolderKey,
    owner: Owner,
    held: [usize; N],
    /// Users of this very level, and levels inside it.
    users: usize,
}

impl<const N: usize> Shares<N> {
    /// Nobody holds anything of so much.
    #[must_use]
    pub fn new(limits: [usize; N]) -> Self {
        Self { limits, held: [0; N], holders: SlotMap::with_key(), names: HashMap::default() }
    }

    /// All that there is.
    #[must_use]
    pub const fn limits(&self) -> [usize; N] {
        self.limits
    }

    /// What all hold together.
    #[must_use]
    pub const fn held(&self) -> [usize; N] {
        self.held
    }

    /// What a holder has, with all inside it. Null holds nothing.
    #[must_use]
    pub fn held_by(&self, holder: HolderKey) -> [usize; N] {
        self.holders.get(holder).map_or([0; N], |holder| holder.held)
    }

    /// Levels of holders that are remembered.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.holders.len()
    }

    /// The holder at the inner end of `path`, which is remembered until it has been left as often. Null, which the rule does not bind, for
    /// an empty path.
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

    /// Undoes one [`Shares::enter`], after which whoever entered holds nothing any more.
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

    /// Books what a holder takes. Whether it may is asked before.
    pub fn add(&mut self, holder: HolderKey, amounts: [usize; N]) {
        self.each_up(holder, |held| held.iter_mut().zip(amounts).for_each(|(held, amount)| *held += amount));
    }

    /// Books what a holder gives back, of what it has.
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

    /// In which measure a holder has its share already, or one around it has; `None` if it may take more.
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
            // Where nothing is left for anybody, whoever has nothing has not had its share.
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
