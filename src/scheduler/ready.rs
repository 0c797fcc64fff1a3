//! Streams that have a runnable head item, most urgent first.

use std::collections::BTreeSet;

use crate::domain::Timestamp;

use super::StreamKey;

/// Place of a stream among the ready ones: when its head is due, then who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Deadline of the head item, or the moment by which an item without one would like to run.
    pub(super) due: Timestamp,
    /// Order of arrival at the scheduler.
    pub(super) arrival: u64,
    /// The stream.
    pub(super) stream: StreamKey,
}

/// The ready streams of one model.
#[derive(Debug, Default)]
pub(super) struct ReadyStreams(BTreeSet<Place>);

impl ReadyStreams {
    pub(super) fn insert(&mut self, place: Place) {
        self.0.insert(place);
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.0.remove(place);
    }

    pub(super) fn first(&self) -> Option<&Place> {
        self.0.first()
    }

    pub(super) fn pop_first(&mut self) -> Option<Place> {
        self.0.pop_first()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.iter()
    }
}
