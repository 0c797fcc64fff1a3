//! Which sequences are alive, and how those that ended last came to end, so that a late request learns why.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Display,
    hash::Hash,
    time::Duration,
};

use crate::domain::{Fault, FaultKind};

/// How many ended sequences are remembered.
const ENDED_MAX: usize = 1_024;

/// How a sequence came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceEnd {
    /// Its client ended it.
    Asked,
    /// No request came for this long.
    Idle(Duration),
    /// No connection that used it was open for this long.
    Left(Duration),
    /// The server had to end it.
    Lost,
}

/// The sequences of one scope: of a stream, or of all unary calls.
#[derive(Debug)]
pub(super) struct SequenceBook<K, V> {
    alive: HashMap<K, V>,
    ended: HashMap<K, SequenceEnd>,
    /// Keys of `ended`, oldest first; some may have begun again.
    ended_order: VecDeque<K>,
}

impl<K, V> Default for SequenceBook<K, V> {
    fn default() -> Self {
        Self { alive: HashMap::new(), ended: HashMap::new(), ended_order: VecDeque::new() }
    }
}

impl<K: Eq + Hash + Clone, V> SequenceBook<K, V> {
    /// The value of a live sequence.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.alive.get(key)
    }

    /// How many sequences are alive.
    pub(super) fn len(&self) -> usize {
        self.alive.len()
    }

    /// Begins a sequence; returns what belonged to an earlier one of the same name.
    pub(super) fn start(&mut self, key: K, value: V) -> Option<V> {
        self.ended.remove(&key);
        self.alive.insert(key, value)
    }

    /// Ends a sequence, and remembers how.
    pub(super) fn end(&mut self, key: &K, end: SequenceEnd) -> Option<V> {
        let value = self.alive.remove(key)?;
        if self.ended_order.len() == ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended_order.push_back(key.clone());
        self.ended.insert(key.clone(), end);
        Some(value)
    }

    /// Why a request without a START cannot be part of this sequence. `scope` is where it was looked for.
    pub(super) fn missing(&self, key: &K, id: &impl Display, model: &str, scope: &str) -> Fault {
        let fault = |why: String| Fault::invalid("parameters.sequence_start", format!("sequence {id} of model '{model}' {why}"));
        match self.ended.get(key) {
            None => fault(format!("has not begun {scope}; its first request must have sequence_start")),
            Some(SequenceEnd::Asked) => fault("has ended by sequence_end; begin it again with sequence_start".to_owned()),
            Some(SequenceEnd::Lost) => {
                let message =
                    format!("sequence {id} of model '{model}' was ended by the server; begin it again with sequence_start");
                Fault::new(FaultKind::Unavailable, message)
            }
            Some(SequenceEnd::Idle(limit)) => fault(format!(
                "was freed after {limit:?} without a request (sequence.idle_timeout_s); begin it again with sequence_start"
            ))
            .with_limit("sequence.idle_timeout_s", limit.as_secs()),
            Some(SequenceEnd::Left(grace)) => fault(format!(
                "was freed because the connections that used it had been closed, after {grace:?} (sequence.grace_s) or sooner if many were abandoned; begin it again with sequence_start"
            ))
            .with_limit("sequence.grace_s", grace.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(book: &SequenceBook<u32, ()>, key: u32) -> String {
        book.missing(&key, &key, "m", "on this stream").message().to_owned()
    }

    #[test]
    fn each_end_has_its_own_error() {
        let mut book = SequenceBook::default();
        for key in 1..=3 {
            assert_eq!(book.start(key, ()), None);
        }
        book.end(&1, SequenceEnd::Asked);
        book.end(&2, SequenceEnd::Idle(Duration::from_secs(60)));
        book.end(&3, SequenceEnd::Lost);
        assert!(why(&book, 1).contains("has ended by sequence_end"));
        assert!(why(&book, 2).contains("60s without a request (sequence.idle_timeout_s)"));
        assert!(why(&book, 3).contains("was ended by the server"));
        assert!(why(&book, 4).contains("sequence 4 of model 'm' has not begun on this stream"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_new_beginning_is_a_clean_one() {
        let mut book = SequenceBook::default();
        for key in 0..3 * ENDED_MAX {
            book.start(key, ());
            book.end(&key, SequenceEnd::Asked);
        }
        assert_eq!((book.ended.len(), book.ended_order.len(), book.len()), (ENDED_MAX, ENDED_MAX, 0));
        let last = 3 * ENDED_MAX - 1;
        book.start(last, ());
        assert!(!book.ended.contains_key(&last) && book.get(&last).is_some());
        assert_eq!(book.end(&0, SequenceEnd::Asked), None);
    }
}
