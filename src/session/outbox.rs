//! Events that wait for a client that is not reading.
//!
//! Pure: it gives up the oldest result on request, without knowing why.

use std::collections::VecDeque;

use super::event::{Event, ItemResult};

/// Events in the order the client will get them. Where results were given up, one [`Event::Skipped`] stands for each run of
/// neighbours, so that what is kept does not grow with the time the client spends not reading.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What comes before the oldest result kept; contains no result.
    head: VecDeque<Event>,
    /// From the oldest result kept to the newest event; begins with a result, or is empty.
    tail: VecDeque<Event>,
    results: usize,
    /// Events that are not results and stand for none.
    others: usize,
}

impl Outbox {
    /// Results waiting.
    pub(super) const fn results(&self) -> usize {
        self.results
    }

    /// Events waiting that can be neither given up nor merged.
    pub(super) const fn others(&self) -> usize {
        self.others
    }

    pub(super) fn push(&mut self, event: Event) {
        if is_result(&event) {
            self.results += 1;
        } else {
            self.others += 1;
        }
        self.tail.push_back(event);
        self.settle();
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.head.pop_front().or_else(|| self.tail.pop_front())?;
        match &event {
            Event::Result(_) => self.results -= 1,
            Event::Skipped { .. } => {}
            _ => self.others -= 1,
        }
        self.settle();
        Some(event)
    }

    /// Gives up the oldest result; `None` if there is none.
    pub(super) fn skip_oldest(&mut self) -> Option<ItemResult> {
        let Some(Event::Result(result)) = self.tail.pop_front() else { return None };
        self.results -= 1;
        self.note_skipped(result.seq);
        self.settle();
        Some(result)
    }

    /// Adds a number to the skipped ones at the end of the head. They are sorted, and only neighbours are merged: results
    /// delivered as they are computed leave gaps at either end, but no more than there are items in flight.
    fn note_skipped(&mut self, seq: u64) {
        let first_of = |event: Option<&Event>| match event {
            Some(Event::Skipped { first_seq, .. }) => Some(*first_seq),
            _ => None,
        };
        let mut index = self.head.len();
        while let Some(before) = index.checked_sub(1)
            && first_of(self.head.get(before)).is_some_and(|first| first > seq)
        {
            index = before;
        }
        let joins_next = first_of(self.head.get(index)) == Some(seq + 1);
        let previous = index.checked_sub(1).and_then(|previous| self.head.get_mut(previous));
        let joined = match previous {
            // Several answers to one item are one missing result.
            Some(Event::Skipped { first_seq, results }) if (*first_seq..*first_seq + *results).contains(&seq) => return,
            Some(Event::Skipped { first_seq, results }) if *first_seq + *results == seq => {
                *results += 1;
                true
            }
            _ => false,
        };
        match (joined, joins_next) {
            (true, false) => {}
            (false, false) => self.head.insert(index, Event::Skipped { first_seq: seq, results: 1 }),
            (false, true) => {
                if let Some(Event::Skipped { first_seq, results }) = self.head.get_mut(index) {
                    (*first_seq, *results) = (seq, *results + 1);
                }
            }
            (true, true) => {
                if let Some(Event::Skipped { results: more, .. }) = self.head.remove(index)
                    && let Some(Event::Skipped { results, .. }) = self.head.get_mut(index - 1)
                {
                    *results += more;
                }
            }
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.tail.pop_front_if(|event| !is_result(event)) {
            self.head.push_back(event);
        }
    }
}

const fn is_result(event: &Event) -> bool {
    matches!(event, Event::Result(_))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{AnswerPart, ItemOutputs, ItemTiming, Timestamp},
        session::ItemResult,
    };

    fn result(seq: u64) -> Event {
        let now = Timestamp::NEVER;
        let timing = ItemTiming { arrived: now, started: now, finished: now, batch_size: 1 };
        let outcome = Ok(ItemOutputs::new());
        Event::Result(ItemResult {
            seq,
            part: AnswerPart::ONLY,
            id: String::new(),
            window: None,
            outcome,
            timing,
            age: Duration::ZERO,
        })
    }

    fn flushed(items: u64) -> Event {
        Event::Flushed { id: String::new(), items }
    }

    fn drained(mut outbox: Outbox) -> Vec<Event> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    fn skipped(first_seq: u64, results: u64) -> Event {
        Event::Skipped { first_seq, results }
    }

    #[test]
    fn what_fits_comes_out_as_it_went_in() {
        let mut outbox = Outbox::default();
        let events = [flushed(0), result(0), result(1), flushed(2), result(2)];
        events.iter().cloned().for_each(|event| outbox.push(event));
        assert_eq!((outbox.results(), outbox.others()), (3, 2));
        assert_eq!(drained(outbox), events);
    }

    #[test]
    fn skipped_results_next_to_each_other_are_one_record() {
        let mut outbox = Outbox::default();
        for seq in 0..1_000 {
            outbox.push(result(seq));
            if outbox.results() > 3 {
                assert!(outbox.skip_oldest().is_some());
            }
        }
        assert_eq!(drained(outbox), [skipped(0, 997), result(997), result(998), result(999)]);
    }

    #[test]
    fn other_events_keep_their_place_among_skipped_results() {
        let mut outbox = Outbox::default();
        [result(0), result(1), flushed(2), result(2), result(3)].into_iter().for_each(|event| outbox.push(event));
        for _ in 0..3 {
            assert!(outbox.skip_oldest().is_some());
        }
        assert_eq!(drained(outbox), [skipped(0, 2), flushed(2), skipped(2, 1), result(3)]);
    }

    #[test]
    fn a_record_already_taken_no_longer_grows() {
        let mut outbox = Outbox::default();
        [result(0), result(1), result(2)].into_iter().for_each(|event| outbox.push(event));
        assert!(outbox.skip_oldest().is_some());
        assert_eq!(outbox.pop(), Some(skipped(0, 1)));
        assert!(outbox.skip_oldest().is_some());
        assert_eq!(drained(outbox), [skipped(1, 1), result(2)]);
    }

    #[test]
    fn results_out_of_order_leave_gaps_until_these_are_skipped_too() {
        let mut outbox = Outbox::default();
        for seq in [3, 1, 5, 0, 4, 2] {
            outbox.push(result(seq));
        }
        for _ in 0..4 {
            assert!(outbox.skip_oldest().is_some());
        }
        assert_eq!(outbox.head, [skipped(0, 2), skipped(3, 1), skipped(5, 1)]);
        assert!(outbox.skip_oldest().and(outbox.skip_oldest()).is_some());
        assert_eq!(drained(outbox), [skipped(0, 6)]);
    }

    #[test]
    fn answers_to_one_item_that_are_skipped_are_one_result() {
        let part = |seq, number, last| {
            let Event::Result(result) = result(seq) else { unreachable!("it is a result") };
            Event::Result(ItemResult { part: AnswerPart { number, last }, ..result })
        };
        let mut outbox = Outbox::default();
        for seq in 0..3 {
            [part(seq, 0, false), part(seq, 1, false), part(seq, 2, true)].into_iter().for_each(|event| outbox.push(event));
        }
        for number in [0, 1, 2, 0] {
            assert_eq!(outbox.skip_oldest().map(|result| result.part), Some(AnswerPart { number, last: number == 2 }));
        }
        let left = [skipped(0, 2), part(1, 1, false), part(1, 2, true), part(2, 0, false), part(2, 1, false), part(2, 2, true)];
        assert_eq!(drained(outbox), left);
    }

    #[test]
    fn nothing_is_skipped_where_no_result_waits() {
        let mut outbox = Outbox::default();
        outbox.push(flushed(0));
        assert_eq!(outbox.skip_oldest(), None);
        assert_eq!(drained(outbox), [flushed(0)]);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Result,
        Other,
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![6 => Just(Step::Result), 1 => Just(Step::Other), 3 => Just(Step::Pop)];
        prop::collection::vec(step, 0..400)
    }

    /// Runs `steps` with at most `limit` results waiting, then reads the rest. Results come out of order by at most `shuffle`.
    fn run(steps: &[Step], limit: usize, shuffle: u64) -> (Vec<Event>, u64) {
        let (mut outbox, mut given) = (Outbox::default(), Vec::new());
        let (mut next, mut others) = (0, 0);
        for step in steps {
            match step {
                Step::Result => {
                    // Reversed in blocks.
                    let block = next / shuffle * shuffle;
                    outbox.push(result(block + (shuffle - 1 - (next - block))));
                    next += 1;
                    if outbox.results() > limit {
                        assert!(outbox.skip_oldest().is_some());
                    }
                }
                Step::Other => {
                    outbox.push(flushed(others));
                    others += 1;
                }
                Step::Pop => given.extend(outbox.pop()),
            }
            assert!(outbox.results() <= limit);
            // For each stretch between two other events; there are no gaps in the middle.
            let records_max = (outbox.others() + 1) * (2 * usize::try_from(shuffle).expect("small") - 1);
            assert!(outbox.head.len() <= outbox.others() + records_max);
        }
        given.extend(drained(outbox));
        (given, next)
    }

    proptest! {
        #[test]
        fn every_result_is_given_or_accounted_for_once(steps in steps(), limit in 1_usize..8, shuffle in 1_u64..5) {
            let (given, pushed) = run(&steps, limit, shuffle);
            let mut seen = BTreeSet::new();
            let mut count = 0;
            for event in &given {
                let range = match event {
                    Event::Result(result) => result.seq..result.seq + 1,
                    Event::Skipped { first_seq, results } => *first_seq..first_seq + results,
                    _ => continue,
                };
                count += range.end - range.start;
                seen.extend(range);
            }
            prop_assert_eq!(count, pushed);
            prop_assert_eq!(seen.len() as u64, pushed);
        }

        #[test]
        fn in_order_nothing_changes_its_place(steps in steps(), limit in 1_usize..8) {
            let (given, _) = run(&steps, limit, 1);
            let (mut next, mut others) = (0, 0);
            for event in given {
                match event {
                    Event::Result(result) => {
                        prop_assert_eq!(result.seq, next);
                        next += 1;
                    }
                    Event::Skipped { first_seq, results } => {
                        prop_assert_eq!(first_seq, next);
                        next += results;
                    }
                    Event::Flushed { items, .. } => {
                        prop_assert_eq!(items, others);
                        others += 1;
                    }
                    event => prop_assert!(false, "{:?} was never pushed", event),
                }
            }
        }
    }
}
