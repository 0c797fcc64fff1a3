//! Messages and enums as JSON schemas, as proto3's JSON has them.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;

/// Where schemas are referred to.
const SCHEMAS: &str = "#/components/schemas/";

/// The schemas of all messages that have been referred to.
pub(super) struct Schemas<'a> {
    comments: &'a Comments,
    /// By the message's or enum's full name. One that is being made is `null`, so that a message may hold itself.
    made: BTreeMap<String, Value>,
}

impl<'a> Schemas<'a> {
    pub(super) const fn new(comments: &'a Comments) -> Self {
        Self { comments, made: BTreeMap::new() }
    }

    pub(super) fn into_json(self) -> Map<String, Value> {
        self.made.into_iter().collect()
    }

    /// A reference to a message's schema, which is made if need be; well-known types stand in place.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(schema) = well_known(message.full_name()) {
            return schema;
        }
        let name = message.full_name();
        if !self.made.contains_key(name) {
            self.made.insert(name.to_owned(), Value::Null);
            let schema = self.object(message);
            self.made.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn object(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            properties.insert(field.json_name().to_owned(), self.described_field(&field));
        }
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        let groups: Vec<_> = message.oneofs().filter(|oneof| !oneof.is_synthetic()).collect();
        let mut description = self.comments.before(message).to_owned();
        for group in &groups {
            let names: Vec<String> = group.fields().map(|field| format!("`{}`", field.json_name())).collect();
            description.push_str(&format!(" At most one of {} is set.", names.join(", ")));
        }
        if let [only] = groups.as_slice()
            && only.fields().count() == message.fields().count()
        {
            schema["maxProperties"] = json!(1);
        }
        if !description.is_empty() {
            schema["description"] = json!(description.trim_start());
        }
        schema
    }

    /// A field's schema with its comment.
    pub(super) fn described_field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = self.field(field);
        let comment = self.comments.before(field);
        if let Some(object) = schema.as_object_mut()
            && !comment.is_empty()
        {
            // Next to a reference too: in OpenAPI 3.1 that adds to it.
            object.insert("description".to_owned(), json!(comment));
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let value = match field.kind() {
                Kind::Message(entry) => self.kind(&entry.map_entry_value_field().kind()),
                other => self.kind(&other),
            };
            return json!({"type": "object", "additionalProperties": value});
        }
        let one = self.kind(&field.kind());
        if field.is_list() { json!({"type": "array", "items": one}) } else { one }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Message(message) => self.message(message),
            Kind::Enum(values) => self.enumeration(values),
            scalar => scalar_schema(scalar),
        }
    }

    fn enumeration(&mut self, values: &EnumDescriptor) -> Value {
        let name = values.full_name();
        if !self.made.contains_key(name) {
            let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
            let meanings = values.values().map(|value| {
                let meaning = self.comments.before(&value);
                format!("\n- `{}`: {meaning}", value.name())
            });
            let meanings: String = meanings.collect();
            let description = format!("{}\n{meanings}", self.comments.before(values));
            self.made.insert(name.to_owned(), json!({"type": "string", "enum": names, "description": description}));
        }
        reference(name)
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{SCHEMAS}{name}")})
}

/// A number or a text; 64-bit integers are text, because most languages' JSON numbers cannot hold them.
fn scalar_schema(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
        }
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"})
        }
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}),
        Kind::Float | Kind::Double => {
            let format = if *kind == Kind::Float { "float" } else { "double" };
            json!({"oneOf": [
                {"type": "number", "format": format},
                {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]},
            ]})
        }
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::String | Kind::Message(_) | Kind::Enum(_) => json!({"type": "string"}),
    }
}

/// Messages that have a JSON form of their own.
fn well_known(name: &str) -> Option<Value> {
    Some(match name {
        "google.protobuf.Duration" => {
            json!({"type": "string", "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,9})?s$", "examples": ["0.250s"]})
        }
        "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
        "google.protobuf.Any" => json!({
            "type": "object",
            "properties": {"@type": {"type": "string", "description": "The type of the message, after the last slash."}},
            "required": ["@type"],
            "additionalProperties": true,
        }),
        "google.protobuf.Struct" => json!({"type": "object"}),
        "google.protobuf.Value" => json!({}),
        "google.protobuf.Empty" => json!({"type": "object", "additionalProperties": false}),
        _ => return None,
    })
}
