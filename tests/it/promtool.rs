//! What Prometheus's own checker says about the metrics' names, types and help.

use std::{
    io::{ErrorKind, Write as _},
    process::{Command, Stdio},
};

use tidemill::telemetry::Telemetry;

/// Says so and checks nothing if `promtool` (Debian package `prometheus`) is not installed.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    let telemetry = Telemetry::new();
    let _ = (telemetry.model("silero_vad", "1"), telemetry.method("feed"), telemetry.lane(0), telemetry.server());
    let checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut checker = match checker {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("promtool is not installed; the metrics were not checked with it");
            return;
        }
        started => started.expect("promtool starts"),
    };
    let mut input = checker.stdin.take().expect("its input is piped");
    input.write_all(telemetry.render().as_bytes()).expect("promtool reads");
    drop(input);
    let output = checker.wait_with_output().expect("promtool ends");
    let complaints = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
}
