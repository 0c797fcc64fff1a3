//! The service `tidemill.v1.ModelService`.

use tonic::{Request, Response, Status};

use super::{convert, status::status_of};
use crate::{
    clock,
    domain::{Batching, Fault, Outcome, PaddingRule, Signature, StateSpec, TensorSpec, Timestamp, Verdict},
    native::Limits,
    open_inference::OpenInference,
    proto::{
        duration_to_wire,
        v1::{self, model_service_server::ModelService},
    },
    registry::{self, Model, ModelState, SEED_DEFAULT},
    service::{self, CallTimes, CostCurve, ModelActivity, QueueStatus, Service},
};

/// Describes what is served.
pub(super) struct Models {
    door: OpenInference,
    max_message_bytes: usize,
}

impl Models {
    pub(super) const fn new(door: OpenInference, max_message_bytes: usize) -> Self {
        Self { door, max_message_bytes }
    }

    const fn service(&self) -> &Service {
        self.door.service()
    }

    fn detail(&self, model: &Model, queue: &QueueStatus) -> v1::ModelDetail {
        let loaded = &model.loaded;
        let signature = loaded.executable.signature();
        let mut payloads = vec![v1::PayloadKind::Tensors.into()];
        if loaded.framing.is_some() {
            payloads.push(v1::PayloadKind::PcmS16le.into());
        }
        v1::ModelDetail {
            summary: Some(v1::ModelSummary {
                name: loaded.name.to_string(),
                version: loaded.version.to_string(),
                state: v1::ModelState::Ready.into(),
                reason: String::new(),
                engine: loaded.executable.engine_name().to_owned(),
                description: loaded.description.to_string(),
                stateful: signature.is_stateful(),
                batching: Some(batching(&loaded.batching)),
            }),
            inputs: signature.inputs.iter().map(tensor_spec).collect(),
            outputs: signature.outputs.iter().map(tensor_spec).collect(),
            states: signature.states.iter().map(state_spec).collect(),
            framing: loaded.framing.map(convert::framing),
            payloads,
            batch_costs: queue.curve.points().map(|(size, duration)| convert::call_cost(size, duration)).collect(),
            batch_cap: u32::try_from(queue.batch_cap).unwrap_or(u32::MAX),
            segment_rules: loaded.segments.as_ref().map(|post| v1::SegmentRules {
                threshold: post.rules.threshold,
                negative_threshold: post.rules.negative_threshold,
                min_speech_ms: post.rules.min_speech_ms,
                min_silence_ms: post.rules.min_silence_ms,
                pad_ms: post.rules.pad_ms,
            }),
            default_limits: Some(convert::limits(&Limits {
                stream: self.service().limits(0),
                max_message_bytes: self.max_message_bytes,
            })),
            shape_costs: queue.shape_curves.iter().map(shape_cost).collect(),
            padding: signature.padding.as_ref().map(|rule| padding(rule, loaded.padding_waste_max, signature)),
            no_batch: !signature.has_batch(),
        }
    }
}

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(&self, _: Request<v1::ListModelsRequest>) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.service().listed().map_err(|fault| status_of(&fault))?.into_iter().map(summary).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn get_model(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::GetModelResponse>, Status> {
        let v1::GetModelRequest { name, version } = request.into_inner();
        if name.is_empty() {
            return Err(status_of(&Fault::invalid("name", "the name of the model is missing")));
        }
        let (model, queue) = self.service().model(&name, &version).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(v1::GetModelResponse { model: Some(self.detail(&model, &queue)) }))
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let service::Status { lanes, models } = self.service().status().map_err(|fault| status_of(&fault))?;
        Ok(Response::new(v1::GetStatusResponse {
            uptime: Some(duration_to_wire(clock::now().since(Timestamp::ZERO))),
            lanes: u32::try_from(lanes.lanes).unwrap_or(u32::MAX),
            lanes_busy: u32::try_from(lanes.busy).unwrap_or(u32::MAX),
            draining: !self.service().is_serving(),
            models: models.iter().map(activity).collect(),
        }))
    }

    async fn prove_model(&self, request: Request<v1::ProveModelRequest>) -> Result<Response<v1::ProveModelResponse>, Status> {
        let v1::ProveModelRequest { name, seed } = request.into_inner();
        if name.is_empty() {
            return Err(status_of(&Fault::invalid("name", "the name of the model is missing")));
        }
        let seed = if seed == 0 { SEED_DEFAULT } else { seed };
        self.door.prove_model(&name, seed).await.map_err(|fault| status_of(&fault))?;
        let proven = self.service().models().into_iter().filter(|status| *status.name == *name);
        Ok(Response::new(v1::ProveModelResponse { models: proven.map(summary).collect() }))
    }
}

fn summary(status: registry::ModelStatus) -> v1::ModelSummary {
    let state = match status.state {
        ModelState::Loading => v1::ModelState::Loading,
        ModelState::Ready => v1::ModelState::Ready,
        ModelState::Failed => v1::ModelState::Failed,
        ModelState::Unloaded => v1::ModelState::Unloaded,
    };
    v1::ModelSummary {
        name: status.name.to_string(),
        version: status.version.to_string(),
        state: state.into(),
        reason: status.reason.to_string(),
        engine: status.engine.to_owned(),
        description: status.description.to_string(),
        stateful: status.stateful,
        batching: status.batching.as_ref().map(batching),
    }
}

fn activity(model: &ModelActivity) -> v1::ModelActivity {
    let QueueStatus { batch_cap, streams, queued, running, ledger, statistics, .. } = &model.queue;
    let calls = statistics.sizes().map(|size| {
        let CallTimes { gather, compute, scatter } = size.times;
        v1::CallCount {
            batch_size: u32::try_from(size.size).unwrap_or(u32::MAX),
            calls: size.calls,
            duration: Some(duration_to_wire(gather + compute + scatter)),
        }
    });
    v1::ModelActivity {
        name: model.name.to_string(),
        version: model.version.to_string(),
        streams: *streams as u64,
        items_queued: *queued as u64,
        items_running: *running as u64,
        items: Some(v1::ItemCounts {
            received: ledger.received(),
            ok: ledger.outcome(Outcome::Ok),
            refused: ledger.outcome(Outcome::Refused),
            dropped: ledger.outcome(Outcome::Dropped),
            expired: ledger.outcome(Outcome::Expired),
            cancelled: ledger.outcome(Outcome::Cancelled),
            failed: ledger.outcome(Outcome::Failed),
        }),
        calls: calls.collect(),
        waited: Some(duration_to_wire(statistics.waited())),
        batch_cap: u32::try_from(*batch_cap).unwrap_or(u32::MAX),
    }
}

fn batching(found: &Batching) -> v1::Batching {
    let verdict = match found.verdict {
        Verdict::Independent => v1::BatchingVerdict::Independent,
        Verdict::Dependent => v1::BatchingVerdict::Dependent,
        Verdict::NotABatch => v1::BatchingVerdict::NotABatch,
        Verdict::PaddingLeaks => v1::BatchingVerdict::PaddingLeaks,
        Verdict::Random => v1::BatchingVerdict::Random,
        Verdict::Unproven => v1::BatchingVerdict::Unproven,
        Verdict::Off => v1::BatchingVerdict::Off,
    };
    v1::Batching {
        verdict: verdict.into(),
        shares_calls: found.shares_calls,
        detail: found.detail.to_string(),
        proven_batch: u32::try_from(found.proven_batch).unwrap_or(u32::MAX),
        seed: found.seed,
    }
}

fn shape_cost((item_bytes, curve): &(usize, CostCurve)) -> v1::ShapeCost {
    let batch_costs = curve.points().map(|(size, duration)| convert::call_cost(size, duration)).collect();
    v1::ShapeCost { item_bytes: *item_bytes as u64, batch_costs }
}

fn padding(rule: &PaddingRule, waste_max: Option<f64>, signature: &Signature) -> v1::Padding {
    let mask = rule.mask.and_then(|position| signature.inputs.get(position));
    v1::Padding {
        buckets: rule.buckets.iter().map(|bucket| *bucket as u64).collect(),
        waste_max: waste_max.unwrap_or(1.0),
        mask: mask.map(|input| input.name.to_string()).unwrap_or_default(),
    }
}

fn tensor_spec(spec: &TensorSpec) -> v1::TensorSpec {
    v1::TensorSpec {
        name: spec.name.to_string(),
        datatype: convert::to_wire_datatype(spec.datatype).into(),
        shape: spec.shape_with_batch(),
    }
}

fn state_spec(state: &StateSpec) -> v1::StateSpec {
    let mut shape: Vec<i64> = state.dims.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
    if let Some(axis) = state.batch_axis {
        shape.insert(axis.min(shape.len()), -1);
    }
    v1::StateSpec {
        input: state.input.to_string(),
        output: state.output.to_string(),
        datatype: convert::to_wire_datatype(state.datatype).into(),
        shape,
        batch_axis: u32::try_from(state.batch_axis.unwrap_or_default()).unwrap_or(u32::MAX),
    }
}
