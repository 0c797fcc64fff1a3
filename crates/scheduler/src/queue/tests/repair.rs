//! What happens to a queue that contradicts itself.

use super::*;

/// A broken invariant must end in a repair, not in a lane that searches for ever.
#[test]
fn a_model_with_a_turn_and_no_ready_stream_is_repaired_and_loses_nothing() {
    let mut queue = Queue::new(1, LOTS);
    let (broken, sound) = (queue.add_model(options(true)), queue.add_model(options(false)));
    let a = open(&mut queue, StreamOptions::of(broken), "a");
    let b = open(&mut queue, StreamOptions { tenant: TenantKey(7), ..StreamOptions::of(broken) }, "b");
    let other = open(&mut queue, StreamOptions::of(sound), "other");
    for (stream, ticket) in [(a, 0), (b, 1), (a, 2), (other, 3)] {
        push(&mut queue, stream, item(ticket, at(ticket)));
    }
    queue.forget_ready_streams(broken);
    let first = next(&mut queue, at(4)).expect("the items are still there");
    assert_eq!(taken(Some(&first)), [("a", 0), ("b", 1)]);
    assert_eq!((queue.repairs(broken), queue.repairs(sound)), (1, 0));
    assert_eq!(queue.take_repair(), Some(Repair { model: broken, times: 1 }));
    assert_eq!(queue.take_repair(), None, "it is reported once");
    let second = next(&mut queue, at(5)).expect("the sound model");
    assert_eq!(taken(Some(&second)), [("other", 3)]);
    finish(&mut queue, &first);
    finish(&mut queue, &second);
    assert_eq!(taken(next(&mut queue, at(6)).as_ref()), [("a", 2)]);
    assert_eq!(queue.repairs(broken), 1, "nothing is broken any more");
}

#[test]
fn a_ready_stream_without_items_is_taken_out_and_others_go_on() {
    let (mut queue, model) = one_model(1, options(false));
    let [hollow, full] = ["hollow", "full"].map(|name| open(&mut queue, StreamOptions::of(model), name));
    push(&mut queue, hollow, item(0, at(0)));
    push(&mut queue, full, item(1, at(1)));
    queue.streams[hollow].items.clear();
    assert_eq!(taken(next(&mut queue, at(2)).as_ref()), [("full", 1)]);
    assert_eq!(next(&mut queue, at(2)), None);
    assert_eq!(queue.repairs(model), 1);
}

#[test]
fn a_bug_that_recurs_is_reported_less_and_less_often() {
    let (mut queue, model) = one_model(1, options(false));
    let stream = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, stream, item(0, at(0)));
    let mut reported = Vec::new();
    for _ in 0..9 {
        queue.repair(model);
        reported.extend(queue.take_repair().map(|repair| repair.times));
    }
    assert_eq!(reported, [1, 2, 4, 8]);
}
