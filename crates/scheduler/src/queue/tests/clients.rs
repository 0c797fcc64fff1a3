//! Shares of connections and addresses, in the queue and of the lanes.

use tidemill_domain::{Address, Peer};

use super::*;

fn by(model: ModelKey, priority: Priority, connection: u64) -> StreamOptions {
    StreamOptions { peer: Peer { connection, address: Address::Local }, priority, ..StreamOptions::of(model) }
}

fn from(model: ModelKey, address: u32, connection: u64) -> StreamOptions {
    StreamOptions { peer: Peer { connection, address: Address::V4(address) }, ..StreamOptions::of(model) }
}

/// Pushes until the queue takes no more from this stream; returns the last refusal.
fn fill(queue: &mut TestQueue, stream: StreamKey) -> Refusal {
    for ticket in 0.. {
        if let Err((_, refusal)) = queue.push(stream, item(ticket, at(0)), &mut Vec::new()) {
            return refusal;
        }
    }
    unreachable!("the queue is bounded")
}

/// How many items of each name `calls` calls take from a queue that is always full.
fn runs(queue: &mut TestQueue, calls: u64) -> BTreeMap<&'static str, u64> {
    let mut runs = BTreeMap::new();
    for call in 0..calls {
        let batch = next(queue, at(call)).expect("there is always work");
        finish(queue, &batch);
        for Entry { stream, handle, .. } in batch.entries {
            *runs.entry(handle).or_default() += 1;
            push(queue, stream, item(1_000_000 + call, at(call)));
        }
    }
    runs
}

#[test]
fn a_connection_that_fills_the_queue_leaves_room_for_another_and_waits_in_spite_of_it() {
    let limits = Admission { items: 80, ..LOTS };
    let mut queue: TestQueue = Queue::new(1, limits);
    let model = queue.add_model(options(false));
    let [greedy, more, modest] = [("greedy", 1), ("more", 1), ("modest", 2)]
        .map(|(name, connection)| open(&mut queue, by(model, Priority::Normal, connection), name));
    let refusal = fill(&mut queue, greedy);
    assert_eq!((refusal.limit, refusal.value, refusal.by_share), ("scheduler.max_queued_items", 80, true));
    assert_eq!(queue.queued(), 70);
    assert_eq!(fill(&mut queue, more).limit, "scheduler.max_queued_items", "another stream of the same connection");
    push(&mut queue, modest, item(0, at(0)));
    queue.wait_for_room(greedy, Timestamp::NEVER);
    let mut woken = Vec::new();
    queue.take_unblocked(&mut woken);
    assert!(woken.is_empty(), "the rest is kept for others: {woken:?}");
    finish_next(&mut queue);
    queue.take_unblocked(&mut woken);
    assert_eq!(woken, ["greedy"]);
}

fn finish_next(queue: &mut TestQueue) {
    let batch = next(queue, at(0)).expect("there is work");
    finish(queue, &batch);
}

#[test]
fn shares_are_also_counted_in_bytes_and_by_model() {
    let model_limits = Admission { model_items: 80, ..LOTS };
    let byte_limits = Admission { bytes: 8_000, ..LOTS };
    for (limits, name) in [(model_limits, "scheduler.max_queued_items_per_model"), (byte_limits, "scheduler.max_queued_bytes")] {
        let mut queue: TestQueue = Queue::new(1, limits);
        let model = queue.add_model(options(false));
        let greedy = open(&mut queue, by(model, Priority::Normal, 1), "greedy");
        let refusal = fill(&mut queue, greedy);
        assert_eq!((refusal.limit, refusal.by_share, queue.queued()), (name, true, 70));
        let modest = open(&mut queue, by(model, Priority::Normal, 2), "modest");
        push(&mut queue, modest, item(0, at(0)));
        assert_eq!(queue.close(greedy).count(), 70);
        assert!(fill(&mut queue, modest).by_share);
        assert_eq!(queue.queued(), 70, "the first has freed its share");
    }
}

#[test]
fn waiters_are_woken_by_priority_and_then_one_connection_after_another() {
    let mut queue: TestQueue = Queue::new(1, Admission { items: 7, ..LOTS });
    let model = queue.add_model(options(false));
    let filler = open(&mut queue, StreamOptions::of(model), "filler");
    assert!(!fill(&mut queue, filler).by_share);
    let waiters = [
        ("low", Priority::Low, 1),
        ("crowd 1", Priority::Normal, 1),
        ("crowd 2", Priority::Normal, 1),
        ("crowd 3", Priority::Normal, 1),
        ("single", Priority::Normal, 2),
        ("gone", Priority::High, 3),
        ("high", Priority::High, 3),
    ];
    for (name, priority, connection) in waiters {
        let stream = open(&mut queue, by(model, priority, connection), name);
        queue.wait_for_room(stream, Timestamp::NEVER);
        if name == "gone" {
            queue.close(stream).for_each(drop);
        }
    }
    finish_next(&mut queue);
    let mut woken = Vec::new();
    queue.take_unblocked(&mut woken);
    assert_eq!(woken, ["high", "crowd 1", "single", "crowd 2", "crowd 3", "low"]);
}

#[test]
fn an_owner_that_waited_until_its_time_was_up_keeps_its_place_in_line() {
    let mut queue: TestQueue = Queue::new(1, Admission { items: 7, ..LOTS });
    let model = queue.add_model(options(false));
    let filler = open(&mut queue, StreamOptions::of(model), "filler");
    fill(&mut queue, filler);
    let [first, second] = ["first", "second"].map(|name| open(&mut queue, by(model, Priority::Normal, 1), name));
    queue.wait_for_room(first, at(10));
    queue.wait_for_room(second, Timestamp::NEVER);
    let mut woken = Vec::new();
    queue.expire(at(10), &mut Vec::new(), &mut woken);
    assert_eq!(woken, ["first"]);
    queue.wait_for_room(first, Timestamp::NEVER);
    finish_next(&mut queue);
    queue.take_unblocked(&mut woken);
    assert_eq!(woken, ["first", "first", "second"]);
}

#[test]
fn connections_have_equal_shares_of_the_lanes_however_many_streams_they_open() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    let mut streams: Vec<_> = (0..20).map(|_| open(&mut queue, by(model, Priority::Normal, 1), "crowd")).collect();
    streams.push(open(&mut queue, by(model, Priority::Normal, 2), "single"));
    for stream in streams {
        (0..8).for_each(|ticket| push(&mut queue, stream, item(ticket, at(0))));
    }
    let runs = runs(&mut queue, 100);
    assert!(runs["single"].abs_diff(runs["crowd"]) <= 8, "{runs:?}");
}

#[test]
fn addresses_have_equal_shares_of_the_lanes_however_many_connections_they_open() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    let mut streams: Vec<_> = (1..=20).map(|connection| open(&mut queue, from(model, 1, connection), "crowd")).collect();
    streams.push(open(&mut queue, from(model, 2, 100), "single"));
    streams.push(open(&mut queue, from(model, 3, 101), "one of two"));
    streams.push(open(&mut queue, from(model, 3, 102), "the other of two"));
    for stream in streams {
        (0..8).for_each(|ticket| push(&mut queue, stream, item(ticket, at(0))));
    }
    let runs = runs(&mut queue, 300);
    let share = |name| runs[name] as f64 / 1_200.0;
    assert!((share("crowd") - 1.0 / 3.0).abs() < 0.02, "{runs:?}");
    assert!((share("single") - 1.0 / 3.0).abs() < 0.02, "{runs:?}");
    assert!((share("one of two") - share("the other of two")).abs() < 0.02, "{runs:?}");
}

fn of_tenant(model: ModelKey, tenant: u64, weight: u32) -> StreamOptions {
    StreamOptions { tenant: TenantKey(tenant), weight, ..StreamOptions::of(model) }
}

fn fill_up(queue: &mut TestQueue, stream: StreamKey) {
    (0..8).for_each(|ticket| push(queue, stream, item(ticket, at(0))));
}

#[test]
fn tenants_have_lane_time_by_their_weights_while_both_have_work() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    for (name, tenant, weight) in [("heavy", 1, 3), ("heavy", 1, 3), ("light", 2, 1)] {
        let stream = open(&mut queue, of_tenant(model, tenant, weight), name);
        fill_up(&mut queue, stream);
    }
    let both = runs(&mut queue, 1_000);
    let ratio = both["heavy"] as f64 / both["light"] as f64;
    assert!((ratio - 3.0).abs() < 0.1, "{both:?}");
}

#[test]
fn a_weight_that_changes_applies_from_the_next_stream_of_its_tenant() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    for (name, tenant) in [("first", 1), ("second", 2)] {
        let stream = open(&mut queue, of_tenant(model, tenant, 1), name);
        fill_up(&mut queue, stream);
    }
    let equal = runs(&mut queue, 500);
    assert!(equal["first"].abs_diff(equal["second"]) <= 16, "{equal:?}");
    let later = open(&mut queue, of_tenant(model, 1, 3), "first");
    fill_up(&mut queue, later);
    let weighted = runs(&mut queue, 1_000);
    let ratio = weighted["first"] as f64 / weighted["second"] as f64;
    assert!((ratio - 3.0).abs() < 0.15, "{weighted:?}");
}

/// Two high-priority streams that always have items waiting, and a normal one with an item now and then.
fn amid_urgent_work(of: impl Fn(ModelKey) -> StreamOptions, items: u64) -> Option<u64> {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 4, ..options(false) });
    for _ in 0..2 {
        let stream = open(&mut queue, by(model, Priority::High, 1), "urgent");
        (0..8).for_each(|ticket| push(&mut queue, stream, item(ticket, at(0))));
    }
    runs(&mut queue, 10);
    let normal = open(&mut queue, of(model), "normal");
    (0..items).for_each(|ticket| push(&mut queue, normal, item(ticket, at(20))));
    let mut left = items;
    (0..200).find(|call| {
        let batch = next(&mut queue, at(20 + call)).expect("there is work");
        finish(&mut queue, &batch);
        for Entry { stream, handle, .. } in batch.entries {
            if handle == "normal" {
                left -= 1;
            } else {
                push(&mut queue, stream, item(2_000_000 + call, at(20 + call)));
            }
        }
        left == 0
    })
}

#[test]
fn urgent_work_of_one_connection_does_not_keep_another_waiting() {
    assert_eq!(amid_urgent_work(|model| by(model, Priority::Normal, 2), 1), Some(1), "in the second call");
    let calls = amid_urgent_work(|model| by(model, Priority::Low, 2), 40).expect("within 200 calls");
    assert!((60..=100).contains(&calls), "an eighth of the lane time: {calls} calls for 40 items, 4 a call");
}

#[test]
fn between_the_priorities_of_one_connection_nothing_is_owed() {
    assert_eq!(amid_urgent_work(|model| by(model, Priority::Normal, 1), 1), None);
}

/// Each stream has its own connection, so that connections are what is shared among.
#[test]
fn streams_of_many_connections_that_drop_have_equal_shares() {
    for load in shares::loads().filter(|load| load.jitter > 0.0) {
        shares::assert_shared_by(load, 0.9, 0.99, |stream| Peer { connection: stream as u64 + 1, address: Address::Local });
    }
}
