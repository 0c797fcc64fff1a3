//! The check of instruction counts: it fails where it should. The counts are those of `benches/instructions`.

#[path = "../../benches/instructions/counts.rs"]
mod counts;

use counts::{ADVICE, Count, Measured, Stored, compare, parse, to_toml};

const COUNT: Count = Count { instructions: 1000.0, allocations: 4.0, bytes: 512.0 };

fn measured(case: &str, count: Count) -> Measured {
    Measured { case: case.to_owned(), count }
}

fn stored(cases: &[&str]) -> Stored {
    cases.iter().map(|case| ((*case).to_owned(), COUNT)).collect()
}

/// The complaints about `count` if [`COUNT`] is stored.
fn faults(count: Count) -> Vec<String> {
    compare(&stored(&["push"]), &[measured("push", count)]).faults
}

#[test]
fn a_count_that_is_six_percent_off_is_refused_either_way() {
    let worse = faults(Count { instructions: 1060.0, ..COUNT });
    assert!(worse.len() == 1 && worse[0].starts_with("push: 1060.000 instructions an item are more than"), "{worse:?}");
    let better = faults(Count { instructions: 940.0, ..COUNT });
    assert!(better.len() == 1 && better[0].starts_with("push: 940.000 instructions an item are fewer than"), "{better:?}");
    assert!(ADVICE.contains("`tests/run store_instructions`"), "what to do is said");
}

#[test]
fn allocations_and_their_bytes_are_held_to_the_same_band() {
    assert_eq!(faults(Count { allocations: 4.25, ..COUNT }).len(), 1);
    assert_eq!(faults(Count { bytes: 512.0 * 0.94, ..COUNT }).len(), 1);
    assert_eq!(faults(Count { instructions: 1100.0, allocations: 5.0, bytes: 1024.0 }).len(), 3);
}

#[test]
fn four_percent_are_within_the_band() {
    let count = |factor: f64| Count { instructions: 1000.0 * factor, allocations: 4.0 * factor, bytes: 512.0 * factor };
    assert_eq!(faults(count(1.04)), [""; 0]);
    assert_eq!(faults(count(0.96)), [""; 0]);
}

#[test]
fn what_was_zero_has_to_stay_zero() {
    let none = Count { allocations: 0.0, bytes: 0.0, ..COUNT };
    let stored = Stored::from([("push".to_owned(), none)]);
    assert_eq!(compare(&stored, &[measured("push", none)]).faults, [""; 0]);
    assert_eq!(compare(&stored, &[measured("push", COUNT)]).faults.len(), 2, "allocations and bytes");
}

#[test]
fn a_case_without_a_stored_count_and_a_count_without_a_case_are_refused() {
    let comparison = compare(&stored(&["push", "gone"]), &[measured("push", COUNT), measured("new", COUNT)]);
    assert_eq!(comparison.faults.len(), 2, "{:?}", comparison.faults);
    assert!(comparison.faults[0].starts_with("new: no count is stored"));
    assert!(comparison.faults[1].starts_with("gone: a count is stored, but there is no such case"));
    assert_eq!(comparison.table.lines().count(), 3, "a head and what was measured");
}

#[test]
fn what_is_stored_is_read_as_it_was_measured() {
    let count = Count { instructions: 812.5, allocations: 0.125, bytes: 96.5 };
    let stored = parse(&to_toml(&[measured("push", count), measured("pop", COUNT)])).expect("its own text");
    assert_eq!(stored, Stored::from([("push".to_owned(), count), ("pop".to_owned(), COUNT)]));
    parse("push = { instructions = 1 }").expect_err("allocations are missing");
}

#[test]
fn the_counts_in_the_repository_can_be_read() {
    let stored = parse(include_str!("../../benches/instructions.toml")).expect("a sound file");
    assert!(stored.values().all(|count| count.instructions > 0.0), "each case does something");
}
