//! The models, and where each is in its life.
//!
//! Knows names, versions and what a loaded version offers. Knows no protocol, no stream and no queue: the scheduler's key of a
//! model is kept here, and means nothing here.
//!
//! # Change under load
//! Readers take a snapshot, which is a pointer; a change replaces it. A stream keeps the [`Model`] that it opened with. A version
//! that serves goes on until its next copy takes its place, which happens in one change; see [`repository`].

mod beside;
mod faults;
mod folder;
mod found;
mod labels;
mod layout;
mod lifecycle;
mod loader;
mod manifest;
mod options;
mod origin;
mod packing;
mod padding;
mod places;
mod plan;
mod policy;
mod proving;
pub mod repository;
mod shared_value;
mod signature;
mod source;
mod trial;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt, mem,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch as watched;

use crate::{
    codec::{FramingRule, SegmentRules},
    domain::{Batching, Fault, FaultKind, Signature, Verdict},
    engine::Executable,
    proof::{Kept, Subject, Terms},
    scheduler::ModelKey,
};

pub use crate::proof::SEED_DEFAULT;
pub use faults::{KeyFault, LoadFault, LoadFaults};
pub use folder::Folder;
pub use labels::{Labels, LabelsEntry};
pub use lifecycle::{Lifecycle, ModelState};
pub use loader::{load_all, load_into};
pub use manifest::{MAX_BATCH_DEFAULT, Manifest};
pub use options::LoadOptions;
pub use packing::Repack;
pub use policy::VersionPolicy;
pub use proving::{Installer, Measured, Place, Unproven};
pub use repository::{Host, IndexEntry, IndexState, Refreshed, Repository};
pub use signature::{Interface, declared_contract, fit};
pub use source::{
    EMBEDDED_NAME, EMBEDDED_VERSION, EXAMPLE_NAME, Embedded, Example, FoundModel, FoundVersion, ModelSource, Remark, Scan,
};
pub use watch::{WatchError, Watcher, refresh};

/// How many names go into an error message.
const LISTED_MAX: usize = 20;
/// How many letters of a name or reason go into an error message; messages travel in headers, which are small.
const EXCERPT_LETTERS: usize = 400;
/// When to ask again for a model that is being loaded.
const LOADING_RETRY: Duration = Duration::from_secs(1);

/// How results become segments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentPost {
    /// When a stretch of windows counts as a segment.
    pub rules: SegmentRules,
    /// Position of the output with the probability, one FP32, in the signature's outputs.
    pub output: usize,
}

/// A model version that can be called.
#[derive(Clone)]
pub struct LoadedModel {
    /// Name.
    pub name: Arc<str>,
    /// Version, a number.
    pub version: Arc<str>,
    /// One sentence about it; may be empty.
    pub description: Arc<str>,
    /// The executable that the lanes run.
    pub executable: Arc<Executable>,
    /// How raw payloads become items; `None` if it takes tensors only. The item's tensor is the signature's only input.
    pub framing: Option<FramingRule>,
    /// How results become segments.
    pub segments: Option<SegmentPost>,
    /// Share of padding that a batch may have at most; `None` if items are not padded.
    pub padding_waste_max: Option<f64>,
    /// Whether its items share calls, and why.
    pub batching: Batching,
    /// How that is found out.
    pub terms: Arc<Terms>,
    /// What its proof depends on; `None` if that is not kept.
    pub subject: Option<Subject>,
    /// The findings of an earlier start.
    pub kept: Option<Kept>,
    /// Packed weights that are to be tried; `None` if they cannot gain anything, or it is known whether they do.
    pub repack: Option<Repack>,
    /// Most items in a call.
    pub max_batch: usize,
    /// Time that a lane may wait for a fuller batch.
    pub max_delay: Duration,
    /// Which versions of the model its manifest wants.
    pub versions: VersionPolicy,
    /// Names of the outputs' elements, by output, where the manifest gives any.
    pub labels: Arc<[Option<Arc<Labels>>]>,
    /// Whether the manifest asks for answers to be kept; see [`Model::may_cache`].
    pub cache: bool,
    /// Time that reading and binding it took.
    pub load_duration: Duration,
}

/// A model version that serves; what streams hold.
#[derive(Clone)]
pub struct Model {
    /// The loaded model.
    pub loaded: LoadedModel,
    /// The scheduler's name for it.
    pub key: ModelKey,
}

impl Model {
    /// Its inputs and outputs.
    #[must_use]
    pub fn signature(&self) -> &Arc<Signature> {
        self.loaded.executable.signature()
    }

    /// Whether an item may get several answers.
    #[must_use]
    pub fn is_decoupled(&self) -> bool {
        self.loaded.executable.is_decoupled()
    }

    /// Checks that an item gets one answer, for calls that have room for one. `field` is the one that names the model.
    ///
    /// # Errors
    /// [`FaultKind::Unsupported`] if it may get several, with what to call instead.
    pub fn gives_one_answer(&self, field: &'static str) -> Result<(), Fault> {
        if !self.is_decoupled() {
            return Ok(());
        }
        let message = format!(
            "model '{}' gives several answers to an item, and this call has room for one; use Feed, Scan, ModelStreamInfer or generate_stream",
            self.loaded.name
        );
        Err(Fault::new(FaultKind::Unsupported, message).with_field(field))
    }

    /// Names of the elements of the output at this position, if the manifest gives any.
    #[must_use]
    pub fn labels(&self, output: usize) -> Option<&Labels> {
        self.loaded.labels.get(output).and_then(Option::as_deref)
    }

    /// Whether an answer may be given again to an equal request: the manifest asks for that, and the same item has not been seen to get
    /// two different answers.
    #[must_use]
    pub fn may_cache(&self) -> bool {
        self.loaded.cache && self.loaded.batching.verdict != Verdict::Random
    }

    /// The engine's name.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        self.loaded.executable.engine_name()
    }

    /// Whether its streams carry state.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.signature().is_stateful()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({} {}, {})", self.loaded.name, self.loaded.version, self.engine_name())
    }
}

/// One line of the list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// Name.
    pub name: Arc<str>,
    /// Version; empty if the model failed before its versions were known.
    pub version: Arc<str>,
    /// Where it is in its life.
    pub state: ModelState,
    /// Why it failed or was unloaded; of a version that serves, why its last reload failed, if it did. Else empty.
    pub reason: Arc<str>,
    /// Engine that runs it; empty while that is not known.
    pub engine: &'static str,
    /// One sentence about it.
    pub description: Arc<str>,
    /// Whether its streams carry state.
    pub stateful: bool,
    /// Whether items of a version that serves share calls, and why.
    pub batching: Option<Batching>,
}

/// All models and versions.
#[derive(Default)]
pub struct Registry {
    catalog: RwLock<Arc<Catalog>>,
    /// Held while the next catalog is made, so that no change is lost; readers never wait for it.
    change: Mutex<()>,
    /// How many changes there were.
    changes: watched::Sender<u64>,
}

/// By name, then by version number.
type Catalog = BTreeMap<Arc<str>, Versions>;
type Versions = BTreeMap<u64, Entry>;
/// Of versions.
type Numbers = BTreeSet<u64>;

/// The result of loading a version.
type Loaded = Result<Arc<Model>, Arc<str>>;

#[derive(Clone)]
struct Entry {
    version: Arc<str>,
    description: Arc<str>,
    stateful: bool,
    lifecycle: Lifecycle<Arc<Model>>,
}

impl Entry {
    fn serves(&self) -> bool {
        self.lifecycle.ready().is_some_and(|model| model.loaded.executable.lost().is_none())
    }

    fn begin(&mut self) {
        self.lifecycle = mem::replace(&mut self.lifecycle, Lifecycle::Loading).begin();
    }

    /// Returns what serves no longer.
    fn finish(&mut self, outcome: Loaded) -> Option<Arc<Model>> {
        if let Ok(model) = &outcome {
            self.description = Arc::clone(&model.loaded.description);
            self.stateful = model.is_stateful();
        }
        let (next, left) = mem::replace(&mut self.lifecycle, Lifecycle::Loading).finish(outcome);
        self.lifecycle = next;
        left
    }

    fn unload(&mut self, reason: &Arc<str>) -> Option<Arc<Model>> {
        let (next, left) = mem::replace(&mut self.lifecycle, Lifecycle::Loading).unload(Arc::clone(reason));
        self.lifecycle = next;
        left
    }
}

impl Registry {
    /// The model of this name. No version, or an empty one, is the newest that is ready.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] names the models or versions that there are; [`FaultKind::Unavailable`] says that the model is
    /// being loaded, was unloaded, or why it could not be loaded.
    pub fn get(&self, name: &str, version: Option<&str>) -> Result<Arc<Model>, Fault> {
        let catalog = self.snapshot();
        let Some(versions) = catalog.get(name) else {
            let known = listed(catalog.keys().map(|known| &**known));
            let message = format!("there is no model '{}'; the models are: {known}", excerpt(name));
            return Err(Fault::new(FaultKind::NotFound, message).with_field("model"));
        };
        let entry = match version.filter(|version| !version.is_empty()) {
            None => {
                let newest_first = || versions.values().rev();
                newest_first().find(|entry| entry.serves()).or_else(|| newest_first().next())
            }
            Some(version) => versions.values().find(|entry| *entry.version == *version),
        };
        let Some(entry) = entry else {
            let known = listed(versions.values().map(|entry| &*entry.version));
            let version = excerpt(version.unwrap_or_default());
            let message = format!("model '{name}' has no version '{version}'; its versions are: {known}");
            return Err(Fault::new(FaultKind::NotFound, message).with_field("version"));
        };
        match &entry.lifecycle {
            Lifecycle::Ready { serving, .. } => match serving.loaded.executable.lost() {
                None => Ok(Arc::clone(serving)),
                Some(reason) => {
                    let message = format!("model '{name}' has lost its engine: {}", excerpt(&reason));
                    Err(Fault::new(FaultKind::Unavailable, message).with_retry_after(LOADING_RETRY))
                }
            },
            Lifecycle::Loading => {
                let message = format!("model '{name}' version '{}' is being loaded", entry.version);
                Err(Fault::new(FaultKind::Unavailable, message).with_retry_after(LOADING_RETRY))
            }
            Lifecycle::Failed(reason) => {
                let message = format!("model '{name}' could not be loaded: {}", excerpt(reason));
                Err(Fault::new(FaultKind::Unavailable, message))
            }
            Lifecycle::Unloaded(_) => {
                Err(Fault::new(FaultKind::Unavailable, format!("model '{name}' was unloaded; load it again")))
            }
        }
    }

    /// The same, with what `ask` finds for it. It finds nothing for a model that was replaced since it was looked up; then the one
    /// in its place is asked for.
    ///
    /// # Errors
    /// As [`Registry::get`]; [`FaultKind::Unavailable`] if nothing is found for a model that is not replaced.
    pub fn get_with<T>(
        &self,
        name: &str,
        version: Option<&str>,
        mut ask: impl FnMut(&Model) -> Option<T>,
    ) -> Result<(Arc<Model>, T), Fault> {
        let mut asked = None;
        loop {
            let model = self.get(name, version)?;
            if let Some(answer) = ask(&model) {
                return Ok((model, answer));
            }
            if asked.replace(model.key) == Some(model.key) {
                return Err(Fault::new(FaultKind::Unavailable, format!("model '{name}' does not run; load it again")));
            }
        }
    }

    /// The scheduler's names for the versions that serve.
    #[must_use]
    pub fn serving(&self) -> HashSet<ModelKey> {
        let catalog = self.snapshot();
        let entries = catalog.values().flat_map(BTreeMap::values);
        entries.filter_map(|entry| entry.lifecycle.ready().map(|model| model.key)).collect()
    }

    /// All models and versions, in the order of names, then of numbers.
    #[must_use]
    pub fn list(&self) -> Vec<ModelStatus> {
        let catalog = self.snapshot();
        let entries = catalog.iter().flat_map(|(name, versions)| versions.values().map(move |entry| (name, entry)));
        entries.map(|(name, entry)| status(name, entry)).collect()
    }

    /// Whether there is a model, and every version of every model serves.
    #[must_use]
    #[cfg(test)]
    fn all_ready(&self) -> bool {
        let catalog = self.snapshot();
        let mut entries = catalog.values().flat_map(BTreeMap::values).peekable();
        entries.peek().is_some() && entries.all(Entry::serves)
    }

    /// Whether there is nothing but versions that could not be loaded, or no version at all.
    #[must_use]
    pub fn serves_nothing(&self) -> bool {
        let catalog = self.snapshot();
        let mut entries = catalog.values().flat_map(BTreeMap::values);
        entries.all(|entry| matches!(entry.lifecycle, Lifecycle::Failed(_)))
    }

    /// The first version that has lost its engine.
    #[must_use]
    pub fn first_lost(&self) -> Option<ModelStatus> {
        let catalog = self.snapshot();
        let entries = catalog.iter().flat_map(|(name, versions)| versions.values().map(move |entry| (name, entry)));
        let mut lost = entries.filter(|(_, entry)| entry.lifecycle.ready().is_some() && !entry.serves());
        lost.next().map(|(name, entry)| status(name, entry))
    }

    /// Has every model that serves give back memory that its latest calls did not need.
    pub fn trim(&self) {
        for entry in self.snapshot().values().flat_map(BTreeMap::values) {
            if let Some(model) = entry.lifecycle.ready() {
                model.loaded.executable.trim();
            }
        }
    }

    /// How many changes there were, and a wait for the next.
    #[must_use]
    pub fn changes(&self) -> watched::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Versions of a model, whatever their state.
    fn numbers(&self, name: &str) -> Numbers {
        self.snapshot().get(name).map(|versions| versions.keys().copied().collect()).unwrap_or_default()
    }

    fn snapshot(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    fn update<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        let turn = self.change.lock();
        let mut next = (*self.snapshot()).clone();
        let result = change(&mut next);
        *self.catalog.write() = Arc::new(next);
        drop(turn);
        self.changes.send_modify(|changes| *changes += 1);
        result
    }

    /// Enters versions as loading, each with its description and whether it is stateful. Those that serve go on.
    fn begin<'a>(&self, name: &Arc<str>, versions: impl Iterator<Item = (u64, &'a str, bool)>) {
        self.update(|catalog| {
            let entries = catalog.entry(Arc::clone(name)).or_default();
            for (number, description, stateful) in versions {
                let entry = entries.entry(number).or_insert_with(|| Entry {
                    version: version_text(number),
                    description: description.into(),
                    stateful,
                    lifecycle: Lifecycle::Loading,
                });
                entry.begin();
            }
        });
    }

    /// Ends the loading of versions that [`Registry::begin`] entered, in one change. `leaves` is asked about each other version, with
    /// all of them as they are now. Returns what serves no longer.
    fn finish(
        &self,
        name: &str,
        outcomes: Vec<(u64, Loaded)>,
        leaves: impl Fn(u64, &Lifecycle<Arc<Model>>, &Numbers) -> bool,
    ) -> Vec<Arc<Model>> {
        self.update(|catalog| {
            let Some(versions) = catalog.get_mut(name) else {
                return outcomes.into_iter().filter_map(|(_, outcome)| outcome.ok()).collect();
            };
            let mut left = Vec::new();
            for (number, outcome) in outcomes {
                match versions.get_mut(&number) {
                    Some(entry) => left.extend(entry.finish(outcome)),
                    None => left.extend(outcome.ok()),
                }
            }
            let serving = versions.iter().filter(|(_, entry)| entry.lifecycle.ready().is_some()).map(|(number, _)| *number);
            let serving: Numbers = serving.collect();
            versions.retain(|number, entry| {
                let stays = !leaves(*number, &entry.lifecycle, &serving);
                if !stays {
                    left.extend(entry.lifecycle.ready().cloned());
                }
                stays
            });
            left
        })
    }

    /// Notes why a model's serving versions could not be reloaded.
    fn note_failure(&self, name: &str, reason: &Arc<str>) {
        self.update(|catalog| {
            let entries = catalog.get_mut(name).into_iter().flat_map(BTreeMap::values_mut);
            for entry in entries.filter(|entry| entry.lifecycle.ready().is_some()) {
                entry.finish(Err(Arc::clone(reason)));
            }
        });
    }

    /// Takes all versions of a model out of service, but keeps them in the list. `None` if there is no such model; else what served.
    fn unload(&self, name: &str, reason: &Arc<str>) -> Option<Vec<Arc<Model>>> {
        self.update(|catalog| Some(catalog.get_mut(name)?.values_mut().filter_map(|entry| entry.unload(reason)).collect()))
    }

    /// Takes a model out of service and out of the list. Returns what served.
    fn remove(&self, name: &str) -> Vec<Arc<Model>> {
        let versions = self.update(|catalog| catalog.remove(name)).unwrap_or_default();
        versions.into_values().filter_map(|entry| entry.lifecycle.ready().cloned()).collect()
    }
}

fn status(name: &Arc<str>, entry: &Entry) -> ModelStatus {
    let lost = entry.lifecycle.ready().and_then(|model| model.loaded.executable.lost());
    let state = if lost.is_some() { ModelState::Failed } else { entry.lifecycle.state() };
    ModelStatus {
        name: Arc::clone(name),
        version: Arc::clone(&entry.version),
        state,
        reason: lost.or_else(|| entry.lifecycle.reason().cloned()).unwrap_or_default(),
        engine: entry.lifecycle.ready().map_or("", |model| model.engine_name()),
        description: Arc::clone(&entry.description),
        stateful: entry.stateful,
        batching: entry.lifecycle.ready().map(|model| model.loaded.batching.clone()),
    }
}

/// Versions are numbers from 1; 0 means that none is known.
fn version_text(number: u64) -> Arc<str> {
    if number == 0 { "".into() } else { number.to_string().into() }
}

/// `'a', 'b' and 3 more`
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    let shown: Vec<String> = names.take(LISTED_MAX).map(|name| format!("'{name}'")).collect();
    match count.saturating_sub(LISTED_MAX) {
        0 if count == 0 => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A client's text, short enough for a message.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod equality;
#[cfg(test)]
mod tests;
