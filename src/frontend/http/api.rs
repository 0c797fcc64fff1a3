//! The state that all handlers share, and the parts of their paths.

use std::{ops::Deref, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

use super::{error::Refusal, response::to_json};
use crate::{
    config::HttpConfig,
    domain::{Fault, Timestamp},
    frontend::{Bounds, acting::Gate, console, forwarded},
    open_inference::OpenInference,
    service::{Caller, Method, Terms},
};

/// The state that handlers share. axum makes several clones for each request, each of which is one pointer.
#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

pub(super) struct Shared {
    pub(super) open_inference: OpenInference,
    pub(super) infer: Method,
    pub(super) generate: Method,
    pub(super) config: HttpConfig,
    pub(super) bounds: Bounds,
    /// Absent if no caller is known.
    pub(super) gate: Option<Gate>,
}

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

const INFER: Terms = Terms::unary("http_infer");
const GENERATE: Terms = Terms::unary("http_generate");

impl Api {
    pub(super) fn new(open_inference: OpenInference, config: HttpConfig, bounds: Bounds) -> Self {
        let [infer, generate] = [INFER, GENERATE].map(|terms| open_inference.service().method(terms));
        let gate = Gate::of(open_inference.service(), is_open);
        Self(Arc::new(Shared { open_inference, infer, generate, config, bounds, gate }))
    }

    /// Whether browsers get the console.
    pub(super) fn shows_console(&self) -> bool {
        self.config.console.is_on(true)
    }

    pub(super) fn caller(&self, headers: &HeaderMap) -> Caller {
        let service = self.open_inference.service();
        let mut principal = service.principal(|name| headers.get(name).map(HeaderValue::as_bytes));
        principal.peer = forwarded::sender(principal.peer, headers, service.connections());
        Caller { principal, ends_at: Timestamp::NEVER }
    }
}

/// Paths that tell whether the server is up, and the console's files; they need no credential.
fn is_open(path: &str) -> bool {
    matches!(path, "/v2/health/live" | "/v2/health/ready") || console::has_path(path)
}

/// The model that a path names.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Target {
    pub(super) model: String,
    /// Empty for the newest.
    #[serde(default)]
    pub(super) version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<Self>::from_request_parts(parts, state).await;
        path.map(|Path(target)| target).map_err(|error| Fault::invalid("path", error.body_text()).into())
    }
}

/// A name at the end of a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|error| Fault::invalid("path", error.body_text()).into())
    }
}

/// A document in JSON.
pub(super) fn document(value: &impl Serialize) -> Result<Response, Refusal> {
    let json = to_json(value)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}
