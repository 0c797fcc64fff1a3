//! The queue alone: push, choose and form a batch, take it back.

use std::time::Duration;

use tidemill::{
    domain::{Outcome, Timestamp},
    scheduler::{Batch, Item, Queue, ShapeKey, StreamKey, StreamOptions},
};

use crate::{
    BATCH, BYTES, TURNS,
    device::{FULL_CALL, model_options},
    identity::ADMISSION,
    meter::{case, counted},
};

/// How many streams are open in the cases where most of them have nothing queued.
const MANY: usize = 10_000;

struct Case {
    queue: Queue<usize, ()>,
    streams: Vec<StreamKey>,
    next: usize,
    now: Timestamp,
}

impl Case {
    fn new(streams: usize, stateful: bool) -> Self {
        let mut queue = Queue::new(1, ADMISSION);
        let model = queue.add_model(model_options(stateful));
        let open = |handle| queue.open(StreamOptions::of(model), handle).expect("the model was added");
        let streams = (0..streams).map(open).collect();
        Self { queue, streams, next: 0, now: Timestamp::ZERO }
    }

    /// One item each for the `items` streams whose turn it is.
    fn push(&mut self, items: usize) {
        for _ in 0..items {
            let stream = self.streams[self.next % self.streams.len()];
            self.next += 1;
            self.now = self.now + Duration::from_micros(1);
            let item = Item {
                ticket: self.next as u64,
                arrived: self.now,
                deadline: Timestamp::NEVER,
                stale_at: Timestamp::NEVER,
                bytes: BYTES,
                length: 0,
                shape: ShapeKey::default(),
                payload: (),
            };
            self.queue.push(stream, item, &mut Vec::new()).expect("the queue has room");
        }
    }

    fn choose(&mut self) -> Batch<usize, ()> {
        self.queue.next_batch(self.now, &mut Vec::new()).expect("items are queued")
    }

    fn finish(&mut self, batch: &Batch<usize, ()>) {
        self.now = self.now + FULL_CALL;
        let outcomes = batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok));
        self.queue.finish(&batch.report(Some(FULL_CALL)), outcomes);
    }

    /// Sends items of one batch through the queue, with each stage counted or not.
    fn turn(&mut self, items: usize, [push, choose, finish]: [bool; 3]) {
        fn stage<R>(is_counted: bool, work: impl FnOnce() -> R) -> R {
            if is_counted { counted(work) } else { work() }
        }
        stage(push, || self.push(items));
        let batch = stage(choose, || self.choose());
        assert_eq!(batch.entries.len(), items);
        stage(finish, || self.finish(&batch));
    }
}

pub(crate) fn run() {
    const PUSH: [bool; 3] = [true, false, false];
    const CHOOSE: [bool; 3] = [false, true, false];
    const FINISH: [bool; 3] = [false, false, true];
    const ALL: [bool; 3] = [true; 3];
    let cases: [(&str, usize, bool, usize, [bool; 3]); 7] = [
        ("queue_push_16_streams", BATCH, false, BATCH, PUSH),
        ("queue_choose_16_streams", BATCH, false, BATCH, CHOOSE),
        ("queue_finish_16_streams", BATCH, false, BATCH, FINISH),
        ("queue_all_1_stream_1_item", 1, false, 1, ALL),
        ("queue_all_1_stream_16_items", 1, false, BATCH, ALL),
        ("queue_all_10000_streams", MANY, false, BATCH, ALL),
        ("queue_all_16_stateful_streams", BATCH, true, BATCH, ALL),
    ];
    for (name, streams, stateful, items, stages) in cases {
        let mut one = Case::new(streams, stateful);
        case(name, items, TURNS, || one.turn(items, stages));
    }
}
