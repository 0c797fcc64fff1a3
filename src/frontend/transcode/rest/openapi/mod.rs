//! `/openapi.json`: the JSON form of the native API as OpenAPI 3.1, made from the proto when it is first asked for.

mod comments;
mod operations;
mod schemas;

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;
use serde_json::{Map, Value, json};

use self::{comments::Comments, operations::Operations, schemas::Schemas};
use super::routes::Routes;
use crate::{domain::FaultKind, frontend::statuses};

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

/// The message that every error is.
const STATUS: &str = "google.rpc.Status";

const DESCRIPTION: &str = "The native API over HTTP and JSON, made from the same proto as gRPC's. Messages are in proto3's JSON: 64-bit \
    integers are strings, bytes are base64, fields with their default value are left out, and requests may spell fields as here or as in the \
    proto. Every error is a google.rpc.Status. `Feed` is not in here: it is a WebSocket, at /tidemill/v1/models/{model}/feed.";

/// The document.
pub(super) fn document(pool: &DescriptorPool, routes: &Routes) -> Value {
    let comments = Comments::of(pool);
    let mut schemas = Schemas::new(&comments);
    let status = pool.get_message_by_name(STATUS).map_or_else(|| json!({"type": "object"}), |message| schemas.message(&message));
    let mut operations = Operations { comments: &comments, schemas: &mut schemas };
    let mut paths: Map<String, Value> = Map::new();
    for route in routes.calls() {
        let path = paths.entry(route.template.plain()).or_insert_with(|| json!({}));
        path[route.verb.as_str().to_lowercase()] = operations.operation(route);
    }
    let services: BTreeSet<String> =
        routes.calls().iter().map(|route| route.rpc.parent_service().full_name().to_owned()).collect();
    let tags = services
        .iter()
        .filter_map(|name| pool.get_service_by_name(name))
        .map(|service| json!({"name": service.name(), "description": comments.before(&service)}));
    let tags: Vec<Value> = tags.collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        // Whether a credential is needed is up to the server's configuration.
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_json(),
            "responses": {"Error": error(&status)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of POST /v1/tokens."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

/// The answer of a call that failed.
fn error(status: &Value) -> Value {
    json!({
        "description": "What is wrong, with a gRPC status code and machine-readable details.",
        "headers": {
            "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}},
        },
        "content": {"application/json": {"schema": status}},
    })
}

/// The HTTP statuses of errors: those of all kinds of faults, and HTTP's own.
fn error_statuses() -> BTreeSet<u16> {
    const OWN: [u16; 4] = [405, 406, 408, 415];
    FaultKind::ALL.into_iter().map(statuses::http).chain(OWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DESCRIPTORS;

    fn made() -> Value {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
        document(&pool, &Routes::of(&pool).expect("sound options"))
    }

    /// All references in a document.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn whatever_is_referred_to_is_there() {
        let document = made();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("in the document");
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
        }
    }

    #[test]
    fn what_the_proto_says_is_said() {
        let document = made();
        let predict = &document["paths"]["/tidemill/v1/models/{model}/predict"]["post"];
        assert_eq!(predict["summary"], "One item, one result");
        assert_eq!(predict["parameters"][0]["name"], "model");
        let tensor = &document["components"]["schemas"]["tidemill.v1.Tensor"];
        assert_eq!(tensor["properties"]["data"]["contentEncoding"], "base64");
        assert_eq!(tensor["properties"]["shape"]["items"]["format"], "int64");
        assert!(tensor["description"].as_str().is_some_and(|text| text.starts_with("A named, dense")));
        let scan = &document["paths"]["/tidemill/v1/models/{model}/scan"]["post"]["responses"]["200"]["content"];
        assert!(scan["text/event-stream"].is_object() && scan["application/x-ndjson"].is_object());
        let upload = &document["paths"]["/tidemill/v1/models/{model}/upload"]["post"];
        let has = |name: &str| upload["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
        assert!(has("include_results") && has("sample_rate_hz") && !has("version"));
        assert!(upload["requestBody"]["content"]["audio/wav"].is_object());
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = made();
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.values().flat_map(|path| path.as_object().expect("verbs").values());
        let ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().expect("a name")).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    }
}
