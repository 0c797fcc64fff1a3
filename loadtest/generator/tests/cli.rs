//! The tool as its user sees it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

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

#[test]
fn canned_answers_are_announced_and_end_with_a_signal() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill-load"))
        .args(["canned", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut ready = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut ready).expect("a line of text");
    assert!(ready.starts_with(&format!("ready pid={} grpc=127.0.0.1:", child.id())) && ready.contains(" http="), "{ready}");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("it was started").success());
}
