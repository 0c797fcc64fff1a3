//! Which models there are, and loading and unloading them, in the protocol's words.

use serde::Serialize;

use super::OpenInference;
use crate::{
    auth::Scope,
    connections,
    domain::{Fault, FaultKind},
    registry::{IndexEntry, IndexState},
};

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryEntry {
    /// Name of the model.
    pub name: String,
    /// Version; empty if the model failed before its versions were known.
    pub version: String,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    pub state: &'static str,
    /// Why it does not serve; for one that does, why its last reload failed, if it did. Else empty.
    pub reason: String,
}

impl OpenInference {
    /// All versions of all models, in the order of names, then of numbers; those that serve, if only those are asked for.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] or [`FaultKind::Unauthenticated`] if the caller may not read about models.
    pub async fn repository_index(&self, ready_only: bool) -> Result<Vec<RepositoryEntry>, Fault> {
        self.service().permit(Scope::ModelsRead, None)?;
        let index = self.service().repository().index(ready_only).await;
        Ok(index.into_iter().filter(|found| self.service().shows(&found.name)).map(entry).collect())
    }

    /// Loads or reloads a model as it is in its folder; `parameters` are the names of the request's parameters.
    ///
    /// # Errors
    /// Those of [`Repository::load`](crate::registry::Repository::load), [`FaultKind::Denied`] if clients may not,
    /// [`FaultKind::Unsupported`] for parameters that bring a configuration or files, and [`FaultKind::Overloaded`] if too many such
    /// calls wait, or the client's share of them.
    pub async fn load_model(&self, name: &str, parameters: impl Iterator<Item = &str> + Send) -> Result<(), Fault> {
        let change = self.service.change("load", name);
        change.ended(self.load(name, parameters).await)
    }

    async fn load(&self, name: &str, mut parameters: impl Iterator<Item = &str> + Send) -> Result<(), Fault> {
        self.check_repository_access(name)?;
        if let Some(parameter) = parameters.find(|name| *name == "config" || name.starts_with("file:")) {
            let message =
                format!("'{parameter}' is not taken: models and their manifests are loaded from their folder in models.dir");
            return Err(Fault::new(FaultKind::Unsupported, message).with_field("parameters"));
        }
        let _turn = self.changes.turn(connections::peer()).await?;
        self.service().repository().load(name).await
    }

    /// Reloads a model and proves it again, with items drawn from `seed`, whatever was proven before.
    ///
    /// # Errors
    /// Those of [`Repository::prove`](crate::registry::Repository::prove); [`FaultKind::Denied`] and [`FaultKind::Overloaded`] as for a
    /// load.
    pub async fn prove_model(&self, name: &str, seed: u64) -> Result<(), Fault> {
        let change = self.service.change("prove", name);
        change.ended(self.prove(name, seed).await)
    }

    async fn prove(&self, name: &str, seed: u64) -> Result<(), Fault> {
        self.check_repository_access(name)?;
        let _turn = self.changes.turn(connections::peer()).await?;
        self.service().repository().prove(name, seed).await
    }

    /// Takes a model out of service. Nothing depends on another model here, so whatever is asked for its dependents is done.
    ///
    /// # Errors
    /// Those of [`Repository::unload`](crate::registry::Repository::unload); [`FaultKind::Denied`] and [`FaultKind::Overloaded`] as for a
    /// load.
    pub async fn unload_model(&self, name: &str) -> Result<(), Fault> {
        let change = self.service.change("unload", name);
        change.ended(self.unload(name).await)
    }

    async fn unload(&self, name: &str) -> Result<(), Fault> {
        self.check_repository_access(name)?;
        let _turn = self.changes.turn(connections::peer()).await?;
        self.service().repository().unload(name).await
    }
}

fn entry(entry: IndexEntry) -> RepositoryEntry {
    let state = match entry.state {
        IndexState::Loading => "LOADING",
        IndexState::Ready => "READY",
        IndexState::Unloading => "UNLOADING",
        IndexState::Failed | IndexState::Unloaded => "UNAVAILABLE",
    };
    RepositoryEntry { name: entry.name.to_string(), version: entry.version.to_string(), state, reason: entry.reason.to_string() }
}
