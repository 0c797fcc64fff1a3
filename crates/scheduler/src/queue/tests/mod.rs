//! Named behaviours.

mod clients;
mod holding;
mod long;
mod models;
mod properties;
mod repair;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use tidemill_domain::CloseReason;

use super::*;
use crate::{Batch, CostCurve, Entry, ModelOptions, ShapeKey, TenantKey};

const MS: Duration = Duration::from_millis(1);
const LOTS: Admission = Admission { items: 1000, bytes: 1 << 30, model_items: 1000, model_bytes: 1 << 30 };

type TestQueue = Queue<&'static str, ()>;
type TestBatch = Batch<&'static str, ()>;

fn at(millis: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(millis)
}

/// A call of 1 ms plus 0.25 ms an item.
fn options(stateful: bool) -> ModelOptions {
    let curve = CostCurve::new([1_u32, 2, 4, 8].map(|batch| MS + MS / 4 * batch).to_vec());
    ModelOptions {
        curve,
        item_bytes: 100,
        max_batch: 8,
        max_delay: Duration::ZERO,
        max_call_bytes: 1 << 20,
        stateful,
        padding_waste_max: None,
        wide_ratio: None,
    }
}

fn item(ticket: u64, arrived: Timestamp) -> Item<()> {
    Item {
        ticket,
        arrived,
        deadline: Timestamp::NEVER,
        stale_at: Timestamp::NEVER,
        bytes: 100,
        length: 0,
        shape: ShapeKey::default(),
        payload: (),
    }
}

fn due(ticket: u64, arrived: Timestamp, deadline: Timestamp) -> Item<()> {
    Item { deadline, ..item(ticket, arrived) }
}

fn one_model(lanes: usize, options: ModelOptions) -> (TestQueue, ModelKey) {
    let mut queue = Queue::new(lanes, LOTS);
    let model = queue.add_model(options);
    (queue, model)
}

fn open(queue: &mut TestQueue, options: StreamOptions, handle: &'static str) -> StreamKey {
    queue.open(options, handle).expect("the model is there")
}

fn push(queue: &mut TestQueue, stream: StreamKey, item: Item<()>) {
    let mut ended = Vec::new();
    queue.push(stream, item, &mut ended).expect("there is room");
    assert!(ended.is_empty(), "{ended:?}");
}

fn next(queue: &mut TestQueue, now: Timestamp) -> Option<TestBatch> {
    let mut expired = Vec::new();
    let batch = queue.next_batch(now, &mut expired);
    assert!(expired.is_empty(), "{expired:?}");
    batch
}

fn taken(batch: Option<&TestBatch>) -> Vec<(&'static str, u64)> {
    batch.map(|batch| batch.entries.iter().map(|entry| (entry.handle, entry.item.ticket)).collect()).unwrap_or_default()
}

fn finish(queue: &mut TestQueue, batch: &TestBatch) {
    queue.finish(&batch.report(Some(MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
}

#[test]
fn a_free_lane_takes_what_is_ready_at_once() {
    let (mut queue, model) = one_model(1, options(false));
    let (a, b) = (open(&mut queue, StreamOptions::of(model), "a"), open(&mut queue, StreamOptions::of(model), "b"));
    push(&mut queue, a, item(0, at(0)));
    push(&mut queue, b, item(0, at(0)));
    let batch = next(&mut queue, at(0));
    assert_eq!(taken(batch.as_ref()), [("a", 0), ("b", 0)]);
    assert_eq!(batch.expect("a batch").reason, CloseReason::LaneFree);
    assert_eq!(next(&mut queue, at(0)), None);
}

#[test]
fn cheap_items_of_a_stream_run_together_and_expensive_ones_take_turns() {
    let batch_of = |options: ModelOptions, deadline_of: fn(u64) -> Timestamp| {
        let (mut queue, model) = one_model(1, options);
        for name in ["a", "b"] {
            let stream = open(&mut queue, StreamOptions::of(model), name);
            (0..2).for_each(|ticket| push(&mut queue, stream, due(ticket, at(ticket), deadline_of(ticket))));
        }
        taken(next(&mut queue, at(1)).as_ref())
    };
    let cheap = || ModelOptions { curve: CostCurve::new(vec![MS / 1000; 4]), ..options(false) };
    let never = |_| Timestamp::NEVER;
    assert_eq!(batch_of(cheap(), never), [("a", 0), ("a", 1), ("b", 0), ("b", 1)]);
    let in_turn = [("a", 0), ("b", 0), ("a", 1), ("b", 1)];
    assert_eq!(batch_of(options(false), never), in_turn);
    assert_eq!(batch_of(ModelOptions { stateful: true, ..cheap() }, never), in_turn[..2]);
    assert_eq!(batch_of(cheap(), |ticket| at(100 + ticket)), in_turn, "deadlines keep their order among all streams");
}

#[test]
fn a_stateful_stream_has_one_item_in_flight() {
    let (mut queue, model) = one_model(1, options(true));
    let (a, b) = (open(&mut queue, StreamOptions::of(model), "a"), open(&mut queue, StreamOptions::of(model), "b"));
    for ticket in 0..3 {
        push(&mut queue, a, item(ticket, at(0)));
    }
    push(&mut queue, b, item(0, at(1)));
    let first = next(&mut queue, at(1)).expect("two streams are ready");
    assert_eq!(taken(Some(&first)), [("a", 0), ("b", 0)]);
    assert_eq!(next(&mut queue, at(1)), None, "the second item of a waits for the first");
    finish(&mut queue, &first);
    assert_eq!(taken(next(&mut queue, at(2)).as_ref()), [("a", 1)]);
}

#[test]
fn the_earliest_deadline_goes_first_and_items_without_one_do_not_starve() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let [calm, late, soon] = ["calm", "late", "soon"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, calm, item(0, at(0)));
    push(&mut queue, late, due(0, at(0), at(900)));
    push(&mut queue, soon, due(0, at(0), at(100)));
    push(&mut queue, late, due(1, at(0), at(1100)));
    let order: Vec<_> = (0..4).flat_map(|_| taken(next(&mut queue, at(0)).as_ref())).collect();
    assert_eq!(order, [("soon", 0), ("late", 0), ("calm", 0), ("late", 1)]);
}

#[test]
fn expired_items_are_handed_out_when_their_time_comes_and_never_run() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, a, due(0, at(0), at(50)));
    push(&mut queue, a, due(1, at(0), at(20)));
    push(&mut queue, a, item(2, at(0)));
    assert_eq!(queue.next_wakeup(at(0)), Some(at(20)));
    let (mut expired, mut wake) = (Vec::new(), Vec::new());
    queue.expire(at(19), &mut expired, &mut wake);
    assert!(expired.is_empty());
    queue.expire(at(20), &mut expired, &mut wake);
    assert_eq!(expired.iter().map(|expired| expired.item.ticket).collect::<Vec<_>>(), [1]);
    assert_eq!(queue.next_wakeup(at(20)), Some(at(50)));
    queue.expire(at(60), &mut expired, &mut wake);
    assert_eq!(expired.len(), 2);
    assert_eq!(queue.next_wakeup(at(60)), None);
    assert_eq!(taken(next(&mut queue, at(60)).as_ref()), [("a", 2)]);
    assert_eq!(queue.ledger(model).outcome(Outcome::Expired), 2);
}

#[test]
fn a_head_that_not_even_a_call_of_its_own_would_save_is_answered_at_once() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, a, due(0, at(0), at(0) + MS / 2));
    let mut expired = Vec::new();
    assert_eq!(queue.next_batch(at(0), &mut expired), None);
    assert_eq!(expired.len(), 1);
    assert_eq!(queue.next_wakeup(at(0)), None);
}

/// An item due in 2 ms, and eight without a deadline.
fn one_tight_among_calm(lanes: usize) -> TestQueue {
    let (mut queue, model) = one_model(lanes, options(false));
    let tight = open(&mut queue, StreamOptions::of(model), "tight");
    push(&mut queue, tight, due(0, at(0), at(2)));
    for ticket in 0..8 {
        let calm = open(&mut queue, StreamOptions::of(model), "calm");
        push(&mut queue, calm, item(ticket, at(0)));
    }
    queue
}

#[test]
fn a_tight_head_is_passed_over_and_goes_to_the_next_lane() {
    let mut queue = one_tight_among_calm(2);
    let first = next(&mut queue, at(0)).expect("a batch");
    assert_eq!(first.entries.len(), 5, "the lane's fair share");
    assert!(first.entries.iter().all(|entry| entry.handle == "calm"));
    assert_eq!(taken(next(&mut queue, at(0)).as_ref())[0], ("tight", 0));
}

#[test]
fn an_item_passed_over_that_could_not_make_the_next_lane_either_is_answered_at_once() {
    let mut queue = one_tight_among_calm(1);
    let mut ended = Vec::new();
    let batch = queue.next_batch(at(0), &mut ended).expect("a batch");
    assert_eq!(batch.entries.len(), 8);
    assert_eq!((ended[0].handle, ended[0].reason, ended.len()), ("tight", EndReason::Expired, 1));
}

#[test]
fn when_much_is_queued_a_tight_head_does_not_block_its_successors() {
    let (mut queue, model) = one_model(2, options(false));
    for _ in 0..10 {
        let stream = open(&mut queue, StreamOptions::of(model), "");
        push(&mut queue, stream, due(0, at(0), at(3)));
        (1..4).for_each(|ticket| push(&mut queue, stream, due(ticket, at(0), at(50))));
        let calm = open(&mut queue, StreamOptions::of(model), "");
        push(&mut queue, calm, due(4, at(0), at(60)));
    }
    let mut ended = Vec::new();
    let batch = queue.next_batch(at(0), &mut ended).expect("a batch");
    assert_eq!((batch.entries.len(), ended.len()), (8, 10));
    assert!(batch.entries.iter().all(|entry| (1..4).contains(&entry.item.ticket)), "their successors, due before the calm ones");
}

#[test]
fn items_of_other_shapes_wait_for_a_batch_of_their_own() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    let b = open(&mut queue, StreamOptions::of(model), "b");
    push(&mut queue, a, item(0, at(0)));
    push(&mut queue, b, Item { shape: ShapeKey(7), ..item(0, at(0)) });
    push(&mut queue, a, item(1, at(0)));
    let first = next(&mut queue, at(0)).expect("a batch");
    assert_eq!(taken(Some(&first)), [("a", 0), ("a", 1)]);
    assert_eq!(first.reason, CloseReason::Shape);
    assert_eq!(taken(next(&mut queue, at(0)).as_ref()), [("b", 0)]);
}

#[test]
fn a_call_holds_no_more_bytes_than_allowed_but_always_one_item() {
    let (mut queue, model) = one_model(1, ModelOptions { max_call_bytes: 250, ..options(false) });
    let a = open(&mut queue, StreamOptions::of(model), "a");
    for ticket in 0..3 {
        push(&mut queue, a, item(ticket, at(0)));
    }
    push(&mut queue, a, Item { bytes: 1000, ..item(3, at(0)) });
    let sizes: Vec<_> = std::iter::from_fn(|| next(&mut queue, at(0))).map(|batch| (batch.entries.len(), batch.reason)).collect();
    assert_eq!(sizes, [(2, CloseReason::Bytes), (1, CloseReason::Bytes), (1, CloseReason::LaneFree)]);
}

#[test]
fn a_refusal_names_the_limit_and_waiters_are_woken_in_order() {
    let mut queue: TestQueue = Queue::new(1, Admission { items: 2, ..LOTS });
    let model = queue.add_model(options(false));
    let [a, b, c] = ["a", "b", "c"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, a, item(0, at(0)));
    push(&mut queue, a, item(1, at(0)));
    let (back, refusal) = queue.push(b, item(0, at(0)), &mut Vec::new()).expect_err("full");
    assert_eq!((back.ticket, refusal.limit, refusal.value), (0, "scheduler.max_queued_items", 2));
    assert!(refusal.retry_after >= MS);
    queue.wait_for_room(b, Timestamp::NEVER);
    queue.wait_for_room(c, at(30));
    let mut woken = Vec::new();
    queue.take_unblocked(&mut woken);
    assert!(woken.is_empty());
    assert_eq!(queue.next_wakeup(at(0)), Some(at(30)), "c wants to answer its item by then");
    assert!(next(&mut queue, at(0)).is_some());
    queue.take_unblocked(&mut woken);
    assert_eq!(woken, ["b", "c"]);
}

#[test]
fn closing_a_stream_frees_all_that_it_held() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let a = open(&mut queue, StreamOptions::of(model), "a");
    for ticket in 0..3 {
        push(&mut queue, a, due(ticket, at(0), at(500)));
    }
    let running = next(&mut queue, at(0)).expect("a batch");
    let cancelled: Vec<_> = queue.close(a).map(|item| item.ticket).collect();
    assert_eq!(cancelled, [1, 2]);
    assert_eq!((queue.queued(), queue.next_wakeup(at(0)), queue.streams()), (0, None, 1));
    finish(&mut queue, &running);
    assert_eq!(queue.streams(), 0);
    let ledger = queue.ledger(model);
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Cancelled), ledger.open()), (3, 3, 0));
}

#[test]
fn the_most_urgent_model_goes_first() {
    let mut queue: TestQueue = Queue::new(1, LOTS);
    let [slow, fast] = [(); 2].map(|()| queue.add_model(options(false)));
    let a = open(&mut queue, StreamOptions::of(slow), "slow");
    let b = open(&mut queue, StreamOptions::of(fast), "fast");
    push(&mut queue, a, item(0, at(0)));
    push(&mut queue, b, due(0, at(0), at(50)));
    assert_eq!(taken(next(&mut queue, at(0)).as_ref()), [("fast", 0)]);
    assert_eq!(taken(next(&mut queue, at(0)).as_ref()), [("slow", 0)]);
}

fn with(model: ModelKey, priority: Priority, tenant: u64) -> StreamOptions {
    StreamOptions { priority, tenant: TenantKey(tenant), ..StreamOptions::of(model) }
}

#[test]
fn a_higher_priority_goes_first_and_a_lower_one_fills_the_batch() {
    let (mut queue, model) = one_model(1, options(false));
    let low = open(&mut queue, with(model, Priority::Low, 0), "low");
    let high = open(&mut queue, with(model, Priority::High, 0), "high");
    for ticket in 0..10 {
        push(&mut queue, low, due(ticket, at(0), at(100)));
    }
    for ticket in 0..6 {
        push(&mut queue, high, item(ticket, at(1)));
    }
    let batch = next(&mut queue, at(1)).expect("a batch");
    let priorities: Vec<_> = batch.entries.iter().map(|entry| entry.priority).collect();
    assert_eq!(priorities, [[Priority::High; 6].as_slice(), &[Priority::Low; 2]].concat());
}

#[test]
fn a_priority_is_never_passed_over_for_longer_than_the_bound() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let mut streams = Vec::new();
    for priority in Priority::ALL {
        let stream = open(&mut queue, with(model, priority, 0), priority.label());
        (0..300).for_each(|ticket| push(&mut queue, stream, item(ticket, at(0))));
        streams.push(stream);
    }
    let mut last = [at(0); 3];
    let mut runs = [0; 3];
    let step = 10;
    for turn in 0..500 {
        let now = at(turn * step);
        let batch = next(&mut queue, now).expect("there is always work");
        let class = batch.entries[0].priority as usize;
        last[class] = now;
        runs[class] += 1;
        finish(&mut queue, &batch);
        let ticket = 1000 + turn;
        push(&mut queue, streams[class], item(ticket, now));
        for (class, last) in last.iter().enumerate() {
            let waited = now.since(*last);
            assert!(waited <= STARVATION_MAX + 3 * MS * step as u32, "{class} has waited for {waited:?}");
        }
    }
    assert!(runs[0] > 480, "the bound costs the others little: {runs:?}");
}

#[test]
fn priorities_take_turns_where_each_call_is_longer_than_the_bound() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    for priority in Priority::ALL.into_iter().rev() {
        let stream = open(&mut queue, with(model, priority, 0), priority.label());
        (0..9).for_each(|ticket| push(&mut queue, stream, item(ticket, at(0))));
    }
    let turns: Vec<_> = (0..9)
        .map(|call| {
            let batch = next(&mut queue, at(call * 1_500)).expect("there is work");
            finish(&mut queue, &batch);
            batch.entries[0].priority.label()
        })
        .collect();
    assert_eq!(turns, ["high", "normal", "low"].repeat(3));
}

#[test]
fn a_priority_that_only_waits_for_a_lane_is_not_passed_over() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let [low, high] = [Priority::Low, Priority::High].map(|it| open(&mut queue, with(model, it, 0), it.label()));
    (0..3).for_each(|ticket| push(&mut queue, low, item(ticket, at(0))));
    assert_eq!(taken(next(&mut queue, at(0)).as_ref()), [("low", 0)]);
    push(&mut queue, high, item(0, at(100)));
    assert_eq!(taken(next(&mut queue, at(5_000)).as_ref()), [("high", 0)]);
    assert_eq!(taken(next(&mut queue, at(5_001)).as_ref()), [("low", 1)]);
}

#[test]
fn tenants_have_equal_shares_however_many_streams_they_open() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    let crowd: Vec<_> = (0..9).map(|_| open(&mut queue, with(model, Priority::Normal, 1), "crowd")).collect();
    let single = open(&mut queue, with(model, Priority::Normal, 2), "single");
    for ticket in 0..40 {
        crowd.iter().for_each(|stream| push(&mut queue, *stream, item(ticket, at(0))));
        push(&mut queue, single, item(ticket, at(0)));
    }
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..15 {
        for (name, _) in taken(next(&mut queue, at(1)).as_ref()) {
            *runs.entry(name).or_default() += 1;
        }
    }
    assert!(runs["single"].abs_diff(runs["crowd"]) <= 2, "{runs:?}");
}

#[test]
fn saturating_streams_have_equal_lane_time_whatever_their_items_cost() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let streams: Vec<_> = (0..5).map(|_| open(&mut queue, StreamOptions::of(model), "")).collect();
    // Items of stream n have shape n and n times the bytes, and so by the first guess n times the cost.
    let bytes = |stream: usize| 100 * (stream + 1);
    let shaped = |stream: usize, ticket| Item { bytes: bytes(stream), shape: ShapeKey(stream as u64 + 1), ..item(ticket, at(0)) };
    for (stream, key) in streams.iter().enumerate() {
        (0..150).for_each(|ticket| push(&mut queue, *key, shaped(stream, ticket)));
    }
    let mut work = [0_usize; 5];
    for _ in 0..300 {
        let batch = next(&mut queue, at(1)).expect("work");
        let took = MS / 100 * batch.entries[0].item.bytes as u32;
        let stream = streams.iter().position(|key| *key == batch.entries[0].stream).expect("one of them");
        work[stream] += batch.entries[0].item.bytes;
        queue.finish(&batch.report(Some(took)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
    }
    let (least, most) = (work.iter().min().expect("five"), work.iter().max().expect("five"));
    assert!(*most as f64 / *least as f64 <= 1.1, "{work:?}");
}

#[test]
fn a_stream_that_drops_keeps_its_newest_items_and_gives_the_others_back() {
    let (mut queue, model) = one_model(1, options(false));
    let overflow = Overflow::DropOldest { items_max: 2, bytes_max: 250 };
    let a = open(&mut queue, StreamOptions { overflow, ..StreamOptions::of(model) }, "a");
    let mut ended = Vec::new();
    for ticket in 0..4 {
        queue.push(a, item(ticket, at(0)), &mut ended).expect("room is made");
    }
    queue.push(a, Item { bytes: 1000, ..item(4, at(0)) }, &mut ended).expect("one item is always let in");
    let dropped: Vec<_> = ended.iter().map(|ended| ended.item.ticket).collect();
    assert_eq!(dropped, [0, 1, 2, 3]);
    assert!(ended.iter().all(|ended| ended.reason == EndReason::Dropped(DropReason::Overflow)));
    assert_eq!((queue.queued(), queue.dropped(model, DropReason::Overflow)), (1, 4));
    assert_eq!(taken(next(&mut queue, at(0)).as_ref()), [("a", 4)]);
}

#[test]
fn a_stream_that_drops_makes_its_own_room_in_a_full_queue() {
    let mut queue: TestQueue = Queue::new(1, Admission { items: 2, ..LOTS });
    let model = queue.add_model(options(false));
    let overflow = Overflow::DropOldest { items_max: 8, bytes_max: 1 << 20 };
    let drops = open(&mut queue, StreamOptions { overflow, ..StreamOptions::of(model) }, "drops");
    let other = open(&mut queue, StreamOptions::of(model), "other");
    push(&mut queue, other, item(0, at(0)));
    push(&mut queue, drops, item(0, at(0)));
    let mut ended = Vec::new();
    queue.push(drops, item(1, at(0)), &mut ended).expect("its own oldest goes");
    assert_eq!((ended.len(), queue.queued()), (1, 2));
    let late_comer = open(&mut queue, StreamOptions { overflow, ..StreamOptions::of(model) }, "late");
    let refused = queue.push(late_comer, item(0, at(0)), &mut ended);
    assert!(refused.is_err(), "it has nothing of its own to give up");
}

#[test]
fn age_ends_an_item_as_dropped_and_a_deadline_as_expired() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, a, Item { stale_at: at(10), ..due(0, at(0), at(20)) });
    push(&mut queue, a, Item { stale_at: at(30), ..due(1, at(0), at(20)) });
    assert_eq!(queue.next_wakeup(at(0)), Some(at(10)));
    let mut ended = Vec::new();
    queue.expire(at(20), &mut ended, &mut Vec::new());
    let reasons: Vec<_> = ended.iter().map(|ended| ended.reason).collect();
    assert_eq!(reasons, [EndReason::Dropped(DropReason::MaxAge), EndReason::Expired]);
    assert_eq!(queue.dropped(model, DropReason::MaxAge), 1);
    let ledger = queue.ledger(model);
    assert_eq!((ledger.outcome(Outcome::Dropped), ledger.outcome(Outcome::Expired), ledger.open()), (1, 1, 0));
}

#[test]
fn a_late_head_gives_way_to_its_successor_where_the_stream_allows_it() {
    let (mut queue, model) = one_model(2, options(true));
    let overflow = Overflow::DropOldest { items_max: 8, bytes_max: 1 << 20 };
    let late = open(&mut queue, StreamOptions { overflow, ..StreamOptions::of(model) }, "late");
    let keeps = open(&mut queue, StreamOptions::of(model), "keeps");
    for stream in [late, keeps] {
        push(&mut queue, stream, due(0, at(0), at(2)));
        push(&mut queue, stream, due(1, at(0), at(50)));
    }
    for ticket in 0..8 {
        let stream = open(&mut queue, StreamOptions::of(model), "calm");
        push(&mut queue, stream, due(ticket, at(0), at(60)));
    }
    let mut ended = Vec::new();
    let batch = queue.next_batch(at(0), &mut ended).expect("a batch");
    assert_eq!(batch.entries.len(), 5, "the lane's fair share");
    let ended: Vec<_> = ended.iter().map(|ended| (ended.handle, ended.item.ticket, ended.reason)).collect();
    assert_eq!(ended, [("late", 0, EndReason::Dropped(DropReason::Late))]);
}

/// Two models, the second a hundred times as expensive as the first.
fn fast_and_slow(lanes: usize) -> (TestQueue, ModelKey, ModelKey) {
    let mut queue = Queue::new(lanes, LOTS);
    let fast = queue.add_model(options(false));
    let curve = CostCurve::new([1_u32, 2, 4, 8].map(|batch| 100 * (MS + MS / 4 * batch)).to_vec());
    let slow = queue.add_model(ModelOptions { curve, ..options(false) });
    (queue, fast, slow)
}

#[test]
fn a_model_that_is_asked_for_now_and_then_goes_before_one_that_is_flooded() {
    let (mut queue, fast, slow) = fast_and_slow(1);
    let flood = open(&mut queue, StreamOptions::of(slow), "slow");
    (0..100).for_each(|ticket| push(&mut queue, flood, item(ticket, at(0))));
    let first = next(&mut queue, at(0)).expect("the flood");
    finish(&mut queue, &first);
    let calm = open(&mut queue, StreamOptions::of(fast), "fast");
    push(&mut queue, calm, item(0, at(300)));
    assert_eq!(taken(next(&mut queue, at(300)).as_ref()), [("fast", 0)], "though the flood has waited longer");
}

#[test]
fn a_call_that_is_alone_may_use_all_cores_if_that_pays() {
    let wide = |wide_ratio| {
        let (mut queue, model) = one_model(2, ModelOptions { wide_ratio, ..options(false) });
        let a = open(&mut queue, StreamOptions::of(model), "a");
        push(&mut queue, a, item(0, at(0)));
        let alone = next(&mut queue, at(0)).expect("a batch");
        push(&mut queue, a, item(1, at(0)));
        let second = next(&mut queue, at(0)).expect("a batch");
        assert!(alone.lone && !second.lone && !second.wide);
        alone.wide
    };
    assert_eq!([wide(None), wide(Some(0.95)), wide(Some(0.6))], [false, false, true]);
}

#[test]
fn each_shape_has_its_own_cost() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    let large = |ticket| Item { bytes: 1000, shape: ShapeKey(9), ..item(ticket, at(0)) };
    push(&mut queue, a, large(0));
    let guessed = queue.costs_by_shape(model);
    assert_eq!(guessed[0].0, 1000);
    assert_eq!(guessed[0].1.points().next(), Some((1, 10 * (MS + MS / 4))), "ten times the bytes");
    let before = queue.cost(model).expect("the model").curve();
    for ticket in 1..50 {
        let batch = next(&mut queue, at(0)).expect("a batch");
        queue.finish(&batch.report(Some(30 * MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
        push(&mut queue, a, large(ticket));
    }
    let learned = queue.costs_by_shape(model)[0].1.points().next().expect("batch 1").1;
    assert!(learned > 28 * MS && learned < 32 * MS, "{learned:?}");
    assert_eq!(queue.cost(model).expect("the model").curve(), before, "the measured shape is not touched");
}
