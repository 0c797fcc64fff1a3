//! `grpc.health.v1`: the server under the empty name and its services' names, each model under its own
//! (serving if any of its versions is ready).

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    drain::{Drain, Phase},
    registry::ModelState,
    service::Service,
};

/// Names that stand for the whole server.
const SERVER_NAMES: [&str; 5] =
    ["", "tidemill.v1.InferenceService", "tidemill.v1.ModelService", "inference.GRPCInferenceService", "model.ModelInference"];

/// Keeps the health service in step with the server's phase and its models.
pub struct HealthKeeper {
    service: Service,
    phase: watch::Receiver<Phase>,
    changes: watch::Receiver<u64>,
    reporter: HealthReporter,
    /// Who was said to be serving, or not.
    told: BTreeMap<Arc<str>, bool>,
}

impl HealthKeeper {
    /// Tells how things are now, so that nobody who comes from here on asks in vain.
    pub async fn begin(service: Service, drain: &Drain, reporter: HealthReporter) -> Self {
        let changes = service.repository().registry().changes();
        let mut keeper = Self { service, phase: drain.subscribe(), changes, reporter, told: BTreeMap::new() };
        keeper.tell().await;
        keeper
    }

    /// Tells each change. Run it as one task; it ends when the server is closed.
    pub async fn keep(mut self) {
        loop {
            let changed = tokio::select! {
                changed = self.phase.changed() => changed,
                changed = self.changes.changed() => changed,
            };
            if changed.is_err() || self.tell().await == Phase::Closed {
                return;
            }
        }
    }

    async fn tell(&mut self) -> Phase {
        let phase = *self.phase.borrow_and_update();
        self.changes.mark_unchanged();
        let serving = phase == Phase::Serving;
        let mut statuses: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for model in self.service.models() {
            *statuses.entry(model.name).or_insert(false) |= serving && model.state == ModelState::Ready;
        }
        statuses.extend(SERVER_NAMES.map(|name| (name.into(), serving)));
        for gone in self.told.keys().filter(|name| !statuses.contains_key(*name)) {
            // Who watches is told so before the watch ends.
            self.reporter.set_service_status(&**gone, status(false)).await;
            self.reporter.clear_service_status(gone).await;
        }
        // Who watches hears of each status that is set, also if it is the same as before.
        for (name, serving) in statuses.iter().filter(|(name, serving)| self.told.get(*name) != Some(serving)) {
            self.reporter.set_service_status(&**name, status(*serving)).await;
        }
        self.told = statuses;
        phase
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
