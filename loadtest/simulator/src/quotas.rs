//! A tenant that sends ten times its quota, next to others that keep to theirs.

use std::time::Duration;

use tidemill_domain::Timestamp;
use tidemill_shares::Rate;

use crate::{
    curve::{Conditions, Curve, Service},
    policy::{self, Kind},
    random,
    record::Recorder,
    workload::{Item, Model, NEVER, Stream, Workload},
};

const LANES: usize = 2;
const SECOND: u64 = 1_000_000_000;
const END: u64 = 30 * SECOND;
/// Not counted: in the first second the tenant may send a second's worth at once.
const WARM_UP: u64 = 2 * SECOND;
/// Tenants next to the one that is looked at, each at its quota.
const OTHERS: u32 = 8;
/// Items a second that each tenant may send. All of them together take up a little more than half of the lanes.
const QUOTA: u64 = 200;

/// What the others found.
struct Found {
    p99: Duration,
    /// Items of the tenant that were let in, and how many it sent.
    let_in: usize,
    sent: usize,
}

/// Moments of a tenant's items at this rate, independent of one another.
fn moments(seed: u64, tenant: u32, per_second: u64) -> Vec<u64> {
    let mut rng = random::rng(seed, &[u64::from(tenant)]);
    let (mut at, mut moments) = (0.0, Vec::new());
    loop {
        at += random::exponential(&mut rng, SECOND as f64 / per_second as f64);
        if at >= END as f64 {
            return moments;
        }
        moments.push(at as u64);
    }
}

/// The tenant sends `times` its quota, and what is too much is refused before it is queued.
fn next_to_one_that_sends(times: u64, seed: u64) -> Found {
    let sent = moments(seed, 0, times * QUOTA);
    let mut rate = Rate::default();
    let allowed = |at: &u64| rate.take(QUOTA, 1, Timestamp::from_nanos(*at)).is_ok();
    let let_in: Vec<u64> = sent.iter().copied().filter(allowed).collect();

    let item = |stream, at| Item { at, deadline: NEVER, stream, shape: 0, bytes: 1, scale: 1.0 };
    let mut items: Vec<Item> = let_in.iter().map(|at| item(0, *at)).collect();
    for stream in 1..=OTHERS {
        items.extend(moments(seed, stream, QUOTA).into_iter().map(|at| item(stream, at)));
    }
    let streams = (0..=OTHERS).map(|stream| Stream { tenant: u64::from(stream) + 1, ..Stream::default() }).collect();
    let curve = Curve::of_grid(vec![1.0e6, 1.5e6, 2.5e6]);
    let model = Model { name: "m".to_owned(), curve, stateful: false, batch_max: 4, item_bytes: 1 };
    let workload = Workload::new(LANES, vec![model], streams, items, END);
    let service = Service::new(Conditions::STEADY, LANES, END, seed);

    let mut waits = Vec::new();
    let mut log = |line: &str| {
        let started = line.split_whitespace().find_map(|part| part.strip_prefix("at_ns=")).expect("a moment");
        let started: u64 = started.parse().expect("a number");
        let (_, listed) = line.split_once("items=").expect("the items");
        for index in listed.split(',') {
            let item = workload.item(index.parse().expect("an index"));
            if item.stream != 0 && item.at >= WARM_UP {
                waits.push(started - item.at);
            }
        }
    };
    policy::run(Kind::Tidemill, &workload, &service, Conditions::STEADY, seed, Recorder::with_log(&mut log));
    waits.sort_unstable();
    let p99 = Duration::from_nanos(waits[waits.len() * 99 / 100]);
    Found { p99, let_in: let_in.len(), sent: sent.len() }
}

#[test]
fn a_tenant_that_sends_ten_times_its_quota_leaves_the_waits_of_others_as_they_were() {
    for seed in [1, 2, 3] {
        let (at_quota, above) = (next_to_one_that_sends(1, seed), next_to_one_that_sends(10, seed));
        assert!(above.sent > 9 * at_quota.sent, "{} and {}", above.sent, at_quota.sent);
        // No more is let in than the quota and one burst.
        let allowed = QUOTA * (END / SECOND + 1);
        assert!(above.let_in as u64 <= allowed && above.let_in as u64 >= allowed * 9 / 10, "{} of {allowed}", above.let_in);
        let ratio = above.p99.as_secs_f64() / at_quota.p99.as_secs_f64();
        assert!(ratio <= 1.1, "the others' p99 is {:?}, where it was {:?}", above.p99, at_quota.p99);
    }
}
