//! OpenAI's Realtime API over WebSocket, for sessions that transcribe: turns of speech in the words of that API, found by a model for voice
//! activity; and text, where a model gives any.
//!
//! ```text
//!  asked ─► driver ─► conversation ─► voice                     what a session says
//!             │           ├─► said, update ─► settings          what its client may say
//!             │           └─► turns                             what probabilities say
//!             └─► feed ─► the native stream ─► the model
//! ```
//!
//! The stream below a session is a native one of raw audio. Its results hold probabilities; what the session makes of these follows its own
//! settings, which its client may change at any time.

mod asked;
mod conversation;
mod driver;
mod feed;
mod said;
mod secrets;
mod settings;
mod turns;
mod update;
mod voice;
mod wrong;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};

use self::{
    asked::{Asked, BETA, REALTIME},
    driver::Host,
};
use super::handshake::Sockets;
use crate::{
    config::RealtimeConfig,
    domain::Fault,
    frontend::refusal::Refusal,
    native::Native,
    service::{Service, Terms},
};

const SESSIONS: Terms = Terms::stream("realtime");

/// What all sessions of a port share. Clones share it.
#[derive(Clone)]
struct Sessions(Arc<Shared>);

struct Shared {
    host: Host,
    sockets: Sockets,
}

pub(super) fn router(service: Service, sockets: Sockets, config: RealtimeConfig) -> Router {
    let method = service.method(SESSIONS);
    let native = Native::new(service, sockets.message_bytes_max());
    let host = Host { native, method, config };
    Router::new()
        .route("/v1/realtime", get(open))
        .route("/v1/realtime/client_secrets", post(client_secrets))
        .route("/v1/realtime/transcription_sessions", post(transcription_sessions))
        .with_state(Sessions(Arc::new(Shared { host, sockets })))
}

async fn open(State(sessions): State<Sessions>, request: Request) -> Response {
    sessions.open(&request).unwrap_or_else(Refusal::into_response)
}

async fn client_secrets(State(sessions): State<Sessions>, request: Request) -> Result<Response, Refusal> {
    let Shared { host, sockets } = &*sessions.0;
    secrets::lend(host, sockets, request, secrets::Shape::General).await
}

async fn transcription_sessions(State(sessions): State<Sessions>, request: Request) -> Result<Response, Refusal> {
    let Shared { host, sockets } = &*sessions.0;
    secrets::lend(host, sockets, request, secrets::Shape::Beta).await
}

impl Sessions {
    fn open(&self, request: &Request) -> Result<Response, Refusal> {
        let Shared { host, sockets } = &*self.0;
        let refused = |fault: Fault| Refusal::from(host.method.refuse(fault));
        let handshake = sockets.handshake(request).inspect_err(|refusal| host.method.count_fault(&refusal.fault))?;
        let beta = handshake.choose(&[BETA]);
        let asked = Asked::new(request.uri(), request.headers(), beta.is_some()).map_err(refused)?;
        // The other subprotocols of a browser hold its key and its version, and are not for the answer.
        let protocol = handshake.choose(&[REALTIME]).or(beta);
        let (host, caller) = (host.clone(), handshake.caller());
        // A secret lasts for minutes, and a session for an hour.
        let handshake = handshake.outliving_token();
        Ok(handshake.answer(protocol, move |socket| driver::converse(socket, asked, host, caller)))
    }
}
