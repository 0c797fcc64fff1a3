//! `grpc.health.v1`: the server under the empty name and its services' names, each model under its own
//! (serving if any of its versions is ready).

use std::{collections::BTreeMap, sync::Arc};

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    drain::{Drain, Phase},
    registry::ModelState,
    service::Service,
};

/// Names that stand for the whole server.
const SERVER_NAMES: [&str; 4] = ["", "tidemill.v1.InferenceService", "tidemill.v1.ModelService", "model.ModelInference"];

/// Keeps the health service in step with the server's phase and its models. Run it as one task; it ends when the server is closed.
pub async fn keep_health(service: Service, drain: Drain, mut reporter: HealthReporter) {
    let mut phase = drain.subscribe();
    let mut changes = service.repository().registry().changes();
    let mut told: BTreeMap<Arc<str>, bool> = BTreeMap::new();
    loop {
        let now = *phase.borrow_and_update();
        changes.mark_unchanged();
        let serving = now == Phase::Serving;
        let mut statuses: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for model in service.models() {
            *statuses.entry(model.name).or_insert(false) |= serving && model.state == ModelState::Ready;
        }
        statuses.extend(SERVER_NAMES.map(|name| (name.into(), serving)));
        for gone in told.keys().filter(|name| !statuses.contains_key(*name)) {
            // Who watches is told so before the watch ends.
            reporter.set_service_status(&**gone, status(false)).await;
            reporter.clear_service_status(gone).await;
        }
        // Who watches hears of each status that is set, also if it is the same as before.
        for (name, serving) in statuses.iter().filter(|(name, serving)| told.get(*name) != Some(serving)) {
            reporter.set_service_status(&**name, status(*serving)).await;
        }
        told = statuses;
        if now == Phase::Closed {
            return;
        }
        let changed = tokio::select! {
            changed = phase.changed() => changed,
            changed = changes.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
