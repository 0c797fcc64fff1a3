//! The tool as its user meets it.

use std::process::{Command, Output};

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill-load")).args(arguments).output().expect("it runs")
}

#[test]
fn a_value_out_of_range_is_refused_with_what_is_accepted() {
    let output = load(&["soak", "--seconds", "1"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("--seconds") && told.contains("between 5 and 604800"), "{told}");
}

#[test]
fn a_server_that_cannot_be_started_is_named() {
    let output = load(&["soak", "--seconds", "5", "--server", "/nowhere/tidemill"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("/nowhere/tidemill"), "{told}");
}
