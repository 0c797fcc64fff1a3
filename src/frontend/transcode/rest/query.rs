//! Parameters of a path and a query as the JSON of a message.
//!
//! A name is the path of a field, in the proto's spelling or in JSON's: `include_results`, `includeResults`, `stream.order`. A list takes its
//! name again for each element.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::template::decoded;
use crate::domain::Fault;

/// Most parameters in one query.
const PARAMETERS_MAX: usize = 64;

/// The names and values of a query, in its order.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if it is not percent-encoded UTF-8, or has too many.
pub(super) fn parameters(query: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |part: &str| {
            let spaced = part.replace('+', " ");
            decoded(&spaced).ok_or_else(|| Fault::invalid("query", "the query is not percent-encoded UTF-8"))
        };
        if parameters.len() == PARAMETERS_MAX {
            return Err(Fault::invalid("query", format!("the query has more than {PARAMETERS_MAX} parameters")));
        }
        parameters.push((text(name)?, text(value)?));
    }
    Ok(parameters)
}

/// The fields of `message` that these parameters set.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) about a parameter that is unknown, given twice, or not of its field's type.
pub(super) fn fields<'a>(
    message: &MessageDescriptor,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Map<String, Value>, Fault> {
    let mut found = Map::new();
    for (name, value) in parameters {
        set(message, &mut found, name, value)?;
    }
    Ok(found)
}

fn set(message: &MessageDescriptor, found: &mut Map<String, Value>, path: &str, text: &str) -> Result<(), Fault> {
    let mut message = message.clone();
    let mut object = found;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let field = field_of(&message, name).ok_or_else(|| unknown(path, &message))?;
        let key = field.json_name().to_owned();
        if names.peek().is_none() {
            let value = value_of(&field, text).ok_or_else(|| wrong(path, text, &field))?;
            return put(object, key, value, &field, path);
        }
        let Kind::Message(inner) = field.kind() else { return Err(unknown(path, &message)) };
        if field.is_list() || field.is_map() {
            return Err(unknown(path, &message));
        }
        let slot = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
        object = slot.as_object_mut().ok_or_else(|| twice(path))?;
        message = inner;
    }
    Err(unknown(path, &message))
}

fn put(object: &mut Map<String, Value>, key: String, value: Value, field: &FieldDescriptor, path: &str) -> Result<(), Fault> {
    if field.is_list() {
        let list = object.entry(key).or_insert_with(|| json!([]));
        list.as_array_mut().ok_or_else(|| twice(path))?.push(value);
        return Ok(());
    }
    match object.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(twice(path)),
    }
}

/// Whether a message has this field, in one spelling or the other.
pub(super) fn field_of(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// What a text says in JSON, given its field's type; `None` if it says nothing of that type.
fn value_of(field: &FieldDescriptor, text: &str) -> Option<Value> {
    Some(match field.kind() {
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!(text.parse::<i32>().ok()?),
        Kind::Uint32 | Kind::Fixed32 => json!(text.parse::<u32>().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!(text.parse::<i64>().ok()?),
        Kind::Uint64 | Kind::Fixed64 => json!(text.parse::<u64>().ok()?),
        // As text, because JSON has no numbers for all of them.
        Kind::Float | Kind::Double => text.parse::<f64>().ok().map(|_| json!(text))?,
        Kind::Enum(values) => {
            let by_number = || text.parse().ok().and_then(|number| values.get_value(number));
            let value = values.get_value_by_name(text).or_else(by_number)?;
            json!(value.name())
        }
        Kind::String | Kind::Bytes => json!(text),
        // A duration or a time, which is a text in JSON. No other message is.
        Kind::Message(message) if message.full_name().starts_with("google.protobuf.") && !field.is_map() => json!(text),
        Kind::Message(_) => return None,
    })
}

fn unknown(path: &str, message: &MessageDescriptor) -> Fault {
    let names: Vec<String> = message.fields().map(|field| field.name().to_owned()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Fault::invalid(path.to_owned(), format!("there is no parameter '{path}'; {} has {known}", message.name()))
}

fn twice(path: &str) -> Fault {
    Fault::invalid(path.to_owned(), format!("the parameter '{path}' is given twice, in the path or the query"))
}

fn wrong(path: &str, text: &str, field: &FieldDescriptor) -> Fault {
    let expected = match field.kind() {
        Kind::Enum(values) => {
            let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
            format!("one of {}", names.join(", "))
        }
        Kind::Bool => "true or false".to_owned(),
        Kind::Message(message) => format!("a {}, which the query cannot hold", message.name()),
        kind => format!("a value of type {kind:?}").to_lowercase(),
    };
    Fault::invalid(path.to_owned(), format!("the parameter '{path}' is '{text}', but should be {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::{domain::FaultKind, proto::DESCRIPTORS};

    fn message(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
        pool.get_message_by_name(&format!("tidemill.v1.{name}")).expect("a message")
    }

    fn read(name: &str, query: &str) -> Result<Value, Fault> {
        let parameters = parameters(query)?;
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        fields(&message(name), pairs).map(Value::Object)
    }

    #[test]
    fn both_spellings_name_a_field_however_deep() {
        let expected =
            json!({"includeResults": true, "stream": {"windowItems": 7, "order": "RESULT_ORDER_AS_READY", "maxAge": "1.5s"}});
        let proto = "include_results=true&stream.window_items=7&stream.order=RESULT_ORDER_AS_READY&stream.max_age=1.5s";
        let json = "includeResults=true&stream.windowItems=7&stream.order=2&stream.maxAge=1.5s";
        assert_eq!(read("UploadConfig", proto), Ok(expected.clone()));
        assert_eq!(read("UploadConfig", json), Ok(expected));
        assert_eq!(read("GetModelRequest", "name=a+b%2Bc&&"), Ok(json!({"name": "a b+c"})));
    }

    #[test]
    fn a_list_takes_its_name_again() {
        assert_eq!(read("Tensor", "shape=1&shape=2"), Ok(json!({"shape": [1, 2]})));
        assert!(read("GetModelRequest", "name=a&name=b").is_err(), "but no other field");
    }

    #[test]
    fn what_is_unknown_or_wrong_is_refused_by_name() {
        for (name, query, field) in [
            ("GetModelRequest", "nmae=x", "nmae"),
            ("GetModelRequest", "name.x=1", "name.x"),
            ("GetModelRequest", "", ""),
            ("UploadConfig", "stream=1", "stream"),
            ("UploadConfig", "stream.order=sideways", "stream.order"),
            ("UploadConfig", "include_results=yes", "include_results"),
            ("UploadConfig", "stream.window_items=-1", "stream.window_items"),
            ("UploadConfig", "stream.window_items=", "stream.window_items"),
            ("Item", "inputs.name=x", "inputs.name"),
        ] {
            match read(name, query) {
                Ok(found) => assert_eq!((query, found), ("", json!({}))),
                Err(fault) => assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(field)), "{query}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_query_breaks_it(query in "([a-z_.]{1,12}=?|[&=%+.]|include_results=|stream\\.|\\PC){0,12}") {
            let _ = read("UploadConfig", &query);
        }
    }
}
