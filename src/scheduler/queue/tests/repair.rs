//! What becomes of a queue that contradicts itself.

use super::*;

/// A broken invariant must end in a repair, not in a lane that looks for ever.
#[test]
fn a_model_with_a_turn_and_no_ready_stream_is_repaired_and_loses_nothing() {
    let mut scheduler = Scheduler::new(1, LOTS);
    let (broken, sound) = (scheduler.add_model(options(true)), scheduler.add_model(options(false)));
    let a = open(&mut scheduler, StreamOptions::of(broken), "a");
    let b = open(&mut scheduler, StreamOptions { tenant: TenantKey(7), ..StreamOptions::of(broken) }, "b");
    let other = open(&mut scheduler, StreamOptions::of(sound), "other");
    for (stream, ticket) in [(a, 0), (b, 1), (a, 2), (other, 3)] {
        push(&mut scheduler, stream, item(ticket, at(ticket)));
    }
    scheduler.forget_ready_streams(broken);
    let first = next(&mut scheduler, at(4)).expect("the items are still there");
    assert_eq!(taken(Some(&first)), [("a", 0), ("b", 1)]);
    assert_eq!((scheduler.repairs(broken), scheduler.repairs(sound)), (1, 0));
    assert_eq!(scheduler.take_repair(), Some(Repair { model: broken, times: 1 }));
    assert_eq!(scheduler.take_repair(), None, "it is reported once");
    let second = next(&mut scheduler, at(5)).expect("the sound model");
    assert_eq!(taken(Some(&second)), [("other", 3)]);
    finish(&mut scheduler, &first);
    finish(&mut scheduler, &second);
    assert_eq!(taken(next(&mut scheduler, at(6)).as_ref()), [("a", 2)]);
    assert_eq!(scheduler.repairs(broken), 1, "nothing is broken any more");
}

#[test]
fn a_ready_stream_without_items_is_taken_out_and_others_go_on() {
    let (mut scheduler, model) = one_model(1, options(false));
    let [hollow, full] = ["hollow", "full"].map(|name| open(&mut scheduler, StreamOptions::of(model), name));
    push(&mut scheduler, hollow, item(0, at(0)));
    push(&mut scheduler, full, item(1, at(1)));
    scheduler.streams[hollow].items.clear();
    assert_eq!(taken(next(&mut scheduler, at(2)).as_ref()), [("full", 1)]);
    assert_eq!(next(&mut scheduler, at(2)), None);
    assert_eq!(scheduler.repairs(model), 1);
}

#[test]
fn a_defect_that_comes_back_is_reported_ever_more_seldom() {
    let (mut scheduler, model) = one_model(1, options(false));
    let stream = open(&mut scheduler, StreamOptions::of(model), "a");
    push(&mut scheduler, stream, item(0, at(0)));
    let mut reported = Vec::new();
    for _ in 0..9 {
        scheduler.repair(model);
        reported.extend(scheduler.take_repair().map(|repair| repair.times));
    }
    assert_eq!(reported, [1, 2, 4, 8]);
}
