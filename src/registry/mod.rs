//! The models that there are, and where each is in its life.
//!
//! Knows names, versions and what a loaded version offers. Knows no protocol, no stream and no queue: the scheduler's key of a
//! model is kept here, and means nothing here.
//!
//! # Change under load
//! Readers take a snapshot, which is a pointer; a change replaces it. A stream keeps the [`Model`] that it opened with.

mod lifecycle;
mod loader;
mod manifest;
mod padding;
mod shared_value;
mod signature;
mod source;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};

use crate::{
    codec::{FramingRule, SegmentRules},
    domain::{Fault, FaultKind, Signature},
    engine::Executable,
    scheduler::ModelKey,
};

pub use lifecycle::{Lifecycle, ModelState};
pub use loader::{Install, LoadFault, LoadFaults, LoadOptions, load_all, load_into};
pub use manifest::{EngineChoice, KeyFault, MAX_BATCH_DEFAULT, Manifest};
pub use signature::{Interface, declared_contract, fit};
pub use source::{
    EMBEDDED_NAME, EMBEDDED_VERSION, EXAMPLE_NAME, Embedded, Example, Folder, FoundModel, FoundVersion, ModelSource, Scan,
};

/// Names in an error message.
const LISTED_MAX: usize = 20;
/// Letters of a name or reason in an error message; messages travel in headers, which are small.
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
    /// What the lanes run.
    pub executable: Arc<Executable>,
    /// How raw payloads become items; `None` if it takes tensors only. The item's tensor is the signature's only input.
    pub framing: Option<FramingRule>,
    /// How results become segments.
    pub segments: Option<SegmentPost>,
    /// Share of padding that a batch may have at most; `None` if items are not padded.
    pub padding_waste_max: Option<f64>,
    /// Most items in a call.
    pub max_batch: usize,
    /// Time that a lane may wait for a fuller batch.
    pub max_delay: Duration,
    /// Time that reading and binding it took.
    pub load_duration: Duration,
}

/// A model version that serves; what streams hold.
#[derive(Clone)]
pub struct Model {
    /// What was loaded.
    pub loaded: LoadedModel,
    /// The scheduler's name for it.
    pub key: ModelKey,
}

impl Model {
    /// What it takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Arc<Signature> {
        self.loaded.executable.signature()
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
    /// Why it failed; else empty.
    pub reason: Arc<str>,
    /// Engine that runs it; empty while that is not known.
    pub engine: &'static str,
    /// One sentence about it.
    pub description: Arc<str>,
    /// Whether its streams carry state.
    pub stateful: bool,
}

/// All models and versions.
#[derive(Default)]
pub struct Registry {
    catalog: RwLock<Arc<Catalog>>,
    /// Held by whoever makes the next catalog, so that no change is lost; readers never wait for it.
    change: Mutex<()>,
}

/// By name, then by version number.
type Catalog = BTreeMap<Arc<str>, BTreeMap<u64, Entry>>;

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
}

impl Registry {
    /// The model of this name. No version, or an empty one, is the newest that is ready.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] names the models or versions that there are; [`FaultKind::Unavailable`] says that the model is
    /// being loaded, or why it could not be.
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
            Lifecycle::Ready(model) => match model.loaded.executable.lost() {
                None => Ok(Arc::clone(model)),
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
        }
    }

    /// All models and versions, in the order of names, then of numbers.
    #[must_use]
    pub fn list(&self) -> Vec<ModelStatus> {
        let catalog = self.snapshot();
        let entries = catalog.iter().flat_map(|(name, versions)| versions.values().map(move |entry| (name, entry)));
        entries.map(|(name, entry)| status(name, entry)).collect()
    }

    /// Whether there is a model and every version of every model serves.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        let catalog = self.snapshot();
        let mut entries = catalog.values().flat_map(BTreeMap::values).peekable();
        entries.peek().is_some() && entries.all(Entry::serves)
    }

    fn snapshot(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    fn update(&self, change: impl FnOnce(&mut Catalog)) {
        let _turn = self.change.lock();
        let mut next = (*self.snapshot()).clone();
        change(&mut next);
        *self.catalog.write() = Arc::new(next);
    }

    /// Enters a version as loading, or anew.
    fn begin(&self, name: &Arc<str>, number: u64, description: &str, stateful: bool) {
        let version = version_text(number);
        let entry = Entry { version, description: description.into(), stateful, lifecycle: Lifecycle::Loading };
        self.update(|catalog| {
            catalog.entry(Arc::clone(name)).or_default().insert(number, entry);
        });
    }

    /// Ends the loading of a version that [`Registry::begin`] entered.
    fn finish(&self, name: &str, number: u64, outcome: Result<Arc<Model>, Arc<str>>) {
        self.update(|catalog| {
            if let Some(entry) = catalog.get_mut(name).and_then(|versions| versions.get_mut(&number)) {
                let loading = std::mem::replace(&mut entry.lifecycle, Lifecycle::Loading);
                entry.lifecycle = loading.finish(outcome);
            }
        });
    }
}

fn status(name: &Arc<str>, entry: &Entry) -> ModelStatus {
    let lost = entry.lifecycle.ready().and_then(|model| model.loaded.executable.lost());
    let reason = if let Lifecycle::Failed(reason) = &entry.lifecycle { Some(Arc::clone(reason)) } else { lost };
    ModelStatus {
        name: Arc::clone(name),
        version: Arc::clone(&entry.version),
        state: if reason.is_some() { ModelState::Failed } else { entry.lifecycle.state() },
        reason: reason.unwrap_or_default(),
        engine: entry.lifecycle.ready().map_or("", |model| model.engine_name()),
        description: Arc::clone(&entry.description),
        stateful: entry.stateful,
    }
}

/// Versions are numbers from 1; 0 stands for none known.
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

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
