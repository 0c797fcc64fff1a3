//! Replays a recorded trace under several policies.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::Context as _;

use crate::{
    curve::{Conditions, Service},
    policy::{self, Expiry, Kind, Setting},
    record::{Outcome, Recorder},
    report, trace,
    workload::Workload,
};

/// Hand-set batching for comparison.
fn usual() -> impl Iterator<Item = Kind> {
    let setting = |batch_max, delay, expiry| Kind::Fixed(Setting { batch_max, delay, expiry });
    [
        setting(1, 0.0, Expiry::Never),
        setting(8, 0.0, Expiry::Deadline),
        setting(32, 0.0, Expiry::Deadline),
        setting(32, 0.25, Expiry::Deadline),
        setting(32, 0.0, Expiry::Timeout),
    ]
    .into_iter()
}

/// A table of how each policy does on the trace in `path`.
///
/// # Errors
/// If the file cannot be read or is not a trace, or if the policy cannot run it.
pub(crate) fn run(path: &Path, kind: Option<Kind>, seed: u64) -> anyhow::Result<String> {
    let named = || path.display().to_string();
    let file = BufReader::new(File::open(path).with_context(named)?);
    let trace::Recording { workload, lost } = trace::read(file).with_context(named)?;
    if let Some(kind) = kind {
        let models: Vec<_> = workload.models.iter().map(|model| model.name.as_str()).collect();
        let fits = kind.serves_many() || models.len() == 1;
        anyhow::ensure!(fits, "{} serves only one model, but the trace has {}", kind.label(), models.join(", "));
    }
    let kinds = kind.map_or_else(|| std::iter::once(Kind::Tidemill).chain(usual()).collect(), |kind| vec![kind]);
    let table = report::outcomes(kinds.into_iter().map(|kind| (kind.label(), replay(&workload, kind, seed))));
    Ok(if lost == 0 { table } else { format!("{table}the recording lacks {lost} lines\n") })
}

fn replay(workload: &Workload, kind: Kind, seed: u64) -> Outcome {
    let service = Service::new(Conditions::STEADY, workload.lanes, workload.end, seed);
    policy::run(kind, workload, &service, Conditions::STEADY, seed, Recorder::default())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Two models on one lane: items of `a` every 100 ms, of `b` every 70 ms, all with enough time.
    fn recorded() -> String {
        let mut text = String::from("{\"trace\":{\"version\":1,\"lanes\":1}}\n");
        for (id, name) in ["a", "b"].into_iter().enumerate() {
            let _ = writeln!(
                text,
                "{{\"model\":{{\"id\":{id},\"name\":\"{name}\",\"version\":\"1\",\"stateful\":false,\"max_batch\":4,\
                 \"curve_ns\":[1000000,1500000,2500000]}}}}\n{{\"open\":{{\"at_ns\":0,\"stream\":{id},\"model\":{id}}}}}"
            );
        }
        for number in 1..=50_u64 {
            for (stream, period) in [(0, 100_000_000), (1, 70_000_000)] {
                let at = number * period;
                let _ = writeln!(
                    text,
                    "{{\"item\":{{\"at_ns\":{at},\"stream\":{stream},\"deadline_ns\":{},\"bytes\":4,\"cost_ns\":2000000}}}}",
                    at + 20_000_000
                );
            }
        }
        text
    }

    #[test]
    fn a_trace_is_replayed_under_every_policy_that_can() {
        let workload = trace::read(recorded().as_bytes()).expect("a trace").workload;
        for kind in std::iter::once(Kind::Tidemill).chain(usual()) {
            let outcome = replay(&workload, kind, 1);
            assert!(outcome.goodput > 0.999, "{}: {outcome:?}", kind.label());
            // 100 items that each take twice the curve's 1 ms, one at a time, in 5 s.
            assert!((0.035..0.045).contains(&outcome.lane_time), "{}: {outcome:?}", kind.label());
        }
    }

    #[test]
    fn a_file_is_read_and_a_policy_for_one_model_is_refused_two() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.jsonl");
        std::fs::write(&path, recorded()).expect("a file");
        let table = run(&path, None, 1).expect("a table");
        assert_eq!(table.lines().count(), 1 + 1 + usual().count());
        let refused = run(&path, Some(Kind::Aimd), 1).expect_err("two models");
        assert!(refused.to_string().contains("only one model"), "{refused}");
        let absent = run(&folder.path().join("none"), None, 1).expect_err("no file");
        assert!(format!("{absent:#}").contains("none"));
    }
}
