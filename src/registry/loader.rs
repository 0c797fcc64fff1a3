//! Loads models: from sources, through engines, into the registry.
//!
//! All that can be wrong with all models is found before anything is said. Knows no scheduler: whoever calls it installs each
//! model there, and hands back a key.

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tracing::{error, info};

use super::{
    LoadedModel, Model, Registry,
    manifest::{EngineChoice, KeyFault, Manifest},
    signature::{declared_contract, fit},
    source::{FoundModel, FoundVersion, ModelSource},
    version_text,
};
use crate::{
    clock,
    domain::Fault,
    engine::{Engine, EngineError, Executable, LaneThreads, onnxruntime::OnnxRuntime, rten::Rten, synthetic::SyntheticEngine},
    scheduler::ModelKey,
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

/// Puts a loaded model where it will run, measures it there, and returns its key.
pub type Install<'a> = &'a dyn Fn(&LoadedModel) -> Result<ModelKey, Fault>;

/// Loads all models of `sources` into a new registry; see [`load_into`].
///
/// # Errors
/// As [`load_into`].
pub fn load_all(sources: &[&dyn ModelSource], options: &LoadOptions<'_>, install: Install<'_>) -> Result<Registry, LoadFaults> {
    let registry = Registry::default();
    load_into(&registry, sources, options, install)?;
    Ok(registry)
}

/// Loads all models of `sources` into `registry`, which shows them as loading meanwhile. Of two models with one name, that of the
/// later source counts. Blocks for as long as the engines and `install` take.
///
/// # Errors
/// Every fault of every model at once. Nothing is installed unless all models can be loaded, and nothing serves unless all can be
/// installed. With [`LoadOptions::keep_going`] there is no error: faults are logged, and are the reason of a failed version.
pub fn load_into(
    registry: &Registry,
    sources: &[&dyn ModelSource],
    options: &LoadOptions<'_>,
    install: Install<'_>,
) -> Result<(), LoadFaults> {
    let (found, unusable) = discover(sources);
    let candidates: Vec<Candidate<'_>> = found.into_values().flat_map(|(source, model)| candidates(source, &model)).collect();
    for candidate in &candidates {
        let (description, stateful) = candidate.plan.as_ref().map_or(("", false), |plan| {
            let manifest = &plan.manifest;
            (manifest.description.as_str(), !manifest.states.is_empty())
        });
        registry.begin(&candidate.name, candidate.number, description, stateful);
    }
    let mut faults = unusable;
    let mut loaded = Vec::new();
    for candidate in candidates {
        let Candidate { name, number, folder, plan } = candidate;
        match plan.and_then(|plan| plan.load(&name, options)) {
            Ok(model) => loaded.push((model, number, folder)),
            Err(found) => fail(registry, &name, number, found, &mut faults),
        }
    }
    if !faults.is_empty() && !options.keep_going {
        return Err(LoadFaults(faults));
    }
    let mut installed = Vec::new();
    for (model, number, folder) in loaded {
        match install(&model) {
            Ok(key) => installed.push((Model { loaded: model, key }, number)),
            Err(fault) => {
                let fault = LoadFault { file: folder, key: String::new(), reason: fault.message().to_owned() };
                fail(registry, &model.name, number, vec![fault], &mut faults);
            }
        }
    }
    if !faults.is_empty() && !options.keep_going {
        return Err(LoadFaults(faults));
    }
    for (model, number) in installed {
        let LoadedModel { name, version, load_duration, .. } = &model.loaded;
        info!(model = %name, %version, engine = model.engine_name(), ?load_duration, "model is ready");
        let name = Arc::clone(name);
        registry.finish(&name, number, Ok(Arc::new(model)));
    }
    for fault in faults {
        error!(%fault, "a model is not served");
    }
    Ok(())
}

fn fail(registry: &Registry, name: &str, number: u64, found: Vec<LoadFault>, faults: &mut Vec<LoadFault>) {
    let reason: Vec<String> = found.iter().map(ToString::to_string).collect();
    registry.finish(name, number, Err(reason.join("; ").into()));
    for fault in found {
        // A manifest is at fault once, however many versions it has.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}

type Discovered<'a> = BTreeMap<Arc<str>, (&'a dyn ModelSource, FoundModel)>;

fn discover<'a>(sources: &[&'a dyn ModelSource]) -> (Discovered<'a>, Vec<LoadFault>) {
    let mut found = Discovered::new();
    let mut unusable = Vec::new();
    for source in sources {
        let scan = source.scan();
        for model in scan.models {
            let (name, folder) = (Arc::clone(&model.name), model.folder.display().to_string());
            if let Some((_, replaced)) = found.insert(Arc::clone(&name), (*source, model)) {
                info!(model = %name, folder, replaced = %replaced.folder.display(), "a model replaces another of its name");
            }
        }
        let fault = |(path, reason): (std::path::PathBuf, String)| whole(path.display().to_string(), reason);
        unusable.extend(scan.unusable.into_iter().map(fault));
    }
    (found, unusable)
}

/// A version on its way: what to do, or why nothing can be done.
struct Candidate<'a> {
    name: Arc<str>,
    number: u64,
    folder: String,
    plan: Result<Plan<'a>, Vec<LoadFault>>,
}

struct Plan<'a> {
    source: &'a dyn ModelSource,
    manifest: Arc<Manifest>,
    manifest_file: String,
    version: FoundVersion,
}

fn candidates<'a>(source: &'a dyn ModelSource, model: &FoundModel) -> Vec<Candidate<'a>> {
    let folder = model.folder.display().to_string();
    let manifest_file = model.folder.join("model.toml").display().to_string();
    let candidate = |number, plan| Candidate { name: Arc::clone(&model.name), number, folder: folder.clone(), plan };
    let manifest = match &model.manifest {
        Ok(text) => Manifest::parse(text).map(Arc::new).map_err(|faults| in_file(&manifest_file, faults)),
        Err(reason) => Err(vec![whole(manifest_file.clone(), reason.clone())]),
    };
    let mut versions = model.versions.clone();
    if versions.is_empty() && manifest.as_ref().is_ok_and(|manifest| manifest.engine == EngineChoice::Synthetic) {
        versions.push(FoundVersion { number: 1, file: model.folder.clone() });
    }
    if versions.is_empty() {
        let mut faults = manifest.err().unwrap_or_default();
        let reason = "has no version: a folder named by a number, such as 1, with the file model.onnx";
        faults.push(whole(folder.clone(), reason.to_owned()));
        return vec![candidate(0, Err(faults))];
    }
    let plan = |version: FoundVersion| {
        let manifest = manifest.clone()?;
        Ok(Plan { source, manifest, manifest_file: manifest_file.clone(), version })
    };
    versions.into_iter().map(|version| candidate(version.number, plan(version))).collect()
}

impl Plan<'_> {
    fn load(&self, name: &Arc<str>, options: &LoadOptions<'_>) -> Result<LoadedModel, Vec<LoadFault>> {
        let begun = clock::now();
        let model_file = self.version.file.display().to_string();
        let broken = |error: EngineError| vec![whole(model_file.clone(), error.to_string())];
        let in_manifest = |faults| in_file(&self.manifest_file, faults);
        let choice = choose(self.manifest.engine, options.engine_default);
        let (engine, interface) = if choice == EngineChoice::Synthetic {
            let contract = declared_contract(&self.manifest).map_err(in_manifest)?;
            let interface = fit(&self.manifest, &contract).map_err(in_manifest)?;
            let signature = Arc::new(interface.signature.clone());
            let script = self.manifest.synthetic.clone().unwrap_or_default().script();
            let engine = script.and_then(|script| SyntheticEngine::new(signature, script)).map_err(broken)?;
            (Arc::new(engine) as Arc<dyn Engine>, interface)
        } else {
            let bytes = self.source.read(&self.version).map_err(|reason| vec![whole(model_file.clone(), reason)])?;
            let engine = guarded(|| open(choice, bytes)).map_err(broken)?;
            let interface = fit(&self.manifest, engine.contract()).map_err(|faults| {
                // The manifest is one for all versions, and may fit some of them.
                let version = self.version.number;
                let faults =
                    faults.into_iter().map(|fault| KeyFault { reason: format!("{} (version {version})", fault.reason), ..fault });
                in_manifest(faults.collect())
            })?;
            (engine, interface)
        };
        let signature = Arc::new(interface.signature);
        let executable = guarded(|| Executable::new(engine, signature, options.lanes)).map_err(broken)?;
        Ok(LoadedModel {
            name: Arc::clone(name),
            version: version_text(self.version.number),
            description: self.manifest.description.as_str().into(),
            executable: Arc::new(executable),
            framing: interface.framing,
            segments: interface.segments,
            padding_waste_max: interface.padding_waste_max,
            max_batch: self.manifest.max_batch,
            max_delay: self.manifest.max_delay(),
            load_duration: clock::now().since(begun),
        })
    }
}

fn choose(manifest: EngineChoice, default: EngineChoice) -> EngineChoice {
    match (manifest, default) {
        (EngineChoice::Auto, EngineChoice::Auto) => EngineChoice::Rten,
        (EngineChoice::Auto, default) => default,
        (chosen, _) => chosen,
    }
}

fn open(choice: EngineChoice, bytes: Cow<'static, [u8]>) -> Result<Arc<dyn Engine>, EngineError> {
    match (choice, bytes) {
        (EngineChoice::Onnxruntime, bytes) => Ok(Arc::new(OnnxRuntime::load(bytes)?)),
        (_, bytes) => Ok(Arc::new(Rten::load(bytes)?)),
    }
}

/// Runs what reads a file of unknown origin; a parser that panics has met a bad file.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(EngineError::Load(format!("the engine panicked while it read the model: {message}")))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn whole(file: String, reason: String) -> LoadFault {
    LoadFault { file, key: String::new(), reason }
}

fn in_file(file: &str, faults: Vec<KeyFault>) -> Vec<LoadFault> {
    faults.into_iter().map(|KeyFault { key, reason }| LoadFault { file: file.to_owned(), key, reason }).collect()
}
