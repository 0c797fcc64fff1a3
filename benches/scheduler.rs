//! The queue alone: push, form a batch, take it back, by number of streams. Times are for a batch of items, rates for items.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemill::{
    domain::{Outcome, Timestamp},
    scheduler::{Admission, CostCurve, Item, ModelOptions, Queue, ShapeKey, StreamKey, StreamOptions},
};

/// Items in a batch.
const BATCH: usize = 16;

struct Bench {
    queue: Queue<usize, ()>,
    streams: Vec<StreamKey>,
    next: usize,
    now: Timestamp,
}

impl Bench {
    fn new(streams: usize, stateful: bool) -> Self {
        let items = 1 << 20;
        let admission = Admission { items, bytes: usize::MAX, model_items: items, model_bytes: usize::MAX };
        let mut queue = Queue::new(1, admission);
        // A call costs the same at every size, so that batches are as large as they may be.
        let curve = CostCurve::new([16, 16, 16, 16, 16].map(Duration::from_micros).to_vec());
        let max_delay = Duration::ZERO;
        let model = queue.add_model(ModelOptions {
            curve,
            item_bytes: 2304,
            max_batch: BATCH,
            max_delay,
            max_call_bytes: usize::MAX,
            stateful,
            padding_waste_max: None,
            wide_ratio: None,
        });
        let open = |handle| queue.open(StreamOptions::of(model), handle).expect("the model was added");
        let streams = (0..streams).map(open).collect();
        Self { queue, streams, next: 0, now: Timestamp::ZERO }
    }

    /// One item for the stream whose turn it is.
    fn push(&mut self) {
        let stream = self.streams[self.next % self.streams.len()];
        self.next += 1;
        self.now = self.now + Duration::from_nanos(100);
        let item = Item {
            ticket: self.next as u64,
            arrived: self.now,
            deadline: Timestamp::NEVER,
            stale_at: Timestamp::NEVER,
            bytes: 2304,
            length: 0,
            shape: ShapeKey::default(),
            payload: (),
        };
        self.queue.push(stream, item, &mut Vec::new()).expect("the queue has room");
    }

    /// Forms a batch and takes it back at once.
    fn turn(&mut self) -> usize {
        let mut expired = Vec::new();
        let batch = self.queue.next_batch(self.now, &mut expired).expect("items are queued");
        let batch = black_box(batch);
        self.queue.finish(&batch.report(None), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
        batch.entries.len()
    }
}

fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(BATCH as u64));
    for streams in [10, 1_000, 100_000] {
        for (name, stateful) in [("stateless", false), ("stateful", true)] {
            // Streams are open, and a batch of them at a time has work.
            group.bench_function(BenchmarkId::new(format!("open_{name}"), streams), |bencher| {
                let mut bench = Bench::new(streams, stateful);
                bencher.iter(|| {
                    for _ in 0..BATCH {
                        bench.push();
                    }
                    let mut taken = 0;
                    while taken < BATCH {
                        taken += bench.turn();
                    }
                });
            });
            // Every stream has work all the time.
            group.bench_function(BenchmarkId::new(format!("backlog_{name}"), streams), |bencher| {
                let mut bench = Bench::new(streams, stateful);
                for _ in 0..streams.max(BATCH) {
                    bench.push();
                }
                let mut taken = 0;
                bencher.iter(|| {
                    for _ in 0..BATCH {
                        bench.push();
                    }
                    while taken < BATCH {
                        taken += bench.turn();
                    }
                    taken -= BATCH;
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = scheduler
}
criterion_main!(benches);
