//! The list of all versions: those that were loaded, those that still have streams, and whatever else the sources have.

use std::{collections::BTreeMap, sync::Arc};

use super::{Inner, Retired};
use crate::{
    domain::{Batching, Verdict},
    registry::{ModelState, found::candidates, version_text},
};

const NOT_LOADED: &str = "is in the folder but was not loaded";
const LEFT_OUT: &str = "is in the folder but is left out by the manifest's versions";

/// Where a version of the index is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexState {
    /// Being loaded, while nothing of it serves.
    Loading,
    /// Serving; also while a new copy of it is being loaded.
    Ready,
    /// Could not be loaded, or has lost its engine.
    Failed,
    /// Takes no new streams; some are still open.
    Unloading,
    /// Not served.
    Unloaded,
}

impl IndexState {
    /// In lower case, for logs and messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Unloading => "unloading",
            Self::Unloaded => "unloaded",
        }
    }
}

/// One version in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Name of the model.
    pub name: Arc<str>,
    /// Version; empty if the model failed before its versions were known.
    pub version: Arc<str>,
    /// Where it is in its life.
    pub state: IndexState,
    /// Why it does not serve; for one that does, why its last reload failed, or why its items share no calls. Otherwise empty.
    pub reason: Arc<str>,
}

/// By name and number.
pub(super) type Index = BTreeMap<(Arc<str>, u64), IndexEntry>;

fn place(entry: &IndexEntry) -> (Arc<str>, u64) {
    (Arc::clone(&entry.name), entry.version.parse().unwrap_or(0))
}

/// How a model that serves is batched, unless its items were simply found to be independent.
fn reservation(batching: Option<&Batching>) -> Arc<str> {
    let notable = batching.filter(|batching| !matches!(batching.verdict, Verdict::Independent | Verdict::Off));
    notable.map_or_else(Arc::default, |batching| {
        let how = if batching.shares_calls { "items share calls" } else { "one item a call" };
        format!("{how}, {}: {}", batching.verdict, batching.detail).into()
    })
}

impl Inner {
    /// The versions that were loaded, and those that still have streams.
    pub(super) fn known(&self) -> Index {
        let mut index = Index::new();
        for status in self.registry.list() {
            let state = match status.state {
                ModelState::Loading => IndexState::Loading,
                ModelState::Ready => IndexState::Ready,
                ModelState::Failed => IndexState::Failed,
                ModelState::Unloaded => IndexState::Unloaded,
            };
            let reason = if status.reason.is_empty() { reservation(status.batching.as_ref()) } else { status.reason };
            let entry = IndexEntry { name: status.name, version: status.version, state, reason };
            index.insert(place(&entry), entry);
        }
        for Retired { name, version, .. } in self.retired.lock().iter().filter(|retired| self.host.holds(retired.key)) {
            let (name, version, reason) = (Arc::clone(name), Arc::clone(version), "its last streams are open".into());
            let unloading = IndexEntry { name, version, state: IndexState::Unloading, reason };
            let entry = index.entry(place(&unloading)).or_insert_with(|| unloading.clone());
            if entry.state == IndexState::Unloaded {
                *entry = unloading;
            }
        }
        index
    }

    /// All versions of the sources, as if none were loaded. Blocks.
    pub(super) fn found_versions(&self) -> Index {
        let found = self.discover();
        let mut index = Index::new();
        for found in found.models.values() {
            let wanted = candidates(found).into_iter().map(|candidate| (candidate.number, NOT_LOADED));
            let there = found.model.versions.iter().map(|version| (version.number, LEFT_OUT));
            for (number, reason) in wanted.chain(there) {
                let (name, version, reason) = (Arc::clone(&found.model.name), version_text(number), reason.into());
                let entry = IndexEntry { name, version, state: IndexState::Unloaded, reason };
                index.entry(place(&entry)).or_insert(entry);
            }
        }
        index
    }
}
