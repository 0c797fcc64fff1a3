//! A stream or caller as the driver sees it: which of its items are due, sent and answered.
//!
//! An item is here from its scheduled moment until its answer. What waits for room in the window waits here, and that wait is part of its
//! latency. Knows nothing about the wire.
//!
//! Everything that touches a line runs on its shard's thread, so the locks are always free when taken, except for the moment, once a
//! second, in which the progress is read.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tidemill::{clock, domain::Timestamp};

use super::recorder::{Answer, End, Recorder, RecorderPlan, Tally};

/// Where the streams of one load on one shard are counted.
#[derive(Default)]
pub(crate) struct Book(Mutex<Option<Recorder>>);

impl Book {
    /// From now on what happens is counted.
    pub(crate) fn open(&self, plan: &RecorderPlan) -> anyhow::Result<()> {
        *self.0.lock() = Some(Recorder::new(plan)?);
        Ok(())
    }

    /// The counts; later events are not counted.
    pub(crate) fn close(&self) -> Option<Recorder> {
        self.0.lock().take()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().as_ref().map(Recorder::tally).unwrap_or_default()
    }

    fn note(&self, event: impl FnOnce(&mut Recorder)) {
        if let Some(recorder) = self.0.lock().as_mut() {
            event(recorder);
        }
    }
}

/// The side of the stream on which items are due, and the side on which they are answered.
pub(crate) struct Line {
    items: Mutex<Items>,
    sender: AtomicWaker,
    book: Arc<Book>,
    in_flight_max: u32,
}

#[derive(Default)]
struct Items {
    /// From the first unanswered one on; `None` where an answer came out of turn.
    due: VecDeque<Option<Timestamp>>,
    /// Number of the first in `due`.
    first: u64,
    /// Number of the next to send.
    next: u64,
    in_flight: u32,
    phase: Phase,
    /// Each answer makes room for another item, which is due at once.
    closed_loop: bool,
}

/// Where a line is in its life.
#[derive(Default, Clone, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Running,
    /// Nothing is offered any more.
    Closed,
    /// Everything that is offered is answered with this.
    Broken(Cow<'static, str>),
}

impl Line {
    pub(crate) fn new(book: Arc<Book>, in_flight_max: u32, closed_loop: bool) -> Self {
        let items = Items { closed_loop, ..Items::default() };
        Self { items: Mutex::new(items), sender: AtomicWaker::new(), book, in_flight_max }
    }

    /// Begins; a closed loop sends from now on.
    pub(crate) fn start(&self) {
        let mut items = self.items.lock();
        if items.phase == Phase::Idle {
            items.phase = Phase::Running;
        }
        drop(items);
        self.sender.wake();
    }

    /// The next item is due.
    pub(crate) fn offer(&self, due: Timestamp) {
        let mut items = self.items.lock();
        self.book.note(|recorder| recorder.offered(due));
        if let Phase::Broken(name) = &items.phase {
            let answer = broken(name.clone(), 0);
            self.book.note(|recorder| recorder.answered(due, clock::now(), &answer));
            return;
        }
        items.due.push_back(Some(due));
        drop(items);
        self.sender.wake();
    }

    /// Nothing more will be offered.
    pub(crate) fn close(&self) {
        let mut items = self.items.lock();
        if matches!(items.phase, Phase::Idle | Phase::Running) {
            items.phase = Phase::Closed;
        }
        drop(items);
        self.sender.wake();
    }

    /// The number of the item to send now; `None` once all are sent and no more will come. Counts it as sent.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let next = self.next();
        if next.is_ready() {
            return next;
        }
        self.sender.register(cx.waker());
        self.next()
    }

    fn next(&self) -> Poll<Option<u64>> {
        let mut items = self.items.lock();
        let offered = items.first + items.due.len() as u64;
        let all_sent = items.next >= offered;
        match items.phase {
            Phase::Broken(_) => return Poll::Ready(None),
            Phase::Closed if all_sent => return Poll::Ready(None),
            Phase::Idle => return Poll::Pending,
            Phase::Running | Phase::Closed => {}
        }
        if items.in_flight >= self.in_flight_max || (all_sent && !items.closed_loop) {
            return Poll::Pending;
        }
        let now = clock::now();
        if all_sent {
            items.due.push_back(Some(now));
            self.book.note(|recorder| recorder.offered(now));
        }
        let seq = items.next;
        let due = items.due[(seq - items.first) as usize].unwrap_or(now);
        items.next += 1;
        items.in_flight += 1;
        self.book.note(|recorder| recorder.sent(due, now));
        Poll::Ready(Some(seq))
    }

    /// An item is answered. An answer to an item that was not sent, or a second answer, is ignored: its item then stays unanswered.
    pub(crate) fn answered(&self, answer: &Answer) {
        let now = clock::now();
        let mut items = self.items.lock();
        if answer.seq >= items.next {
            return;
        }
        let Some(place) = answer.seq.checked_sub(items.first) else { return };
        let Some(due) = items.due.get_mut(place as usize).and_then(Option::take) else { return };
        while let Some(None) = items.due.front() {
            items.due.pop_front();
            items.first += 1;
        }
        items.in_flight -= 1;
        drop(items);
        self.book.note(|recorder| recorder.answered(due, now, answer));
        self.sender.wake();
    }

    /// The stream has ended with this error: everything that waits, and everything that is still offered, is answered with it.
    pub(crate) fn broke(&self, name: Cow<'static, str>) {
        let now = clock::now();
        let mut items = self.items.lock();
        let first = items.first;
        for (place, due) in items.due.drain(..).enumerate() {
            if let Some(due) = due {
                let answer = broken(name.clone(), first + place as u64);
                self.book.note(|recorder| recorder.answered(due, now, &answer));
            }
        }
        items.first = items.next;
        items.in_flight = 0;
        items.phase = Phase::Broken(name);
        drop(items);
        self.sender.wake();
    }

    /// How many items have been sent.
    pub(crate) fn sent(&self) -> u64 {
        self.items.lock().next
    }
}

const fn broken(name: Cow<'static, str>, seq: u64) -> Answer {
    Answer { seq, end: End::Error(name), timing: None, items: 1 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(in_flight_max: u32, closed_loop: bool) -> Line {
        let book = Arc::new(Book::default());
        let now = clock::now();
        let second = Duration::from_secs(1);
        book.open(&RecorderPlan { counts_from: now, ends: now + second * 60, slo: second }).expect("sound bounds");
        Line::new(book, in_flight_max, closed_loop)
    }

    fn send(line: &Line) -> Poll<Option<u64>> {
        line.poll_send(&mut Context::from_waker(futures::task::noop_waker_ref()))
    }

    fn answer(line: &Line, seq: u64) {
        line.answered(&Answer { seq, end: End::Outputs, timing: None, items: 1 });
    }

    #[test]
    fn an_item_without_room_waits_for_an_answer() {
        let line = line(2, false);
        line.start();
        for _ in 0..3 {
            line.offer(clock::now());
        }
        assert_eq!([send(&line), send(&line), send(&line)], [Poll::Ready(Some(0)), Poll::Ready(Some(1)), Poll::Pending]);
        answer(&line, 0);
        assert_eq!(send(&line), Poll::Ready(Some(2)));
        let tally = line.book.tally().counts;
        assert_eq!((tally.offered, tally.sent, tally.ok), (3, 3, 1));
    }

    #[test]
    fn answers_may_come_in_any_order_and_once() {
        let line = line(8, false);
        line.start();
        for seq in 0..3 {
            line.offer(clock::now());
            assert_eq!(send(&line), Poll::Ready(Some(seq)));
        }
        for seq in [2, 2, 0, 7, 1, 1] {
            answer(&line, seq);
        }
        assert_eq!(line.book.tally().counts.ok, 3);
        assert!(line.items.lock().due.is_empty());
    }

    #[test]
    fn a_closed_loop_keeps_its_window_full_between_start_and_close() {
        let line = line(2, true);
        assert_eq!(send(&line), Poll::Pending);
        line.start();
        assert_eq!([send(&line), send(&line), send(&line)], [Poll::Ready(Some(0)), Poll::Ready(Some(1)), Poll::Pending]);
        answer(&line, 1);
        assert_eq!(send(&line), Poll::Ready(Some(2)));
        line.close();
        assert_eq!(send(&line), Poll::Ready(None));
        assert_eq!(line.book.tally().counts.offered, 3);
    }

    #[test]
    fn what_is_offered_is_sent_even_after_the_close() {
        let line = line(1, false);
        line.start();
        line.offer(clock::now());
        line.offer(clock::now());
        line.close();
        assert_eq!([send(&line), send(&line)], [Poll::Ready(Some(0)), Poll::Pending]);
        answer(&line, 0);
        assert_eq!([send(&line), send(&line)], [Poll::Ready(Some(1)), Poll::Ready(None)]);
    }

    #[test]
    fn a_broken_line_answers_all_with_its_error() {
        let line = line(1, false);
        line.start();
        line.offer(clock::now());
        line.offer(clock::now());
        assert_eq!(send(&line), Poll::Ready(Some(0)));
        line.broke(Cow::Borrowed("UNAVAILABLE"));
        line.offer(clock::now());
        assert_eq!(send(&line), Poll::Ready(None));
        let result = line.book.close().expect("open").load_result();
        assert_eq!((result.offered, result.sent, result.errors["UNAVAILABLE"], result.unanswered), (3, 1, 3, 0));
    }
}
