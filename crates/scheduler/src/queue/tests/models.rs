//! Models that come and go under load.

use proptest::prelude::*;

use super::*;

#[test]
fn a_retired_model_takes_no_new_stream_and_goes_with_its_last() {
    let (mut queue, model) = one_model(1, options(false));
    let a = open(&mut queue, StreamOptions::of(model), "a");
    push(&mut queue, a, item(0, at(0)));
    queue.retire_model(model);
    assert_eq!(queue.open(StreamOptions::of(model), "b"), None);
    assert!(!queue.remove_spent(model), "a stream is open");
    push(&mut queue, a, item(1, at(0)));
    let batch = next(&mut queue, at(0)).expect("open streams go on");
    queue.close(a).for_each(drop);
    assert!(!queue.remove_spent(model), "an item still runs");
    finish(&mut queue, &batch);
    assert!(queue.remove_spent(model));
    assert_eq!((queue.models(), queue.streams(), queue.queued()), (0, 0, 0));
}

#[test]
fn a_model_that_serves_is_not_removed_and_one_that_is_gone_is_not_mistaken_for_its_successor() {
    let (mut queue, old) = one_model(1, options(false));
    assert!(!queue.remove_spent(old), "it was not retired");
    queue.retire_model(old);
    assert!(queue.remove_spent(old));
    let new = queue.add_model(options(true));
    assert_ne!(old, new);
    assert_eq!(queue.open(StreamOptions::of(old), "late"), None);
    queue.retire_model(old);
    assert!(queue.open(StreamOptions::of(new), "a").is_some(), "the key of a model that is gone reaches no other");
}

/// What can happen to models and their streams.
#[derive(Debug, Clone)]
enum Step {
    Add { stateful: bool },
    Retire { model: usize },
    Open { model: usize },
    Push { stream: usize, deadline: Option<u8> },
    Take,
    Finish,
    Close { stream: usize },
    Expire { millis: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => any::<bool>().prop_map(|stateful| Step::Add { stateful }),
        2 => (0_usize..5).prop_map(|model| Step::Retire { model }),
        4 => (0_usize..5).prop_map(|model| Step::Open { model }),
        10 => (0_usize..10, proptest::option::of(0_u8..20)).prop_map(|(stream, deadline)| Step::Push { stream, deadline }),
        6 => Just(Step::Take),
        6 => Just(Step::Finish),
        4 => (0_usize..10).prop_map(|stream| Step::Close { stream }),
        2 => (0_u8..10).prop_map(|millis| Step::Expire { millis }),
    ];
    proptest::collection::vec(step, 0..150)
}

/// A model, as tracked from outside.
struct Known {
    key: ModelKey,
    retired: bool,
    open: usize,
}

/// A stream, as its client sees it.
struct Opened {
    key: StreamKey,
    model: usize,
    is_open: bool,
    running: usize,
}

proptest! {
    /// Whatever happens in whatever order: a model stays until it is retired and its last stream has ended, and no longer; each
    /// item leaves exactly once; nothing is left at the end.
    #[test]
    fn models_go_with_their_last_stream_and_take_no_item_along(steps in steps()) {
        let mut queue: Queue<usize, ()> = Queue::new(2, LOTS);
        let mut now = at(1);
        let (mut models, mut streams): (Vec<Known>, Vec<Opened>) = (Vec::new(), Vec::new());
        let mut running: VecDeque<Batch<usize, ()>> = VecDeque::new();
        let (mut pushed, mut left) = (0_u64, BTreeSet::new());
        let tail = std::iter::repeat_n(Step::Finish, 200)
            .chain((0..200).map(|stream| Step::Close { stream }))
            .chain((0..200).map(|model| Step::Retire { model }));
        for step in steps.into_iter().chain(tail) {
            let mut ended = Vec::new();
            match step {
                Step::Add { stateful } => models.push(Known { key: queue.add_model(options(stateful)), retired: false, open: 0 }),
                Step::Retire { model } => {
                    let Some(known) = models.get_mut(model) else { continue };
                    queue.retire_model(known.key);
                    known.retired = true;
                }
                Step::Open { model } => {
                    let Some(known) = models.get_mut(model) else { continue };
                    let opened = queue.open(StreamOptions::of(known.key), streams.len());
                    prop_assert_eq!(opened.is_none(), known.retired);
                    if let Some(key) = opened {
                        known.open += 1;
                        streams.push(Opened { key, model, is_open: true, running: 0 });
                    }
                }
                Step::Push { stream, deadline } => {
                    let Some(stream) = streams.get(stream).filter(|stream| stream.is_open) else { continue };
                    pushed += 1;
                    let deadline = deadline.map_or(Timestamp::NEVER, |millis| now + MS * u32::from(millis) + MS);
                    let taken = queue.push(stream.key, due(pushed, now, deadline), &mut ended);
                    prop_assert!(taken.is_ok(), "an open stream takes items, whatever becomes of its model");
                }
                Step::Take => {
                    if let Some(batch) = queue.next_batch(now, &mut ended) {
                        for entry in &batch.entries {
                            streams[entry.handle].running += 1;
                            prop_assert!(left.insert(entry.item.ticket));
                        }
                        running.push_back(batch);
                    }
                }
                Step::Finish => {
                    if let Some(batch) = running.pop_front() {
                        queue.finish(&batch.report(Some(MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
                        batch.entries.iter().for_each(|entry| streams[entry.handle].running -= 1);
                    }
                }
                Step::Close { stream } => {
                    let Some(stream) = streams.get_mut(stream).filter(|stream| stream.is_open) else { continue };
                    stream.is_open = false;
                    models[stream.model].open -= 1;
                    for item in queue.close(stream.key) {
                        prop_assert!(left.insert(item.ticket));
                    }
                }
                Step::Expire { millis } => {
                    now = now + MS * u32::from(millis);
                    queue.expire(now, &mut ended, &mut Vec::new());
                }
            }
            for ended in ended {
                prop_assert!(left.insert(ended.item.ticket));
            }
            for (index, known) in models.iter().enumerate() {
                let runs = streams.iter().any(|stream| stream.model == index && stream.running > 0);
                let was_there = queue.cost(known.key).is_some();
                let removed = queue.remove_spent(known.key);
                prop_assert_eq!(removed, was_there && known.retired && known.open == 0 && !runs);
                prop_assert_eq!(queue.cost(known.key).is_none(), known.retired && known.open == 0 && !runs);
            }
        }
        prop_assert_eq!(left.len() as u64, pushed);
        prop_assert_eq!((queue.models(), queue.streams(), queue.queued()), (0, 0, 0));
        prop_assert!(!queue.has_ready() && queue.next_wakeup(now).is_none());
    }
}
