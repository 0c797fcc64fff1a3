//! The protocol's descriptions of models, as messages.

use crate::{
    open_inference::{
        BatchStatistics, DynamicBatching, InferStatistics, InitialState, InstanceGroup, ModelConfig, ModelInput, ModelMetadata,
        ModelOutput, ModelStatistics, OldestFirst, QueuePolicy, Scheduling, SequenceBatching, SequenceState, StatisticDuration,
        TensorMetadata, VersionChoice,
    },
    proto::inference::{
        self, DataType,
        model_config::SchedulingChoice,
        model_input::Format,
        model_instance_group::Kind,
        model_metadata_response,
        model_queue_policy::TimeoutAction,
        model_sequence_batching as sequences,
        model_version_policy::{self, PolicyChoice},
    },
};

pub(super) fn metadata(metadata: ModelMetadata) -> inference::ModelMetadataResponse {
    let ModelMetadata { name, versions, platform, inputs, outputs } = metadata;
    inference::ModelMetadataResponse {
        name,
        versions,
        platform: platform.to_owned(),
        inputs: inputs.into_iter().map(tensor_metadata).collect(),
        outputs: outputs.into_iter().map(tensor_metadata).collect(),
    }
}

fn tensor_metadata(tensor: TensorMetadata) -> model_metadata_response::TensorMetadata {
    let TensorMetadata { name, datatype, shape } = tensor;
    model_metadata_response::TensorMetadata { name, datatype: datatype.to_owned(), shape }
}

pub(super) fn config(config: ModelConfig) -> inference::ModelConfig {
    let ModelConfig {
        name,
        platform,
        backend,
        version_policy,
        max_batch_size,
        input,
        output,
        instance_group,
        default_model_filename,
        parameters,
        model_transaction_policy,
        response_cache,
        scheduling,
    } = config;
    inference::ModelConfig {
        name,
        platform: platform.to_owned(),
        version_policy: Some(self::version_policy(version_policy)),
        max_batch_size: signed(max_batch_size),
        input: input.into_iter().map(model_input).collect(),
        output: output.into_iter().map(model_output).collect(),
        instance_group: instance_group.into_iter().map(self::instance_group).collect(),
        default_model_filename: default_model_filename.to_owned(),
        parameters: parameters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), inference::ModelParameter { string_value: value.string_value }))
            .collect(),
        scheduling_choice: scheduling.map(scheduling_choice),
        backend: backend.to_owned(),
        model_transaction_policy: Some(inference::ModelTransactionPolicy { decoupled: model_transaction_policy.decoupled }),
        response_cache: Some(inference::ModelResponseCache { enable: response_cache.enable }),
        ..inference::ModelConfig::default()
    }
}

fn version_policy(policy: VersionChoice) -> inference::ModelVersionPolicy {
    let choice = match policy {
        VersionChoice::All {} => PolicyChoice::All(model_version_policy::All {}),
        VersionChoice::Latest { num_versions } => PolicyChoice::Latest(model_version_policy::Latest { num_versions }),
        VersionChoice::Specific { versions } => PolicyChoice::Specific(model_version_policy::Specific { versions }),
    };
    inference::ModelVersionPolicy { policy_choice: Some(choice) }
}

fn model_input(input: ModelInput) -> inference::ModelInput {
    let ModelInput { name, data_type, format, dims, is_shape_tensor, allow_ragged_batch, optional } = input;
    inference::ModelInput {
        name,
        data_type: self::data_type(&data_type),
        format: Format::from_str_name(format).unwrap_or_default().into(),
        dims,
        reshape: None,
        is_shape_tensor,
        allow_ragged_batch,
        optional,
    }
}

fn model_output(output: ModelOutput) -> inference::ModelOutput {
    let ModelOutput { name, data_type, dims, label_filename, is_shape_tensor } = output;
    let data_type = self::data_type(&data_type);
    inference::ModelOutput { name, data_type, dims, label_filename, reshape: None, is_shape_tensor }
}

fn instance_group(group: InstanceGroup) -> inference::ModelInstanceGroup {
    let InstanceGroup { name, kind, count } = group;
    let kind = Kind::from_str_name(kind).unwrap_or_default().into();
    inference::ModelInstanceGroup { name, count: signed(count), gpus: Vec::new(), kind }
}

fn scheduling_choice(scheduling: Scheduling) -> SchedulingChoice {
    match scheduling {
        Scheduling::DynamicBatching(batching) => SchedulingChoice::DynamicBatching(dynamic_batching(batching)),
        Scheduling::SequenceBatching(batching) => SchedulingChoice::SequenceBatching(sequence_batching(batching)),
    }
}

fn dynamic_batching(batching: DynamicBatching) -> inference::ModelDynamicBatching {
    let DynamicBatching {
        max_queue_delay_microseconds,
        preserve_ordering,
        priority_levels,
        default_priority_level,
        default_queue_policy,
    } = batching;
    let QueuePolicy { timeout_action, default_timeout_microseconds, allow_timeout_override, max_queue_size } =
        default_queue_policy;
    let timeout_action = TimeoutAction::from_str_name(timeout_action).unwrap_or_default().into();
    inference::ModelDynamicBatching {
        max_queue_delay_microseconds,
        preserve_ordering,
        priority_levels,
        default_priority_level,
        default_queue_policy: Some(inference::ModelQueuePolicy {
            timeout_action,
            default_timeout_microseconds,
            allow_timeout_override,
            max_queue_size,
        }),
        ..inference::ModelDynamicBatching::default()
    }
}

fn sequence_batching(batching: SequenceBatching) -> inference::ModelSequenceBatching {
    let SequenceBatching { max_sequence_idle_microseconds, oldest, state } = batching;
    let OldestFirst { max_candidate_sequences, max_queue_delay_microseconds, preserve_ordering } = oldest;
    let oldest = sequences::StrategyOldest {
        max_candidate_sequences: signed(max_candidate_sequences),
        preferred_batch_size: Vec::new(),
        max_queue_delay_microseconds,
        preserve_ordering,
    };
    inference::ModelSequenceBatching {
        max_sequence_idle_microseconds,
        control_input: Vec::new(),
        state: state.into_iter().map(sequence_state).collect(),
        strategy_choice: Some(sequences::StrategyChoice::Oldest(oldest)),
    }
}

fn sequence_state(state: SequenceState) -> sequences::State {
    let SequenceState { input_name, output_name, data_type, dims, initial_state } = state;
    let initial = |InitialState { name, data_type, dims, zero_data }: InitialState| sequences::InitialState {
        name,
        data_type: self::data_type(&data_type),
        dims,
        state_data: Some(sequences::initial_state::StateData::ZeroData(zero_data)),
    };
    let (data_type, initial_state) = (self::data_type(&data_type), initial_state.map(initial).into());
    sequences::State { input_name, output_name, data_type, dims, initial_state }
}

fn data_type(name: &str) -> i32 {
    DataType::from_str_name(name).unwrap_or_default().into()
}

pub(super) fn statistics(statistics: ModelStatistics) -> inference::ModelStatistics {
    let ModelStatistics {
        name,
        version,
        last_inference,
        inference_count,
        execution_count,
        inference_stats,
        response_stats: _,
        batch_stats,
    } = statistics;
    inference::ModelStatistics {
        name,
        version,
        last_inference,
        inference_count,
        execution_count,
        inference_stats: Some(infer_statistics(inference_stats)),
        batch_stats: batch_stats.into_iter().map(batch_statistics).collect(),
        ..inference::ModelStatistics::default()
    }
}

fn infer_statistics(statistics: InferStatistics) -> inference::InferStatistics {
    let InferStatistics { success, fail, queue, compute_input, compute_infer, compute_output, cache_hit, cache_miss } =
        statistics;
    inference::InferStatistics {
        success: duration(success),
        fail: duration(fail),
        queue: duration(queue),
        compute_input: duration(compute_input),
        compute_infer: duration(compute_infer),
        compute_output: duration(compute_output),
        cache_hit: duration(cache_hit),
        cache_miss: duration(cache_miss),
    }
}

fn batch_statistics(statistics: BatchStatistics) -> inference::InferBatchStatistics {
    let BatchStatistics { batch_size, compute_input, compute_infer, compute_output } = statistics;
    inference::InferBatchStatistics {
        batch_size,
        compute_input: duration(compute_input),
        compute_infer: duration(compute_infer),
        compute_output: duration(compute_output),
    }
}

const fn duration(StatisticDuration { count, ns }: StatisticDuration) -> Option<inference::StatisticDuration> {
    Some(inference::StatisticDuration { count, ns })
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
