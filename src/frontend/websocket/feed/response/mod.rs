//! What a feed says to its client, in JSON or protobuf.
//!
//! JSON is canonical proto3 JSON: what has its default is left out, 64-bit integers are text, bytes are base64. Results are written straight
//! from the domain.

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use prost::Message as _;
use serde::{Serialize, Serializer, ser::SerializeSeq as _};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Form;
use crate::{
    codec::WindowPosition,
    domain::{Fault, FaultKind, Signature, Tensor, TensorSpec},
    frontend::{
        messages::{
            convert,
            feed::{self, sample_rate_hz},
            status::{ERROR_DOMAIN, code},
            wire,
        },
        websocket::frame::Frame,
    },
    proto::{duration_to_wire, v1},
    registry::Model,
    session::{Event, ItemResult},
};

/// The message that comes first.
///
/// # Errors
/// [`FaultKind::Failed`] if it cannot be written, which is a bug.
pub(super) fn opened(opened: v1::Opened, form: Form) -> Result<Frame, Fault> {
    match form {
        Form::Json => json(&Said::Opened(Opened(&opened))),
        Form::Proto => Ok(proto(&wire::FeedResponse { event: Some(wire::feed_response::Event::Opened(opened)) })),
    }
}

/// The message with an event of a stream on `model`.
///
/// # Errors
/// As [`opened`].
pub(super) fn event(event: Event, model: &Model, form: Form) -> Result<Frame, Fault> {
    match form {
        Form::Json => json(&said(&event, model.signature(), sample_rate_hz(model))),
        Form::Proto => Ok(proto(&feed::response(event, model))),
    }
}

/// The last message of a stream that ends with a fault; none in protobuf, which has no such message.
pub(super) fn error(fault: &Fault, form: Form) -> Option<Frame> {
    #[derive(Serialize)]
    struct Error<'a> {
        error: Status<'a>,
    }
    match form {
        Form::Json => json(&Error { error: Status(fault) }).ok(),
        Form::Proto => None,
    }
}

/// The name of a fault's code, as in gRPC.
pub(super) const fn code_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Invalid => "INVALID_ARGUMENT",
        FaultKind::Unauthenticated => "UNAUTHENTICATED",
        FaultKind::Denied => "PERMISSION_DENIED",
        FaultKind::NotFound => "NOT_FOUND",
        FaultKind::TooLarge | FaultKind::Overloaded => "RESOURCE_EXHAUSTED",
        FaultKind::Expired => "DEADLINE_EXCEEDED",
        FaultKind::Dropped => "ABORTED",
        FaultKind::Cancelled => "CANCELLED",
        FaultKind::Unavailable => "UNAVAILABLE",
        FaultKind::DataLoss => "DATA_LOSS",
        FaultKind::Unsupported => "UNIMPLEMENTED",
        FaultKind::Failed => "INTERNAL",
    }
}

fn proto(response: &wire::FeedResponse) -> Frame {
    Frame::Binary(response.encode_to_vec().into())
}

fn json(said: &impl Serialize) -> Result<Frame, Fault> {
    let failed = |error: String| Fault::new(FaultKind::Failed, format!("the message cannot be written: {error}"));
    let text = serde_json::to_vec(said).map_err(|error| failed(error.to_string()))?;
    Utf8Bytes::try_from(Bytes::from(text)).map(Frame::Text).map_err(|error| failed(error.to_string()))
}

/// `FeedResponse`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Said<'a> {
    Opened(Opened<'a>),
    Result(Answer<'a>),
    SegmentStarted(SegmentStarted),
    Segment(Segment),
    Flushed(Flushed<'a>),
    Completed(Summary),
    Skipped(Skipped),
    ReconnectAdvised(ReconnectAdvised),
}

fn said<'a>(event: &'a Event, signature: &'a Signature, sample_rate_hz: u32) -> Said<'a> {
    match event {
        Event::Result(result) => Said::Result(Answer { result, signature }),
        Event::SegmentStarted { index, start_sample } => {
            let v1::SegmentStarted { index, start_sample, start_ms } =
                convert::segment_started(*index, *start_sample, sample_rate_hz);
            Said::SegmentStarted(SegmentStarted {
                index: Long(index),
                start_sample: Long(start_sample),
                start_ms: Long(start_ms),
            })
        }
        Event::Segment(segment) => {
            let v1::Segment { index, start_sample, end_sample, start_ms, end_ms } = convert::segment(segment, sample_rate_hz);
            Said::Segment(Segment {
                index: Long(index),
                start_sample: Long(start_sample),
                end_sample: Long(end_sample),
                start_ms: Long(start_ms),
                end_ms: Long(end_ms),
            })
        }
        Event::Skipped { first_seq, results } => Said::Skipped(Skipped { first_seq: Long(*first_seq), results: Long(*results) }),
        Event::Flushed { id, items } => Said::Flushed(Flushed { id, items: Long(*items) }),
        Event::ReconnectAdvised { remaining } => {
            Said::ReconnectAdvised(ReconnectAdvised { remaining: Span(duration_to_wire(*remaining)) })
        }
        Event::Completed(summary) => {
            let v1::Summary { items, ok, errors, samples, payload_bytes, elapsed, queue_ns, compute_ns } =
                convert::summary(summary);
            Said::Completed(Summary {
                items: Long(items),
                ok: Long(ok),
                errors: Long(errors),
                samples: Long(samples),
                payload_bytes: Long(payload_bytes),
                elapsed: elapsed.map(Span),
                queue_ns: Long(queue_ns),
                compute_ns: Long(compute_ns),
            })
        }
    }
}

// ---- Values ---------------------------------------------------------------------------------------------------------------------

/// A 64-bit integer.
struct Long(u64);

impl Long {
    const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Long {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A duration.
struct Span(prost_types::Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Bytes in base64.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

// ---- Messages -------------------------------------------------------------------------------------------------------------------

struct Opened<'a>(&'a v1::Opened);

impl Serialize for Opened<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Limits {
            #[serde(skip_serializing_if = "is_zero")]
            window_items: u32,
            #[serde(skip_serializing_if = "Long::is_zero")]
            window_bytes: Long,
            #[serde(skip_serializing_if = "Long::is_zero")]
            max_item_bytes: Long,
            #[serde(skip_serializing_if = "Long::is_zero")]
            max_message_bytes: Long,
            #[serde(skip_serializing_if = "Option::is_none")]
            idle_timeout: Option<Span>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Framing {
            #[serde(skip_serializing_if = "is_zero")]
            sample_rate_hz: u32,
            #[serde(skip_serializing_if = "is_zero")]
            window_samples: u32,
            #[serde(skip_serializing_if = "is_zero")]
            context_samples: u32,
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            model: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            version: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            limits: Option<Limits>,
            #[serde(skip_serializing_if = "Option::is_none")]
            framing: Option<Framing>,
        }
        let v1::Opened { model, version, limits, framing } = self.0;
        let limits = limits.as_ref().map(|limits| Limits {
            window_items: limits.window_items,
            window_bytes: Long(limits.window_bytes),
            max_item_bytes: Long(limits.max_item_bytes),
            max_message_bytes: Long(limits.max_message_bytes),
            idle_timeout: limits.idle_timeout.map(Span),
        });
        let framing = framing.as_ref().map(|framing| Framing {
            sample_rate_hz: framing.sample_rate_hz,
            window_samples: framing.window_samples,
            context_samples: framing.context_samples,
        });
        Fields { model, version, limits, framing }.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    #[serde(skip_serializing_if = "Long::is_zero")]
    index: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    start_sample: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    end_sample: Long,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Timing {
    #[serde(skip_serializing_if = "Long::is_zero")]
    queue_ns: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    compute_ns: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    age_ns: Long,
    #[serde(skip_serializing_if = "is_zero")]
    batch_size: u32,
}

/// An item's answer, with the names of its outputs.
struct Answer<'a> {
    result: &'a ItemResult,
    signature: &'a Signature,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(skip_serializing_if = "Long::is_zero")]
            seq: Long,
            #[serde(skip_serializing_if = "str::is_empty")]
            id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            window: Option<Window>,
            #[serde(skip_serializing_if = "Option::is_none")]
            outputs: Option<Outputs<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Status<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            timing: Option<Timing>,
            #[serde(skip_serializing_if = "is_zero")]
            part: u32,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            last: bool,
        }
        let Self { result, signature } = *self;
        let window = result.window.map(|WindowPosition { index, start_sample, end_sample }| Window {
            index: Long(index),
            start_sample: Long(start_sample),
            end_sample: Long(end_sample),
        });
        let (outputs, error) = match &result.outcome {
            Ok(outputs) => (Some(Outputs { outputs, specs: &signature.outputs }), None),
            Err(fault) => (None, Some(Status(fault))),
        };
        // Set where the model ran.
        let timing = (result.timing.batch_size > 0).then(|| convert::timing(result));
        let timing = timing.map(|timing| Timing {
            queue_ns: Long(timing.queue_ns),
            compute_ns: Long(timing.compute_ns),
            age_ns: Long(timing.age_ns),
            batch_size: timing.batch_size,
        });
        let (part, last) = (result.part.number, result.part.last);
        Fields { seq: Long(result.seq), id: &result.id, window, outputs, error, timing, part, last }.serialize(serializer)
    }
}

struct Outputs<'a> {
    outputs: &'a [Tensor],
    specs: &'a [TensorSpec],
}

impl Serialize for Outputs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Tensors<'a>(&'a Outputs<'a>);
        impl Serialize for Tensors<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let Outputs { outputs, specs } = self.0;
                serializer.collect_seq(outputs.iter().zip(*specs).map(|(tensor, spec)| Output { tensor, spec }))
            }
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            tensors: Option<Tensors<'a>>,
        }
        let has_any = !self.outputs.is_empty() && !self.specs.is_empty();
        Fields { tensors: has_any.then_some(Tensors(self)) }.serialize(serializer)
    }
}

struct Output<'a> {
    tensor: &'a Tensor,
    spec: &'a TensorSpec,
}

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Shape<'a>(&'a [usize]);
        impl Serialize for Shape<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut sizes = serializer.serialize_seq(Some(self.0.len()))?;
                for size in self.0 {
                    sizes.serialize_element(&Long(*size as u64))?;
                }
                sizes.end()
            }
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            name: &'a str,
            datatype: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            shape: Option<Shape<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<Base64<'a>>,
        }
        let Self { tensor, spec } = *self;
        let (shape, data) = (tensor.shape(), tensor.data());
        let fields = Fields {
            name: &spec.name,
            datatype: convert::to_wire_datatype(tensor.datatype()).as_str_name(),
            shape: (!shape.is_empty()).then_some(Shape(shape)),
            data: (!data.is_empty()).then_some(Base64(data)),
        };
        fields.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SegmentStarted {
    #[serde(skip_serializing_if = "Long::is_zero")]
    index: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    start_sample: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    start_ms: Long,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    #[serde(skip_serializing_if = "Long::is_zero")]
    index: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    start_sample: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    end_sample: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    start_ms: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    end_ms: Long,
}

#[derive(Serialize)]
struct Flushed<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Long::is_zero")]
    items: Long,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(skip_serializing_if = "Long::is_zero")]
    items: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    ok: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    errors: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    samples: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    payload_bytes: Long,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed: Option<Span>,
    #[serde(skip_serializing_if = "Long::is_zero")]
    queue_ns: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    compute_ns: Long,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Skipped {
    #[serde(skip_serializing_if = "Long::is_zero")]
    first_seq: Long,
    #[serde(skip_serializing_if = "Long::is_zero")]
    results: Long,
}

#[derive(Serialize)]
struct ReconnectAdvised {
    remaining: Span,
}

/// `google.rpc.Status`, with the same details as in gRPC.
struct Status<'a>(&'a Fault);

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            code: i32,
            #[serde(skip_serializing_if = "str::is_empty")]
            message: &'a str,
            details: Vec<Detail<'a>>,
        }
        let fault = self.0;
        Fields { code: code(fault.kind()).into(), message: fault.message(), details: details(fault) }.serialize(serializer)
    }
}

/// A detail of a status, in `google.protobuf.Any`.
#[derive(Serialize)]
#[serde(tag = "@type")]
enum Detail<'a> {
    #[serde(rename = "type.googleapis.com/google.rpc.RetryInfo")]
    Retry {
        #[serde(rename = "retryDelay")]
        retry_delay: Span,
    },
    #[serde(rename = "type.googleapis.com/google.rpc.QuotaFailure")]
    Quota { violations: [QuotaViolation; 1] },
    #[serde(rename = "type.googleapis.com/google.rpc.ErrorInfo")]
    Error { reason: &'static str, domain: &'static str },
    #[serde(rename = "type.googleapis.com/google.rpc.BadRequest")]
    BadRequest {
        #[serde(rename = "fieldViolations")]
        field_violations: [FieldViolation<'a>; 1],
    },
}

#[derive(Serialize)]
struct QuotaViolation {
    subject: &'static str,
    description: String,
}

#[derive(Serialize)]
struct FieldViolation<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    field: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
}

/// In the order in which gRPC has them.
fn details(fault: &Fault) -> Vec<Detail<'_>> {
    let retry = fault.retry_after().map(|delay| Detail::Retry { retry_delay: Span(duration_to_wire(delay)) });
    let quota = fault.limit().map(|limit| Detail::Quota {
        violations: [QuotaViolation { subject: limit.name, description: format!("the limit is {}", limit.value) }],
    });
    let error = Detail::Error { reason: fault.kind().reason(), domain: ERROR_DOMAIN };
    let field = fault
        .field()
        .map(|field| Detail::BadRequest { field_violations: [FieldViolation { field, description: fault.message() }] });
    retry.into_iter().chain(quota).chain([error]).chain(field).collect()
}

#[cfg(test)]
mod tests;
