//! A model's configuration, in Triton's shape.
//!
//! It says what is in force now, not what a file says: the largest batch is the one that pays, as measured and learned.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    OpenInference,
    describe::{item_dims, platform},
};
use crate::{
    domain::{Datatype, Fault, Signature, StateSpec, TensorSpec},
    registry::{Labels, Model, VersionPolicy},
    service::QueueStatus,
};

/// Numbers of the protocol's priorities: 1 goes first, 3 last.
const PRIORITY_LEVELS: u64 = 3;
/// The priority of requests that name none.
const DEFAULT_PRIORITY_LEVEL: u64 = 2;

/// A model's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    pub name: String,
    pub platform: &'static str,
    /// The engine.
    pub backend: &'static str,
    pub version_policy: VersionChoice,
    /// Most items that may be put into one call, for as long as this version serves: the manifest's limit, or 1 if its items share no
    /// calls. A request may bring more; they are spread over calls. 0 for a model without a batch dimension.
    pub max_batch_size: u32,
    pub input: Vec<ModelInput>,
    pub output: Vec<ModelOutput>,
    pub instance_group: Vec<InstanceGroup>,
    /// Name of the model's file; empty if it has none.
    pub default_model_filename: &'static str,
    /// Everything else, by name.
    pub parameters: BTreeMap<&'static str, ModelParameter>,
    pub model_transaction_policy: TransactionPolicy,
    pub response_cache: ResponseCache,
    /// `None` for a model with neither state nor batch dimension, whose items never share a call.
    #[serde(flatten)]
    pub scheduling: Option<Scheduling>,
}

/// Which versions are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionChoice {
    /// All of them.
    All {},
    /// The highest.
    Latest {
        /// How many.
        num_versions: u32,
    },
    /// Those that are listed.
    Specific {
        /// Their numbers.
        versions: Vec<i64>,
    },
}

/// An input of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelInput {
    pub name: String,
    /// Such as `TYPE_FP32`.
    pub data_type: String,
    /// `FORMAT_NONE`.
    pub format: &'static str,
    /// Without the batch; -1 where items may differ.
    pub dims: Vec<i64>,
    pub is_shape_tensor: bool,
    /// Whether items of different lengths share a batch.
    pub allow_ragged_batch: bool,
    /// Whether it may be left out: a mask is made up then.
    pub optional: bool,
}

/// An output of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelOutput {
    pub name: String,
    pub data_type: String,
    pub dims: Vec<i64>,
    /// The file next to the manifest that names its elements; empty if there is none.
    pub label_filename: String,
    pub is_shape_tensor: bool,
}

/// The lanes that run the model, which all models share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceGroup {
    pub name: String,
    /// `KIND_CPU`.
    pub kind: &'static str,
    /// Calls at once.
    pub count: u32,
}

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelParameter {
    pub string_value: String,
}

/// How many responses a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TransactionPolicy {
    /// Any number of them; else one.
    pub decoupled: bool,
}

/// Whether equal requests may get the answer to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ResponseCache {
    pub enable: bool,
}

/// How items are combined into calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduling {
    /// Any items.
    DynamicBatching(DynamicBatching),
    /// At most one item of a sequence, which keeps state.
    SequenceBatching(SequenceBatching),
}

/// Batches of any items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DynamicBatching {
    pub max_queue_delay_microseconds: u64,
    /// Whether responses come in the order of their requests.
    pub preserve_ordering: bool,
    /// How many priorities there are, 1 the first.
    pub priority_levels: u64,
    pub default_priority_level: u64,
    pub default_queue_policy: QueuePolicy,
}

/// What happens to items that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuePolicy {
    /// `REJECT`: items that are too late are not run.
    pub timeout_action: &'static str,
    /// 0, for none.
    pub default_timeout_microseconds: u64,
    /// Whether requests may name a timeout.
    pub allow_timeout_override: bool,
    /// Items of the model that may be queued.
    pub max_queue_size: u32,
}

/// Batches of items of different sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SequenceBatching {
    /// Time after which a sequence without a request is freed.
    pub max_sequence_idle_microseconds: u64,
    pub oldest: OldestFirst,
    pub state: Vec<SequenceState>,
}

/// The sequences whose items have waited longest go into the next call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldestFirst {
    /// Sequences open at once, all models together.
    pub max_candidate_sequences: u32,
    pub max_queue_delay_microseconds: u64,
    pub preserve_ordering: bool,
}

/// The state of a sequence that is kept from one item to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SequenceState {
    pub input_name: String,
    pub output_name: String,
    pub data_type: String,
    pub dims: Vec<i64>,
    pub initial_state: [InitialState; 1],
}

/// The initial value: zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitialState {
    pub name: String,
    pub data_type: String,
    pub dims: Vec<i64>,
    pub zero_data: bool,
}

impl OpenInference {
    /// The configuration of a model; no version means the newest that is ready.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`](crate::domain::FaultKind::NotFound) or
    /// [`FaultKind::Unavailable`](crate::domain::FaultKind::Unavailable).
    pub fn model_config(&self, name: &str, version: &str) -> Result<ModelConfig, Fault> {
        let (model, queue) = self.service().model(name, version)?;
        let signature = model.signature();
        let scheduling = if model.is_stateful() {
            Some(Scheduling::SequenceBatching(SequenceBatching {
                max_sequence_idle_microseconds: micros(self.config.idle_timeout()),
                oldest: OldestFirst {
                    max_candidate_sequences: count(self.service().config().max_streams),
                    max_queue_delay_microseconds: micros(model.loaded.max_delay),
                    preserve_ordering: false,
                },
                state: signature.states.iter().map(state).collect(),
            }))
        } else {
            signature.has_batch().then(|| Scheduling::DynamicBatching(dynamic_batching(&model, &queue)))
        };
        Ok(ModelConfig {
            name: name.to_owned(),
            platform: platform(model.engine_name()),
            backend: model.engine_name(),
            version_policy: version_choice(&model.loaded.versions),
            max_batch_size: if signature.has_batch() { count(model.loaded.max_batch) } else { 0 },
            input: (0..).zip(&signature.inputs).map(|(position, spec)| input(signature, position, spec)).collect(),
            output: signature.outputs.iter().enumerate().map(|(position, spec)| output(spec, model.labels(position))).collect(),
            instance_group: vec![InstanceGroup {
                name: "lanes".to_owned(),
                kind: "KIND_CPU",
                count: count(model.loaded.executable.lanes()),
            }],
            default_model_filename: if model.engine_name() == "synthetic" { "" } else { "model.onnx" },
            parameters: parameters(&model),
            model_transaction_policy: TransactionPolicy { decoupled: model.is_decoupled() },
            response_cache: ResponseCache { enable: self.cache.is_on() && model.may_cache() },
            scheduling,
        })
    }
}

fn version_choice(policy: &VersionPolicy) -> VersionChoice {
    match policy {
        VersionPolicy::All => VersionChoice::All {},
        VersionPolicy::Latest(versions) => VersionChoice::Latest { num_versions: count(*versions) },
        VersionPolicy::Listed(versions) => {
            VersionChoice::Specific { versions: versions.iter().map(|number| number.cast_signed()).collect() }
        }
    }
}

fn dynamic_batching(model: &Model, queue: &QueueStatus) -> DynamicBatching {
    DynamicBatching {
        max_queue_delay_microseconds: micros(model.loaded.max_delay),
        preserve_ordering: false,
        priority_levels: PRIORITY_LEVELS,
        default_priority_level: DEFAULT_PRIORITY_LEVEL,
        default_queue_policy: QueuePolicy {
            timeout_action: "REJECT",
            default_timeout_microseconds: 0,
            allow_timeout_override: true,
            max_queue_size: count(queue.queued_max),
        },
    }
}

fn input(signature: &Signature, position: usize, spec: &TensorSpec) -> ModelInput {
    let padding = signature.padding.as_ref();
    ModelInput {
        name: spec.name.to_string(),
        data_type: data_type(spec.datatype),
        format: "FORMAT_NONE",
        dims: item_dims(&spec.dims).collect(),
        is_shape_tensor: false,
        allow_ragged_batch: padding.is_some_and(|padding| padding.input(position).is_some()),
        optional: padding.is_some_and(|padding| padding.mask == Some(position)),
    }
}

fn output(spec: &TensorSpec, labels: Option<&Labels>) -> ModelOutput {
    ModelOutput {
        name: spec.name.to_string(),
        data_type: data_type(spec.datatype),
        dims: item_dims(&spec.dims).collect(),
        label_filename: labels.map_or_else(String::new, |labels| labels.file().to_owned()),
        is_shape_tensor: false,
    }
}

fn state(spec: &StateSpec) -> SequenceState {
    let dims: Vec<i64> = spec.dims.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
    let data_type = data_type(spec.datatype);
    let initial = InitialState { name: "zeros".to_owned(), data_type: data_type.clone(), dims: dims.clone(), zero_data: true };
    SequenceState {
        input_name: spec.input.to_string(),
        output_name: spec.output.to_string(),
        data_type,
        dims,
        initial_state: [initial],
    }
}

fn parameters(model: &Model) -> BTreeMap<&'static str, ModelParameter> {
    let loaded = &model.loaded;
    let mut values = vec![("batching", loaded.batching.verdict.label().to_owned()), ("max_batch", loaded.max_batch.to_string())];
    if !loaded.description.is_empty() {
        values.push(("description", loaded.description.to_string()));
    }
    if let Some(framing) = loaded.framing {
        values.push(("framing.kind", "pcm_s16le".to_owned()));
        values.push(("framing.sample_rate_hz", framing.sample_rate_hz.to_string()));
        values.push(("framing.window_samples", framing.window_samples.to_string()));
        values.push(("framing.context_samples", framing.context_samples.to_string()));
    }
    if let Some(waste_max) = loaded.padding_waste_max {
        values.push(("padding.waste_max", waste_max.to_string()));
    }
    values.into_iter().map(|(name, string_value)| (name, ModelParameter { string_value })).collect()
}

fn data_type(datatype: Datatype) -> String {
    match datatype {
        Datatype::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The protocol's counts are 32 bits wide and signed.
fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}
