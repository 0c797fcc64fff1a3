//! A sorted map whose first entry is always at hand.
//!
//! Most of the scheduler's queues hold one flow or none; in those that hold more, the first is read several times before it
//! changes. So it is kept apart from the others, which are in a tree.

use std::collections::BTreeMap;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrontMap<K, V> {
    /// The least key, and what it stands for. `None` if the map is empty.
    first: Option<(K, V)>,
    rest: BTreeMap<K, V>,
}

impl<K, V> FrontMap<K, V> {
    pub(super) const fn new() -> Self {
        Self { first: None, rest: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl<K: Ord + Copy, V: Copy> FrontMap<K, V> {
    pub(super) const fn first(&self) -> Option<(K, V)> {
        self.first
    }

    /// Inserts an entry, replacing the one with the same key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match &mut self.first {
            Some(first) if first.0 < key => _ = self.rest.insert(key, value),
            Some(first) if first.0 == key => first.1 = value,
            first => {
                if let Some((second, value)) = first.replace((key, value)) {
                    self.rest.insert(second, value);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        if self.first.is_some_and(|(first, _)| first == *key) {
            self.pop_first().map(|(_, value)| value)
        } else {
            self.rest.remove(key)
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        let first = self.first.take()?;
        self.first = self.rest.pop_first();
        Some(first)
    }

    /// All entries, by key.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (K, V)> + '_ {
        self.first.into_iter().chain(self.rest.iter().map(|(key, value)| (*key, *value)))
    }

    /// Entries from `least` on.
    pub(super) fn iter_from(&self, least: K) -> impl DoubleEndedIterator<Item = (K, V)> + '_ {
        let first = self.first.filter(|(first, _)| *first >= least);
        first.into_iter().chain(self.rest.range(least..).map(|(key, value)| (*key, *value)))
    }

    /// The first of these.
    pub(super) fn first_from(&self, least: K) -> Option<(K, V)> {
        self.first.filter(|(first, _)| *first >= least).or_else(|| self.iter_from(least).next())
    }

    /// Keeps only entries whose values pass the test.
    pub(super) fn retain(&mut self, stays: impl Fn(V) -> bool) {
        self.rest.retain(|_, value| stays(*value));
        if self.first.is_some_and(|(_, value)| !stays(value)) {
            self.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in vec((0_u8..6, 0_u8..12, any::<u8>()), 0..200)) {
            let (mut map, mut reference) = (FrontMap::new(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0..=2 => {
                        map.insert(key, value);
                        reference.insert(key, value);
                    }
                    3 => prop_assert_eq!(map.remove(&key), reference.remove(&key)),
                    4 => prop_assert_eq!(map.pop_first(), reference.pop_first()),
                    _ => {
                        map.retain(|found| found % 4 != value % 4);
                        reference.retain(|_, found| *found % 4 != value % 4);
                    }
                }
                let all: Vec<(u8, u8)> = reference.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(map.iter().collect::<Vec<_>>(), all.clone());
                prop_assert_eq!((map.len(), map.is_empty(), map.first()), (all.len(), all.is_empty(), all.first().copied()));
                let from: Vec<(u8, u8)> = all.into_iter().filter(|(found, _)| *found >= key).collect();
                prop_assert_eq!(map.first_from(key), from.first().copied());
                prop_assert_eq!(map.iter_from(key).collect::<Vec<_>>(), from.clone());
                prop_assert!(map.iter_from(key).rev().eq(from.into_iter().rev()));
            }
        }
    }
}
