//! What sources hold, on its way to be loaded: found, chosen by the model's policy, read and bound to an engine.
//!
//! Changes nothing: what comes of it is for the loader and the repository.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::{
    LoadedModel,
    layout::MANIFEST_FILE,
    loader::{LoadFault, LoadOptions},
    manifest::{EngineChoice, KeyFault, Manifest},
    packing::Repack,
    policy::VERSIONS_MAX,
    signature::{declared_contract, fit},
    source::{FoundModel, FoundVersion, ModelSource, Remark},
    version_text,
};
use crate::{
    clock,
    domain::{Batching, Signature},
    engine::{
        Engine, EngineError, Executable, LaneThreads,
        onnx::{ModelFile, Narrowing},
        onnxruntime::OnnxRuntime,
        rten::{self, Rten},
        synthetic::SyntheticEngine,
    },
    proof::{Fingerprint, Hints, Subject, Terms},
};

/// Bytes of a weights file that are read at a time.
const DIGEST_BUFFER_BYTES: usize = 1 << 20;

/// All that the sources hold.
pub(super) struct Discovery<'a> {
    pub(super) models: BTreeMap<Arc<str>, Found<'a>>,
    pub(super) unusable: Vec<Unusable>,
    pub(super) remarks: Vec<Remark>,
}

/// A model, and the source that has it.
pub(super) struct Found<'a> {
    pub(super) source: &'a dyn ModelSource,
    pub(super) model: FoundModel,
    /// Folder of the model of this name that an earlier source has.
    pub(super) replaces: Option<PathBuf>,
}

impl Found<'_> {
    /// The versions to choose from.
    fn versions(&self) -> Vec<FoundVersion> {
        let model = &self.model;
        let needs_no_file = || model.manifest.as_ref().is_ok_and(|text| Manifest::is_synthetic(text));
        if model.versions.is_empty() && needs_no_file() {
            return vec![FoundVersion { number: 1, file: model.folder.clone() }];
        }
        model.versions.clone()
    }

    /// Remarks about its folder that are not faults.
    fn remark(&self) -> Option<Remark> {
        let FoundModel { folder, passed_over, .. } = &self.model;
        let is_worth_saying = !passed_over.is_empty() && !self.versions().is_empty();
        is_worth_saying.then(|| Remark { folder: folder.clone(), text: passed_over.clone(), warns: true })
    }
}

/// A path that holds no model but should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

impl Unusable {
    pub(super) fn fault(&self) -> LoadFault {
        whole(self.path.display().to_string(), self.reason.clone())
    }

    /// Whether nothing can be said of what was at `folder`.
    pub(super) fn hides(&self, folder: &Path) -> bool {
        folder.starts_with(&self.path)
    }

    /// Whether this would be the folder of a model of this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|last| last == name)
    }
}

/// Looks through the sources. Of two models with one name, that of the later source counts.
pub(super) fn discover<'a>(sources: impl IntoIterator<Item = &'a dyn ModelSource>) -> Discovery<'a> {
    let mut found = Discovery { models: BTreeMap::new(), unusable: Vec::new(), remarks: Vec::new() };
    for source in sources {
        let scan = source.scan();
        for model in scan.models {
            let name = Arc::clone(&model.name);
            let replaces = found.models.get(&name).map(|replaced: &Found<'_>| replaced.model.folder.clone());
            found.models.insert(name, Found { source, model, replaces });
        }
        found.unusable.extend(scan.unusable.into_iter().map(|(path, reason)| Unusable { path, reason }));
        found.remarks.extend(scan.remarks);
    }
    found.remarks.extend(found.models.values().filter_map(Found::remark));
    found
}

/// A version on its way: what to do, or why nothing can be done.
pub(super) struct Candidate<'a> {
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    /// The model's folder, for error messages.
    pub(super) folder: String,
    pub(super) origin: Origin,
    pub(super) plan: Result<Plan<'a>, Vec<LoadFault>>,
}

impl Candidate<'_> {
    /// Number, description and whether it is stateful, as far as the manifest says.
    pub(super) fn entry(&self) -> (u64, &str, bool) {
        let manifest = self.plan.as_ref().ok().map(|plan| &*plan.manifest);
        manifest.map_or((self.number, "", false), |manifest| (self.number, &manifest.description, !manifest.states.is_empty()))
    }
}

/// What a version is made of, besides the manifest. Differs if the file, or one next to it, was written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    file: PathBuf,
    /// `None` if there is no such file.
    stamp: Option<Stamp>,
    /// Of the files next to it, which may hold its weights, and of the one with its trial items.
    beside: BTreeMap<PathBuf, Stamp>,
}

/// Most files next to a model's own that are looked at; further ones may change unnoticed.
const BESIDE_MAX: usize = 1_024;
/// How deep folders next to it are looked into.
const BESIDE_DEPTH_MAX: usize = 4;

/// What the system says of a file without reading it. Moments are seconds and nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Origin {
    fn of(file: &Path) -> Self {
        let stamp = Stamp::of(file);
        let mut beside = BTreeMap::new();
        if let (Some(_), Some(folder)) = (&stamp, file.parent()) {
            look_beside(folder, BESIDE_DEPTH_MAX, &mut beside);
        }
        Self { file: file.to_owned(), stamp, beside }
    }

    /// The size of all its files.
    pub(super) fn bytes(&self) -> u64 {
        self.stamp.iter().chain(self.beside.values()).map(|stamp| stamp.bytes).sum()
    }
}

impl Stamp {
    /// `None` if it is not a file.
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Hidden files are left out, since a file is often written under such a name first.
fn look_beside(folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        if found.len() == BESIDE_MAX {
            return;
        }
        let path = entry.path();
        match Stamp::of(&path) {
            Some(stamp) => drop(found.insert(path, stamp)),
            None if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) => look_beside(&path, depth - 1, found),
            None => {}
        }
    }
}

/// All that it takes to load a version.
pub(super) struct Plan<'a> {
    source: &'a dyn ModelSource,
    /// The model's folder.
    folder: PathBuf,
    manifest: Arc<Manifest>,
    /// What the manifest was read from.
    manifest_text: Arc<str>,
    manifest_file: String,
    version: FoundVersion,
}

/// The versions that a model's manifest wants to be served; at least one, if only to say what is wrong.
pub(super) fn candidates<'a>(found: &Found<'a>) -> Vec<Candidate<'a>> {
    let Found { source, model, .. } = found;
    let folder = model.folder.display().to_string();
    let manifest_file = model.folder.join(MANIFEST_FILE).display().to_string();
    let candidate = |number, file: &Path, plan| {
        let (name, folder) = (Arc::clone(&model.name), folder.clone());
        Candidate { name, number, folder, origin: Origin::of(file), plan }
    };
    let manifest = match &model.manifest {
        Ok(text) => Manifest::parse(text).map(Arc::new).map_err(|faults| in_file(&manifest_file, faults)),
        Err(reason) => Err(vec![whole(manifest_file.clone(), reason.clone())]),
    };
    let versions = found.versions();
    if versions.is_empty() {
        let mut faults = manifest.err().unwrap_or_default();
        let mut reason = "has no version: a folder named by a number, such as 1, with the file model.onnx".to_owned();
        if !model.passed_over.is_empty() {
            reason = format!("{reason}; {}", model.passed_over);
        }
        faults.push(whole(folder.clone(), reason));
        return vec![candidate(0, &model.folder, Err(faults))];
    }
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(faults) => {
            let broken = |version: &FoundVersion| candidate(version.number, &version.file, Err(faults.clone()));
            return versions.iter().map(broken).collect();
        }
    };
    let text: Arc<str> = model.manifest.as_deref().unwrap_or_default().into();
    let numbers: Vec<u64> = versions.iter().map(|version| version.number).collect();
    let chosen: Vec<FoundVersion> =
        versions.into_iter().filter(|version| manifest.versions.takes(version.number, &numbers)).collect();
    if chosen.len() > VERSIONS_MAX {
        let reason = format!(
            "chooses {} versions, but at most {VERSIONS_MAX} of a model are served; choose fewer, for example with versions = {{ latest = {VERSIONS_MAX} }}",
            chosen.len()
        );
        let fault = LoadFault { file: manifest_file.clone(), key: "versions".to_owned(), reason };
        return vec![candidate(0, &model.folder, Err(vec![fault]))];
    }
    let chosen = chosen.into_iter().map(|version| {
        let (manifest, manifest_file) = (Arc::clone(&manifest), manifest_file.clone());
        let (number, file) = (version.number, version.file.clone());
        let (folder, manifest_text) = (model.folder.clone(), Arc::clone(&text));
        let trial_file = manifest.trial.file.as_ref().map(|name| folder.join(name));
        let plan = Plan { source: *source, folder, manifest, manifest_text, manifest_file, version };
        let mut chosen = candidate(number, &file, Ok(plan));
        chosen.origin.beside.extend(trial_file.and_then(|file| Some((file.clone(), Stamp::of(&file)?))));
        chosen
    });
    let missing = manifest.versions.missing(&numbers).map(|number| {
        let reason = format!("lists version {number}, but there is no folder {number}");
        let fault = LoadFault { file: manifest_file.clone(), key: "versions".to_owned(), reason };
        candidate(number, &model.folder.join(number.to_string()), Err(vec![fault]))
    });
    chosen.chain(missing).collect()
}

impl Plan<'_> {
    /// How the model is proven.
    fn terms(
        &self,
        engine: &dyn Engine,
        signature: &Signature,
        trial: Option<&str>,
        options: &LoadOptions<'_>,
    ) -> Result<Terms, Vec<KeyFault>> {
        Ok(Terms {
            max_batch: self.manifest.max_batch(),
            rule: self.manifest.batching,
            budget: self.manifest.trial.budget(),
            examples: self.manifest.trial.examples(signature, trial)?,
            seed: options.seed,
            ranges: None,
            hints: Hints::of(engine, signature),
        })
    }

    /// What loads the same file once more into rten, with its weights packed.
    fn packed(
        &self,
        fingerprint: Fingerprint,
        signature: &Arc<Signature>,
        lanes: &[LaneThreads],
    ) -> Arc<dyn Fn() -> Result<Executable, String> + Send + Sync> {
        let (source, version, lanes) = (self.source.shared(), self.version.clone(), lanes.to_vec());
        let (signature, allow_narrowing) = (Arc::clone(signature), self.manifest.allow_narrowing);
        Arc::new(move || {
            let load = || {
                let (file, found) = read(&*source, &version, false)?;
                if found != Some(fingerprint) {
                    return Err(EngineError::Load("the file has changed since it was first read".to_owned()));
                }
                let engine = Arc::new(Rten::open(file, allow_narrowing, true)?);
                Executable::new(engine, Arc::clone(&signature), &lanes)
            };
            guarded(load).map_err(|error| error.to_string())
        })
    }

    /// Reads the file and binds it to its engine. Blocks.
    pub(super) fn load(&self, name: &Arc<str>, options: &LoadOptions<'_>) -> Result<LoadedModel, Vec<LoadFault>> {
        let begun = clock::now();
        let model_file = self.version.file.display().to_string();
        let broken = |error: EngineError| vec![whole(model_file.clone(), error.to_string())];
        let in_manifest = |faults| in_file(&self.manifest_file, faults);
        let choice = choose(self.manifest.engine, options.engine_default);
        let trial_text = self.manifest.trial.text(&self.folder);
        let print = Cell::new(None);
        let subject = |engine: &'static str, engine_version: String| {
            let trial_text = trial_text.as_ref().ok()?.as_deref().unwrap_or_default();
            let manifest = format!("{}\0{trial_text}", self.manifest_text);
            Some(Subject { model: print.get()?, engine, engine_version, manifest, lanes: options.lanes.len() })
        };
        // What an earlier start found out about the model on rten; looked up once the file has been read.
        let of_rten = OnceCell::new();
        let kept_of_rten = || of_rten.get_or_init(|| options.kept(&subject(rten::NAME, rten::VERSION.to_owned())?));
        // Whether rten packs weights, where that is known.
        let packs_weights = || self.manifest.prepack_weights.or_else(|| kept_of_rten().as_ref().map(|kept| kept.packs_weights));
        let size = Cell::new(0);
        let (engine, interface) = if choice == EngineChoice::Synthetic {
            let contract = declared_contract(&self.manifest).map_err(in_manifest)?;
            let interface = fit(&self.manifest, &contract).map_err(in_manifest)?;
            let signature = Arc::new(interface.signature.clone());
            let script = self.manifest.synthetic.clone().unwrap_or_default().script();
            let engine = script.and_then(|script| SyntheticEngine::new(signature, script)).map_err(broken)?;
            (Arc::new(engine) as Arc<dyn Engine>, interface)
        } else {
            let read = || {
                let (file, fingerprint) = read(self.source, &self.version, choice == EngineChoice::Onnxruntime)?;
                print.set(fingerprint);
                size.set(file.size());
                Ok(file)
            };
            let packs = || packs_weights().unwrap_or(false);
            let engine = guarded(|| open(name, choice, &self.manifest, &read, &packs)).map_err(broken)?;
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
        let terms = match &trial_text {
            Ok(text) => self.terms(&*engine, &signature, text.as_deref(), options).map_err(in_manifest)?,
            Err(fault) => return Err(in_manifest(vec![fault.clone()])),
        };
        let is_rten = engine.name() == rten::NAME;
        let multiplies = is_rten && engine.facts().is_some_and(|facts| facts.multiplies_matrices);
        let repack = print
            .get()
            .filter(|_| multiplies && packs_weights().is_none())
            .map(|fingerprint| Repack { load: self.packed(fingerprint, &signature, options.lanes), bytes: size.get() });
        let subject = subject(engine.name(), engine.version());
        let kept = if is_rten { kept_of_rten().clone() } else { subject.as_ref().and_then(|subject| options.kept(subject)) };
        let executable = guarded(|| Executable::new(engine, signature, options.lanes)).map_err(broken)?;
        Ok(LoadedModel {
            name: Arc::clone(name),
            version: version_text(self.version.number),
            description: self.manifest.description.as_str().into(),
            executable: Arc::new(executable),
            framing: interface.framing,
            segments: interface.segments,
            padding_waste_max: interface.padding_waste_max,
            batching: Batching::off(""),
            terms: Arc::new(terms),
            subject,
            kept,
            repack,
            max_batch: self.manifest.max_batch(),
            max_delay: self.manifest.max_delay(),
            versions: self.manifest.versions.clone(),
            load_duration: clock::now().since(begun),
        })
    }
}

/// Reads a version's file; with it, the digest of all that it is made of, or none if its weights cannot be read a second time.
fn read(
    source: &dyn ModelSource,
    version: &FoundVersion,
    for_onnxruntime: bool,
) -> Result<(ModelFile, Option<Fingerprint>), EngineError> {
    let bytes = source.read(version).map_err(EngineError::Load)?;
    // A file that was not fetched is reported first, then a missing library, then what is wrong inside the file.
    if for_onnxruntime {
        OnnxRuntime::check_library()?;
    }
    let digest = Sha256::new().chain_update(&bytes);
    let weights = RefCell::new(Vec::new());
    let beside = |file: &str| {
        let opened = source.open_beside(version, file)?;
        weights.borrow_mut().push(opened.try_clone().map_err(|error| error.to_string())?);
        Ok(opened)
    };
    let file = ModelFile::read_beside(bytes, &beside)?;
    Ok((file, fingerprint_of(digest, &weights.into_inner()).ok()))
}

/// The digest of a model's file and of those that its weights lie in.
fn fingerprint_of(mut digest: Sha256, weights: &[File]) -> io::Result<Fingerprint> {
    let mut buffer = vec![0; DIGEST_BUFFER_BYTES];
    for file in weights {
        let mut position = 0;
        loop {
            let read = file.read_at(&mut buffer, position)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            position += read as u64;
        }
        digest.update(position.to_le_bytes());
    }
    Ok(digest.finalize().into())
}

fn choose(manifest: EngineChoice, default: EngineChoice) -> EngineChoice {
    match (manifest, default) {
        (EngineChoice::Auto, EngineChoice::Auto) => EngineChoice::Rten,
        (EngineChoice::Auto, default) => default,
        (chosen, _) => chosen,
    }
}

/// Loads a file into the chosen engine, or into onnxruntime if the manifest leaves the choice open, the library is there, and rten
/// lacks something or might compute wrong numbers.
fn open(
    name: &str,
    choice: EngineChoice,
    manifest: &Manifest,
    read: &dyn Fn() -> Result<ModelFile, EngineError>,
    packs_weights: &dyn Fn() -> bool,
) -> Result<Arc<dyn Engine>, EngineError> {
    if choice == EngineChoice::Onnxruntime {
        return Ok(Arc::new(OnnxRuntime::open(read()?)?));
    }
    let file = read()?;
    let narrowing = file.narrowing().clone();
    let is_open = manifest.engine == EngineChoice::Auto && OnnxRuntime::check_library().is_ok();
    if is_open && narrowing != Narrowing::None {
        let engine = OnnxRuntime::open(file)?;
        info!(model = %name, "the model runs on onnxruntime, as 32 bits may not hold all that it computes");
        return Ok(Arc::new(engine));
    }
    let engine = match Rten::open(file, manifest.allow_narrowing, packs_weights()) {
        Ok(engine) => engine,
        Err(reason) if is_open => {
            let engine = OnnxRuntime::open(read()?)?;
            info!(model = %name, %reason, "the model runs on onnxruntime");
            return Ok(Arc::new(engine));
        }
        Err(reason) => return Err(reason),
    };
    match narrowing {
        Narrowing::Limited { reasons, .. } | Narrowing::Possible { reasons } if manifest.allow_narrowing => {
            let reasons = reasons.join(", ");
            warn!(model = %name, %reasons, "rten computes this model in 32 bits, as allow_narrowing says: results can be wrong");
        }
        Narrowing::Limited { limits, .. } => {
            let limits: Vec<String> = limits.iter().map(|(input, limit)| format!("{input} up to {limit}")).collect();
            info!(model = %name, limits = limits.join(", "), "rten has only 32-bit integers, so the model takes no larger numbers than these");
        }
        Narrowing::None | Narrowing::Possible { .. } => {}
    }
    Ok(Arc::new(engine))
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
