//! What the models that serve have done so far, for those who watch them live.

use std::sync::Arc;

use super::{LanesInUse, QueueStatus, Service};
use crate::{domain::Fault, registry::ModelState};

/// All of it, as of about now: each model is asked by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The lanes of all devices.
    pub lanes: LanesInUse,
    /// In the order of their names.
    pub models: Vec<ModelActivity>,
}

/// One version of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelActivity {
    /// Name.
    pub name: Arc<str>,
    /// Version.
    pub version: Arc<str>,
    /// Its queue, and what has left it.
    pub queue: QueueStatus,
}

impl Service {
    /// What the versions that serve, and that the caller may read about, have done and do.
    ///
    /// # Errors
    /// As [`Service::listed`].
    pub fn status(&self) -> Result<Status, Fault> {
        let ready = self.listed()?.into_iter().filter(|model| model.state == ModelState::Ready);
        // One that has been unloaded since it was listed is left out.
        let models = ready.filter_map(|model| {
            let (found, queue) = self.model(&model.name, &model.version).ok()?;
            Some(ModelActivity { name: Arc::clone(&found.loaded.name), version: Arc::clone(&found.loaded.version), queue })
        });
        Ok(Status { models: models.collect(), lanes: self.inner.devices.lanes_in_use() })
    }
}
