//! Batches that are held back, and how the hold ends.

use proptest::prelude::*;

use super::*;

/// Four items fill a call; a lane waits 5 ms for them.
fn patient() -> ModelOptions {
    ModelOptions { max_batch: 4, max_delay: 5 * MS, ..options(false) }
}

#[test]
fn a_delay_holds_a_small_batch_back_until_it_is_over_or_the_server_drains() {
    let (mut queue, model) = one_model(1, patient());
    let a = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, a, item(0, at(0)));
    assert_eq!(next(&mut queue, at(4)), None);
    assert_eq!(queue.next_wakeup(at(4)), Some(at(5)));
    let delayed = next(&mut queue, at(5)).expect("its time is over");
    assert_eq!((taken(Some(&delayed)), delayed.reason), (vec![("a", 0)], CloseReason::Delay));
    push(&mut queue, a, item(1, at(6)));
    queue.drain();
    let drained = next(&mut queue, at(6)).expect("no more waiting");
    assert_eq!((taken(Some(&drained)), drained.reason), (vec![("a", 1)], CloseReason::Drain));
}

#[test]
fn a_delay_ends_early_enough_for_a_deadline_to_be_met() {
    let (mut queue, model) = one_model(1, ModelOptions { max_delay: 50 * MS, ..patient() });
    let [free, bound] = ["free", "bound"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, free, item(0, at(0)));
    push(&mut queue, bound, due(0, at(1), at(20)));
    assert_eq!(next(&mut queue, at(1)), None);
    // A call of two takes 1.5 ms.
    let wakeup = queue.next_wakeup(at(1)).expect("the deadline");
    assert_eq!(at(20).since(wakeup), MS * 3 / 2 + 2 * MS);
    let batch = next(&mut queue, wakeup).expect("there is no time left to wait");
    assert_eq!(taken(Some(&batch)), [("bound", 0), ("free", 0)]);
}

#[test]
fn a_full_batch_goes_at_once_and_whole_though_other_lanes_are_free() {
    let (mut queue, model) = one_model(2, patient());
    let a = open(&mut queue, StreamOptions::of(model), "a");
    for ticket in 0..4 {
        assert_eq!(next(&mut queue, at(ticket)), None);
        push(&mut queue, a, item(ticket, at(ticket)));
    }
    let full = next(&mut queue, at(3)).expect("no reason to wait");
    assert_eq!((full.entries.len(), full.reason), (4, CloseReason::Full));
}

#[test]
fn items_that_arrive_while_the_oldest_waits_go_with_it_whichever_is_first() {
    let (mut queue, model) = one_model(2, patient());
    let [old, new] = ["old", "new"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, old, item(0, at(0)));
    push(&mut queue, old, item(1, at(1)));
    push(&mut queue, new, due(0, at(4), at(100)));
    assert_eq!(next(&mut queue, at(4)), None);
    assert_eq!(queue.next_wakeup(at(4)), Some(at(5)));
    let batch = next(&mut queue, at(5)).expect("the oldest has waited for 5 ms");
    assert_eq!(taken(Some(&batch)), [("new", 0), ("old", 0), ("old", 1)]);
    assert_eq!(batch.reason, CloseReason::Delay);
}

#[test]
fn an_item_that_fits_no_due_batch_has_its_own_wakeup() {
    let (mut queue, model) = one_model(2, patient());
    let [a, b] = ["a", "b"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, a, item(0, at(0)));
    push(&mut queue, b, Item { shape: ShapeKey(7), ..item(0, at(1)) });
    assert_eq!(taken(next(&mut queue, at(5)).as_ref()), [("a", 0)]);
    assert_eq!(next(&mut queue, at(5)), None);
    assert_eq!(queue.next_wakeup(at(5)), Some(at(6)));
    assert_eq!(taken(next(&mut queue, at(6)).as_ref()), [("b", 0)]);
}

#[test]
fn a_shape_whose_calls_take_fewer_items_is_not_held_for_more() {
    let (mut queue, model) = one_model(1, ModelOptions { max_batch: 8, ..patient() });
    let a = open(&mut queue, StreamOptions::of(model), "a");
    let large = |ticket, millis| Item { shape: ShapeKey(7), bytes: 1000, ..item(ticket, at(millis)) };
    // Calls with more than one large item take twice as long as they should.
    for ticket in 0..200 {
        push(&mut queue, a, large(ticket, 0));
    }
    while let Some(batch) = next(&mut queue, at(5)) {
        let items = batch.entries.len() as u32;
        let took = if items == 1 { 10 * MS } else { 20 * MS * items };
        queue.finish(&batch.report(Some(took)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
    }
    push(&mut queue, a, large(200, 5));
    let full = next(&mut queue, at(5)).expect("no reason to wait");
    assert_eq!((full.entries.len(), full.reason), (1, CloseReason::Knee));
}

#[test]
fn a_batch_that_waits_for_a_lane_does_not_hide_the_deadlines_behind_it() {
    let (mut queue, model) = one_model(1, patient());
    let a = open(&mut queue, StreamOptions::of(model), "a");
    (0..4).for_each(|ticket| push(&mut queue, a, item(ticket, at(0))));
    let _running = next(&mut queue, at(0)).expect("a full batch");
    push(&mut queue, a, due(4, at(0), at(50)));
    assert_eq!((queue.next_wakeup(at(0)), queue.hold_is_over(at(0))), (Some(at(5)), false));
    assert_eq!((queue.next_wakeup(at(5)), queue.hold_is_over(at(5))), (Some(at(50)), true));
}

#[derive(Debug, Clone)]
struct Arrival {
    gap_us: u64,
    stream: usize,
    deadline_ms: Option<u64>,
    long: bool,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (0_u64..4_000, 0_usize..4, proptest::option::of(1_u64..60), proptest::bool::weighted(0.1))
        .prop_map(|(gap_us, stream, deadline_ms, long)| Arrival { gap_us, stream, deadline_ms, long });
    proptest::collection::vec(arrival, 1..60)
}

proptest! {
    /// Lanes that look when a call ends, an item arrives, or [`Queue::next_wakeup`] says so, miss nothing. While no lane is busy,
    /// queued items run at once or have a wake-up, at which something runs or ends. No free lane keeps an item longer than the
    /// delay.
    #[test]
    fn lanes_that_look_when_they_should_miss_nothing(
        stateful: bool, lanes in 1_usize..4, long_lanes in 0_usize..3, delay_ms in 0_u32..8, draining: bool, arrivals in arrivals()
    ) {
        let delay = MS * delay_ms;
        let mut queue: Queue<usize, ()> = Queue::new(lanes, LOTS).with_long_lanes(long_lanes);
        let model = queue.add_model(ModelOptions { max_batch: 4, max_delay: delay, ..options(stateful) });
        let streams: Vec<_> = (0..4).map(|stream| queue.open(StreamOptions::of(model), stream).expect("the model is there")).collect();
        let mut arrivals = (0_u64..).zip(arrivals).peekable();
        let mut waiting: BTreeMap<(usize, u64), Timestamp> = BTreeMap::new();
        let mut running: Vec<Batch<usize, ()>> = Vec::new();
        let (mut now, mut comes_at, mut told) = (at(0), at(0), false);
        loop {
            for over in running.extract_if(.., |batch| batch.ends_at <= now) {
                queue.finish(&over.report(Some(MS)), over.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
            }
            while let Some((ticket, Arrival { stream, deadline_ms, long, .. })) = arrivals.next_if(|_| comes_at <= now) {
                // The long ones are long enough for a lane to be kept free of them.
                let (shape, bytes) = if long { (ShapeKey(2), 10_000) } else { (ShapeKey(1), 100) };
                let deadline = deadline_ms.map_or(Timestamp::NEVER, |millis| now + Duration::from_millis(millis));
                let item = Item { shape, bytes, deadline, ..item(ticket, now) };
                queue.push(streams[stream], item, &mut Vec::new()).expect("there is room");
                waiting.insert((stream, ticket), now);
                comes_at = arrivals.peek().map_or(Timestamp::NEVER, |(_, next)| now + Duration::from_micros(next.gap_us));
            }
            if draining && comes_at == Timestamp::NEVER {
                queue.drain();
            }
            let before = waiting.len();
            let mut ended = Vec::new();
            queue.expire(now, &mut ended, &mut Vec::new());
            loop {
                let on = |kind| running.iter().filter(|batch| batch.lane == kind).count();
                let (is_free, long_is_free) = (on(LaneKind::Ordinary) < lanes, on(LaneKind::Long) < long_lanes);
                let batch = match (is_free, long_is_free) {
                    (true, true) => queue.next_batch_of_two(now, &mut ended),
                    (true, false) => queue.next_batch(now, &mut ended),
                    (false, true) => queue.next_long_batch(now, &mut ended),
                    (false, false) => None,
                };
                let Some(batch) = batch else { break };
                let had_room = if batch.lane == LaneKind::Long { long_is_free } else { is_free };
                prop_assert!(had_room);
                for entry in &batch.entries {
                    waiting.remove(&(entry.handle, entry.item.ticket));
                }
                running.push(batch);
            }
            for ended in ended {
                waiting.remove(&(ended.handle, ended.item.ticket));
            }
            prop_assert_eq!(queue.queued(), waiting.len());
            prop_assert!(!told || waiting.len() < before, "woken at {now} for nothing");
            let ordinary = running.iter().filter(|batch| batch.lane == LaneKind::Ordinary).count();
            if ordinary < lanes && !running.iter().any(|batch| batch.long) {
                let runs = |stream: usize| running.iter().flat_map(|batch| &batch.entries).any(|entry| entry.handle == stream);
                for ((stream, ticket), arrived) in &waiting {
                    let may_run = !stateful || !runs(*stream);
                    prop_assert!(!may_run || *arrived + delay > now, "{ticket} of {stream} has waited since {arrived}, at {now}");
                }
            }
            let wakeup = queue.next_wakeup(now);
            prop_assert!(wakeup.is_none_or(|wakeup| wakeup > now));
            prop_assert!(wakeup.is_some() || !running.is_empty() || waiting.is_empty(), "{waiting:?} have no wake-up");
            let wakeup = wakeup.unwrap_or(Timestamp::NEVER);
            let other = running.iter().map(|batch| batch.ends_at).min().unwrap_or(Timestamp::NEVER).min(comes_at);
            told = running.is_empty() && wakeup < other;
            now = wakeup.min(other);
            if now == Timestamp::NEVER {
                break;
            }
        }
    }
}
