//! `Feed` over a WebSocket: the messages of `tidemill.v1`, in JSON or in protobuf, one to a frame.
//!
//! A session is opened and polled as gRPC's is, so that its window, its policies and its errors are the same. What differs is how a message is
//! written, and how a stream ends: by a last message and a close.

mod open;
mod query;
mod request;
mod response;
mod stream;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::Deserialize;

use self::open::Opening;
use super::handshake::Sockets;
use crate::{
    domain::Fault,
    frontend::refusal::Refusal,
    native::Native,
    service::{Method, Service, Terms},
};

const FEED: Terms = Terms::live("ws_feed");

/// The subprotocols: JSON is the default, and so need not be named.
const JSON: &str = "tidemill.v1.json";
const PROTO: &str = "tidemill.v1.proto";

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Proto,
}

/// What all feeds of a port share. Clones share it.
#[derive(Clone)]
struct Feeds(Arc<Shared>);

struct Shared {
    native: Native,
    feed: Method,
    sockets: Sockets,
}

pub(super) fn router(service: Service, sockets: Sockets) -> Router {
    let feed = service.method(FEED);
    let native = Native::new(service, sockets.message_bytes_max());
    Router::new()
        .route("/tidemill/v1/feed", get(feed_of_any))
        .route("/tidemill/v1/models/{model}/feed", get(feed_of_one))
        .route("/tidemill/v1/models/{model}/versions/{version}/feed", get(feed_of_one))
        .with_state(Feeds(Arc::new(Shared { native, feed, sockets })))
}

/// The model that a path names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Target {
    model: String,
    /// Empty for the newest.
    #[serde(default)]
    version: String,
}

async fn feed_of_any(State(feeds): State<Feeds>, request: Request) -> Response {
    feeds.begin(None, &request).unwrap_or_else(Refusal::into_response)
}

async fn feed_of_one(State(feeds): State<Feeds>, target: Result<Path<Target>, PathRejection>, request: Request) -> Response {
    let target = target.map_err(|error| Fault::invalid("path", error.body_text()).into());
    target.and_then(|Path(target)| feeds.begin(Some(target), &request)).unwrap_or_else(Refusal::into_response)
}

impl Feeds {
    fn begin(&self, target: Option<Target>, request: &Request) -> Result<Response, Refusal> {
        let Shared { native, feed, sockets } = &*self.0;
        let refused = |fault: Fault| Refusal::from(feed.refuse(fault));
        let handshake = sockets.handshake(request).inspect_err(|refusal| feed.count_fault(&refusal.fault))?;
        if let Some(Target { model, version }) = &target {
            native.service().find(model, version).map_err(refused)?;
        }
        let opening = Opening::new(target, request.uri()).map_err(refused)?;
        let protocol = handshake.choose(&[JSON, PROTO]);
        let form = if protocol == Some(PROTO) { Form::Proto } else { Form::Json };
        let (native, feed, caller) = (native.clone(), feed.clone(), handshake.caller());
        Ok(handshake.answer(protocol, move |socket| stream::serve(socket, native, feed, caller, opening, form)))
    }
}
