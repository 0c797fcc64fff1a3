//! Which stream's item is due next, over all streams of a shard.
//!
//! Holds one moment for each stream and makes the next when that is taken, so that its memory grows with the streams and not with the
//! length of the run. Reads no clock.

use std::{cmp::Reverse, collections::BinaryHeap};

use tidemill::domain::Timestamp;

use super::arrivals::Moments;

pub(crate) struct Agenda {
    due: BinaryHeap<Reverse<(Timestamp, u32)>>,
    streams: Vec<(Moments, u32)>,
    ends: Timestamp,
}

impl Agenda {
    /// The moments of streams before `ends`, each stream with its number.
    pub(crate) fn new(streams: impl IntoIterator<Item = (Moments, u32)>, ends: Timestamp) -> Self {
        let mut agenda = Self { due: BinaryHeap::new(), streams: streams.into_iter().collect(), ends };
        for place in 0..agenda.streams.len() {
            agenda.plan(place as u32);
        }
        agenda
    }

    /// When the next item is due; `None` if none is left.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes the next item, if it is due by `now`: its moment and its stream.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<(Timestamp, u32)> {
        let (due, place) = self.due.peek().map(|Reverse(next)| *next).filter(|(due, _)| *due <= now)?;
        self.due.pop();
        self.plan(place);
        Some((due, self.streams[place as usize].1))
    }

    fn plan(&mut self, place: u32) {
        let due = self.streams[place as usize].0.next();
        if due < self.ends {
            self.due.push(Reverse((due, place)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::arrivals::Arrivals;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn streams(count: u32) -> Vec<(Moments, u32)> {
        let process = [
            Arrivals::Paced { rate_hz: 20.0, jitter: 0.5 },
            Arrivals::Poisson { rate_hz: 7.0 },
            Arrivals::Bursty { rate_hz: 30.0, burst: 4 },
        ];
        let moments = |stream: u32| process[stream as usize % 3].moments(START, stream.into()).expect("an open loop");
        (0..count).map(|stream| (moments(stream), 100 + stream)).collect()
    }

    #[test]
    fn it_holds_each_item_once_and_in_order() {
        let ends = START + Duration::from_secs(5);
        let mut agenda = Agenda::new(streams(9), ends);
        let mut taken = Vec::new();
        while let Some(next) = agenda.take(ends) {
            taken.push(next);
        }
        let mut expected = Vec::new();
        for (mut moments, stream) in streams(9) {
            expected.extend(std::iter::from_fn(|| Some(moments.next())).take_while(|due| *due < ends).map(|due| (due, stream)));
        }
        assert!(taken.is_sorted_by_key(|(due, _)| *due));
        taken.sort_unstable();
        expected.sort_unstable();
        assert_eq!(taken, expected);
        assert_eq!(agenda.next_due(), None);
    }

    #[test]
    fn nothing_is_taken_before_it_is_due() {
        let mut agenda = Agenda::new(streams(3), START + Duration::from_secs(5));
        let due = agenda.next_due().expect("the first");
        assert_eq!(agenda.take(due - Duration::from_nanos(1)), None);
        assert_eq!(agenda.take(due).map(|(due, _)| due), Some(due));
        assert!(agenda.next_due().expect("more") >= due);
    }
}
