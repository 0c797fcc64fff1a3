//! How a request becomes a socket.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode, Version, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    line::{Line, Rules},
    socket::{self, Socket},
};
use crate::{
    config::{HttpConfig, WebSocketConfig},
    domain::{Fault, FaultKind, Peer, Timestamp},
    frontend::{Bounds, forwarded, refusal::Refusal},
    service::{Caller, Holder, Service, draining},
    telemetry::{Gauge, GaugeGuard},
    transport::{Account, http1::Takeover},
};

/// The one version that there is.
const WEBSOCKET_VERSION: &str = "13";

/// Bytes of a key before they are encoded.
const KEY_BYTES: usize = 16;

/// What all sockets of a port share. Clones share it too.
#[derive(Clone)]
pub(super) struct Sockets {
    rules: Arc<Rules>,
    bounds: Bounds,
    service: Service,
}

impl Sockets {
    pub(super) fn new(service: &Service, config: WebSocketConfig, http: &HttpConfig, bounds: Bounds) -> Self {
        let rules = Rules {
            config,
            message_timeout: http.body_timeout(),
            message_timeout_key: "http.body_timeout_s",
            unread_timeout: service.config().unread_timeout(),
        };
        Self { rules: Arc::new(rules), bounds, service: service.clone() }
    }

    /// Largest message of a client.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.rules.config.max_message_bytes
    }

    /// Time within which what has begun to arrive has to be there (`http.body_timeout_s`).
    pub(super) fn message_timeout(&self) -> Duration {
        self.rules.message_timeout
    }

    /// What is charged for whatever a request brings.
    pub(super) fn account(&self, request: &Request) -> Account {
        let account = request.extensions().get::<Account>().cloned();
        account.unwrap_or_else(|| self.bounds.transfer.connection(Peer::default()))
    }

    /// The handshake that a request makes.
    ///
    /// # Errors
    /// The answer to one that makes none, in JSON: 400 or 426; 503 once the server drains.
    pub(super) fn handshake(&self, request: &Request) -> Result<Handshake, Refusal> {
        let accept = accept(request)?;
        if self.service.drain().is_draining() {
            return Err(draining().into());
        }
        let headers = request.headers();
        let mut principal = self.service.principal(|name| headers.get(name).map(HeaderValue::as_bytes));
        principal.peer = forwarded::sender(principal.peer, headers, self.service.connections());
        Ok(Handshake {
            accept,
            protocols: protocols(headers)?,
            caller: Caller { principal, ends_at: Timestamp::NEVER },
            holder: self.service.caller(),
            account: self.account(request),
            rules: Arc::clone(&self.rules),
            open: self.bounds.metrics.websockets_open.clone(),
        })
    }
}

/// A request that may become a socket.
pub(super) struct Handshake {
    accept: HeaderValue,
    protocols: Vec<String>,
    caller: Caller,
    holder: Option<Arc<Holder>>,
    account: Account,
    rules: Arc<Rules>,
    open: Gauge,
}

impl Handshake {
    /// The caller that makes it.
    pub(super) const fn caller(&self) -> Caller {
        self.caller
    }

    /// The same, of a socket that may go on after the token that its caller was lent has ended.
    pub(super) fn outliving_token(mut self) -> Self {
        self.holder = self.holder.as_ref().map(Holder::outliving_token);
        self
    }

    /// The first of the client's subprotocols that is among `known`.
    pub(super) fn choose(&self, known: &[&'static str]) -> Option<&'static str> {
        self.protocols.iter().find_map(|offered| known.iter().copied().find(|known| known == offered))
    }

    /// The answer after which the connection goes on with `wire`; `protocol` is the subprotocol that it speaks, if the client has named it.
    pub(super) fn answer<F>(self, protocol: Option<&'static str>, wire: impl FnOnce(Socket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, holder, account, rules, open, .. } = self;
        let takeover = Takeover::new(move |carrier| async move {
            let _open = GaugeGuard::new(&open);
            socket::run(Line::new(carrier, rules, account), holder, wire).await;
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(takeover);
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// What the answer has to say to the client's key.
fn accept(request: &Request) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    let is_asked = request.method() == Verb::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket");
    if !is_asked {
        let message = "this is for WebSockets: send GET over HTTP/1.1 with 'connection: upgrade' and 'upgrade: websocket'";
        return Err(upgrade_required(Fault::invalid("upgrade", message)));
    }
    // Whoever is in front might take it for the first frames.
    let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
    if headers.contains_key(header::TRANSFER_ENCODING) || !headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty) {
        let fault = Fault::invalid("body", "the request has a body, which one for a WebSocket must not have");
        return Err(Refusal::from(fault).closing());
    }
    match only(headers, &header::SEC_WEBSOCKET_VERSION)? {
        Some(version) if version == WEBSOCKET_VERSION => {}
        _ => {
            let message = format!("the version of WebSocket is not {WEBSOCKET_VERSION}, the one that this server speaks");
            return Err(upgrade_required(Fault::invalid("sec-websocket-version", message)));
        }
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY)?.unwrap_or_default();
    if STANDARD.decode(key).map_or(true, |bytes| bytes.len() != KEY_BYTES) {
        let message = format!("`sec-websocket-key` is not {KEY_BYTES} bytes in base64");
        return Err(Fault::invalid("sec-websocket-key", message).into());
    }
    let accept = derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).map_err(|error| Fault::new(FaultKind::Failed, error.to_string()).into())
}

fn upgrade_required(fault: Fault) -> Refusal {
    let headers = [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION)];
    headers.into_iter().fold(Refusal::with_status(fault, StatusCode::UPGRADE_REQUIRED), |refusal, (name, value)| {
        refusal.with_header(name, HeaderValue::from_static(value))
    })
}

/// The client's subprotocols, in its order.
fn protocols(headers: &HeaderMap) -> Result<Vec<String>, Fault> {
    let mut protocols = Vec::new();
    for line in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let line = text(&header::SEC_WEBSOCKET_PROTOCOL, line)?;
        protocols.extend(line.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    Ok(protocols)
}

/// Whether one of a header's values, which are lists, has this member.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The header's one value.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Fault::invalid(Cow::Owned(name.to_string()), format!("the request has more than one `{name}` header")));
    }
    first.map(|value| text(name, value)).transpose()
}

fn text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, Fault> {
    value.to_str().map_err(|_| Fault::invalid(Cow::Owned(name.to_string()), format!("`{name}` is not text in ASCII")))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn asked(change: impl FnOnce(&mut HeaderMap)) -> Result<HeaderValue, u16> {
        let mut request = Request::new(Body::empty());
        let headers = request.headers_mut();
        for (name, value) in [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "WebSocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, KEY),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        change(headers);
        accept(&request).map_err(|refusal| refusal.into_response().status().as_u16())
    }

    #[test]
    fn a_handshake_is_answered_as_the_standard_shows() {
        assert_eq!(asked(|_| ()).expect("sound"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let lists = |headers: &mut HeaderMap| {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.append(header::CONNECTION, HeaderValue::from_static("x ,upgrade"));
            headers.insert("sec-websocket-extensions", HeaderValue::from_static("permessage-deflate; client_max_window_bits"));
        };
        assert!(asked(lists).is_ok());
    }

    #[test]
    fn whatever_is_no_handshake_gets_an_ordinary_answer() {
        let set = |name: &'static str, value: &'static str| {
            move |headers: &mut HeaderMap| drop(headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value)))
        };
        for (name, value, status) in [
            ("connection", "close", 426),
            ("connection", "upgraded", 426),
            ("upgrade", "h2c", 426),
            ("sec-websocket-version", "8", 426),
            ("sec-websocket-key", "short", 400),
            ("sec-websocket-key", "", 400),
            ("content-length", "1", 400),
            ("transfer-encoding", "chunked", 400),
        ] {
            assert_eq!(asked(set(name, value)), Err(status), "{name}: {value}");
        }
        let twice = |headers: &mut HeaderMap| {
            headers.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(KEY));
        };
        assert_eq!(asked(twice), Err(400));
        assert_eq!(asked(|headers| drop(headers.remove(header::SEC_WEBSOCKET_VERSION))), Err(426));
        assert!(asked(set("content-length", "0")).is_ok());
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_spoken() {
        let mut headers = HeaderMap::new();
        for line in ["a, secret.KEY", "c ,b,, "] {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
        }
        assert_eq!(protocols(&headers).expect("text"), ["a", "secret.KEY", "c", "b"]);
    }

    proptest! {
        #[test]
        fn no_headers_panic(values in vec(vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff], 0..30), 4)) {
            let mut request = Request::new(Body::empty());
            for (name, value) in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY].into_iter().zip(values) {
                let value = HeaderValue::from_bytes(&value).expect("a value");
                request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value.clone());
                request.headers_mut().insert(name, value);
            }
            prop_assert!(accept(&request).is_err());
            let _ = protocols(request.headers());
        }
    }
}
