//! Models that come, change and go while the server runs.
//!
//! Knows the sources, the registry, and a [`Host`] that runs what is loaded. Knows no protocol, and no queue but by its keys.
//!
//! # Changes
//! One at a time, on a thread that may block. A version is loaded and measured while the old one serves. Then all versions of the
//! model are exchanged in one change of the registry, and only then are the old ones retired: no new stream finds them, and open
//! streams keep them until they end.
//!
//! # Failures
//! A version that cannot be loaded replaces nothing. One that the manifest no longer wants, or whose files are gone, serves until
//! its replacements do.

mod index;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tracing::{error, info};

use super::{
    Installer, LoadFault, LoadFaults, LoadOptions, LoadedModel, Model, ModelSource, ModelState, Registry, Remark,
    faults::{not_installed, reason_of},
    found::{Candidate, Discovery, Found, Unusable, candidates, discover},
    loader::{load_found, tell, tell_ready},
    origin::Origin,
    proving::prove_beside,
    version_text,
};
use crate::{
    domain::{Fault, FaultKind},
    engine::{EngineChoice, LaneThreads},
    proof::{Aside, SEED_DEFAULT, Store},
    scheduler::ModelKey,
    threads,
};

pub use index::{IndexEntry, IndexState};

/// Files of at most this many bytes in all are loaded in spare time, if there is any, without taking a core from the lanes: they
/// load quickly even once there is none.
const STANDING_BYTES_MAX: u64 = 32 << 20;

/// The reason in the list for a model that was taken out of service by hand.
const UNLOADED: &str = "unloaded";

/// Runs loaded models.
pub trait Host: Installer + Send {
    /// Threads to load and try a model on while others serve; by default they take their share of the cores.
    fn aside(&self) -> Aside {
        Aside::new(|| ())
    }

    /// Lets no further stream open on a model. It is freed when its last stream has ended.
    fn retire(&self, key: ModelKey);

    /// Whether a model is still there.
    fn holds(&self, key: ModelKey) -> bool;

    /// Counts an attempt to load a version. `serves` says whether one of that number does now.
    fn count_load(&self, name: &str, version: &str, loaded: bool, serves: bool);
}

/// The models of all sources, and the ways to change which of them serve. Clones share everything.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    sources: Vec<Box<dyn ModelSource>>,
    engine_default: EngineChoice,
    lanes: Vec<LaneThreads>,
    host: Box<dyn Host>,
    /// Where models are loaded and tried while others serve; its threads start when they are first needed.
    aside: OnceLock<Aside>,
    /// Proofs of earlier starts.
    proofs: Store,
    /// Held while a change is made.
    books: Arc<tokio::sync::Mutex<Books>>,
    /// Copies that were retired and may still have streams.
    retired: Mutex<Vec<Retired>>,
    /// Held while the sources are looked through for a list.
    listing: tokio::sync::Mutex<()>,
}

/// The sources' contents, from when they were last looked through.
#[derive(Default)]
struct Books {
    models: BTreeMap<Arc<str>, Book>,
    unusable: Vec<Unusable>,
    remarks: Vec<Remark>,
}

impl Books {
    /// Logs the remarks about the folders, unless they are the same as last time.
    fn remark(&mut self, remarks: &[Remark]) {
        remarks.iter().filter(|remark| !self.remarks.contains(remark)).for_each(tell);
        self.remarks = remarks.to_vec();
    }
}

/// The files of a model as they were when it was last loaded, or should have been.
#[derive(Default)]
struct Book {
    folder: PathBuf,
    manifest: String,
    origins: BTreeMap<u64, Origin>,
    /// By hand; only loading it by hand brings it back.
    unloaded: bool,
}

struct Retired {
    name: Arc<str>,
    version: Arc<str>,
    key: ModelKey,
}

/// The result of looking through the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refreshed {
    /// Versions that now serve as the sources have them.
    pub loaded: usize,
    /// Versions that could not be loaded.
    pub failed: usize,
    /// Copies that take no new streams any more, those that were replaced included.
    pub retired: usize,
}

/// Which versions a change loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All that the manifest wants.
    Every,
    /// Those of them that are new, or whose files or manifest are.
    Changed,
}

impl Repository {
    /// The models of `sources`, none of which is loaded yet. Of two models with one name, that of the later source counts. Those that
    /// leave the choice open run on `engine_default`, and all of them on `lanes`. What `proofs` holds is not proven again.
    #[must_use]
    pub fn new(
        sources: Vec<Box<dyn ModelSource>>,
        engine_default: EngineChoice,
        lanes: Vec<LaneThreads>,
        host: Box<dyn Host>,
        proofs: Store,
    ) -> Self {
        let (registry, books, retired, listing) = Default::default();
        Self {
            inner: Arc::new(Inner {
                registry,
                sources,
                engine_default,
                lanes,
                host,
                aside: OnceLock::new(),
                proofs,
                books,
                retired,
                listing,
            }),
        }
    }

    /// The models.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// Loads all models for the first time, before the lanes work. Blocks.
    ///
    /// # Errors
    /// Every fault of every model at once; with `keep_going` there is none, and faults are logged.
    pub fn start(&self, keep_going: bool) -> Result<(), LoadFaults> {
        self.inner.start(&mut self.inner.books.blocking_lock(), keep_going)
    }

    /// Loads or reloads a model as its source has it now: each version that its manifest wants. Versions that it no longer wants,
    /// or that are gone, are taken out of service, unless those that should serve instead cannot be loaded.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] if no source has it; [`FaultKind::Failed`] with everything that is wrong with it. Then what served
    /// goes on serving. If the caller goes away, the change is made all the same.
    pub async fn load(&self, name: &str) -> Result<(), Fault> {
        let name = name.to_owned();
        self.change(move |inner, books| inner.load(books, &name, None)).await?
    }

    /// The same, but proves the model again, whatever earlier starts have proven, with items drawn from `seed`.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub async fn prove(&self, name: &str, seed: u64) -> Result<(), Fault> {
        let name = name.to_owned();
        self.change(move |inner, books| inner.load(books, &name, Some(seed))).await?
    }

    /// Takes all versions of a model out of service, until it is loaded again by hand. Returns once no new stream can open on it;
    /// those that are open go on.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] if it was never loaded.
    pub async fn unload(&self, name: &str) -> Result<(), Fault> {
        let name = name.to_owned();
        self.change(move |inner, books| inner.unload(books, &name)).await?
    }

    /// Looks through all sources and follows their changes: new and changed versions are loaded, vanished ones taken out of
    /// service. Models that were unloaded by hand stay so. What cannot be loaded is logged.
    ///
    /// # Errors
    /// [`FaultKind::Failed`] if the work broke off.
    pub async fn refresh(&self) -> Result<Refreshed, Fault> {
        self.change(Inner::refresh).await
    }

    /// All versions, in the order of names, then of numbers: those that were loaded, and, unless only the ready ones are asked for,
    /// those that the sources have besides.
    pub async fn index(&self, ready_only: bool) -> Vec<IndexEntry> {
        let known = self.inner.known();
        if ready_only {
            return known.into_values().filter(|entry| entry.state == IndexState::Ready).collect();
        }
        let _turn = self.inner.listing.lock().await;
        let inner = Arc::clone(&self.inner);
        let found = threads::aside(move || inner.found_versions()).await.unwrap_or_default();
        let mut index = known;
        for (at, entry) in found {
            index.entry(at).or_insert(entry);
        }
        index.into_values().collect()
    }

    async fn change<T: Send + 'static>(&self, work: impl FnOnce(&Inner, &mut Books) -> T + Send + 'static) -> Result<T, Fault> {
        let mut books = Arc::clone(&self.inner.books).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let change = threads::aside(move || work(&inner, &mut books)).await;
        change.map_err(|error| Fault::new(FaultKind::Failed, format!("the models could not be changed: {error}")))
    }
}

impl Inner {
    fn discover(&self) -> Discovery<'_> {
        discover(self.sources.iter().map(|source| &**source))
    }

    /// With a seed, models are proven again.
    fn options(&self, keep_going: bool, seed: Option<u64>) -> LoadOptions<'_> {
        let (proves_anew, seed) = (seed.is_some(), seed.unwrap_or(SEED_DEFAULT));
        let Self { engine_default, lanes, proofs, .. } = self;
        LoadOptions { engine_default: *engine_default, lanes, keep_going, proofs, proves_anew, seed }
    }

    fn start(&self, books: &mut Books, keep_going: bool) -> Result<(), LoadFaults> {
        let found = self.discover();
        for (name, found) in &found.models {
            books.models.entry(Arc::clone(name)).or_default().enter(found, &candidates(found));
        }
        load_found(&self.registry, &found, &self.options(keep_going, None), &*self.host)?;
        (books.unusable, books.remarks) = (found.unusable, found.remarks);
        for status in self.registry.list() {
            let loaded = status.state == ModelState::Ready;
            self.host.count_load(&status.name, &status.version, loaded, loaded);
        }
        Ok(())
    }

    fn load(&self, books: &mut Books, name: &str, seed: Option<u64>) -> Result<(), Fault> {
        let found = self.discover();
        books.remark(&found.remarks);
        let Some((name, found)) = found.models.get_key_value(name) else {
            return Err(self.not_found(books.models.get_mut(name), name, &found.unusable));
        };
        let book = books.models.entry(Arc::clone(name)).or_default();
        book.unloaded = false;
        let Applied { faults, .. } = self.apply(book, found, Extent::Every, seed);
        if faults.is_empty() { Ok(()) } else { Err(broken(name, &reason_of(&faults))) }
    }

    /// Why a model that no source shows cannot be loaded.
    fn not_found(&self, book: Option<&mut Book>, name: &str, unusable: &[Unusable]) -> Fault {
        let hides =
            |unusable: &&Unusable| unusable.is_named(name) || book.as_ref().is_some_and(|book| unusable.hides(&book.folder));
        match unusable.iter().find(hides) {
            Some(unusable) => {
                if let Some(book) = book {
                    self.hide(name, book, unusable);
                }
                broken(name, &unusable.fault().to_string())
            }
            None => {
                let message =
                    format!("there is no model '{}' to load, neither in models.dir nor in the binary", super::excerpt(name));
                Fault::new(FaultKind::NotFound, message).with_field("model")
            }
        }
    }

    /// Keeps a model that cannot be looked at as it is. If its own folder is at fault, the model says so until all of it is
    /// reloaded.
    fn hide(&self, name: &str, book: &mut Book, unusable: &Unusable) {
        if unusable.path == book.folder {
            self.registry.note_failure(name, &unusable.fault().to_string().into());
            book.origins.clear();
        }
    }

    fn unload(&self, books: &mut Books, name: &str) -> Result<(), Fault> {
        let Some(left) = self.registry.unload(name, &UNLOADED.into()) else {
            let message = format!("there is no model '{}' to unload", super::excerpt(name));
            return Err(Fault::new(FaultKind::NotFound, message).with_field("model"));
        };
        if let Some(book) = books.models.get_mut(name) {
            book.unloaded = true;
        }
        info!(model = name, versions = left.len(), "model was unloaded");
        self.retire(left);
        Ok(())
    }

    fn refresh(&self, books: &mut Books) -> Refreshed {
        let found = self.discover();
        let mut refreshed = Refreshed::default();
        books.remark(&found.remarks);
        for (name, found) in &found.models {
            let book = books.models.entry(Arc::clone(name)).or_default();
            if !book.unloaded {
                refreshed.add(&self.apply(book, found, Extent::Changed, None));
            }
        }
        for unusable in found.unusable.iter().filter(|unusable| !books.unusable.contains(unusable)) {
            error!(fault = %unusable.fault(), "a folder holds no model that can be served");
        }
        books.models.retain(|name, book| {
            if found.models.contains_key(name) {
                return true;
            }
            if let Some(unusable) = found.unusable.iter().find(|unusable| unusable.hides(&book.folder)) {
                self.hide(name, book, unusable);
                return true;
            }
            let left = self.registry.remove(name);
            info!(model = %name, versions = left.len(), "model is gone from its folder");
            refreshed.retired += left.len();
            self.retire(left);
            false
        });
        books.unusable = found.unusable;
        refreshed
    }

    /// Brings one model in line with its source.
    fn apply(&self, book: &mut Book, found: &Found<'_>, extent: Extent, seed: Option<u64>) -> Applied {
        let name = &found.model.name;
        let candidates = candidates(found);
        let wanted: BTreeSet<u64> = candidates.iter().map(|candidate| candidate.number).collect();
        let there: BTreeSet<u64> = found.model.versions.iter().map(|version| version.number).collect();
        let attempts: Vec<bool> =
            candidates.iter().map(|candidate| extent == Extent::Every || book.differs(found, candidate)).collect();
        book.enter(found, &candidates);
        if !attempts.contains(&true) && self.registry.numbers(name).is_subset(&wanted) {
            return Applied::default();
        }
        let attempted = || candidates.iter().zip(&attempts).filter(|(_, attempt)| **attempt).map(|(candidate, _)| candidate);
        self.registry.begin(name, attempted().map(Candidate::entry));
        let mut applied = Applied::default();
        let mut outcomes = Vec::new();
        for candidate in attempted() {
            let outcome = self.load_beside(name, candidate, seed);
            if let Err(faults) = &outcome {
                applied.fail(faults);
            }
            outcomes.push((candidate.number, outcome.map_err(|faults| reason_of(&faults))));
        }
        let results: Vec<(u64, bool)> = outcomes.iter().map(|(number, outcome)| (*number, outcome.is_ok())).collect();
        let left = self.registry.finish(name, outcomes, |number, lifecycle, serving| {
            let replaced = if there.contains(&number) { wanted.is_subset(serving) } else { !wanted.is_disjoint(serving) };
            !wanted.contains(&number) && (replaced || lifecycle.ready().is_none())
        });
        let serves: BTreeSet<Arc<str>> = self.serving_versions(name);
        for (number, loaded) in results {
            let version = version_text(number);
            applied.loaded += usize::from(loaded);
            self.host.count_load(name, &version, loaded, serves.contains(&version));
        }
        for fault in &applied.faults {
            error!(model = %name, %fault, "a model could not be loaded; if it served, it still does");
        }
        applied.retired = left.len();
        self.retire(left);
        applied
    }

    fn load_beside(&self, name: &Arc<str>, candidate: &Candidate<'_>, seed: Option<u64>) -> Result<Arc<Model>, Vec<LoadFault>> {
        let plan = candidate.plan.as_ref().map_err(Clone::clone)?;
        let options = self.options(true, seed);
        let aside = self.aside.get_or_init(|| self.host.aside());
        let load = || plan.load(name, &options);
        let stands_back = candidate.origin.bytes() <= STANDING_BYTES_MAX && aside.has_time();
        let mut loaded = if stands_back { aside.stand_back(load)? } else { load()? };
        let measured = prove_beside(&mut loaded, &options, &*self.host, aside);
        let key = measured
            .and_then(|measured| self.host.install(&loaded, &measured))
            .map_err(|fault| vec![not_installed(candidate.folder.clone(), &fault)])?;
        let model = Model { loaded, key };
        tell_ready(&model);
        Ok(Arc::new(model))
    }

    fn serving_versions(&self, name: &str) -> BTreeSet<Arc<str>> {
        let list = self.registry.list().into_iter();
        list.filter(|status| *status.name == *name && status.state == ModelState::Ready).map(|status| status.version).collect()
    }

    fn retire(&self, left: Vec<Arc<Model>>) {
        let mut retired = self.retired.lock();
        for model in &left {
            self.host.retire(model.key);
            let LoadedModel { name, version, .. } = &model.loaded;
            retired.push(Retired { name: Arc::clone(name), version: Arc::clone(version), key: model.key });
        }
        retired.retain(|retired| self.host.holds(retired.key));
    }
}

fn broken(name: &str, reason: &str) -> Fault {
    Fault::new(FaultKind::Failed, format!("model '{name}' could not be loaded: {reason}"))
}

impl Book {
    fn differs(&self, found: &Found<'_>, candidate: &Candidate<'_>) -> bool {
        self.manifest != manifest_text(found) || self.origins.get(&candidate.number) != Some(&candidate.origin)
    }

    fn enter(&mut self, found: &Found<'_>, candidates: &[Candidate<'_>]) {
        self.folder.clone_from(&found.model.folder);
        self.manifest = manifest_text(found).to_owned();
        self.origins = candidates.iter().map(|candidate| (candidate.number, candidate.origin.clone())).collect();
    }
}

/// Its text, or why there is none.
fn manifest_text<'a>(found: &'a Found<'_>) -> &'a str {
    match &found.model.manifest {
        Ok(text) => text,
        Err(reason) => reason,
    }
}

/// The result of bringing a model in line with its source.
#[derive(Default)]
struct Applied {
    loaded: usize,
    failed: usize,
    retired: usize,
    faults: Vec<LoadFault>,
}

impl Applied {
    fn fail(&mut self, faults: &[LoadFault]) {
        self.failed += 1;
        for fault in faults {
            // A manifest is at fault once, however many versions it has.
            if !self.faults.contains(fault) {
                self.faults.push(fault.clone());
            }
        }
    }
}

impl Refreshed {
    const fn add(&mut self, applied: &Applied) {
        self.loaded += applied.loaded;
        self.failed += applied.failed;
        self.retired += applied.retired;
    }
}

#[cfg(test)]
mod tests;
