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

/// A table of what each policy makes of the trace in `path`.
///
/// # Errors
/// If the file cannot be read or is no trace, or the policy cannot run it.
pub(crate) fn run(path: &Path, kind: Option<Kind>, seed: u64) -> anyhow::Result<String> {
    let named = || path.display().to_string();
    let workload = trace::read(BufReader::new(File::open(path).with_context(named)?)).with_context(named)?;
    if let Some(kind) = kind {
        let models: Vec<_> = workload.models.iter().map(|model| model.name.as_str()).collect();
        let fits = kind.serves_many() || models.len() == 1;
        anyhow::ensure!(fits, "{} serves one model alone, and the trace has {}", kind.label(), models.join(", "));
    }
    let kinds = kind.map_or_else(|| std::iter::once(Kind::Tidemill).chain(usual()).collect(), |kind| vec![kind]);
    Ok(report::outcomes(kinds.into_iter().map(|kind| (kind.label(), replay(&workload, kind, seed)))))
}

fn replay(workload: &Workload, kind: Kind, seed: u64) -> Outcome {
    let service = Service::new(Conditions::STEADY, workload.lanes, workload.end, seed);
    policy::run(kind, workload, &service, Conditions::STEADY, seed, Recorder::default())
}
