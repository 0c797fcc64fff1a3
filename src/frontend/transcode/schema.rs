//! The messages of the services, and their forms in JSON and in protobuf.
//!
//! Pure: bytes in, bytes out. It takes as long as the bytes are many, so whoever calls it decides where that is.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorError, DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
    prost_types::method_options::IdempotencyLevel,
};

use crate::{
    domain::{Fault, FaultKind},
    proto::DESCRIPTORS,
};

/// How much of a library's sentence a fault quotes: it may quote what the client has sent.
const SENTENCE_CHARS_MAX: usize = 300;

/// The services of this server and their messages. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    pool: DescriptorPool,
}

impl Schema {
    /// # Errors
    /// If the descriptors are broken, which a build with a sound `proto/` never has.
    pub(super) fn new() -> Result<Self, DescriptorError> {
        DescriptorPool::decode(DESCRIPTORS).map(|pool| Self { pool })
    }

    /// All that is known.
    pub(super) const fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    /// The method that is called at this path, `/package.Service/Method`.
    pub(super) fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = self.pool.get_service_by_name(service)?;
        service.methods().find(|known| known.name() == method)
    }

    /// Whether the path is one of a service of ours, whatever the method.
    pub(super) fn has_service(&self, path: &str) -> bool {
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        service.is_some_and(|(service, _)| self.pool.get_service_by_name(service).is_some())
    }

    /// The message with this full name.
    pub(super) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }
}

/// Whether calling the method changes nothing, as the proto says.
pub(super) fn is_safe(method: &MethodDescriptor) -> bool {
    let options = method.method_descriptor_proto().options.as_ref();
    options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects)
}

/// The message that is written in proto3 JSON, in protobuf.
///
/// # Errors
/// [`FaultKind::Invalid`] if it is no JSON, or not of this message: unknown fields are errors.
pub(super) fn to_protobuf(message: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Fault> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = DynamicMessage::deserialize(message.clone(), &mut deserializer);
    let read = read.and_then(|found| deserializer.end().map(|()| found));
    read.map(|found| found.encode_to_vec().into()).map_err(|error| {
        let error = shortened(&error.to_string());
        Fault::invalid("body", format!("the message is not the JSON of {}: {error}", message.full_name()))
    })
}

/// The message that is written in protobuf, in proto3 JSON: names in lowerCamelCase, defaults left out, 64-bit integers as strings.
///
/// # Errors
/// [`FaultKind::Failed`] if it is not of this message, which those of our own services are.
pub(super) fn to_json(message: &MessageDescriptor, protobuf: &[u8]) -> Result<Vec<u8>, Fault> {
    let failed = |error: &dyn std::fmt::Display| {
        let error = shortened(&error.to_string());
        Fault::new(FaultKind::Failed, format!("a {} cannot be written as JSON: {error}", message.full_name()))
    };
    let found = DynamicMessage::decode(message.clone(), protobuf).map_err(|error| failed(&error))?;
    let mut serializer = serde_json::Serializer::new(Vec::new());
    found.serialize_with_options(&mut serializer, &SerializeOptions::new()).map_err(|error| failed(&error))?;
    Ok(serializer.into_inner())
}

fn shortened(sentence: &str) -> String {
    match sentence.char_indices().nth(SENTENCE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost_types::Any;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::proto::v1;

    fn schema() -> Schema {
        Schema::new().expect("sound descriptors")
    }

    fn message(name: &str) -> MessageDescriptor {
        schema().message(name).expect("a message")
    }

    fn round(name: &str, json: &str) -> Result<String, Fault> {
        let message = message(name);
        let protobuf = to_protobuf(&message, json.as_bytes())?;
        to_json(&message, &protobuf).map(|json| String::from_utf8(json).expect("text"))
    }

    #[test]
    fn a_method_is_found_by_its_path() {
        let schema = schema();
        let method = schema.method("/tidemill.v1.InferenceService/Scan").expect("a method");
        assert!(method.is_server_streaming() && !method.is_client_streaming());
        for unknown in ["", "/", "/v2/models", "/tidemill.v1.InferenceService", "/tidemill.v1.InferenceService/Scan/", "//Scan"] {
            assert!(schema.method(unknown).is_none(), "{unknown}");
        }
        assert!(schema.has_service("/tidemill.v1.InferenceService/Nothing") && !schema.has_service("/v2/models"));
    }

    #[test]
    fn only_methods_that_say_so_are_safe() {
        let schema = schema();
        let safe = |path: &str| is_safe(&schema.method(path).expect("a method"));
        for path in ["/tidemill.v1.ModelService/ListModels", "/tidemill.v1.ModelService/GetModel", "/grpc.health.v1.Health/Check"]
        {
            assert!(safe(path), "{path}");
        }
        for path in [
            "/tidemill.v1.InferenceService/Predict",
            "/tidemill.v1.ModelService/ProveModel",
            "/inference.GRPCInferenceService/RepositoryModelLoad",
        ] {
            assert!(!safe(path), "{path}");
        }
    }

    #[test]
    fn both_spellings_are_read_and_one_is_written() {
        let expected = r#"{"config":{"model":"m","sampleRateHz":8000},"pcmS16le":"AAE="}"#;
        for json in [expected, r#"{"config": {"model": "m", "sample_rate_hz": 8000}, "pcm_s16le": "AAE", "items": null}"#] {
            assert_eq!(round("tidemill.v1.ScanRequest", json).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn long_numbers_are_strings_and_defaults_are_left_out() {
        let of = |json: &str| round("inference.ModelInferRequest.InferInputTensor", json);
        assert_eq!(
            of(r#"{"name":"x","shape":[1,"-9007199254740993"]}"#).as_deref(),
            Ok(r#"{"name":"x","shape":["1","-9007199254740993"]}"#)
        );
        assert_eq!(of(r#"{"name":"","shape":[]}"#).as_deref(), Ok("{}"));
    }

    #[test]
    fn what_is_not_of_the_message_is_refused_with_its_place() {
        for (json, says) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"modle":"m"}"#, "modle"),
            (r#"{"model":7}"#, "invalid type"),
            (r#"{"model":"m"} x"#, "trailing"),
            ("{\"model\":\"\u{1}\"}", "control character"),
        ] {
            let fault = round("tidemill.v1.PredictRequest", json).expect_err("it must be refused");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("body")), "{json}");
            assert!(fault.message().contains(says) && fault.message().contains("tidemill.v1.PredictRequest"), "{fault}");
        }
        let long = format!(r#"{{"{}":1}}"#, "é".repeat(10_000));
        assert!(round("tidemill.v1.PredictRequest", &long).expect_err("unknown").message().len() < 1_000);
    }

    #[test]
    fn the_details_of_a_status_are_written_by_their_type() {
        let mut details = ErrorDetails::new();
        details.set_error_info("OVERLOADED", "tidemill", std::collections::HashMap::new());
        details.add_bad_request_violation("model", "why");
        details.add_quota_failure_violation("grpc.max_calls", "the limit is 7");
        details.set_retry_info(Some(std::time::Duration::from_millis(30)));
        let status = tonic::Status::with_error_details(tonic::Code::ResourceExhausted, "full", details);
        let json = to_json(&message("google.rpc.Status"), status.details()).expect("a status");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        let types: Vec<_> = json["details"].as_array().expect("a list").iter().map(|detail| detail["@type"].clone()).collect();
        for name in ["ErrorInfo", "BadRequest", "QuotaFailure", "RetryInfo"] {
            assert!(types.contains(&format!("type.googleapis.com/google.rpc.{name}").into()), "{json}");
        }
        let unknown = Any { type_url: "type.googleapis.com/none.Such".to_owned(), value: vec![1] };
        let status = crate::proto::rpc::Status { code: 1, message: String::new(), details: vec![unknown] };
        assert!(to_json(&message("google.rpc.Status"), &status.encode_to_vec()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let message = message("tidemill.v1.ScanRequest");
            let _ = to_protobuf(&message, &bytes);
            let _ = to_json(&message, &bytes);
        }

        #[test]
        fn a_message_is_the_same_after_both(model in "\\PC{0,20}", samples in vec(any::<u8>(), 0..100), rate in any::<u32>()) {
            let payload = Some(v1::predict_request::Payload::PcmS16le(samples.into()));
            let request = v1::PredictRequest { model, payload, sample_rate_hz: rate, ..v1::PredictRequest::default() };
            let message = message("tidemill.v1.PredictRequest");
            let json = to_json(&message, &request.encode_to_vec()).expect("a message");
            let back = v1::PredictRequest::decode(to_protobuf(&message, &json).expect("its JSON"));
            prop_assert_eq!(back, Ok(request));
        }
    }
}
