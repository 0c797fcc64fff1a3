//! A version to be served: its file is read and bound to an engine.
//!
//! Knows what an engine offers, and no engine by name. Changes nothing: that is for the loader and the repository.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use tracing::info;

use super::{
    LoadedModel,
    faults::{KeyFault, LoadFault, in_file, whole},
    labels::{Labels, labels_of},
    manifest::Manifest,
    options::LoadOptions,
    packing::Repack,
    signature::{Interface, declared_contract, fit},
    source::{FoundVersion, ModelSource},
    version_text,
};
use crate::{
    clock,
    domain::{Batching, Signature},
    engine::{
        ENGINES, Engine, EngineChoice, EngineError, EngineFactory, EngineLibrary, Executable, FileEngine, LaneThreads, Runs,
        Wishes, onnx::ModelFile, panic_message,
    },
    proof::{Fingerprint, Hints, Kept, Subject, Terms},
};

/// Bytes of a weights file that are read at a time.
const DIGEST_BUFFER_BYTES: usize = 1 << 20;

/// All that it takes to load a version.
pub(super) struct Plan<'a> {
    pub(super) source: &'a dyn ModelSource,
    /// The model's folder.
    pub(super) folder: PathBuf,
    pub(super) manifest: Arc<Manifest>,
    /// The text that the manifest was read from.
    pub(super) manifest_text: Arc<str>,
    pub(super) manifest_file: String,
    pub(super) version: FoundVersion,
}

/// A version to load, and how.
struct Task<'a> {
    name: &'a str,
    options: &'a LoadOptions<'a>,
    /// What its proof depends on besides the file and the engine: the manifest and the trial items. `None` if those cannot be read.
    proof_text: Option<String>,
}

/// A version's file.
struct Read {
    file: ModelFile,
    /// The digest of all that it is made of, or none if its weights cannot be read a second time.
    fingerprint: Option<Fingerprint>,
}

/// A version in its engine.
struct Opened {
    engine: Arc<dyn Engine>,
    /// What its proof depends on; `None` if that is not kept.
    subject: Option<Subject>,
    /// The findings of an earlier start.
    kept: Option<Kept>,
    /// What it takes to load it once more with packed weights, if these may gain something and nobody knows yet whether they do.
    packing: Option<Packing>,
}

struct Packing {
    files: &'static dyn FileEngine,
    fingerprint: Fingerprint,
    bytes: u64,
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

    /// Reads the file and binds it to its engine. Blocks.
    pub(super) fn load(&self, name: &Arc<str>, options: &LoadOptions<'_>) -> Result<LoadedModel, Vec<LoadFault>> {
        let begun = clock::now();
        let model_file = self.version.file.display().to_string();
        let broken = |error: EngineError| vec![whole(model_file.clone(), error.to_string())];
        let in_manifest = |faults| in_file(&self.manifest_file, faults);
        let trial_text = self.manifest.trial.text(&self.folder);
        let chosen = self.manifest.engine.engine_or(options.engine_default);
        let (opened, interface) = match chosen.runs() {
            Runs::Scripts(scripts) => {
                let contract = declared_contract(&self.manifest).map_err(in_manifest)?;
                let interface = fit(&self.manifest, &contract).map_err(in_manifest)?;
                let engine = scripts.make(&self.manifest.script(chosen.name()), &interface.signature).map_err(broken)?;
                (Opened { engine, subject: None, kept: None, packing: None }, interface)
            }
            Runs::Files(files) => {
                let items = trial_text.as_ref().ok().map(|text| text.as_deref().unwrap_or_default());
                let proof_text = items.map(|items| format!("{}\0{items}", self.manifest_text));
                let task = Task { name, options, proof_text };
                let opened = guarded(|| self.open(chosen, files, &task)).map_err(broken)?;
                let fitted = fit(&self.manifest, opened.engine.contract());
                (opened, fitted.map_err(|faults| in_manifest(self.of_this_version(faults)))?)
            }
        };
        let Interface { signature, framing, segments, padding_waste_max } = interface;
        let Opened { engine, subject, kept, packing } = opened;
        let terms = match &trial_text {
            Ok(text) => self.terms(&*engine, &signature, text.as_deref(), options).map_err(in_manifest)?,
            Err(fault) => return Err(in_manifest(vec![fault.clone()])),
        };
        let labels = self.labels(&signature).map_err(|faults| in_manifest(self.of_this_version(faults)))?;
        self.check_cache(&*engine).map_err(|faults| in_manifest(self.of_this_version(faults)))?;
        let repack = packing.map(|packing| self.repack(&packing, &signature, options.lanes));
        let executable = guarded(|| Executable::new(engine, signature, options.lanes)).map_err(broken)?;
        Ok(LoadedModel {
            name: Arc::clone(name),
            version: version_text(self.version.number),
            description: self.manifest.description.as_str().into(),
            executable: Arc::new(executable),
            framing,
            segments,
            padding_waste_max,
            batching: Batching::off(""),
            terms: Arc::new(terms),
            subject,
            kept,
            repack,
            max_batch: self.manifest.max_batch(),
            max_delay: self.manifest.max_delay(),
            versions: self.manifest.versions.clone(),
            labels: labels.into(),
            cache: self.manifest.cache,
            load_duration: clock::now().since(begun),
        })
    }

    /// The labels of the outputs, by output.
    fn labels(&self, signature: &Signature) -> Result<Vec<Option<Arc<Labels>>>, Vec<KeyFault>> {
        let entries = self.manifest.outputs.iter().enumerate();
        let labelled = entries.filter_map(|(index, entry)| Some((index, entry.name.as_str(), entry.labels.as_ref()?)));
        labels_of(labelled, &signature.outputs, &self.folder)
    }

    /// Finds what the engine knows about the model that keeps its answers from being given again.
    fn check_cache(&self, engine: &dyn Engine) -> Result<(), Vec<KeyFault>> {
        if !self.manifest.cache {
            return Ok(());
        }
        let fault = |reason: String| Err(vec![KeyFault::new("cache", reason)]);
        if engine.is_decoupled() {
            return fault("keeps one answer to a request, but this model gives several: leave it out".to_owned());
        }
        match engine.facts().map(|facts| facts.random.as_slice()) {
            Some([operator, ..]) => {
                fault(format!("keeps answers for equal requests, but this model draws random numbers ({operator}): leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// All versions share one manifest, which may fit only some of them.
    fn of_this_version(&self, faults: Vec<KeyFault>) -> Vec<KeyFault> {
        let version = self.version.number;
        let named = |fault: KeyFault| KeyFault { reason: format!("{} (version {version})", fault.reason), ..fault };
        faults.into_iter().map(named).collect()
    }

    /// Loads the file into the chosen engine; or into another one that is there, if the manifest leaves the choice open and the chosen one
    /// lacks something or might compute wrong numbers.
    fn open(
        &self,
        chosen: &'static dyn EngineFactory,
        files: &'static dyn FileEngine,
        task: &Task<'_>,
    ) -> Result<Opened, EngineError> {
        let read = self.read(chosen.library())?;
        let narrowing = read.file.narrowing().clone();
        let is_open = self.manifest.engine == EngineChoice::Auto;
        let stand_in = if is_open { stand_in_for(chosen) } else { None };
        if let (Some((other, others)), Some(doubt)) = (stand_in, files.doubt(&narrowing)) {
            let opened = self.open_in(other, others, read, task)?;
            info!(model = %task.name, "the model runs on {}, as {doubt}", other.name());
            return Ok(opened);
        }
        match (self.open_in(chosen, files, read, task), stand_in) {
            (Err(reason), Some((other, others))) => {
                let opened = self.open_in(other, others, self.read(None)?, task)?;
                info!(model = %task.name, %reason, "the model runs on {}", other.name());
                Ok(opened)
            }
            (opened, _) => {
                let opened = opened?;
                files.announce(task.name, &narrowing, self.manifest.allow_narrowing);
                Ok(opened)
            }
        }
    }

    /// Loads the file into this engine.
    fn open_in(
        &self,
        engine: &'static dyn EngineFactory,
        files: &'static dyn FileEngine,
        read: Read,
        task: &Task<'_>,
    ) -> Result<Opened, EngineError> {
        let Read { file, fingerprint } = read;
        let (lanes, bytes) = (task.options.lanes.len(), file.size());
        let subject = fingerprint.zip(task.proof_text.clone()).map(|(model, manifest)| Subject {
            model,
            engine: engine.name(),
            engine_version: engine.version(),
            manifest,
            lanes,
        });
        let kept = subject.as_ref().and_then(|subject| task.options.kept(subject));
        // Whether weights are packed, where that is known.
        let packs = self.manifest.prepack_weights.or_else(|| kept.as_ref().map(|kept| kept.packs_weights));
        let wishes = Wishes {
            allow_narrowing: self.manifest.allow_narrowing,
            pack_weights: files.packs_weights() && packs.unwrap_or(false),
        };
        let engine = files.open(file, wishes)?;
        let multiplies = files.packs_weights() && engine.facts().is_some_and(|facts| facts.multiplies_matrices);
        let fingerprint = fingerprint.filter(|_| multiplies && packs.is_none());
        let packing = fingerprint.map(|fingerprint| Packing { files, fingerprint, bytes });
        Ok(Opened { engine, subject, kept, packing })
    }

    /// How to load the same file once more, with its weights packed.
    fn repack(&self, packing: &Packing, signature: &Arc<Signature>, lanes: &[LaneThreads]) -> Repack {
        let Packing { files, fingerprint, bytes } = *packing;
        let (source, version, lanes) = (self.source.shared(), self.version.clone(), lanes.to_vec());
        let (signature, allow_narrowing) = (Arc::clone(signature), self.manifest.allow_narrowing);
        let load = move || {
            let load = || {
                let again = read(&*source, &version, None)?;
                if again.fingerprint != Some(fingerprint) {
                    return Err(EngineError::Load("the file has changed since it was first read".to_owned()));
                }
                let engine = files.open(again.file, Wishes { allow_narrowing, pack_weights: true })?;
                Executable::new(engine, Arc::clone(&signature), &lanes)
            };
            guarded(load).map_err(|error| error.to_string())
        };
        Repack { load: Arc::new(load), bytes }
    }

    fn read(&self, library: Option<&dyn EngineLibrary>) -> Result<Read, EngineError> {
        read(self.source, &self.version, library)
    }
}

/// Another engine for model files, whose library is loaded.
fn stand_in_for(chosen: &'static dyn EngineFactory) -> Option<(&'static dyn EngineFactory, &'static dyn FileEngine)> {
    let is_loaded = |engine: &&dyn EngineFactory| engine.library().is_some_and(|library| library.check().is_ok());
    let others = ENGINES.into_iter().filter(|engine| *engine != chosen).filter(is_loaded);
    others.into_iter().find_map(|engine| match engine.runs() {
        Runs::Files(files) => Some((engine, files)),
        Runs::Scripts(_) => None,
    })
}

/// Reads a version's file for an engine that needs this library.
fn read(source: &dyn ModelSource, version: &FoundVersion, library: Option<&dyn EngineLibrary>) -> Result<Read, EngineError> {
    let bytes = source.read(version).map_err(EngineError::Load)?;
    // A file that was not fetched is reported first, then a missing library, then what is wrong inside the file.
    library.map_or(Ok(()), EngineLibrary::check)?;
    let digest = Sha256::new().chain_update(&bytes);
    let weights = RefCell::new(Vec::new());
    let beside = |file: &str| {
        let opened = source.open_beside(version, file)?;
        weights.borrow_mut().push(opened.try_clone().map_err(|error| error.to_string())?);
        Ok(opened)
    };
    let file = ModelFile::read_beside(bytes, &beside)?;
    Ok(Read { file, fingerprint: fingerprint_of(digest, &weights.into_inner()).ok() })
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

/// Runs `read` on a file of unknown origin; if it panics, the file is bad.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(EngineError::Load(format!("the engine panicked while it read the model: {message}")))
    })
}
