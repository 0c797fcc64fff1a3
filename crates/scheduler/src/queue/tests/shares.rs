//! Shares of live streams that send twice what can be run, in virtual time.

use tidemill_domain::Peer;

use super::*;

const LANES: usize = 4;
const STREAMS: usize = 64;
const MAX_AGE: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(4);

/// What the streams send, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    stateful: bool,
    items_max: usize,
    /// Each stream's period, relative to the time in which all lanes run one item of each stream.
    period: f64,
    /// How late items arrive, at random, as a fraction of a period.
    pub(super) jitter: f64,
    /// Whether the first stream floods instead: it drops nothing, and always has items waiting.
    flood: bool,
}

/// A call takes 8 ms plus 1 ms an item, so eight items take 16 ms.
fn slow_options(stateful: bool) -> ModelOptions {
    let curve = CostCurve::new([1_u32, 2, 4, 8, 16].map(|batch| MS * 8 + MS * batch).to_vec());
    ModelOptions { curve, max_batch: 8, ..options(stateful) }
}

fn call(items: usize) -> Duration {
    MS * 8 + MS * items as u32
}

/// Numbers between 0 and 1 that look random.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as f64 / (1_u64 << 31) as f64
}

/// What was run.
struct Served {
    /// By stream.
    items: Vec<u64>,
    /// In all, before they were too old.
    in_time: u64,
}

fn serve(load: Load, peer_of: impl Fn(usize) -> Peer) -> Served {
    let Load { stateful, items_max, period, jitter, flood } = load;
    let mut queue: Queue<usize, ()> = Queue::new(LANES, LOTS);
    let model = queue.add_model(slow_options(stateful));
    let floods = |stream| flood && stream == 0;
    let open = |stream| {
        let drops = Overflow::DropOldest { items_max, bytes_max: 1 << 20 };
        let overflow = if floods(stream) { Overflow::Block } else { drops };
        queue
            .open(StreamOptions { overflow, peer: peer_of(stream), ..StreamOptions::of(model) }, stream)
            .expect("the model is there")
    };
    let streams: Vec<StreamKey> = (0..STREAMS).map(open).collect();
    let period = (call(8) * (STREAMS / 8) as u32 / LANES as u32).mul_f64(period);
    let mut seed = 1;
    let mut arrivals: BTreeSet<(Timestamp, usize, u64)> = BTreeSet::new();
    if flood {
        arrivals.extend((0..32).map(|ticket| (Timestamp::ZERO, 0, ticket)));
    }
    for stream in (0..STREAMS).filter(|stream| !floods(*stream)) {
        let mut nominal = Timestamp::ZERO + period.mul_f64(random(&mut seed));
        for ticket in 0.. {
            if nominal > Timestamp::ZERO + LENGTH {
                break;
            }
            arrivals.insert((nominal + period.mul_f64(jitter * random(&mut seed)), stream, ticket));
            nominal = nominal + period;
        }
    }
    let mut lanes: [Option<(Timestamp, Batch<usize, ()>)>; LANES] = [const { None }; LANES];
    let mut served = Served { items: vec![0; STREAMS], in_time: 0 };
    let (mut ended, mut wake) = (Vec::new(), Vec::new());
    loop {
        let ends = lanes.iter().flatten().map(|(ends, _)| *ends).min();
        let arrives = arrivals.first().map(|(at, ..)| *at);
        let Some(now) = ends.into_iter().chain(arrives).chain(queue.next_alarm()).min() else { return served };
        for lane in &mut lanes {
            if let Some((_, batch)) = lane.take_if(|(ends, _)| *ends <= now) {
                for entry in &batch.entries {
                    served.items[entry.handle] += 1;
                    served.in_time += u64::from(now <= entry.item.due());
                }
                if now < Timestamp::ZERO + LENGTH {
                    let refills = batch.entries.iter().filter(|entry| floods(entry.handle));
                    arrivals.extend(refills.map(|entry| (now, 0, entry.item.ticket + 32)));
                }
                let outcomes = batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok));
                queue.finish(&batch.report(Some(call(batch.entries.len()))), outcomes);
            }
        }
        while arrivals.first().is_some_and(|(at, ..)| *at <= now) {
            let (arrived, stream, ticket) = arrivals.pop_first().expect("there is one");
            let stale_at = if floods(stream) { Timestamp::NEVER } else { arrived + MAX_AGE };
            let item = Item { stale_at, ..item(ticket, arrived) };
            queue.push(streams[stream], item, &mut ended).expect("there is room");
        }
        queue.expire(now, &mut ended, &mut wake);
        for lane in lanes.iter_mut().filter(|lane| lane.is_none()) {
            *lane = queue.next_batch(now, &mut ended).map(|batch| (now + call(batch.entries.len()), batch));
        }
        ended.clear();
    }
}

/// Asserts that each stream gets at least `least` of an even share, that Jain's index is at least `jain`, and that what runs is
/// worth running.
fn assert_shared(load: Load, least: f64, jain: f64) -> Vec<f64> {
    assert_shared_by(load, least, jain, |_| Peer::default())
}

/// The same, with streams belonging to these peers.
pub(super) fn assert_shared_by(load: Load, least: f64, jain: f64, peer_of: impl Fn(usize) -> Peer) -> Vec<f64> {
    let Served { items, in_time } = serve(load, peer_of);
    let sum = items.iter().sum::<u64>() as f64;
    let shares: Vec<f64> = items.iter().map(|items| *items as f64 * STREAMS as f64 / sum).collect();
    let fewest = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let index = STREAMS as f64 / shares.iter().map(|share| share * share).sum::<f64>();
    let capacity = LENGTH.as_secs_f64() / call(8).as_secs_f64() * (8 * LANES) as f64;
    let useful = in_time as f64 / capacity;
    assert!(
        fewest >= least && index >= jain,
        "{load:?}: the least share is {fewest:.3} of an even one, and Jain's index {index:.3}"
    );
    assert!(useful >= 0.95, "{load:?}: only {useful:.3} of the capacity went into results delivered in time");
    shares
}

/// At twice the capacity or close to it, and at 1.7 and 2.5 times, with `latest` and two windows of `drop_oldest`.
pub(super) fn loads() -> impl Iterator<Item = Load> {
    let kinds = [false, true].into_iter().flat_map(|stateful| [1, 8, 32].map(|items_max| (stateful, items_max)));
    let times = [0.4, 0.48, 0.5, 0.51, 0.6].into_iter().flat_map(|period| [0.0, 0.2].map(|jitter| (period, jitter)));
    kinds.flat_map(move |(stateful, items_max)| {
        let load = move |(period, jitter)| Load { stateful, items_max, period, jitter, flood: false };
        times.clone().map(load)
    })
}

/// Where the streams' period equals that of the calls, some streams always arrive just after a batch was formed; and where
/// several items of a stream wait, all of them are late. Neither may decide who is served.
#[test]
fn streams_that_drop_have_equal_shares_of_what_can_be_run() {
    for load in loads() {
        assert_shared(load, 0.95, 0.995);
    }
}

#[test]
fn one_that_floods_takes_little_more_than_its_share() {
    for load in loads().filter(|load| load.jitter > 0.0) {
        let shares = assert_shared(Load { flood: true, ..load }, 0.85, 0.99);
        assert!((0.9..1.6).contains(&shares[0]), "{load:?}: {:.3} of an even share", shares[0]);
    }
}
