//! Properties, checked against a naive account of every item.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{CallTimes, ModelCall, Spent};

/// What can happen to a queue.
#[derive(Debug, Clone)]
enum Step {
    Open { priority: Priority, tenant: u64, drops: bool },
    Push { stream: usize, deadline: Option<u8>, max_age: Option<u8>, shape: u8 },
    Take,
    Finish { fail: bool },
    Close { stream: usize },
    Expire,
    Wait { millis: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0_usize..3, 0_u64..3, any::<bool>())
            .prop_map(|(priority, tenant, drops)| Step::Open { priority: Priority::ALL[priority], tenant, drops }),
        10 => (0_usize..6, proptest::option::of(0_u8..40), proptest::option::of(0_u8..40), 0_u8..2)
            .prop_map(|(stream, deadline, max_age, shape)| Step::Push { stream, deadline, max_age, shape }),
        6 => Just(Step::Take),
        6 => any::<bool>().prop_map(|fail| Step::Finish { fail }),
        1 => (0_usize..6).prop_map(|stream| Step::Close { stream }),
        2 => Just(Step::Expire),
        4 => (0_u8..10).prop_map(|millis| Step::Wait { millis }),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What a lane reports of a batch that gave results.
fn success(batch: &Batch<usize, ()>, now: Timestamp) -> Executed {
    let waited = batch.entries.iter().map(|entry| now.since(entry.item.arrived)).sum();
    let call = ModelCall { items: batch.entries.len(), waited, times: CallTimes { compute: MS, ..CallTimes::default() } };
    Executed { calls: [call].into_iter().collect(), failed: Spent::default(), finished: now }
}

/// What a lane reports of a batch in which no item gave results.
fn failure(batch: &Batch<usize, ()>, now: Timestamp) -> Executed {
    let time = batch.entries.iter().map(|entry| now.since(entry.item.arrived)).sum();
    Executed { failed: Spent { count: batch.entries.len() as u64, time }, ..Executed::default() }
}

proptest! {
    /// Checked against a naive account of every item: each leaves exactly once, in its stream's order; batches keep their limits;
    /// expired items do not run; wake-ups are never in the past; the ledger adds up, and so do the statistics.
    #[test]
    fn holds_its_invariants_whatever_happens(stateful: bool, lanes in 1_usize..4, steps in steps()) {
        let limits = Admission { items: 12, ..LOTS };
        let mut queue: Queue<usize, ()> = Queue::new(lanes, limits);
        let model = queue.add_model(options(stateful));
        let mut now = at(1);
        let mut streams: Vec<Option<(StreamKey, bool)>> = Vec::new();
        let mut waiting: BTreeMap<(usize, u64), Timestamp> = BTreeMap::new();
        let mut left: BTreeSet<(usize, u64)> = BTreeSet::new();
        let mut last_run: BTreeMap<usize, u64> = BTreeMap::new();
        let mut running: VecDeque<Batch<usize, ()>> = VecDeque::new();
        let (mut tickets, mut received) = (0_u64, 0_u64);
        let (mut ran, mut waited, mut failed, mut cancelled) = (0_u64, Duration::ZERO, Spent::default(), 0_u64);
        for step in steps {
            let mut expired = Vec::new();
            match step {
                Step::Open { priority, tenant, drops } => {
                    let overflow = if drops { Overflow::DropOldest { items_max: 3, bytes_max: 1 << 20 } } else { Overflow::Block };
                    let options = StreamOptions { overflow, ..with(model, priority, tenant) };
                    let key = queue.open(options, streams.len()).expect("the model is there");
                    streams.push(Some((key, drops)));
                }
                Step::Push { stream, deadline, max_age, shape } => {
                    let Some(&Some((key, drops))) = streams.get(stream) else { continue };
                    tickets += 1;
                    let until = |millis: Option<u8>| {
                        millis.map_or(Timestamp::NEVER, |millis| now + MS * u32::from(millis) + Duration::from_nanos(1))
                    };
                    let item = Item {
                        deadline: until(deadline),
                        stale_at: until(max_age),
                        shape: ShapeKey(shape.into()),
                        ..item(tickets, now)
                    };
                    let due = item.due();
                    let own = waiting.range((stream, 0)..=(stream, u64::MAX)).count();
                    let (full, crowded) = (waiting.len() >= limits.items, waiting.len() > limits.items / 2);
                    let pushed = queue.push(key, item, &mut expired);
                    // A tenant may have used up its share once more than half is taken; a stream that drops first gives up
                    // everything it has.
                    let gives_way = drops && own > 0;
                    match &pushed {
                        Ok(()) => prop_assert!(!full || gives_way),
                        Err((_, refusal)) => {
                            prop_assert!(full || crowded && refusal.by_share);
                            prop_assert!(!gives_way || expired.len() == own);
                        }
                    }
                    let must = usize::from(gives_way && (full || own >= 3));
                    prop_assert!(expired.len() == must || gives_way && crowded && expired.len() > must);
                    prop_assert!(expired.iter().all(|ended| ended.reason == EndReason::Dropped(DropReason::Overflow)));
                    if pushed.is_ok() {
                        received += 1;
                        waiting.insert((stream, tickets), due);
                    }
                }
                Step::Take => {
                    if let Some(batch) = queue.next_batch(now, &mut expired) {
                        prop_assert!((1..=8).contains(&batch.entries.len()));
                        let in_batch: BTreeSet<_> = batch.entries.iter().map(|entry| entry.stream).collect();
                        prop_assert!(!stateful || in_batch.len() == batch.entries.len());
                        for entry in &batch.entries {
                            let id = (entry.handle, entry.item.ticket);
                            prop_assert!(waiting.remove(&id).is_some(), "{id:?} ran twice or never came");
                            prop_assert!(left.insert(id));
                            prop_assert!(entry.item.due() > now);
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
                        queue.finish(&report, batch.entries.iter().map(|entry| (entry.stream, outcome)));
                        let executed = if fail { failure(&batch, now) } else { success(&batch, now) };
                        queue.account(model, &executed);
                        failed += executed.failed;
                        for call in executed.calls {
                            ran += call.items as u64;
                            waited += call.waited;
                        }
                    }
                }
                Step::Close { stream } => {
                    let Some((key, _)) = streams.get_mut(stream).and_then(Option::take) else { continue };
                    for item in queue.close(key) {
                        let id = (stream, item.ticket);
                        prop_assert!(waiting.remove(&id).is_some());
                        prop_assert!(left.insert(id));
                        cancelled += 1;
                    }
                }
                Step::Expire => queue.expire(now, &mut expired, &mut Vec::new()),
                Step::Wait { millis } => now = now + MS * u32::from(millis),
            }
            let expires_only_the_late = matches!(step, Step::Expire);
            for expired in expired {
                let id = (expired.handle, expired.item.ticket);
                prop_assert!(waiting.remove(&id).is_some());
                prop_assert!(left.insert(id));
                prop_assert!(!expires_only_the_late || expired.item.due() <= now);
                failed += Spent { count: 1, time: now.since(expired.item.arrived) };
            }
            if expires_only_the_late {
                prop_assert!(queue.next_wakeup(now).is_none_or(|wakeup| wakeup > now), "no wake-up in the past");
            }
            let earliest = waiting.values().copied().min().filter(|deadline| *deadline != Timestamp::NEVER);
            prop_assert_eq!(queue.next_wakeup(now), earliest);
            prop_assert_eq!(queue.queued(), waiting.len());
        }
        for batch in running {
            queue.finish(&batch.report(Some(MS)), batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)));
            let executed = success(&batch, now);
            queue.account(model, &executed);
            ran += batch.entries.len() as u64;
            waited += executed.calls[0].waited;
        }
        for (key, _) in streams.into_iter().flatten() {
            cancelled += queue.close(key).count() as u64;
        }
        let ledger = queue.ledger(model);
        prop_assert_eq!((ledger.received(), ledger.ended(), queue.queued(), queue.streams()), (received, received, 0, 0));
        let statistics = queue.statistics(model);
        prop_assert_eq!((statistics.items(), statistics.waited(), statistics.failed()), (ran, waited, failed));
        prop_assert_eq!(statistics.items() + statistics.failed().count + cancelled, received);
        prop_assert_eq!(queue.repairs(model), 0);
        let late = ledger.outcome(Outcome::Cancelled) - cancelled;
        prop_assert!(ledger.outcome(Outcome::Ok) <= ran && ran <= ledger.outcome(Outcome::Ok) + late, "left while they ran: {late}");
    }

    /// As long as no deadline is near, items of streams within their share leave by deadline, whoever pushed them.
    #[test]
    fn the_earliest_deadline_leaves_first(stateful: bool, deadlines in proptest::collection::vec(500_u64..900, 1..40)) {
        let (mut queue, model) = one_model(1, options(stateful));
        for (ticket, deadline) in (0..).zip(&deadlines) {
            let stream = open(&mut queue, StreamOptions::of(model), "");
            push(&mut queue, stream, due(ticket, at(0), at(*deadline)));
        }
        let mut left = Vec::new();
        while let Some(batch) = next(&mut queue, at(0)) {
            left.extend(batch.entries.iter().map(|entry| entry.item.deadline));
            finish(&mut queue, &batch);
        }
        prop_assert_eq!(left.len(), deadlines.len());
        prop_assert!(left.is_sorted(), "{left:?}");
    }
}
