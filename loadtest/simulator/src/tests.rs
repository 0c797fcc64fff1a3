//! Whole runs: what must hold whatever the policies do.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    curve::{Conditions, Curve, CurveName, Service},
    point::{Arrivals, Point, Slo},
    policy::{self, Expiry, Kind, Setting},
    record::{Outcome, Recorder},
    sweep::{self, OTHERS},
    workload::{Item, Model, NEVER, Stream, Workload},
};

const QUIET: Conditions = Conditions { noise: 0.0, ..Conditions::STEADY };

fn point(load: f64, stateful: bool) -> Point {
    let curve = CurveName::Minilm;
    Point { curve, lanes: 2, arrivals: Arrivals::Streams, stateful, load, slo: Slo::Fourfold, sheds: true }
}

fn run(point: Point, kind: Kind) -> (u64, Outcome) {
    let (workload, service) = point.draw(Conditions::STEADY, 5);
    let mut hasher = DefaultHasher::new();
    let mut log = |line: &str| line.hash(&mut hasher);
    let outcome = policy::run(kind, &workload, &service, Conditions::STEADY, 5, Recorder::with_log(&mut log));
    (hasher.finish(), outcome)
}

fn fixed(batch_max: usize, delay: f64, expiry: Expiry) -> Setting {
    Setting { batch_max, delay, expiry }
}

/// One stateless model with calls of 10 + 10·b, on one lane without noise; items at these moments with these deadlines.
fn tiny(items: &[(u64, u64)]) -> (Workload, Service) {
    let curve = Curve::of_grid(vec![20.0, 30.0, 50.0]);
    let model = Model { name: "tiny".to_owned(), curve, stateful: false, batch_max: 4, item_bytes: 1 };
    let item = |(at, deadline): &(u64, u64)| Item { at: *at, deadline: *deadline, stream: 0, shape: 0, bytes: 1, scale: 1.0 };
    let items = items.iter().map(item).collect();
    let workload = Workload::new(1, vec![model], vec![Stream::default()], items, 10_000);
    (workload, Service::new(QUIET, 1, 10_000, 1))
}

fn calls(kind: Kind, (workload, service): &(Workload, Service)) -> Vec<String> {
    let mut lines = Vec::new();
    let mut log = |line: &str| lines.push(line.replace("lane=0 ", ""));
    policy::run(kind, workload, service, QUIET, 1, Recorder::with_log(&mut log));
    lines
}

#[test]
fn a_fixed_policy_does_what_was_worked_out_by_hand() {
    let work = tiny(&[(0, NEVER), (5, NEVER), (6, NEVER), (7, NEVER), (90, NEVER), (100, NEVER)]);
    let greedy = calls(Kind::Fixed(fixed(2, 0.0, Expiry::Never)), &work);
    let expected = [
        "at_ns=0 size=1 took_ns=20 late=0 items=0",
        "at_ns=20 size=2 took_ns=30 late=0 items=1,2",
        "at_ns=50 size=1 took_ns=20 late=0 items=3",
        "at_ns=90 size=1 took_ns=20 late=0 items=4",
        "at_ns=110 size=1 took_ns=20 late=0 items=5",
    ];
    assert_eq!(greedy, expected);
    // The knee is at 4, where a call takes 50: a delay of 0.5 is 25.
    let patient = calls(Kind::Fixed(fixed(4, 0.5, Expiry::Never)), &work);
    let expected = ["at_ns=7 size=4 took_ns=50 late=0 items=0,1,2,3", "at_ns=115 size=2 took_ns=30 late=0 items=4,5"];
    assert_eq!(patient, expected);
}

#[test]
fn expiry_and_timeouts_drop_what_is_late() {
    let work = tiny(&[(0, 30), (1, 15), (2, 60), (3, 200)]);
    let sizes = |expiry| calls(Kind::Fixed(fixed(2, 0.0, expiry)), &work).join("\n");
    assert!(sizes(Expiry::Never).contains("at_ns=20 size=2 took_ns=30 late=1 items=1,2"));
    assert!(sizes(Expiry::Deadline).contains("at_ns=20 size=2 took_ns=30 late=0 items=2,3"));
    // A call with two takes 30, and a tenth more is 33: the first is dropped at once, and the third once its 60 are too near.
    let timeout = calls(Kind::Fixed(fixed(2, 0.0, Expiry::Timeout)), &work);
    assert_eq!(timeout, ["at_ns=2 size=1 took_ns=20 late=0 items=2", "at_ns=22 size=1 took_ns=20 late=0 items=3"]);
}

#[test]
fn the_short_way_gives_what_the_event_loop_gives() {
    for arrivals in [Arrivals::Poisson, Arrivals::Bursts, Arrivals::Streams] {
        for load in [0.4, 1.0, 3.0] {
            for conditions in [Conditions::STEADY, Conditions::COUPLED] {
                let point = Point { arrivals, slo: Slo::Mixed, ..point(load, false) };
                let (workload, service) = point.draw(conditions, 3);
                for setting in Setting::grid().into_iter().step_by(4) {
                    let kind = Kind::Fixed(setting);
                    let slow = policy::run(kind, &workload, &service, conditions, 3, Recorder::default()).goodput;
                    let fast = policy::goodput(setting, &workload, &service, conditions);
                    assert!((slow - fast).abs() < 1e-12, "{} at {load}: {slow} and {fast}", setting.label());
                }
            }
        }
    }
}

#[test]
fn an_overloaded_queue_without_expiry_collapses_and_tidemill_does_not() {
    let collapsed = run(point(3.0, false), Kind::Fixed(fixed(8, 0.0, Expiry::Never))).1;
    assert!(collapsed.goodput < 0.02, "{collapsed:?}");
    let tidemill = run(point(3.0, false), Kind::Tidemill).1;
    assert!(tidemill.goodput > 0.25, "{tidemill:?}");
}

#[test]
fn hardly_loaded_lanes_answer_everything_in_time() {
    for kind in [Kind::Tidemill, Kind::Fixed(fixed(8, 0.0, Expiry::Deadline)), OTHERS[1]] {
        for stateful in [false, true] {
            let outcome = run(point(0.05, stateful), kind).1;
            assert!(outcome.goodput > 0.999 && outcome.lane_time < 0.2, "{}: {outcome:?}", kind.label());
        }
    }
}

#[test]
fn equal_seeds_give_equal_logs() {
    for kind in [Kind::Tidemill, OTHERS[0], OTHERS[1], OTHERS[2]] {
        for stateful in [false, true] {
            assert_eq!(run(point(0.9, stateful), kind), run(point(0.9, stateful), kind), "{}", kind.label());
        }
    }
    let other_load = run(point(0.8, true), Kind::Tidemill);
    assert_ne!(run(point(0.9, true), Kind::Tidemill).0, other_load.0);
}

#[test]
fn results_do_not_depend_on_threads() {
    let points = [0.2, 0.9, 1.1].map(|load| point(load, true));
    let rows = |threads| {
        let rows = sweep::run(&points, Conditions::STEADY, 9, threads, |_| {});
        rows.into_iter().map(|row| (row.point, row.tidemill, row.best_setting, row.fixed, row.others)).collect::<Vec<_>>()
    };
    let alone = rows(1);
    assert_eq!(alone.len(), points.len());
    assert!(alone == rows(3));
}

#[test]
fn stateful_streams_have_one_item_in_a_call_and_none_while_it_runs() {
    let point = point(1.1, true);
    for kind in [Kind::Tidemill, Kind::Fixed(fixed(8, 0.0, Expiry::Deadline)), OTHERS[2]] {
        let (workload, service) = point.draw(Conditions::STEADY, 2);
        let mut free_at = vec![0; workload.streams.len()];
        let mut log = |line: &str| {
            let number = |name: &str| -> u64 {
                let value = line.split_whitespace().find_map(|part| part.strip_prefix(name)).expect("the field");
                value.parse().expect("a number")
            };
            let (start, took) = (number("at_ns="), number("took_ns="));
            let (_, items) = line.split_once("items=").expect("the items");
            for item in items.split(',') {
                let stream = workload.item(item.parse().expect("an index")).stream as usize;
                assert!(free_at[stream] <= start, "{}: {line}", kind.label());
                free_at[stream] = start + took;
            }
        };
        policy::run(kind, &workload, &service, Conditions::STEADY, 2, Recorder::with_log(&mut log));
        assert!(free_at.iter().all(|end| *end > 0));
    }
}
