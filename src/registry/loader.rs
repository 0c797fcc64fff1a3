//! Loads models: from sources, through engines, into the registry.
//!
//! All faults of all models are found before any is reported. Knows no scheduler: the caller installs each model there, and
//! returns a key.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{
    LoadedModel, Model, Registry,
    faults::{LoadFault, LoadFaults, no_threads, not_installed, reason_of},
    found::{Candidate, Discovery, Found, Unusable, candidates, discover},
    options::LoadOptions,
    proving::{Installer, prove_all},
    source::{ModelSource, Remark},
};
use crate::device::on_each_lane;

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

/// Loads all models of `sources` into `registry`, which shows them as loading in the meantime. Of two models with one name, that
/// of the later source counts. Blocks for as long as the engines and the trial calls take.
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

/// The same, given what was found in the sources.
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
        return Err(LoadFaults::of(faults));
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
        return Err(LoadFaults::of(faults));
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

/// The result of reading one version.
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

pub(super) fn tell_ready(model: &Model) {
    let LoadedModel { name, version, load_duration, .. } = &model.loaded;
    info!(model = %name, %version, engine = model.engine_name(), ?load_duration, "model is ready");
}

pub(super) fn tell(remark: &Remark) {
    let Remark { folder, text, warns } = remark;
    let folder = folder.display();
    if *warns { warn!("{folder}: {text}") } else { info!("{folder}: {text}") }
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
