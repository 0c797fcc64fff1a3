//! Named behaviours, and properties against a naive account.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::CloseReason,
    scheduler::{Batch, ShapeKey},
};

const MS: Duration = Duration::from_millis(1);
const LOTS: Admission = Admission { items: 1000, bytes: 1 << 30, model_items: 1000, model_bytes: 1 << 30 };

type TestScheduler = Scheduler<&'static str, ()>;
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

fn one_model(lanes: usize, options: ModelOptions) -> (TestScheduler, ModelKey) {
    let mut scheduler = Scheduler::new(lanes, LOTS);
    let model = scheduler.add_model(options);
    (scheduler, model)
}

fn push(scheduler: &mut TestScheduler, stream: StreamKey, item: Item<()>) {
    let mut ended = Vec::new();
    scheduler.push(stream, item, &mut ended).expect("there is room");
    assert!(ended.is_empty(), "{ended:?}");
}

fn next(scheduler: &mut TestScheduler, now: Timestamp) -> Option<TestBatch> {
    let mut expired = Vec::new();
    let batch = scheduler.next_batch(now, &mut expired);
    assert!(expired.is_empty(), "{expired:?}");
    batch
}

fn taken(batch: Option<&TestBatch>) -> Vec<(&'static str, u64)> {
    batch.map(|batch| batch.entries.iter().map(|entry| (entry.handle, entry.item.ticket)).collect()).unwrap_or_default()
}

fn finish(scheduler: &mut TestScheduler, batch: &TestBatch) {
    scheduler.finish(&batch.report(Some(MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
}

#[test]
fn a_free_lane_takes_what_is_there_at_once() {
    let (mut scheduler, model) = one_model(1, options(false));
    let (a, b) = (scheduler.open(StreamOptions::of(model), "a"), scheduler.open(StreamOptions::of(model), "b"));
    push(&mut scheduler, a, item(0, at(0)));
    push(&mut scheduler, b, item(0, at(0)));
    let batch = next(&mut scheduler, at(0));
    assert_eq!(taken(batch.as_ref()), [("a", 0), ("b", 0)]);
    assert_eq!(batch.expect("a batch").reason, CloseReason::LaneFree);
    assert_eq!(next(&mut scheduler, at(0)), None);
}

#[test]
fn a_stateful_stream_has_one_item_in_flight() {
    let (mut scheduler, model) = one_model(1, options(true));
    let (a, b) = (scheduler.open(StreamOptions::of(model), "a"), scheduler.open(StreamOptions::of(model), "b"));
    for ticket in 0..3 {
        push(&mut scheduler, a, item(ticket, at(0)));
    }
    push(&mut scheduler, b, item(0, at(1)));
    let first = next(&mut scheduler, at(1)).expect("two streams are ready");
    assert_eq!(taken(Some(&first)), [("a", 0), ("b", 0)]);
    assert_eq!(next(&mut scheduler, at(1)), None, "the second item of a waits for the first");
    finish(&mut scheduler, &first);
    assert_eq!(taken(next(&mut scheduler, at(2)).as_ref()), [("a", 1)]);
}

#[test]
fn the_earliest_deadline_goes_first_and_items_without_one_do_not_starve() {
    let (mut scheduler, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let [calm, late, soon] = ["calm", "late", "soon"].map(|name| scheduler.open(StreamOptions::of(model), name));
    push(&mut scheduler, calm, item(0, at(0)));
    push(&mut scheduler, late, due(0, at(0), at(900)));
    push(&mut scheduler, soon, due(0, at(0), at(100)));
    push(&mut scheduler, late, due(1, at(0), at(1100)));
    let order: Vec<_> = (0..4).flat_map(|_| taken(next(&mut scheduler, at(0)).as_ref())).collect();
    assert_eq!(order, [("soon", 0), ("late", 0), ("calm", 0), ("late", 1)]);
}

#[test]
fn expired_items_are_given_out_when_their_time_comes_and_never_run() {
    let (mut scheduler, model) = one_model(1, options(false));
    let a = scheduler.open(StreamOptions::of(model), "a");
    push(&mut scheduler, a, due(0, at(0), at(50)));
    push(&mut scheduler, a, due(1, at(0), at(20)));
    push(&mut scheduler, a, item(2, at(0)));
    assert_eq!(scheduler.next_wakeup(), Some(at(20)));
    let (mut expired, mut wake) = (Vec::new(), Vec::new());
    scheduler.expire(at(19), &mut expired, &mut wake);
    assert!(expired.is_empty());
    scheduler.expire(at(20), &mut expired, &mut wake);
    assert_eq!(expired.iter().map(|expired| expired.item.ticket).collect::<Vec<_>>(), [1]);
    assert_eq!(scheduler.next_wakeup(), Some(at(50)));
    scheduler.expire(at(60), &mut expired, &mut wake);
    assert_eq!(expired.len(), 2);
    assert_eq!(scheduler.next_wakeup(), None);
    assert_eq!(taken(next(&mut scheduler, at(60)).as_ref()), [("a", 2)]);
    assert_eq!(scheduler.ledger(model).outcome(Outcome::Expired), 2);
}

#[test]
fn a_head_that_not_even_a_call_of_its_own_would_save_is_answered_at_once() {
    let (mut scheduler, model) = one_model(1, options(false));
    let a = scheduler.open(StreamOptions::of(model), "a");
    push(&mut scheduler, a, due(0, at(0), at(0) + MS / 2));
    let mut expired = Vec::new();
    assert_eq!(scheduler.next_batch(at(0), &mut expired), None);
    assert_eq!(expired.len(), 1);
    assert_eq!(scheduler.next_wakeup(), None);
}

#[test]
fn a_tight_head_is_passed_over_and_gets_the_next_batch() {
    let (mut scheduler, model) = one_model(1, options(false));
    let tight = scheduler.open(StreamOptions::of(model), "tight");
    let calm = scheduler.open(StreamOptions::of(model), "calm");
    push(&mut scheduler, tight, due(0, at(0), at(2)));
    for ticket in 0..8 {
        push(&mut scheduler, calm, item(ticket, at(0)));
    }
    let full = next(&mut scheduler, at(0)).expect("a batch");
    assert_eq!(full.entries.len(), 8);
    assert!(full.entries.iter().all(|entry| entry.handle == "calm"));
    assert_eq!(taken(next(&mut scheduler, at(0)).as_ref()), [("tight", 0)]);
}

#[test]
fn items_of_other_shapes_wait_for_a_batch_of_their_own() {
    let (mut scheduler, model) = one_model(1, options(false));
    let a = scheduler.open(StreamOptions::of(model), "a");
    let b = scheduler.open(StreamOptions::of(model), "b");
    push(&mut scheduler, a, item(0, at(0)));
    push(&mut scheduler, b, Item { shape: ShapeKey(7), ..item(0, at(0)) });
    push(&mut scheduler, a, item(1, at(0)));
    let first = next(&mut scheduler, at(0)).expect("a batch");
    assert_eq!(taken(Some(&first)), [("a", 0), ("a", 1)]);
    assert_eq!(first.reason, CloseReason::Shape);
    assert_eq!(taken(next(&mut scheduler, at(0)).as_ref()), [("b", 0)]);
}

#[test]
fn a_call_holds_no_more_bytes_than_allowed_but_always_one_item() {
    let (mut scheduler, model) = one_model(1, ModelOptions { max_call_bytes: 250, ..options(false) });
    let a = scheduler.open(StreamOptions::of(model), "a");
    for ticket in 0..3 {
        push(&mut scheduler, a, item(ticket, at(0)));
    }
    push(&mut scheduler, a, Item { bytes: 1000, ..item(3, at(0)) });
    let sizes: Vec<_> =
        std::iter::from_fn(|| next(&mut scheduler, at(0))).map(|batch| (batch.entries.len(), batch.reason)).collect();
    assert_eq!(sizes, [(2, CloseReason::Bytes), (1, CloseReason::Bytes), (1, CloseReason::LaneFree)]);
}

#[test]
fn a_delay_holds_a_small_batch_back_until_it_is_over_or_the_server_drains() {
    let (mut scheduler, model) = one_model(1, ModelOptions { max_delay: 5 * MS, ..options(false) });
    let a = scheduler.open(StreamOptions::of(model), "a");
    push(&mut scheduler, a, item(0, at(0)));
    assert_eq!(next(&mut scheduler, at(4)), None);
    assert_eq!(scheduler.next_wakeup(), Some(at(5)));
    assert_eq!(taken(next(&mut scheduler, at(5)).as_ref()), [("a", 0)]);
    push(&mut scheduler, a, item(1, at(6)));
    scheduler.drain();
    assert_eq!(taken(next(&mut scheduler, at(6)).as_ref()), [("a", 1)]);
}

#[test]
fn a_refusal_names_the_limit_and_waiters_are_woken_in_order() {
    let mut scheduler: TestScheduler = Scheduler::new(1, Admission { items: 2, ..LOTS });
    let model = scheduler.add_model(options(false));
    let [a, b, c] = ["a", "b", "c"].map(|name| scheduler.open(StreamOptions::of(model), name));
    push(&mut scheduler, a, item(0, at(0)));
    push(&mut scheduler, a, item(1, at(0)));
    let (back, refusal) = scheduler.push(b, item(0, at(0)), &mut Vec::new()).expect_err("full");
    assert_eq!((back.ticket, refusal.limit, refusal.value), (0, "scheduler.max_queued_items", 2));
    assert!(refusal.retry_after >= MS);
    scheduler.wait_for_room(b, Timestamp::NEVER);
    scheduler.wait_for_room(c, at(30));
    let mut woken = Vec::new();
    scheduler.take_unblocked(&mut woken);
    assert!(woken.is_empty());
    assert_eq!(scheduler.next_wakeup(), Some(at(30)), "c wants to answer its item by then");
    assert!(next(&mut scheduler, at(0)).is_some());
    scheduler.take_unblocked(&mut woken);
    assert_eq!(woken, ["b", "c"]);
}

#[test]
fn closing_a_stream_frees_all_that_it_held() {
    let (mut scheduler, model) = one_model(1, ModelOptions { max_batch: 1, ..options(false) });
    let a = scheduler.open(StreamOptions::of(model), "a");
    for ticket in 0..3 {
        push(&mut scheduler, a, due(ticket, at(0), at(500)));
    }
    let running = next(&mut scheduler, at(0)).expect("a batch");
    let cancelled: Vec<_> = scheduler.close(a).map(|item| item.ticket).collect();
    assert_eq!(cancelled, [1, 2]);
    assert_eq!((scheduler.queued(), scheduler.next_wakeup(), scheduler.streams()), (0, None, 1));
    finish(&mut scheduler, &running);
    assert_eq!(scheduler.streams(), 0);
    let ledger = scheduler.ledger(model);
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Cancelled), ledger.open()), (3, 3, 0));
}

#[test]
fn the_most_urgent_model_goes_first() {
    let mut scheduler: TestScheduler = Scheduler::new(1, LOTS);
    let [slow, fast] = [(); 2].map(|()| scheduler.add_model(options(false)));
    let a = scheduler.open(StreamOptions::of(slow), "slow");
    let b = scheduler.open(StreamOptions::of(fast), "fast");
    push(&mut scheduler, a, item(0, at(0)));
    push(&mut scheduler, b, due(0, at(0), at(50)));
    assert_eq!(taken(next(&mut scheduler, at(0)).as_ref()), [("fast", 0)]);
    assert_eq!(taken(next(&mut scheduler, at(0)).as_ref()), [("slow", 0)]);
}

/// What can happen to a scheduler.
#[derive(Debug, Clone)]
enum Step {
    Open,
    Push { stream: usize, deadline: Option<u8>, shape: u8 },
    Take,
    Finish { fail: bool },
    Close { stream: usize },
    Expire,
    Wait { millis: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Open),
        10 => (0_usize..6, proptest::option::of(0_u8..40), 0_u8..2).prop_map(|(stream, deadline, shape)| Step::Push { stream, deadline, shape }),
        6 => Just(Step::Take),
        6 => any::<bool>().prop_map(|fail| Step::Finish { fail }),
        1 => (0_usize..6).prop_map(|stream| Step::Close { stream }),
        2 => Just(Step::Expire),
        4 => (0_u8..10).prop_map(|millis| Step::Wait { millis }),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Against a naive account of every item: each leaves exactly once, in the order of its stream; batches keep their limits;
    /// expired items do not run; wake-ups are never in the past; the ledger adds up.
    #[test]
    fn holds_its_invariants_whatever_happens(stateful: bool, lanes in 1_usize..4, steps in steps()) {
        let limits = Admission { items: 12, ..LOTS };
        let mut scheduler: Scheduler<usize, ()> = Scheduler::new(lanes, limits);
        let model = scheduler.add_model(options(stateful));
        let mut now = at(1);
        let mut streams: Vec<Option<StreamKey>> = Vec::new();
        let mut waiting: BTreeMap<(usize, u64), Timestamp> = BTreeMap::new();
        let mut left: BTreeSet<(usize, u64)> = BTreeSet::new();
        let mut last_run: BTreeMap<usize, u64> = BTreeMap::new();
        let mut running: VecDeque<Batch<usize, ()>> = VecDeque::new();
        let (mut tickets, mut received) = (0_u64, 0_u64);
        for step in steps {
            let mut expired = Vec::new();
            match step {
                Step::Open => streams.push(Some(scheduler.open(StreamOptions::of(model), streams.len()))),
                Step::Push { stream, deadline, shape } => {
                    let Some(&Some(key)) = streams.get(stream) else { continue };
                    tickets += 1;
                    let deadline = deadline.map_or(Timestamp::NEVER, |millis| now + MS * u32::from(millis) + Duration::from_nanos(1));
                    let pushed = scheduler.push(key, Item { deadline, shape: ShapeKey(shape.into()), ..item(tickets, now) }, &mut expired);
                    prop_assert_eq!(pushed.is_err(), waiting.len() >= limits.items);
                    if pushed.is_ok() {
                        received += 1;
                        waiting.insert((stream, tickets), deadline);
                    }
                }
                Step::Take => {
                    if let Some(batch) = scheduler.next_batch(now, &mut expired) {
                        prop_assert!((1..=8).contains(&batch.entries.len()));
                        let in_batch: BTreeSet<_> = batch.entries.iter().map(|entry| entry.stream).collect();
                        prop_assert!(!stateful || in_batch.len() == batch.entries.len());
                        for entry in &batch.entries {
                            let id = (entry.handle, entry.item.ticket);
                            prop_assert!(waiting.remove(&id).is_some(), "{id:?} ran twice or never came");
                            prop_assert!(left.insert(id));
                            prop_assert!(entry.item.deadline > now);
                            prop_assert_eq!(entry.item.shape, batch.entries[0].item.shape);
                            let last = last_run.insert(entry.handle, entry.item.ticket);
                            prop_assert!(last < Some(entry.item.ticket), "order within the stream");
                            let runs_already = running.iter().flat_map(|batch| &batch.entries).any(|other| other.stream == entry.stream);
                            prop_assert!(!(stateful && runs_already));
                        }
                        running.push_back(batch);
                    } else if running.is_empty() {
                        prop_assert!(waiting.len() == expired.len(), "a free lane and a runnable item never wait for each other");
                    }
                }
                Step::Finish { fail } => {
                    if let Some(batch) = running.pop_front() {
                        let outcome = if fail { Outcome::Failed } else { Outcome::Ok };
                        let report = batch.report((!fail).then_some(MS));
                        scheduler.finish(&report, batch.entries.iter().map(|entry| (entry.stream, outcome)));
                    }
                }
                Step::Close { stream } => {
                    let Some(key) = streams.get_mut(stream).and_then(Option::take) else { continue };
                    for item in scheduler.close(key) {
                        let id = (stream, item.ticket);
                        prop_assert!(waiting.remove(&id).is_some());
                        prop_assert!(left.insert(id));
                    }
                }
                Step::Expire => scheduler.expire(now, &mut expired, &mut Vec::new()),
                Step::Wait { millis } => now = now + MS * u32::from(millis),
            }
            let expires_only_the_late = matches!(step, Step::Expire);
            for expired in expired {
                let id = (expired.handle, expired.item.ticket);
                prop_assert!(waiting.remove(&id).is_some());
                prop_assert!(left.insert(id));
                prop_assert!(!expires_only_the_late || expired.item.deadline <= now);
            }
            if expires_only_the_late {
                prop_assert!(scheduler.next_wakeup().is_none_or(|wakeup| wakeup > now), "no wake-up in the past");
            }
            let earliest = waiting.values().copied().min().filter(|deadline| *deadline != Timestamp::NEVER);
            prop_assert_eq!(scheduler.next_wakeup(), earliest);
            prop_assert_eq!(scheduler.queued(), waiting.len());
        }
        for batch in running {
            scheduler.finish(&batch.report(Some(MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
        }
        for key in streams.into_iter().flatten() {
            scheduler.close(key).for_each(drop);
        }
        let ledger = scheduler.ledger(model);
        prop_assert_eq!((ledger.received(), ledger.ended(), scheduler.queued(), scheduler.streams()), (received, received, 0, 0));
    }
}
