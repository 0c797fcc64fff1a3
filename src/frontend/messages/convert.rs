//! Converts between the messages of `tidemill.v1` and the domain. Nothing here panics on anything a client can send.

use std::time::Duration;

use crate::{
    codec::{FramingRule, SampleFormat, Segment},
    domain::{Datatype, Fault, FaultKind, ItemOutputs, Priority, Tensor, TensorSpec},
    native::{self, Limits, Opened},
    proto::{duration_to_wire, v1},
    registry::Model,
    service::{Caller, OpenRequest},
    session::{self, Order, OverflowPolicy, PayloadKind, PcmOptions, Unread},
};

/// # Errors
/// [`FaultKind::Invalid`] with the field's name; `field` is the name of the message that the configuration came in.
pub(in crate::frontend) fn stream_config(
    field: &'static str,
    config: Option<v1::StreamConfig>,
) -> Result<v1::StreamConfig, Fault> {
    config.ok_or_else(|| Fault::invalid(field, format!("`{field}` is missing; it names the model")))
}

/// The kind of payload that a field states, if it states any.
///
/// # Errors
/// [`FaultKind::Invalid`] with the field's name.
pub(in crate::frontend) fn payload(field: &'static str, stated: i32) -> Result<Option<PayloadKind>, Fault> {
    match v1::PayloadKind::try_from(stated) {
        Ok(v1::PayloadKind::Unspecified) => Ok(None),
        Ok(v1::PayloadKind::Tensors) => Ok(Some(PayloadKind::Tensors)),
        Ok(v1::PayloadKind::PcmS16le) => Ok(Some(PayloadKind::PcmS16le)),
        Err(_) => Err(unknown_enum(field, "PayloadKind", stated)),
    }
}

/// # Errors
/// [`FaultKind::Invalid`] with the field's name.
pub(in crate::frontend) fn open_request(config: v1::StreamConfig, caller: Caller) -> Result<OpenRequest, Fault> {
    let payload = payload("payload", config.payload)?.unwrap_or(PayloadKind::Tensors);
    let order = match v1::ResultOrder::try_from(config.order) {
        Ok(v1::ResultOrder::Unspecified | v1::ResultOrder::InOrder) => Order::InOrder,
        Ok(v1::ResultOrder::AsReady) => Order::AsReady,
        Err(_) => return Err(unknown_enum("order", "ResultOrder", config.order)),
    };
    let overflow = match v1::OverflowPolicy::try_from(config.overflow) {
        Ok(v1::OverflowPolicy::Unspecified | v1::OverflowPolicy::Block) => OverflowPolicy::Block,
        Ok(v1::OverflowPolicy::DropOldest) => OverflowPolicy::DropOldest,
        Ok(v1::OverflowPolicy::Latest) => OverflowPolicy::Latest,
        Err(_) => return Err(unknown_enum("overflow", "OverflowPolicy", config.overflow)),
    };
    let priority = match v1::Priority::try_from(config.priority) {
        Ok(v1::Priority::High) => Priority::High,
        Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Priority::Normal,
        Ok(v1::Priority::Low) => Priority::Low,
        Err(_) => return Err(unknown_enum("priority", "Priority", config.priority)),
    };
    let unread = match v1::UnreadPolicy::try_from(config.unread) {
        Ok(v1::UnreadPolicy::Unspecified | v1::UnreadPolicy::Block) => Unread::Block,
        Ok(v1::UnreadPolicy::DropOldest) => Unread::DropOldest,
        Ok(v1::UnreadPolicy::Latest) => Unread::Latest,
        Ok(v1::UnreadPolicy::Disconnect) => Unread::Disconnect,
        Err(_) => return Err(unknown_enum("unread", "UnreadPolicy", config.unread)),
    };
    let default_deadline = config.default_deadline.map(|deadline| duration("default_deadline", deadline)).transpose()?;
    let max_age = config.max_age.map(|max_age| duration("max_age", max_age)).transpose()?;
    let format = audio_format(config.audio_format)?;
    let v1::StreamConfig { model, version, window_items, sample_rate_hz, accept_container_bytes, .. } = config;
    let pcm = PcmOptions { sample_rate_hz: (sample_rate_hz != 0).then_some(sample_rate_hz), format, accept_container_bytes };
    Ok(OpenRequest {
        model,
        version,
        payload,
        pcm,
        order,
        window_items,
        unread,
        default_deadline,
        overflow,
        max_age,
        priority,
        caller,
    })
}

/// How samples are written, if the client says so.
fn audio_format(stated: i32) -> Result<Option<SampleFormat>, Fault> {
    Ok(match v1::AudioFormat::try_from(stated) {
        Ok(v1::AudioFormat::Unspecified) => None,
        Ok(v1::AudioFormat::PcmS16le) => Some(SampleFormat::S16le),
        Ok(v1::AudioFormat::PcmF32le) => Some(SampleFormat::F32le),
        Ok(v1::AudioFormat::Mulaw) => Some(SampleFormat::Mulaw),
        Ok(v1::AudioFormat::Alaw) => Some(SampleFormat::Alaw),
        Err(_) => return Err(unknown_enum("audio_format", "AudioFormat", stated)),
    })
}

pub(in crate::frontend) fn unknown_enum(field: impl Into<std::borrow::Cow<'static, str>>, kind: &str, value: i32) -> Fault {
    Fault::invalid(field, format!("{value} is not a value of the enum {kind}"))
}

/// # Errors
/// [`FaultKind::Invalid`] with the field's name if it is not between zero and a year.
pub(in crate::frontend) fn duration(field: &'static str, duration: prost_types::Duration) -> Result<Duration, Fault> {
    native::duration(field, duration.seconds, duration.nanos)
}

/// `None` if it is left to the model.
pub(in crate::frontend) const fn from_wire_datatype(datatype: v1::Datatype) -> Option<Datatype> {
    Some(match datatype {
        v1::Datatype::Unspecified => return None,
        v1::Datatype::Bool => Datatype::Bool,
        v1::Datatype::Uint8 => Datatype::Uint8,
        v1::Datatype::Uint16 => Datatype::Uint16,
        v1::Datatype::Uint32 => Datatype::Uint32,
        v1::Datatype::Uint64 => Datatype::Uint64,
        v1::Datatype::Int8 => Datatype::Int8,
        v1::Datatype::Int16 => Datatype::Int16,
        v1::Datatype::Int32 => Datatype::Int32,
        v1::Datatype::Int64 => Datatype::Int64,
        v1::Datatype::Fp16 => Datatype::Fp16,
        v1::Datatype::Fp32 => Datatype::Fp32,
        v1::Datatype::Fp64 => Datatype::Fp64,
        v1::Datatype::Bf16 => Datatype::Bf16,
        v1::Datatype::Bytes => Datatype::Bytes,
    })
}

pub(in crate::frontend) const fn to_wire_datatype(datatype: Datatype) -> v1::Datatype {
    match datatype {
        Datatype::Bool => v1::Datatype::Bool,
        Datatype::Uint8 => v1::Datatype::Uint8,
        Datatype::Uint16 => v1::Datatype::Uint16,
        Datatype::Uint32 => v1::Datatype::Uint32,
        Datatype::Uint64 => v1::Datatype::Uint64,
        Datatype::Int8 => v1::Datatype::Int8,
        Datatype::Int16 => v1::Datatype::Int16,
        Datatype::Int32 => v1::Datatype::Int32,
        Datatype::Int64 => v1::Datatype::Int64,
        Datatype::Fp16 => v1::Datatype::Fp16,
        Datatype::Fp32 => v1::Datatype::Fp32,
        Datatype::Fp64 => v1::Datatype::Fp64,
        Datatype::Bf16 => v1::Datatype::Bf16,
        Datatype::Bytes => v1::Datatype::Bytes,
    }
}

/// The first message of an open stream.
pub(in crate::frontend) fn opened<I>(stream: &Opened<I>) -> v1::Opened {
    let loaded = &stream.model.loaded;
    v1::Opened {
        model: loaded.name.to_string(),
        version: loaded.version.to_string(),
        limits: Some(limits(&stream.limits)),
        framing: stream.framing.map(framing),
    }
}

pub(in crate::frontend) fn limits(Limits { stream: limits, max_message_bytes }: &Limits) -> v1::StreamLimits {
    v1::StreamLimits {
        window_items: u32::try_from(limits.window_items).unwrap_or(u32::MAX),
        window_bytes: limits.window_bytes as u64,
        max_item_bytes: limits.max_item_bytes as u64,
        max_message_bytes: *max_message_bytes as u64,
        idle_timeout: Some(duration_to_wire(limits.idle_timeout)),
    }
}

pub(in crate::frontend) const fn framing(rule: FramingRule) -> v1::Framing {
    v1::Framing {
        sample_rate_hz: rule.sample_rate_hz,
        window_samples: rule.window_samples,
        context_samples: rule.context_samples,
    }
}

pub(in crate::frontend) fn timing(result: &session::ItemResult) -> v1::Timing {
    let timing = &result.timing;
    v1::Timing {
        queue_ns: nanos(timing.started.since(timing.arrived)),
        compute_ns: nanos(timing.finished.since(timing.started)),
        age_ns: nanos(result.age),
        batch_size: timing.batch_size,
    }
}

pub(in crate::frontend) fn wire_outputs(outputs: ItemOutputs, model: &Model) -> v1::Outputs {
    let specs = &model.loaded.executable.signature().outputs;
    v1::Outputs { tensors: outputs.into_iter().zip(specs).map(|(tensor, spec)| wire_tensor(tensor, spec)).collect() }
}

fn wire_tensor(tensor: Tensor, spec: &TensorSpec) -> v1::Tensor {
    v1::Tensor {
        name: String::from(&*spec.name),
        datatype: to_wire_datatype(tensor.datatype()).into(),
        shape: tensor.shape().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        data: tensor.into_data(),
    }
}

/// `sample_rate_hz` is the framing's.
pub(in crate::frontend) fn segment(segment: &Segment, sample_rate_hz: u32) -> v1::Segment {
    v1::Segment {
        index: segment.index,
        start_sample: segment.start_sample,
        end_sample: segment.end_sample,
        start_ms: segment.start_ms(sample_rate_hz),
        end_ms: segment.end_ms(sample_rate_hz),
    }
}

pub(in crate::frontend) fn segment_started(index: u64, start_sample: u64, sample_rate_hz: u32) -> v1::SegmentStarted {
    let start_ms = Segment { index, start_sample, end_sample: start_sample }.start_ms(sample_rate_hz);
    v1::SegmentStarted { index, start_sample, start_ms }
}

pub(in crate::frontend) fn summary(summary: &session::Summary) -> v1::Summary {
    v1::Summary {
        items: summary.items,
        ok: summary.ok,
        errors: summary.errors,
        samples: summary.samples,
        payload_bytes: summary.payload_bytes,
        elapsed: Some(duration_to_wire(summary.elapsed)),
        queue_ns: nanos(summary.queue),
        compute_ns: nanos(summary.compute),
    }
}

pub(in crate::frontend) fn call_cost(batch_size: usize, duration: Duration) -> v1::BatchCost {
    v1::BatchCost { batch_size: u32::try_from(batch_size).unwrap_or(u32::MAX), duration: Some(duration_to_wire(duration)) }
}

/// # Errors
/// [`FaultKind::Invalid`] if `sha256` is neither empty nor 32 bytes.
pub(in crate::frontend) fn expectation(digest: v1::PayloadDigest) -> Result<crate::codec::PayloadExpectation, Fault> {
    let sha256 = match digest.sha256.len() {
        0 => None,
        _ => Some(<[u8; 32]>::try_from(&*digest.sha256).map_err(|_| {
            Fault::new(FaultKind::Invalid, format!("a SHA-256 has 32 bytes, not {}", digest.sha256.len())).with_field("sha256")
        })?),
    };
    Ok(crate::codec::PayloadExpectation { total_bytes: digest.total_bytes, crc32c: digest.crc32c, sha256 })
}

pub(in crate::frontend) fn wire_digest(received: &crate::codec::Received) -> v1::PayloadDigest {
    v1::PayloadDigest {
        total_bytes: Some(received.total_bytes),
        crc32c: Some(received.crc32c),
        sha256: received.sha256.map(|hash| hash.to_vec().into()).unwrap_or_default(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
