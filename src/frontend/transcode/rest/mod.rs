//! HTTP with JSON: the native API at the paths that its proto gives in `google.api.http`.
//!
//! A request becomes a call of the gRPC services in this process, and what they answer becomes JSON, message by message as it comes. So limits,
//! deadlines and keys are gRPC's own. `Upload` takes a recording instead of messages, and is in [`upload`]; `Feed` is a WebSocket, and not here.
//!
//! # CANCELLATION
//! Dropping is cancelling: the call is a future inside that of the request, and a stream of answers holds its call.

mod accept;
mod openapi;
mod query;
mod refusal;
mod request;
mod routes;
mod streaming;
mod template;
mod upload;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::stream;
use http::{HeaderName, HeaderValue, Method as Verb, Response, header, request::Parts};
use tonic::{Code, body::Body};

pub(super) use self::routes::BadRoute;

use self::{
    accept::Form,
    refusal::{Refusal, body_of},
    routes::{Found, Route, Routes},
};
use super::{
    call::{Call, Piece},
    connection::Connection,
    frames::Charged,
    outgoing,
    schema::Schema,
};
use crate::domain::{Fault, FaultKind};

/// What all paths here begin with, but for that of the OpenAPI document.
const ROOT: &str = "/tidemill/";

/// How long a call may take, as gRPC has it.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Serves the native API over HTTP. Clones share it.
#[derive(Clone)]
pub(super) struct Rest(Arc<Inside>);

struct Inside {
    routes: Routes,
    document: OnceLock<Bytes>,
}

impl Rest {
    /// # Errors
    /// [`BadRoute`] if an option of the proto cannot be a route.
    pub(super) fn new(schema: &Schema) -> Result<Self, BadRoute> {
        Ok(Self(Arc::new(Inside { routes: Routes::of(schema.pool())?, document: OnceLock::new() })))
    }

    /// Whether a request is for this, going by its path. Those of WebSockets are not.
    pub(super) fn takes(&self, head: &Parts) -> bool {
        let path = head.uri.path();
        path == openapi::PATH || (path.starts_with(ROOT) && !self.0.routes.is_socket(path))
    }

    /// The answer to a request.
    pub(super) async fn answer(&self, connection: &Arc<Connection>, head: Parts, body: Body) -> Response<Body> {
        match self.0.answered(connection, &head, body).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(connection.schema()),
        }
    }
}

impl Inside {
    async fn answered(&self, connection: &Arc<Connection>, head: &Parts, body: Body) -> Result<Response<Body>, Refusal> {
        let path = head.uri.path();
        if path == openapi::PATH {
            return match head.method {
                Verb::GET | Verb::HEAD => Ok(self.described(connection.schema())),
                _ => Err(wrong_verb(head, vec![Verb::GET])),
            };
        }
        match self.routes.find(&head.method, path)? {
            // In boxes, so that no request is as large as the largest.
            Found::Route(route, values) if route.rpc.is_client_streaming() => {
                Box::pin(upload::answer(connection, head, body, route, &values)).await
            }
            Found::Route(route, values) => Box::pin(called(connection, head, body, route, &values)).await,
            Found::OtherVerbs(verbs) => Err(wrong_verb(head, verbs)),
            Found::Nothing => {
                let message = format!("there is nothing at {path}; {} says what there is", openapi::PATH);
                Err(Fault::new(FaultKind::NotFound, message).into())
            }
        }
    }

    fn described(&self, schema: &Schema) -> Response<Body> {
        let document = self.document.get_or_init(|| openapi::document(schema.pool(), &self.routes).to_string().into());
        json_response(document.clone())
    }
}

/// Calls an RPC of one request.
async fn called(
    connection: &Arc<Connection>,
    head: &Parts,
    body: Body,
    route: &Route,
    values: &[String],
) -> Result<Response<Body>, Refusal> {
    // Before anything is done: what cannot be answered is not asked.
    let form = if route.rpc.is_server_streaming() { Some(wanted_form(head)?) } else { None };
    let message = request::message(connection, head, body, route, values).await?;
    let mut answer = call_of(route, head).send(connection, stream::iter([Ok(message)])).await;
    let Some(form) = form else {
        let (message, _) = answer.only().await?;
        return Ok(charged_response(connection.to_json(route.rpc.output(), message).await?));
    };
    // A call that fails at once has a status of its own, rather than a stream that begins with an error.
    let first = match answer.next().await {
        Piece::Message(message) => Some(message),
        Piece::End(status) if status.code() == Code::Ok => None,
        Piece::End(status) => return Err(status.into()),
    };
    Ok(streaming::response(Arc::clone(connection), route.rpc.output(), form, first, answer))
}

/// The call that a request asks for.
fn call_of(route: &Route, head: &Parts) -> Call {
    let path = format!("/{}/{}", route.rpc.parent_service().full_name(), route.rpc.name());
    let call = Call::new(&path, &head.headers);
    match head.headers.get(&TIMEOUT) {
        Some(timeout) => call.with_header(TIMEOUT, timeout.clone()),
        None => call,
    }
}

fn wanted_form(head: &Parts) -> Result<Form, Refusal> {
    accept::form(&head.headers).ok_or_else(|| {
        let [lines, events] = [Form::Lines, Form::Events].map(Form::media_type);
        let message = format!("the answer is a stream, as {lines} or {events}, and the request accepts neither");
        Refusal::with_status(&Fault::invalid("accept", message), http::StatusCode::NOT_ACCEPTABLE).closing()
    })
}

fn wrong_verb(head: &Parts, verbs: Vec<Verb>) -> Refusal {
    let message = format!("{} is not for {}; the header `allow` says what it is for", head.uri.path(), head.method);
    Refusal::for_verbs(&Fault::new(FaultKind::Unsupported, message), verbs).closing()
}

/// An answer that is charged until the transport has taken it.
fn charged_response(json: Charged) -> Response<Body> {
    json_response(Bytes::new()).map(|_| outgoing::whole(json))
}

fn json_response(json: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body_of(json));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
