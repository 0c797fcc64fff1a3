//! The routes, from the options `google.api.http` of the proto. There is no other list of them.

use http::Method as Verb;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

use super::template::{BadTemplate, Template};
use crate::domain::Fault;

/// The option's full name.
const OPTION: &str = "google.api.http";

/// One way to call an RPC.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) template: Template,
    pub(super) rpc: MethodDescriptor,
    /// Whether the body holds what the path does not; otherwise the query does.
    pub(super) has_body: bool,
    /// How many of the RPC's routes come before this one.
    pub(super) index: usize,
}

/// An option that cannot be a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRoute {
    /// Its path is no template.
    #[error(transparent)]
    Template(#[from] BadTemplate),
    /// Something else is wrong.
    #[error("{rpc}: {reason}")]
    Rule {
        /// The RPC's full name.
        rpc: String,
        /// What is wrong.
        reason: String,
    },
}

/// All routes.
#[derive(Debug, Clone)]
pub(super) struct Routes {
    calls: Vec<Route>,
    /// Paths of RPCs in both directions, which are WebSockets and served elsewhere.
    sockets: Vec<Route>,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// An RPC, and the values of its route's variables.
    Route(&'a Route, Vec<String>),
    /// Something, but for these verbs.
    OtherVerbs(Vec<Verb>),
    Nothing,
}

impl Routes {
    /// The routes of all RPCs with the option.
    ///
    /// # Errors
    /// [`BadRoute`] if an option is not of a form that is known here, or two routes meet.
    pub(super) fn of(pool: &DescriptorPool) -> Result<Self, BadRoute> {
        let mut routes = Self { calls: Vec::new(), sockets: Vec::new() };
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            for route in routes_of(pool, &rpc)? {
                routes.push(route)?;
            }
        }
        Ok(routes)
    }

    fn push(&mut self, route: Route) -> Result<(), BadRoute> {
        let all = self.calls.iter().chain(&self.sockets);
        if let Some(other) = all.clone().find(|other| other.verb == route.verb && other.template.meets(&route.template)) {
            let reason = format!("a path may be its own and that of {}", other.rpc.full_name());
            return Err(BadRoute::Rule { rpc: route.rpc.full_name().to_owned(), reason });
        }
        let is_socket = route.rpc.is_client_streaming() && route.rpc.is_server_streaming();
        let kind = if is_socket { &mut self.sockets } else { &mut self.calls };
        kind.push(route);
        Ok(())
    }

    /// What is called with this verb at this path.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the path is not percent-encoded UTF-8.
    pub(super) fn find(&self, verb: &Verb, path: &str) -> Result<Found<'_>, Fault> {
        // Whoever asks for a head alone gets that of the document.
        let verb = if *verb == Verb::HEAD { &Verb::GET } else { verb };
        let mut others = Vec::new();
        for route in self.calls.iter().filter(|route| route.template.matches(path)) {
            if route.verb != *verb {
                others.push(route.verb.clone());
            } else if let Some(values) = route.template.capture(path)? {
                return Ok(Found::Route(route, values));
            }
        }
        Ok(if others.is_empty() { Found::Nothing } else { Found::OtherVerbs(others) })
    }

    /// Whether a WebSocket is opened at this path.
    pub(super) fn is_socket(&self, path: &str) -> bool {
        self.sockets.iter().any(|route| route.template.matches(path))
    }

    /// All but those of WebSockets.
    pub(super) fn calls(&self) -> &[Route] {
        &self.calls
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Route> {
        self.calls.iter().chain(&self.sockets)
    }
}

/// The routes of one RPC: that of its option, and its additional ones.
fn routes_of(pool: &DescriptorPool, rpc: &MethodDescriptor) -> Result<Vec<Route>, BadRoute> {
    let Some(option) = pool.get_extension_by_name(OPTION) else { return Ok(Vec::new()) };
    let options = rpc.options();
    if !options.has_extension(&option) {
        return Ok(Vec::new());
    }
    let value = options.get_extension(&option);
    let Some(rule) = value.as_message() else { return Ok(Vec::new()) };
    let more = rule.get_field_by_name("additional_bindings");
    let more = more.as_deref().and_then(Value::as_list).unwrap_or_default();
    let rules = std::iter::once(rule).chain(more.iter().filter_map(Value::as_message));
    rules.enumerate().map(|(index, rule)| route(rpc, rule, index)).collect()
}

fn route(rpc: &MethodDescriptor, rule: &DynamicMessage, index: usize) -> Result<Route, BadRoute> {
    let bad = |reason: String| BadRoute::Rule { rpc: rpc.full_name().to_owned(), reason };
    let text = |name: &str| rule.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let verbs = [("get", Verb::GET), ("put", Verb::PUT), ("post", Verb::POST), ("delete", Verb::DELETE), ("patch", Verb::PATCH)];
    let (path, verb) = verbs
        .into_iter()
        .map(|(name, verb)| (text(name), verb))
        .find(|(path, _)| !path.is_empty())
        .ok_or_else(|| bad("its option has no path for a verb that is known here".to_owned()))?;
    let template = Template::parse(&path)?;
    for variable in template.variables() {
        field_at(rpc, &variable.field).map_err(bad)?;
    }
    let has_body = match text("body").as_str() {
        "" => false,
        "*" => true,
        other => return Err(bad(format!("its body is '{other}', but only `*` and none are known here"))),
    };
    if !text("response_body").is_empty() {
        return Err(bad("its response is one field, which is not known here".to_owned()));
    }
    Ok(Route { verb, template, rpc: rpc.clone(), has_body, index })
}

/// Checks that a path of fields leads to a text.
fn field_at(rpc: &MethodDescriptor, path: &str) -> Result<(), String> {
    let mut message = rpc.input();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let field = message.get_field_by_name(name).ok_or_else(|| format!("`{path}` is not in its request"))?;
        if names.peek().is_none() {
            let is_text = matches!(field.kind(), prost_reflect::Kind::String) && !field.is_list();
            return if is_text { Ok(()) } else { Err(format!("`{path}` is not a text")) };
        }
        message = field.kind().as_message().cloned().ok_or_else(|| format!("`{name}` of `{path}` is no message"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proto::DESCRIPTORS;

    fn pool() -> DescriptorPool {
        DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors")
    }

    fn found(routes: &Routes, verb: &Verb, path: &str) -> Option<(String, Vec<String>)> {
        match routes.find(verb, path).expect("UTF-8") {
            Found::Route(route, values) => Some((route.rpc.name().to_owned(), values)),
            Found::OtherVerbs(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn each_native_rpc_has_a_route() {
        let routes = Routes::of(&pool()).expect("sound options");
        let has_route: BTreeSet<String> = routes.all().map(|route| route.rpc.full_name().to_owned()).collect();
        let native = pool().services().filter(|service| service.package_name() == "tidemill.v1").collect::<Vec<_>>();
        let all: BTreeSet<String> = native
            .iter()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|rpc| rpc.full_name().to_owned())
            .collect();
        assert_eq!(has_route, all);
    }

    #[test]
    fn paths_lead_to_their_rpcs() {
        let routes = Routes::of(&pool()).expect("sound options");
        let name = |text: &str| text.to_owned();
        let (get, post) = (Verb::GET, Verb::POST);
        assert_eq!(found(&routes, &get, "/tidemill/v1/models"), Some((name("ListModels"), vec![])));
        assert_eq!(found(&routes, &Verb::HEAD, "/tidemill/v1/models/m"), Some((name("GetModel"), vec![name("m")])));
        let versioned = "/tidemill/v1/models/m/versions/2/scan";
        assert_eq!(found(&routes, &post, versioned), Some((name("Scan"), vec![name("m"), name("2")])));
        assert_eq!(found(&routes, &post, "/tidemill/v1/models/m/predict/"), None);
        assert!(routes.is_socket("/tidemill/v1/models/m/versions/2/feed") && routes.is_socket("/tidemill/v1/feed"));
        assert!(!routes.is_socket(versioned));
        match routes.find(&get, versioned).expect("UTF-8") {
            Found::OtherVerbs(verbs) => assert_eq!(verbs, [Verb::POST]),
            other => panic!("{other:?}"),
        }
    }
}
