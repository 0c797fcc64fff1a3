//! Short items next to a stream of long ones, with and without long lanes, on cores that the system shares by weight.
//!
//! Lanes are threads: as many calls run as there are lanes and long lanes, and each core is shared out by weight. So a call on a long lane
//! goes on at full speed while a core is free, and slowly while none is.

use std::{fmt::Write as _, time::Duration};

use anyhow::ensure;
use fastrand::Rng;
use tidemill_domain::{Outcome, Timestamp};
use tidemill_scheduler::{Admission, Batch, CostCurve, Item, LaneKind, ModelOptions, Queue, ShapeKey, StreamKey, StreamOptions};

use crate::random;

/// A core's share for a thread with SCHED_IDLE next to one without: Linux's weights.
const LONG_LANE_WEIGHT: f64 = 3.0 / 1024.0;

const SHORT_CALL: Duration = Duration::from_millis(2);
const SHORT_BYTES: usize = 1_000;
/// How many times longer the others are.
const LONG_CALLS: usize = 100;
/// Items per second of a short stream.
const RATE_HZ: f64 = 20.0;
/// Long items that always wait or run.
const LONG_WINDOW: usize = 8;
const SECONDS: f64 = 300.0;
/// How much is not counted at the beginning.
const WARM_UP_SECONDS: f64 = 5.0;

/// Simulate short items next to long ones, with and without lanes for the latter
#[derive(Debug, clap::Args)]
pub(crate) struct LongArgs {
    /// Lanes, and cores
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Streams with 20 items of 2 ms a second
    #[arg(long, default_value_t = 20)]
    streams: usize,
    #[arg(long, default_value_t = crate::SEED)]
    seed: u64,
}

/// # Errors
/// If there are no lanes or streams, or too many.
pub(crate) fn run(args: &LongArgs) -> anyhow::Result<String> {
    let LongArgs { lanes, streams, seed } = *args;
    ensure!((1..=64).contains(&lanes), "--lanes must be 1 to 64, not {lanes}");
    ensure!((1..=10_000).contains(&streams), "--streams must be 1 to 10000, not {streams}");
    let mut table = String::from("long lanes   p99 ms   x alone   long items/s   cores busy\n");
    let alone = Found::of(&Arm { lanes, long_lanes: 0, streams, long_window: 0, seed });
    let _ = writeln!(table, "{:<10} {:>8.2}", "(alone)", alone.p99_ms);
    for long_lanes in [0, 1, lanes] {
        let Found { p99_ms, long_per_s, busy } = Found::of(&Arm { lanes, long_lanes, streams, long_window: LONG_WINDOW, seed });
        let ratio = p99_ms / alone.p99_ms;
        let _ = writeln!(table, "{long_lanes:<10} {p99_ms:>8.2} {ratio:>9.2} {long_per_s:>14.1} {:>11.0}%", 100.0 * busy);
    }
    Ok(table)
}

struct Arm {
    lanes: usize,
    long_lanes: usize,
    streams: usize,
    long_window: usize,
    seed: u64,
}

struct Found {
    p99_ms: f64,
    long_per_s: f64,
    busy: f64,
}

struct Call {
    batch: Batch<usize, ()>,
    started: f64,
    /// Seconds of a whole core that are left.
    left: f64,
}

/// The stream whose items are long.
const LONG_STREAM: usize = usize::MAX;

struct World {
    queue: Queue<usize, ()>,
    lanes: [usize; 2],
    calls: Vec<Call>,
    keys: Vec<StreamKey>,
    long_stream: StreamKey,
    tickets: u64,
    now: f64,
    waits: Vec<f64>,
    long_done: usize,
    core_seconds: f64,
}

impl Found {
    fn of(arm: &Arm) -> Self {
        let mut world = World::new(arm);
        let mut rng = random::rng(arm.seed, &[arm.streams as u64]);
        let mut arrivals = arrivals(&mut rng, arm.streams).into_iter().peekable();
        (0..arm.long_window).for_each(|_| world.push(LONG_STREAM));
        while world.now < SECONDS {
            world.fill();
            let rates = rates(world.count(LaneKind::Ordinary), world.count(LaneKind::Long), arm.lanes);
            let rate = |call: &Call| rates[usize::from(call.batch.lane == LaneKind::Long)];
            let ends = world.calls.iter().map(|call| world.now + call.left / rate(call)).fold(f64::INFINITY, f64::min);
            let comes = arrivals.peek().map_or(SECONDS, |(at, _)| *at);
            let wakes = world.queue.next_wakeup(timestamp(world.now)).map_or(f64::INFINITY, |at| at.as_nanos() as f64 / 1e9);
            // A nanosecond, so that rounding cannot keep a call from ever ending.
            let next = ends.min(comes).min(wakes).max(world.now + 1e-9);
            for call in &mut world.calls {
                let done = (next - world.now) * rates[usize::from(call.batch.lane == LaneKind::Long)];
                call.left -= done;
                world.core_seconds += done;
            }
            world.now = next;
            world.end_calls();
            while let Some((_, stream)) = arrivals.next_if(|(at, _)| *at <= world.now) {
                world.push(stream);
            }
        }
        world.waits.sort_by(f64::total_cmp);
        let p99 = world.waits.get(world.waits.len() * 99 / 100).copied().unwrap_or_default();
        let (long_per_s, busy) = (world.long_done as f64 / SECONDS, world.core_seconds / SECONDS / arm.lanes as f64);
        Self { p99_ms: 1e3 * p99, long_per_s, busy }
    }
}

impl World {
    fn new(arm: &Arm) -> Self {
        let admission = Admission { items: usize::MAX, bytes: usize::MAX, model_items: usize::MAX, model_bytes: usize::MAX };
        let mut queue = Queue::new(arm.lanes, admission).with_long_lanes(arm.long_lanes);
        let model = queue.add_model(ModelOptions {
            curve: CostCurve::new(vec![SHORT_CALL]),
            item_bytes: SHORT_BYTES,
            max_batch: 1,
            max_delay: Duration::ZERO,
            max_call_bytes: usize::MAX,
            stateful: false,
            padding_waste_max: None,
            wide_ratio: None,
        });
        let mut open = |handle| queue.open(StreamOptions::of(model), handle).expect("the model is there");
        let keys = (0..arm.streams).map(&mut open).collect();
        let long_stream = open(LONG_STREAM);
        Self {
            queue,
            lanes: [arm.lanes, arm.long_lanes],
            calls: Vec::new(),
            keys,
            long_stream,
            tickets: 0,
            now: 0.0,
            waits: Vec::new(),
            long_done: 0,
            core_seconds: 0.0,
        }
    }

    fn push(&mut self, stream: usize) {
        self.tickets += 1;
        let is_long = stream == LONG_STREAM;
        let item = Item {
            ticket: self.tickets,
            arrived: timestamp(self.now),
            deadline: Timestamp::NEVER,
            stale_at: Timestamp::NEVER,
            bytes: if is_long { LONG_CALLS * SHORT_BYTES } else { SHORT_BYTES },
            length: 0,
            shape: ShapeKey(1 + u64::from(is_long)),
            payload: (),
        };
        let key = if is_long { self.long_stream } else { self.keys[stream] };
        let pushed = self.queue.push(key, item, &mut Vec::new());
        debug_assert!(pushed.is_ok(), "admission has no limit here");
    }

    fn count(&self, kind: LaneKind) -> usize {
        self.calls.iter().filter(|call| call.batch.lane == kind).count()
    }

    /// Makes the idle lanes take what is queued.
    fn fill(&mut self) {
        let mut ended = Vec::new();
        loop {
            let idle = [LaneKind::Ordinary, LaneKind::Long]
                .map(|kind| self.count(kind) < self.lanes[usize::from(kind == LaneKind::Long)]);
            let now = timestamp(self.now);
            let batch = match idle {
                [true, true] => self.queue.next_batch_of_two(now, &mut ended),
                [true, false] => self.queue.next_batch(now, &mut ended),
                [false, true] => self.queue.next_long_batch(now, &mut ended),
                [false, false] => None,
            };
            let Some(batch) = batch else { return };
            let is_long = batch.entries.iter().any(|entry| entry.handle == LONG_STREAM);
            let left = SHORT_CALL.as_secs_f64() * if is_long { LONG_CALLS as f64 } else { 1.0 };
            self.calls.push(Call { batch, started: self.now, left });
        }
    }

    fn end_calls(&mut self) {
        let now = self.now;
        let over: Vec<Call> = self.calls.extract_if(.., |call| call.left <= 1e-12).collect();
        for Call { batch, started, .. } in over {
            let report = batch.report(Some(Duration::from_secs_f64(now - started)));
            self.queue.finish(&report, batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
            for entry in batch.entries {
                if entry.handle == LONG_STREAM {
                    self.long_done += 1;
                    self.push(LONG_STREAM);
                } else if now > WARM_UP_SECONDS {
                    self.waits.push(now - entry.item.arrived.as_nanos() as f64 / 1e9);
                }
            }
        }
    }
}

/// How much of a core each call on a lane has, and each call on a long lane. None has more than one.
fn rates(ordinary: usize, long: usize, cores: usize) -> [f64; 2] {
    let (ordinary, long, cores) = (ordinary as f64, long as f64, cores as f64);
    if ordinary + long <= cores {
        return [1.0, 1.0];
    }
    // The rest is for long lanes, once the others have a core each, unless their weight gives them more.
    let left = (cores - ordinary) / long;
    if left >= LONG_LANE_WEIGHT {
        return [1.0, left];
    }
    let each = cores / (ordinary + long * LONG_LANE_WEIGHT);
    [each, each * LONG_LANE_WEIGHT]
}

fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds * 1e9) as u64)
}

/// When items come, and from which stream: each at its rate, starting at its own moment.
fn arrivals(rng: &mut Rng, streams: usize) -> Vec<(f64, usize)> {
    let period = 1.0 / RATE_HZ;
    let of_stream = |stream| {
        let phase = rng.f64() * period;
        (0..).map(move |number| (phase + f64::from(number) * period, stream)).take_while(|(at, _)| *at < SECONDS)
    };
    let mut arrivals: Vec<_> = (0..streams).flat_map(of_stream).collect();
    arrivals.sort_by(|one, other| one.0.total_cmp(&other.0));
    arrivals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_given_by_weight_and_none_is_left_over() {
        assert_eq!(rates(1, 1, 4), [1.0, 1.0]);
        assert_eq!(rates(1, 4, 4), [1.0, 0.75]);
        let [ordinary, long] = rates(4, 4, 4);
        assert!((4.0 * (ordinary + long) - 4.0).abs() < 1e-9);
        assert!((long / ordinary - LONG_LANE_WEIGHT).abs() < 1e-9);
    }

    #[test]
    fn long_lanes_spare_short_items_and_no_core_is_idle() {
        let arm = |long_lanes, long_window| Arm { lanes: 4, long_lanes, streams: 20, long_window, seed: 1 };
        let [alone, without, with] = [arm(0, 0), arm(0, LONG_WINDOW), arm(4, LONG_WINDOW)].map(|arm| Found::of(&arm));
        assert!(without.p99_ms > 2.0 * alone.p99_ms, "{} against {}", without.p99_ms, alone.p99_ms);
        assert!(with.p99_ms <= 1.25 * alone.p99_ms, "{} against {}", with.p99_ms, alone.p99_ms);
        assert!(with.busy > 0.99 && with.long_per_s >= without.long_per_s, "{} {}", with.busy, with.long_per_s);
    }
}
