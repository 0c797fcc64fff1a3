//! Calls that are long compared with others.

use super::*;

#[test]
fn long_calls_leave_a_lane_to_short_ones_while_those_keep_coming() {
    let (mut queue, fast, slow) = fast_and_slow(2);
    let flood = open(&mut queue, StreamOptions::of(slow), "slow");
    let calm = open(&mut queue, StreamOptions::of(fast), "fast");
    (0..40).for_each(|ticket| push(&mut queue, flood, item(ticket, at(0))));
    push(&mut queue, calm, item(0, at(0)));
    let first = next(&mut queue, at(0)).expect("a batch");
    let second = next(&mut queue, at(0)).expect("a batch");
    let names: BTreeSet<_> = [&first, &second].into_iter().flat_map(|batch| taken(Some(batch))).map(|(name, _)| name).collect();
    assert_eq!(names, BTreeSet::from(["fast", "slow"]));
    let fast_batch = if first.model == fast { &first } else { &second };
    finish(&mut queue, fast_batch);
    assert_eq!(next(&mut queue, at(2)), None, "the second lane is kept free");
    assert_eq!(queue.next_wakeup(at(2)), Some(at(1002)));
    push(&mut queue, calm, item(1, at(3)));
    let short = next(&mut queue, at(3)).expect("a batch");
    assert_eq!(taken(Some(&short)), [("fast", 1)]);
    finish(&mut queue, &short);
    assert!(next(&mut queue, at(1100)).is_some_and(|batch| batch.model == slow), "nothing short has come for a second");
}

/// A flood of long calls next to short ones, on two lanes and two long ones.
fn flood_and_calm() -> (TestQueue, ModelKey, StreamKey) {
    let (queue, fast, slow) = fast_and_slow(2);
    let mut queue = queue.with_long_lanes(2);
    let flood = open(&mut queue, StreamOptions::of(slow), "slow");
    let calm = open(&mut queue, StreamOptions::of(fast), "fast");
    (0..40).for_each(|ticket| push(&mut queue, flood, item(ticket, at(0))));
    push(&mut queue, calm, item(0, at(0)));
    (queue, slow, calm)
}

#[test]
fn long_calls_go_to_long_lanes_and_leave_all_others_to_short_ones() {
    let (mut queue, slow, calm) = flood_and_calm();
    let first = [(); 2].map(|()| queue.next_batch_of_two(at(0), &mut Vec::new()).expect("a batch"));
    for batch in &first {
        assert_eq!(batch.lane == LaneKind::Long, batch.model == slow);
        assert!(!batch.lone && !batch.wide);
    }
    assert!(first[0].model != first[1].model);
    first.iter().filter(|batch| batch.model != slow).for_each(|batch| finish(&mut queue, batch));
    assert_eq!(next(&mut queue, at(2)), None, "both lanes are kept for short calls");
    assert_eq!(queue.next_wakeup(at(2)), Some(at(1002)));
    let second = queue.next_long_batch(at(2), &mut Vec::new()).expect("the next long call");
    assert_eq!((second.model, second.lane), (slow, LaneKind::Long));
    push(&mut queue, calm, item(1, at(3)));
    assert_eq!(queue.next_long_batch(at(3), &mut Vec::new()).map(|batch| batch.model), Some(slow), "no short one");
    let short = next(&mut queue, at(3)).expect("a batch");
    assert_eq!((taken(Some(&short)), short.lane), (vec![("fast", 1)], LaneKind::Ordinary));
    finish(&mut queue, &short);
    let alone = next(&mut queue, at(1100)).expect("nothing short has come for a second");
    assert_eq!((alone.model, alone.lane, alone.long), (slow, LaneKind::Ordinary, false));
}

#[test]
fn long_calls_left_too_little_by_lanes_that_are_never_idle_take_one_in_turn() {
    let run = |idles: bool| {
        let (mut queue, slow, calm) = flood_and_calm();
        let first = [(); 2].map(|()| queue.next_batch_of_two(at(0), &mut Vec::new()).expect("a batch"));
        let long = first.iter().find(|batch| batch.model == slow).expect("one of the two");
        first.iter().filter(|batch| batch.model != slow).for_each(|batch| finish(&mut queue, batch));
        assert!(2 * long.ends_at.since(at(0)) < STARVATION_MAX);
        let mut on_lanes = Vec::new();
        for millis in 1..3_000 {
            let now = at(millis);
            (0..2).for_each(|number| push(&mut queue, calm, item(2 * millis + number, now)));
            // A flood of short items, or as many as two lanes can run with time to spare.
            let asks = if idles { 3 } else { 1 };
            for batch in (0..asks).map_while(|_| next(&mut queue, now)).collect::<Vec<_>>() {
                if batch.model == slow {
                    on_lanes.push((millis, batch.lane, batch.long));
                } else {
                    finish(&mut queue, &batch);
                }
            }
        }
        on_lanes
    };
    assert_eq!(run(true), [], "there is time to spare");
    let on_lanes = run(false);
    assert!(on_lanes.len() == 1, "the other lane is kept for short calls: {on_lanes:?}");
    let (millis, lane, long) = on_lanes[0];
    assert!((1_001..1_100).contains(&millis) && long && lane == LaneKind::Ordinary, "{on_lanes:?}");
}

#[test]
fn a_long_call_that_has_waited_too_long_gets_a_core() {
    for lanes in [1, 2] {
        let (queue, fast, slow) = fast_and_slow(lanes);
        let mut queue = queue.with_long_lanes(1);
        let (flood, calm) =
            (open(&mut queue, StreamOptions::of(slow), "slow"), open(&mut queue, StreamOptions::of(fast), "fast"));
        push(&mut queue, calm, item(0, at(0)));
        push(&mut queue, flood, item(0, at(0)));
        let first = [(); 2].map(|()| queue.next_batch_of_two(at(0), &mut Vec::new()).expect("a batch"));
        let long = first.iter().find(|batch| batch.lane == LaneKind::Long).expect("one of the two");
        first.iter().filter(|batch| batch.model != slow).for_each(|batch| finish(&mut queue, batch));
        let overdue = at(0) + 10 * long.ends_at.since(at(0));
        // Short items without end: the lanes are never idle, and then one of them waits.
        let (mut left, mut tickets) = (None, 0);
        for millis in 1..3_000 {
            let now = at(millis);
            while queue.queued() < 100 {
                tickets += 1;
                push(&mut queue, calm, item(tickets, now));
            }
            let running: Vec<_> = (0..lanes).map_while(|_| next(&mut queue, now)).collect();
            let ran = running.len();
            running.iter().for_each(|batch| finish(&mut queue, batch));
            if ran < lanes {
                left = Some((now, ran));
                break;
            }
        }
        let (when, ran) = left.expect("it is left a core");
        assert!(when > overdue && when <= overdue + 2 * MS, "{when} {overdue}");
        assert_eq!(ran, lanes - 1);
        finish(&mut queue, long);
        assert!(next(&mut queue, when).is_some(), "it is over");
    }
}

#[test]
fn a_calls_cost_is_not_learned_if_others_took_its_core() {
    let learned = |took: u32| {
        let (mut queue, slow, _) = flood_and_calm();
        let long = std::iter::from_fn(|| queue.next_batch_of_two(at(0), &mut Vec::new())).find(|batch| batch.model == slow);
        let long = long.expect("one of the two");
        let before = queue.cost_of(slow, ShapeKey::default());
        let report = long.report(Some(took * long.ends_at.since(at(0))));
        queue.finish(&report, long.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
        queue.cost_of(slow, ShapeKey::default()) != before
    };
    assert!(learned(2));
    assert!(!learned(3));
}

#[test]
fn short_items_do_not_wait_behind_long_ones_of_their_model() {
    let mut queue = TestQueue::new(2, LOTS).with_long_lanes(1);
    let model = queue.add_model(ModelOptions { max_batch: 1, ..options(false) });
    let shaped = |ticket, shape, bytes| Item { shape: ShapeKey(shape), bytes, ..item(ticket, at(0)) };
    let long = open(&mut queue, StreamOptions::of(model), "long");
    (0..4).for_each(|ticket| push(&mut queue, long, shaped(ticket, 2, 10_000)));
    let short = open(&mut queue, StreamOptions::of(model), "short");
    push(&mut queue, short, shaped(0, 1, 100));
    let on_long = queue.next_batch_of_two(at(0), &mut Vec::new()).expect("a batch");
    assert_eq!((taken(Some(&on_long)), on_long.lane), (vec![("long", 0)], LaneKind::Long));
    let short = next(&mut queue, at(0)).expect("the lane has nothing else");
    assert_eq!((taken(Some(&short)), short.lane), (vec![("short", 0)], LaneKind::Ordinary));
    assert_eq!(next(&mut queue, at(0)), None, "a long call waits for its lane");
    assert_eq!((queue.queued(), queue.has_ready()), (3, true));
    finish(&mut queue, &on_long);
    let second = queue.next_long_batch(at(1), &mut Vec::new()).expect("its lane is free");
    assert_eq!(taken(Some(&second)), [("long", 1)]);
}

#[test]
fn items_on_long_lanes_do_not_make_lanes_share_short_work() {
    let mut queue = TestQueue::new(2, LOTS).with_long_lanes(2);
    let model = queue.add_model(options(false));
    let shaped = |ticket, shape, bytes| Item { shape: ShapeKey(shape), bytes, ..item(ticket, at(0)) };
    let [long, short] = ["long", "short"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    let other = open(&mut queue, StreamOptions::of(model), "other");
    push(&mut queue, short, shaped(0, 1, 100));
    let first = next(&mut queue, at(0)).expect("a batch");
    finish(&mut queue, &first);
    (0..2).for_each(|ticket| push(&mut queue, long, shaped(ticket, 2, 10_000)));
    for _ in 0..2 {
        assert_eq!(queue.next_long_batch(at(0), &mut Vec::new()).map(|batch| batch.entries.len()), Some(1));
    }
    push(&mut queue, short, shaped(1, 1, 100));
    push(&mut queue, other, shaped(0, 1, 100));
    assert_eq!([(); 2].map(|()| taken(next(&mut queue, at(0)).as_ref()).len()), [1, 1], "one for each lane");
}

#[test]
fn a_lane_that_is_lent_or_asleep_owes_no_core() {
    let (queue, fast, slow) = fast_and_slow(1);
    let mut queue = queue.with_long_lanes(1);
    let (flood, calm) = (open(&mut queue, StreamOptions::of(slow), "slow"), open(&mut queue, StreamOptions::of(fast), "fast"));
    push(&mut queue, calm, item(0, at(0)));
    let first = next(&mut queue, at(0)).expect("a batch");
    finish(&mut queue, &first);
    push(&mut queue, flood, item(0, at(1)));
    let long = queue.next_batch_of_two(at(1), &mut Vec::new()).expect("a batch");
    assert_eq!(long.lane, LaneKind::Long);
    // No lane looks and finds nothing: each item is taken as it arrives, long after the call should have ended.
    for millis in 1..100 {
        let now = at(100 * millis);
        push(&mut queue, calm, item(millis, now));
        let short = next(&mut queue, now).expect("the lane is free");
        assert_eq!(short.model, fast);
        finish(&mut queue, &short);
    }
}

#[test]
fn once_long_lanes_end_lanes_run_what_is_left() {
    let (mut queue, slow, _) = flood_and_calm();
    let first = [(); 2].map(|()| queue.next_batch_of_two(at(0), &mut Vec::new()).expect("a batch"));
    first.iter().filter(|batch| batch.model != slow).for_each(|batch| finish(&mut queue, batch));
    assert_eq!(next(&mut queue, at(1)), None);
    queue.end_long_lanes();
    while let Some(batch) = next(&mut queue, at(1)) {
        assert_eq!((batch.model, batch.lane), (slow, LaneKind::Ordinary));
        finish(&mut queue, &batch);
    }
    assert_eq!(queue.queued(), 0);
}
