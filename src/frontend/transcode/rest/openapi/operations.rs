//! Routes as operations of OpenAPI.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::{
    super::{routes::Route, template::Variable, upload},
    comments::{Comments, first_sentence},
    error_statuses,
    schemas::Schemas,
};

/// What operations are made of.
pub(super) struct Operations<'a, 'b> {
    pub(super) comments: &'a Comments,
    pub(super) schemas: &'b mut Schemas<'a>,
}

impl Operations<'_, '_> {
    pub(super) fn operation(&mut self, route: &Route) -> Value {
        let rpc = &route.rpc;
        let comment = self.comments.before(rpc);
        let mut operation = json!({
            "operationId": name_of(route),
            "summary": first_sentence(comment),
            "description": comment,
            "tags": [rpc.parent_service().name()],
            "responses": self.responses(rpc),
        });
        let mut parameters: Vec<Value> =
            route.template.variables().iter().map(|variable| self.path_parameter(rpc, variable)).collect();
        if rpc.is_client_streaming() {
            parameters.extend(self.upload_parameters(rpc));
            operation["requestBody"] = recording();
        } else if route.has_body {
            let schema = self.schemas.message(&rpc.input());
            operation["requestBody"] = json!({
                "description": "The request, without what the path says.",
                "content": {"application/json": {"schema": schema}},
                "required": false,
            });
        } else {
            let bound =
                |field: &FieldDescriptor| route.template.variables().iter().any(|variable| variable.field == field.name());
            let left: Vec<_> = rpc.input().fields().filter(|field| !bound(field) && is_plain(field)).collect();
            parameters.extend(left.iter().map(|field| self.query_parameter(field)));
        }
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        operation
    }

    fn responses(&mut self, rpc: &MethodDescriptor) -> Value {
        let message = self.schemas.message(&rpc.output());
        let description = self.comments.before(&rpc.output()).to_owned();
        let content = if rpc.is_server_streaming() {
            let each = |how: &str| json!({"schema": {"type": "string", "description": how, "contentMediaType": "application/json", "contentSchema": message}});
            json!({
                "application/x-ndjson": each("One message a line. A line `{\"error\": …}` with a google.rpc.Status is the last of a stream that failed."),
                "text/event-stream": each("One message an event. An event `error` with a google.rpc.Status is the last of a stream that failed."),
            })
        } else {
            json!({"application/json": {"schema": message}})
        };
        let mut responses = Map::new();
        responses.insert("200".to_owned(), json!({"description": description, "content": content}));
        for status in error_statuses() {
            responses.insert(status.to_string(), json!({"$ref": "#/components/responses/Error"}));
        }
        Value::Object(responses)
    }

    fn path_parameter(&mut self, rpc: &MethodDescriptor, variable: &Variable) -> Value {
        let field = field_at(&rpc.input(), &variable.field);
        let description = field.map(|field| self.comments.before(&field).to_owned()).unwrap_or_default();
        json!({
            "name": variable.name(),
            "in": "path",
            "required": true,
            "description": description,
            "schema": {"type": "string", "minLength": 1},
            "example": if variable.name() == "version" { "6" } else { "silero-vad" },
        })
    }

    fn query_parameter(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = self.schemas.described_field(field);
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description")).unwrap_or_else(|| json!(""));
        json!({"name": field.name(), "in": "query", "description": description, "schema": schema})
    }

    /// The settings of an upload.
    fn upload_parameters(&mut self, rpc: &MethodDescriptor) -> Vec<Value> {
        let settings = upload::settings(rpc);
        settings.iter().filter(|field| is_plain(field)).map(|field| self.query_parameter(field)).collect()
    }
}

/// The body of an upload.
fn recording() -> Value {
    const TYPES: [&str; 7] =
        ["application/octet-stream", "audio/wav", "audio/flac", "audio/mpeg", "audio/mp4", "audio/ogg", "audio/L16"];
    let content: Map<String, Value> = TYPES.into_iter().map(|name| (name.to_owned(), json!({}))).collect();
    json!({
        "description": "The recording: WAV, FLAC, MP3, AAC, Ogg Vorbis, AIFF, CAF or AU, whatever the type says, or raw 16-bit mono samples, \
            little-endian at `sample_rate_hz`, or big-endian as `audio/L16;rate=16000`.",
        "content": content,
        "required": true,
    })
}

/// Whether a query can hold a field.
fn is_plain(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => !field.is_map() && message.full_name() == "google.protobuf.Duration",
        _ => true,
    }
}

fn field_at(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    match path.split_once('.') {
        None => message.get_field_by_name(path),
        Some((first, rest)) => field_at(message.get_field_by_name(first)?.kind().as_message()?, rest),
    }
}

/// The RPC's name, and that of what its route has beyond the first one.
fn name_of(route: &Route) -> String {
    let name = route.rpc.name();
    match route.template.variables().last() {
        Some(last) if route.index > 0 => {
            let mut field = last.name().to_owned();
            if let Some(first) = field.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            format!("{name}Of{field}")
        }
        _ if route.index > 0 => format!("{name}{}", route.index),
        _ => name.to_owned(),
    }
}
