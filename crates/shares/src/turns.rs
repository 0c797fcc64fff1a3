//! Who is waiting, and who is next: the claimants take turns, however many waiters each of them has.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

/// Everyone waiting for one thing. Within a claimant, first come is first served.
#[derive(Debug)]
pub struct Turns<C, T> {
    /// Claimants that have someone waiting, each once, in turn.
    order: VecDeque<C>,
    lines: HashMap<C, BTreeMap<u64, T>>,
    came: u64,
    waiting: usize,
}

impl<C, T> Default for Turns<C, T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), lines: HashMap::new(), came: 0, waiting: 0 }
    }
}

impl<C: Copy + Eq + Hash, T> Turns<C, T> {
    /// How many are waiting.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody is waiting.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Adds a waiter; the number returned identifies it to [`Turns::remove`].
    pub fn push(&mut self, claimant: C, waiter: T) -> u64 {
        self.came += 1;
        self.waiting += 1;
        let line = self.lines.entry(claimant).or_default();
        if line.is_empty() {
            self.order.push_back(claimant);
        }
        line.insert(self.came, waiter);
        self.came
    }

    /// Removes one that no longer waits.
    pub fn remove(&mut self, claimant: C, number: u64) -> Option<T> {
        let line = self.lines.get_mut(&claimant)?;
        let waiter = line.remove(&number)?;
        self.waiting -= 1;
        if line.is_empty() {
            self.lines.remove(&claimant);
            self.order.retain(|other| *other != claimant);
        }
        Some(waiter)
    }

    /// The next waiter that `may` lets go, among the first `looks` claimants. Each claimant looked at moves to the end.
    pub fn pop(&mut self, looks: usize, mut may: impl FnMut(&T) -> bool) -> Option<T> {
        for _ in 0..looks.min(self.order.len()) {
            let claimant = self.order.pop_front()?;
            let line = self.lines.get_mut(&claimant)?;
            let goes = line.first_key_value().is_some_and(|(_, waiter)| may(waiter));
            let gone = if goes { line.pop_first() } else { None };
            if line.is_empty() {
                self.lines.remove(&claimant);
            } else {
                self.order.push_back(claimant);
            }
            if let Some((_, waiter)) = gone {
                self.waiting -= 1;
                return Some(waiter);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn claimants_take_turns_and_within_one_the_first_is_first() {
        let mut turns = Turns::default();
        for waiter in 0..4 {
            turns.push("crowd", ("crowd", waiter));
        }
        turns.push("single", ("single", 0));
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(9, |_| true)).collect();
        assert_eq!(order, [("crowd", 0), ("single", 0), ("crowd", 1), ("crowd", 2), ("crowd", 3)]);
    }

    #[test]
    fn one_that_may_not_go_holds_nobody_up() {
        let mut turns = Turns::default();
        for claimant in 0..3 {
            turns.push(claimant, claimant);
        }
        assert_eq!(turns.pop(1, |claimant| *claimant == 1), None, "one look, at the first");
        assert_eq!(turns.pop(9, |claimant| *claimant == 1), Some(1));
        assert_eq!(turns.pop(9, |_| false), None);
        assert_eq!(turns.len(), 2);
    }

    #[derive(Debug, Clone)]
    enum Deed {
        Push(u8),
        Pop { looks: usize, allowed: u8 },
        Remove(usize),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed = prop_oneof![
            3 => (0..5_u8).prop_map(Deed::Push),
            2 => (0..6_usize, any::<u8>()).prop_map(|(looks, allowed)| Deed::Pop { looks, allowed }),
            1 => any::<prop::sample::Index>().prop_map(|index| Deed::Remove(index.index(64))),
        ];
        proptest::collection::vec(deed, 0..120)
    }

    proptest! {
        /// Each waiter leaves once, in its claimant's order; looking at all claimants finds any that may go.
        #[test]
        fn nobody_is_lost_and_nobody_leaves_twice(deeds in deeds()) {
            let mut turns = Turns::default();
            let mut waiting: BTreeSet<(u8, u64)> = BTreeSet::new();
            for deed in deeds {
                match deed {
                    Deed::Push(claimant) => {
                        let next = turns.came + 1;
                        prop_assert_eq!(turns.push(claimant, (claimant, next)), next);
                        waiting.insert((claimant, next));
                    }
                    Deed::Pop { looks, allowed } => {
                        let may = |claimant: u8| (allowed >> claimant) & 1 == 1;
                        match turns.pop(looks, |(claimant, _)| may(*claimant)) {
                            Some((claimant, number)) => {
                                prop_assert!(may(claimant));
                                let first = waiting.range((claimant, 0)..).next().copied();
                                prop_assert_eq!(first, Some((claimant, number)));
                                waiting.remove(&(claimant, number));
                            }
                            None => prop_assert!(looks < 5 || waiting.iter().all(|(claimant, _)| !may(*claimant))),
                        }
                    }
                    Deed::Remove(index) => {
                        let Some((claimant, number)) = waiting.iter().nth(index).copied() else { continue };
                        prop_assert_eq!(turns.remove(claimant, number), Some((claimant, number)));
                        prop_assert_eq!(turns.remove(claimant, number), None);
                        waiting.remove(&(claimant, number));
                    }
                }
                prop_assert_eq!((turns.len(), turns.is_empty()), (waiting.len(), waiting.is_empty()));
                let claimants: BTreeSet<u8> = waiting.iter().map(|(claimant, _)| *claimant).collect();
                prop_assert_eq!((turns.order.len(), turns.lines.len()), (claimants.len(), claimants.len()));
            }
        }
    }
}
