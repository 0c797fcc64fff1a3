//! The paths of the API, and the rules for all of them.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method as Verb, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get, post},
};
use serde::Serialize;
use tower::ServiceBuilder;
use tower_http::{CompressionLevel, compression::CompressionLayer};

use super::{
    answer,
    api::{Api, Target, document},
    error::Refusal,
    generate, infer, repository, shared_memory, tokens,
};
use crate::{
    domain::{Fault, FaultKind, Peer},
    frontend::{
        acting::{Acting, ActingBody},
        console,
        web::refuse_forms,
    },
    transport::Account,
};

/// All of the port's routes: our own, and `others`, to which the same rules apply.
pub(super) fn router(api: Api, others: Router) -> Router {
    let changes: Router<Api> = Router::new()
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route("/v1/tokens", post(tokens::lend))
        .route("/v2/systemsharedmemory/unregister", post(shared_memory::unregister_all))
        .route("/v2/systemsharedmemory/region/{region}/register", post(shared_memory::register))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(shared_memory::unregister))
        .route_layer(middleware::from_fn(no_forms));
    let router = Router::new()
        .merge(changes)
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/systemsharedmemory/status", get(shared_memory::status_of_all))
        .route("/v2/systemsharedmemory/region/{region}/status", get(shared_memory::status))
        .route("/v2/cudasharedmemory/unregister", post(unregister_nothing))
        .route("/v2/cudasharedmemory/region/{region}/unregister", post(unregister_nothing))
        .route("/v2/cudasharedmemory/{*rest}", any(unsupported))
        .route("/v2/trace/setting", any(unsupported))
        .route("/v2/logging", any(unsupported));
    let of_models: [(&str, MethodRouter<Api>); 8] = [
        ("", get(model_metadata)),
        ("/ready", get(model_ready)),
        ("/config", get(model_config)),
        ("/stats", get(model_statistics)),
        ("/infer", post(infer::infer)),
        ("/generate", post(generate::generate)),
        ("/generate_stream", post(generate::generate_stream)),
        ("/trace/setting", any(unsupported)),
    ];
    let router = of_models.into_iter().fold(router, |router, (end, handler)| {
        router
            .route(&format!("/v2/models/{{model}}{end}"), handler.clone())
            .route(&format!("/v2/models/{{model}}/versions/{{version}}{end}"), handler)
    });
    let router = if api.shows_console() { router.merge(console::router(api.bounds.side.clone())) } else { router };
    router
        .route("/", get(front))
        .with_state(api.clone())
        .merge(others)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_verb)
        // One layer, because axum boxes every layer for every request.
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state(api, around))
                .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
                .map_response(answer::with_length),
        )
}

/// The rules for each request: only encodings that can be decoded, and no further request on a connection while the server drains.
async fn around(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let account =
        request.extensions().get::<Account>().cloned().unwrap_or_else(|| api.bounds.transfer.connection(Peer::default()));
    let mut response = match known_encoding(request.headers_mut()) {
        Ok(()) => answer::hand_out(&api.bounds, &account, on_behalf(&api, request, next).await).await,
        Err(refusal) => refusal.into_response(),
    };
    if response.status() == StatusCode::NOT_ACCEPTABLE {
        let fault = Fault::invalid(
            "accept-encoding",
            "the response can be encoded as gzip, deflate or identity, and the request accepts none of them",
        );
        response = Refusal::with_status(fault, StatusCode::NOT_ACCEPTABLE).into_response();
    }
    let goes_on = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !goes_on && api.open_inference.service().drain().is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Runs a request on behalf of its caller.
async fn on_behalf(api: &Api, request: Request, next: Next) -> Response {
    let Some(gate) = &api.gate else { return next.run(request).await };
    let holder = match gate.find(request.uri().path(), request.headers()) {
        Ok(Some(holder)) => holder,
        Ok(None) => return next.run(request).await,
        // Its body is not read.
        Err(fault) => return Refusal::from(fault).closing().into_response(),
    };
    match Acting::new(Arc::clone(&holder), next.run(request)).await {
        Ok(response) if response.body().size_hint().exact().is_none() => {
            response.map(|body| Body::new(ActingBody::new(holder, body, |fault| Err(axum::Error::new(fault)))))
        }
        Ok(response) => response,
        Err(fault) => Refusal::from(fault).closing().into_response(),
    }
}

/// A request that changes the server must not have a form that any web page can send.
async fn no_forms(request: Request, next: Next) -> Response {
    match refuse_forms(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => Refusal::with_status(fault, StatusCode::UNSUPPORTED_MEDIA_TYPE).into_response(),
    }
}

/// Puts the body's encoding in lower case, the only form that the decoder knows; HTTP allows either.
fn known_encoding(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(()) };
    let known =
        ["gzip", "deflate", "identity"].into_iter().find(|known| encoding.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
    if let Some(known) = known {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(known));
        return Ok(());
    }
    let message = format!("the body is encoded as {encoding:?}; send gzip, deflate or identity");
    Err(Refusal::with_status(Fault::invalid("content-encoding", message), StatusCode::UNSUPPORTED_MEDIA_TYPE).closing())
}

/// The console for browsers, and for others what there is.
async fn front(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Refusal> {
    let mut response = match (console::wants_page(&headers), api.shows_console()) {
        (true, true) => console::page(&headers),
        (true, false) => return Err(no_console()),
        (false, _) => document(&SURFACES)?,
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn no_console() -> Refusal {
    let message = "the console is off on this port (http.console): unless that is set, it is there on addresses of this machine, and on others if \
                   callers have credentials";
    Fault::new(FaultKind::NotFound, message).into()
}

async fn not_found(uri: Uri) -> Refusal {
    if console::has_path(uri.path()) {
        return no_console();
    }
    let message = format!("there is nothing at {}; the Open Inference Protocol begins at /v2", uri.path());
    Fault::new(FaultKind::NotFound, message).into()
}

async fn wrong_verb(verb: Verb, uri: Uri) -> Refusal {
    let message = format!("{} is not for {verb}; the header `allow` says what it is for", uri.path());
    Refusal::with_status(Fault::new(FaultKind::Unsupported, message), StatusCode::METHOD_NOT_ALLOWED)
}

/// No region can be registered, so all are unregistered: clients clean up by this call whatever they have used.
async fn unregister_nothing() -> StatusCode {
    StatusCode::OK
}

async fn unsupported(uri: Uri) -> Refusal {
    Fault::new(FaultKind::Unsupported, format!("this server has no {}", uri.path())).into()
}

async fn server_metadata(State(api): State<Api>) -> Result<Response, Refusal> {
    document(&api.open_inference.server_metadata())
}

async fn live() -> Result<Response, Refusal> {
    document(&Live { live: true })
}

async fn ready(State(api): State<Api>) -> Result<Response, Refusal> {
    if api.open_inference.is_ready() {
        return document(&Ready { name: None, ready: true });
    }
    Err(Fault::new(FaultKind::Unavailable, "the server is not ready: it drains, or a model has lost its engine").into())
}

async fn model_ready(State(api): State<Api>, target: Target) -> Result<Response, Refusal> {
    let Target { model, version } = target;
    let service = api.open_inference.service();
    service.find(&model, &version)?;
    if service.is_serving() {
        return document(&Ready { name: Some(&model), ready: true });
    }
    Err(Fault::new(FaultKind::Unavailable, format!("model '{model}' is not ready: the server is draining")).into())
}

async fn model_metadata(State(api): State<Api>, target: Target) -> Result<Response, Refusal> {
    document(&api.open_inference.model_metadata(&target.model, &target.version)?)
}

async fn model_config(State(api): State<Api>, target: Target) -> Result<Response, Refusal> {
    document(&api.open_inference.model_config(&target.model, &target.version)?)
}

async fn model_statistics(State(api): State<Api>, target: Target) -> Result<Response, Refusal> {
    document(&Statistics { model_stats: api.open_inference.statistics(&target.model, &target.version)? })
}

async fn all_statistics(State(api): State<Api>) -> Result<Response, Refusal> {
    document(&Statistics { model_stats: api.open_inference.statistics("", "")? })
}

/// Where each kind of client begins.
const SURFACES: Surfaces = Surfaces {
    name: "tidemill",
    console: "/",
    models: "/tidemill/v1/models",
    openapi: "/openapi.json",
    open_inference: "/v2",
    openai_realtime: "/v1/realtime",
};

#[derive(Serialize)]
struct Surfaces {
    name: &'static str,
    console: &'static str,
    models: &'static str,
    openapi: &'static str,
    open_inference: &'static str,
    openai_realtime: &'static str,
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct Ready<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    ready: bool,
}

#[derive(Serialize)]
struct Statistics<T> {
    model_stats: T,
}
