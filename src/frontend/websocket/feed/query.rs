//! The fields of a stream's configuration as parameters of a request.

use axum::{extract::Query, http::Uri};
use serde_json::{Map, Value};

use super::request::Config;
use crate::{domain::Fault, proto::v1};

/// The configuration that the parameters give; `None` if there are none.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) for a parameter that is no field of `StreamConfig`, comes twice, or has no such
/// value; and if there are parameters but no `payload`.
pub(super) fn stream_config(uri: &Uri) -> Result<Option<v1::StreamConfig>, Fault> {
    let invalid = |message: String| Fault::invalid("query", message);
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| invalid(format!("the query cannot be read: {error}")))?;
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut fields = Map::new();
    for (name, value) in pairs {
        // As JSON has it; numbers and names of enums are text there too.
        let value = match value.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::String(value),
        };
        if fields.insert(name.clone(), value).is_some() {
            return Err(invalid(format!("the parameter '{name}' comes twice")));
        }
    }
    if fields.contains_key("model") || fields.contains_key("version") {
        return Err(invalid("the path names the model and its version; leave them out of the query".to_owned()));
    }
    let config = serde_json::from_value::<Config>(Value::Object(fields));
    let config: v1::StreamConfig = config.map_err(|error| invalid(format!("a parameter of the query is wrong: {error}")))?.into();
    if config.payload == i32::from(v1::PayloadKind::Unspecified) {
        let message =
            "parameters open the feed, so `payload` has to be one of them: PAYLOAD_KIND_TENSORS or PAYLOAD_KIND_PCM_S16LE";
        return Err(Fault::invalid("payload", message));
    }
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> Result<Option<v1::StreamConfig>, Fault> {
        stream_config(&format!("/x?{query}").parse().expect("a path"))
    }

    #[test]
    fn each_field_has_both_its_spellings() {
        let read = |query| read(query).expect("sound").expect("some");
        let camel = read(
            "payload=PAYLOAD_KIND_PCM_S16LE&windowItems=7&defaultDeadline=1.5s&acceptContainerBytes=true&unread=UNREAD_POLICY_LATEST",
        );
        let snake = read(
            "payload=PAYLOAD_KIND_PCM_S16LE&window_items=7&default_deadline=1.5s&accept_container_bytes=true&unread=UNREAD_POLICY_LATEST",
        );
        assert_eq!(camel, snake);
        assert_eq!((camel.window_items, camel.accept_container_bytes, camel.unread), (7, true, v1::UnreadPolicy::Latest.into()));
        assert_eq!(camel.default_deadline, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    }

    #[test]
    fn what_says_nothing_clear_is_refused() {
        assert_eq!(read(""), Ok(None));
        for (query, says) in [
            ("window_items=7", "payload"),
            ("payload=PCM", "PCM"),
            ("payload=PAYLOAD_KIND_TENSORS&payload=PAYLOAD_KIND_TENSORS", "twice"),
            ("payload=PAYLOAD_KIND_TENSORS&model=m", "the path names the model"),
            ("payload=PAYLOAD_KIND_TENSORS&colour=red", "colour"),
            ("payload=PAYLOAD_KIND_TENSORS&window_items=-1", "-1"),
        ] {
            let fault = read(query).expect_err("unclear");
            assert!(fault.message().contains(says), "{query}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "[ -~]{0,60}") {
            if let Ok(uri) = format!("/x?{query}").parse() {
                let _ = stream_config(&uri);
            }
        }
    }
}
