//! `grpc.health.v1`: the server under the empty name and its services' names, each model under its own
//! (serving if any of its versions is ready).

use std::collections::BTreeMap;

use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    drain::{Drain, Phase},
    registry::ModelState,
    service::Service,
};

/// Names that stand for the whole server.
const SERVER_NAMES: [&str; 4] = ["", "tidemill.v1.InferenceService", "tidemill.v1.ModelService", "model.ModelInference"];

/// Keeps the health service in step with the server's phase. Run it as one task; it ends when the server is closed.
pub async fn keep_health(service: Service, drain: Drain, reporter: HealthReporter) {
    let mut phase = drain.subscribe();
    loop {
        let now = *phase.borrow_and_update();
        let serving = now == Phase::Serving;
        for name in SERVER_NAMES {
            reporter.set_service_status(name, status(serving)).await;
        }
        let mut models = BTreeMap::new();
        for model in service.models() {
            *models.entry(model.name).or_insert(false) |= model.state == ModelState::Ready;
        }
        for (name, ready) in models {
            reporter.set_service_status(&*name, status(serving && ready)).await;
        }
        if now == Phase::Closed || phase.changed().await.is_err() {
            return;
        }
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
