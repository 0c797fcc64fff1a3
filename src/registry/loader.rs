//! Loads models: from sources, through engines, into the registry.
//!
//! All that can be wrong with all models is found before anything is said. Knows no scheduler: whoever calls it installs each
//! model there, and hands back a key.

use std::{collections::VecDeque, fmt, io, sync::Arc};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{
    LoadedModel, Model, Registry,
    found::{Candidate, Discovery, Found, Unusable, candidates, discover},
    manifest::EngineChoice,
    proving::{Installer, prove_all},
    source::{ModelSource, Remark},
};
use crate::{
    device::on_each_lane,
    domain::Fault,
    engine::LaneThreads,
    proof::{Kept, SEED_DEFAULT, Store, Subject},
};

/// How to load.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Engine of the models that leave the choice open; [`EngineChoice::Auto`] means rten, which is always there.
    pub engine_default: EngineChoice,
    /// The lanes that will run the models.
    pub lanes: &'a [LaneThreads],
    /// Whether to go on without the models that cannot be loaded; they are in the registry as failed.
    pub keep_going: bool,
    /// Proofs of earlier starts.
    pub proofs: &'a Store,
    /// Whether to prove models that earlier starts have proven.
    pub proves_anew: bool,
    /// What made-up items are drawn from.
    pub seed: u64,
}

static NO_PROOFS: Store = Store::none();

impl<'a> LoadOptions<'a> {
    /// What an earlier start found out, unless that is to be found out again.
    pub(super) fn kept(&self, subject: &Subject) -> Option<Kept> {
        if self.proves_anew { None } else { self.proofs.get(subject) }
    }

    /// Without proofs of earlier starts.
    #[must_use]
    pub const fn new(engine_default: EngineChoice, lanes: &'a [LaneThreads], keep_going: bool) -> Self {
        Self { engine_default, lanes, keep_going, proofs: &NO_PROOFS, proves_anew: false, seed: SEED_DEFAULT }
    }
}

/// One thing that keeps a model from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFault {
    /// File or folder at fault.
    pub file: String,
    /// Key in it; empty if it is at fault as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for LoadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, key, reason } = self;
        if key.is_empty() { write!(f, "{file}: {reason}") } else { write!(f, "{file}: {key}: {reason}") }
    }
}

/// Everything that keeps the models from being loaded, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFaults(Vec<LoadFault>);

impl LoadFaults {
    /// The faults; at least one.
    #[must_use]
    pub fn faults(&self) -> &[LoadFault] {
        &self.0
    }
}

impl fmt::Display for LoadFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the models have {} fault(s):", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for LoadFaults {}

/// Loads all models of `sources` into a new registry; see [`load_into`].
///
/// # Errors
/// As [`load_into`].
pub fn load_all(
    sources: &[&dyn ModelSource],
    options: &LoadOptions<'_>,
    installer: &dyn Installer,
) -> Result<Registry, LoadFaults> {
    let registry = Registry::default();
    load_into(&registry, sources, options, installer)?;
    Ok(registry)
}

/// Loads all models of `sources` into `registry`, which shows them as loading meanwhile. Of two models with one name, that of the
/// later source counts. Blocks for as long as the engines and the trial calls take.
///
/// # Errors
/// Every fault of every model at once. Nothing is installed unless all models can be loaded, and nothing serves unless all can be
/// installed. With [`LoadOptions::keep_going`] the one error is that the system refuses threads: faults are logged, and are the reason
/// of a failed version.
pub fn load_into(
    registry: &Registry,
    sources: &[&dyn ModelSource],
    options: &LoadOptions<'_>,
    installer: &dyn Installer,
) -> Result<(), LoadFaults> {
    load_found(registry, &discover(sources.iter().copied()), options, installer)
}

/// The same with what was found in the sources.
pub(super) fn load_found(
    registry: &Registry,
    found: &Discovery<'_>,
    options: &LoadOptions<'_>,
    installer: &dyn Installer,
) -> Result<(), LoadFaults> {
    for (name, Found { model, replaces, .. }) in &found.models {
        if let Some(replaced) = replaces {
            let (folder, replaced) = (model.folder.display(), replaced.display());
            info!(model = %name, %folder, %replaced, "a model replaces another of its name");
        }
    }
    found.remarks.iter().for_each(tell);
    let candidates: Vec<Candidate<'_>> = found.models.values().flat_map(candidates).collect();
    for candidate in &candidates {
        registry.begin(&candidate.name, [candidate.entry()].into_iter());
    }
    let mut faults = found.unusable.iter().map(Unusable::fault).collect();
    let mut loaded = Vec::new();
    for Outcome { name, number, folder, model } in load_side_by_side(candidates, options)? {
        match model {
            Ok(model) => loaded.push((model, number, folder)),
            Err(found) => fail(registry, &name, number, found, &mut faults),
        }
    }
    if !faults.is_empty() && !options.keep_going {
        return Err(LoadFaults(faults));
    }
    let (mut models, places): (Vec<LoadedModel>, Vec<(u64, String)>) =
        loaded.into_iter().map(|(model, number, folder)| (model, (number, folder))).unzip();
    let proven = prove_all(&mut models, options, installer)?;
    let mut installed = Vec::new();
    for ((model, measured), (number, folder)) in models.into_iter().zip(proven).zip(places) {
        match measured.and_then(|measured| installer.install(&model, &measured)) {
            Ok(key) => installed.push((Model { loaded: model, key }, number)),
            Err(fault) => fail(registry, &model.name, number, vec![not_installed(folder, &fault)], &mut faults),
        }
    }
    if !faults.is_empty() && !options.keep_going {
        return Err(LoadFaults(faults));
    }
    for (model, number) in installed {
        tell_ready(&model);
        settle(registry, &Arc::clone(&model.loaded.name), number, Ok(Arc::new(model)));
    }
    for fault in faults {
        error!(%fault, "a model is not served");
    }
    Ok(())
}

/// What came of reading one version.
struct Outcome {
    name: Arc<str>,
    number: u64,
    folder: String,
    model: Result<LoadedModel, Vec<LoadFault>>,
}

/// Reads and binds all versions, as many at once as there are lanes; in the order in which they were found.
fn load_side_by_side(candidates: Vec<Candidate<'_>>, options: &LoadOptions<'_>) -> Result<Vec<Outcome>, LoadFaults> {
    let open = Mutex::new(candidates.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    on_each_lane(options.lanes, |_| {
        loop {
            let Some((at, candidate)) = open.lock().pop_front() else { return };
            let Candidate { name, number, folder, plan, .. } = candidate;
            let model = plan.and_then(|plan| plan.load(&name, options));
            done.lock().push((at, Outcome { name, number, folder, model }));
        }
    })
    .map_err(no_threads)?;
    let mut done = done.into_inner();
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

pub(super) fn no_threads(error: io::Error) -> LoadFaults {
    let reason = format!("the system refuses a thread for each lane (ulimit -u, or pids.max of the cgroup): {error}");
    LoadFaults(vec![LoadFault { file: "models".to_owned(), key: String::new(), reason }])
}

/// What keeps a model that is loaded from being installed.
pub(super) fn not_installed(folder: String, fault: &Fault) -> LoadFault {
    LoadFault { file: folder, key: String::new(), reason: fault.message().to_owned() }
}

pub(super) fn tell_ready(model: &Model) {
    let LoadedModel { name, version, load_duration, .. } = &model.loaded;
    info!(model = %name, %version, engine = model.engine_name(), ?load_duration, "model is ready");
}

pub(super) fn tell(remark: &Remark) {
    let Remark { folder, text, warns } = remark;
    let folder = folder.display();
    if *warns { warn!("{folder}: {text}") } else { info!("{folder}: {text}") }
}

/// Faults in one line.
pub(super) fn reason_of(faults: &[LoadFault]) -> Arc<str> {
    let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
    reasons.join("; ").into()
}

fn settle(registry: &Registry, name: &str, number: u64, outcome: Result<Arc<Model>, Arc<str>>) {
    registry.finish(name, vec![(number, outcome)], |_, _, _| false);
}

fn fail(registry: &Registry, name: &str, number: u64, found: Vec<LoadFault>, faults: &mut Vec<LoadFault>) {
    settle(registry, name, number, Err(reason_of(&found)));
    for fault in found {
        // A manifest is at fault once, however many versions it has.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}
