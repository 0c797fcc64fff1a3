//! What the query of an upload says: the fields of UploadConfig and StreamConfig, each by its own name.

use prost_reflect::{FieldDescriptor, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::super::query;
use crate::domain::Fault;

/// Fields that the query does not hold: the path says which model, and the payload is always audio. What is expected of the payload would be
/// about samples that the client has never seen.
const LEFT_OUT: [&str; 5] = ["model", "version", "payload", "stream", "expect"];

/// Samples per second of the body, if they are raw: not a field to pass on, because the model gets its own rate.
const RATE: &str = "sample_rate_hz";
/// Whether the body is raw samples even if it begins like a file.
const IS_RAW: &str = "accept_container_bytes";

/// The settings of an upload.
#[derive(Debug, Default)]
pub(in super::super) struct Settings {
    /// Of UploadConfig, but for `stream`.
    pub(super) upload: Map<String, Value>,
    /// Of StreamConfig.
    pub(super) stream: Map<String, Value>,
    /// The rate that the query states.
    pub(super) rate_hz: Option<u32>,
    /// Whether the body is raw samples whatever it begins like.
    pub(super) is_raw: bool,
}

/// The messages UploadConfig and StreamConfig, if the request has them.
fn configs(rpc: &MethodDescriptor) -> Option<(MessageDescriptor, MessageDescriptor)> {
    let open = rpc.input().get_field_by_name("open")?.kind().as_message()?.clone();
    let stream = open.get_field_by_name("stream")?.kind().as_message()?.clone();
    Some((open, stream))
}

/// The fields that a query may hold.
pub(in super::super) fn fields(rpc: &MethodDescriptor) -> Vec<FieldDescriptor> {
    let Some((open, stream)) = configs(rpc) else { return Vec::new() };
    let all: Vec<_> = open.fields().chain(stream.fields()).collect();
    all.into_iter().filter(|field| !LEFT_OUT.contains(&field.name())).collect()
}

impl Settings {
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) about a parameter that is unknown, given twice, or not of its field's type.
    pub(super) fn of(rpc: &MethodDescriptor, parameters: &[(String, String)]) -> Result<Self, Fault> {
        let Some((open, stream)) = configs(rpc) else { return Ok(Self::default()) };
        let (mut of_open, mut of_stream) = (Vec::new(), Vec::new());
        for (path, value) in parameters {
            let name = path.strip_prefix("open.").unwrap_or(path);
            let name = name.strip_prefix("stream.").unwrap_or(name);
            let is_in = |message: &MessageDescriptor| {
                query::field_of(message, name).is_some_and(|field| !LEFT_OUT.contains(&field.name()))
            };
            if is_in(&open) {
                of_open.push((name, value.as_str()));
            } else if is_in(&stream) {
                of_stream.push((name, value.as_str()));
            } else {
                return Err(unknown(rpc, path));
            }
        }
        let upload = query::fields(&open, of_open)?;
        let mut stream_fields = query::fields(&stream, of_stream)?;
        let mut take = |name: &str| stream.get_field_by_name(name).and_then(|field| stream_fields.remove(field.json_name()));
        let rate_hz =
            take(RATE).and_then(|rate| rate.as_u64()).and_then(|rate| u32::try_from(rate).ok()).filter(|rate| *rate > 0);
        let is_raw = take(IS_RAW).and_then(|value| value.as_bool()).unwrap_or_default();
        Ok(Self { upload, stream: stream_fields, rate_hz, is_raw })
    }

    /// The message that opens the upload, for samples of this rate.
    pub(super) fn open(&self, model: &str, version: &str, rate_hz: u32) -> Value {
        let mut stream = self.stream.clone();
        stream.insert("model".to_owned(), json!(model));
        stream.insert("version".to_owned(), json!(version));
        stream.insert("payload".to_owned(), json!("PAYLOAD_KIND_PCM_S16LE"));
        stream.insert("sampleRateHz".to_owned(), json!(rate_hz));
        // Samples that were decoded are samples, whatever their first ones look like.
        stream.insert("acceptContainerBytes".to_owned(), json!(true));
        let mut open = self.upload.clone();
        open.insert("stream".to_owned(), Value::Object(stream));
        json!({"open": open})
    }
}

fn unknown(rpc: &MethodDescriptor, path: &str) -> Fault {
    let names: Vec<String> = fields(rpc).iter().map(|field| field.name().to_owned()).collect();
    Fault::invalid(path.to_owned(), format!("there is no parameter '{path}'; an upload has {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::{super::super::query::parameters, *};
    use crate::proto::DESCRIPTORS;

    fn read(query: &str) -> Result<Settings, Fault> {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
        let service = pool.get_service_by_name("tidemill.v1.InferenceService").expect("the service");
        let upload = service.methods().find(|rpc| rpc.name() == "Upload").expect("the call");
        Settings::of(&upload, &parameters(query)?)
    }

    #[test]
    fn fields_of_both_messages_go_by_their_own_names() {
        let settings =
            read("include_results=true&sampleRateHz=8000&open.stream.priority=PRIORITY_LOW&stream.order=2").expect("known");
        assert_eq!((settings.rate_hz, settings.is_raw), (Some(8_000), false));
        let stream = json!({
            "model": "m", "version": "", "payload": "PAYLOAD_KIND_PCM_S16LE", "sampleRateHz": 16_000, "acceptContainerBytes": true,
            "priority": "PRIORITY_LOW", "order": "RESULT_ORDER_AS_READY",
        });
        assert_eq!(settings.open("m", "", 16_000), json!({"open": {"includeResults": true, "stream": stream}}));
    }

    #[test]
    fn what_the_path_says_or_nobody_knows_is_refused() {
        for name in ["model", "stream.model", "version", "payload", "expect.total_bytes", "include_result", "stream"] {
            assert_eq!(read(&format!("{name}=1")).expect_err("refused").field(), Some(name));
        }
        assert!(read("include_results=true&includeResults=false").is_err(), "one field, two spellings");
    }
}
