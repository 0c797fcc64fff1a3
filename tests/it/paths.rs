//! The paths of all protocols on one port: no two meanings meet, and paths that clients of other servers may come to need are free.

use std::collections::BTreeMap;

use matchit::Router;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

use tidemill::proto::DESCRIPTORS;

use crate::tidy::{assert_none, sources};

/// Paths that are served by hand; those of the gRPC services and of the JSON channel are read from the proto.
const SERVED: [(&str, &str); 10] = [
    ("/v1/tokens", "tokens"),
    ("/v1/realtime", "Realtime"),
    ("/v1/realtime/client_secrets", "Realtime"),
    ("/v1/realtime/transcription_sessions", "Realtime"),
    ("/openapi.json", "OpenAPI"),
    ("/", "the console"),
    ("/console", "the console"),
    ("/console/{*file}", "the console"),
    ("/v2/health/live", "Open Inference"),
    ("/v2/health/ready", "Open Inference"),
];

/// Paths that are kept free, for what other servers have there.
const RESERVED: [(&str, &str); 6] = [
    ("/v1/models", "OpenAI"),
    ("/v1/audio/transcriptions", "OpenAI"),
    ("/v1/responses", "OpenAI"),
    ("/v2/users/{user}/apps/{app}/models/{model}/outputs", "Clarifai"),
    ("/v2/models/{model}/outputs", "Clarifai"),
    ("/v2/models/{model}/versions/{version}/outputs", "Clarifai"),
];

/// The paths that the sources of the front ends give to their routers.
fn routed() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for source in sources("src/frontend") {
        let text = source.without_tests().to_owned();
        for (at, _) in text.match_indices(".route(\"") {
            let rest = &text[at + ".route(\"".len()..];
            let path = rest.split('"').next().unwrap_or_default();
            found.insert(path.to_owned(), source.path.clone());
        }
    }
    assert!(found.len() > 10, "the routes were not found: {found:?}");
    found
}

/// What stands after `/v2/models/{model}`, with and without a version.
fn of_models() -> Vec<(String, String)> {
    let ends = ["", "/ready", "/config", "/stats", "/infer", "/generate", "/generate_stream", "/trace/setting"];
    let forms = ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"];
    forms.into_iter().flat_map(|form| ends.map(|end| (format!("{form}{end}"), "Open Inference".to_owned()))).collect()
}

/// The paths of a method over gRPC, and as its option says.
fn of_method(pool: &DescriptorPool, method: &MethodDescriptor) -> Vec<(String, String)> {
    let grpc = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut paths = vec![(grpc, format!("gRPC {}", method.full_name()))];
    let option = pool.get_extension_by_name("google.api.http").expect("the option");
    let options = method.options();
    if options.has_extension(&option) {
        let rule = options.get_extension(&option).into_owned();
        paths.extend(
            of_rule(rule.as_message().expect("a rule")).into_iter().map(|path| (path, format!("JSON {}", method.full_name()))),
        );
    }
    paths
}

fn of_rule(rule: &DynamicMessage) -> Vec<String> {
    let text = |name: &str| rule.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
    let path = ["get", "put", "post", "delete", "patch"].into_iter().filter_map(text).find(|path| !path.is_empty());
    let mut paths: Vec<String> = path.into_iter().map(|path| path.replace('.', "_")).collect();
    if let Some(more) = rule.get_field_by_name("additional_bindings") {
        paths.extend(more.as_list().unwrap_or_default().iter().filter_map(Value::as_message).flat_map(of_rule));
    }
    paths
}

/// The same path, whatever its parts are called.
fn without_names(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        rest if rest.starts_with("{*") => "{*}",
        one if one.starts_with('{') => "{}",
        literal => literal,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn no_two_meanings_meet_and_reserved_paths_are_free() {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
    let owned = |(path, meaning): (&str, &str)| (path.to_owned(), meaning.to_owned());
    let by_proto = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let by_proto: Vec<_> = by_proto.flat_map(|method| of_method(&pool, &method)).collect();
    let in_sources = routed().into_iter().map(|(path, source)| (path, format!("a route of {source}")));
    let served = SERVED.into_iter().map(owned).chain(of_models()).chain(by_proto).chain(in_sources);
    // One path may have several verbs, and be listed as well as found.
    let mut meanings: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (path, meaning) in served {
        meanings.entry(without_names(&path)).or_insert((path, meaning));
    }
    for (path, meaning) in RESERVED.into_iter().map(owned) {
        if let Some((taken, by)) = meanings.insert(without_names(&path), (path.clone(), format!("reserved for {meaning}"))) {
            complaints.push(format!("{path} is kept free for {meaning}, but {taken} is {by}"));
        }
    }
    let mut router = Router::new();
    for (path, meaning) in meanings.values() {
        if let Err(error) = router.insert(path.clone(), meaning.clone()) {
            complaints.push(format!("{path} ({meaning}): {error}"));
        }
    }
    for (path, meaning) in RESERVED {
        let sample = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/");
        let found = router.at(&sample).map(|found| found.value.clone());
        if found.as_deref().ok() != Some(format!("reserved for {meaning}").as_str()) {
            complaints.push(format!("{path} is kept free for {meaning}, but {sample} leads to {found:?}"));
        }
    }
    assert_none(complaints);
}
