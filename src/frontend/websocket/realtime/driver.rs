//! A session over a socket: one future, which its connection polls.
//!
//! ```text
//!  socket ──► hear ──► Conversation ──► audio ──► Feed ──► model
//!    ▲                    │  ▲                               │
//!    └──── events ────────┘  └────────── windows ────────────┘
//! ```
//!
//! # BACK-PRESSURE
//! Nothing is read from the socket while audio of the last event waits for room in the stream's window, nor while a change waits for the audio before
//! it. Nothing is taken from the stream while the client takes nothing. So a client makes the server keep its window and one event.
//!
//! # CANCELLATION
//! Dropping is cancelling: the stream goes with the socket.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, Sink, SinkExt as _, Stream, StreamExt as _, future::BoxFuture};

use super::{
    asked::Asked,
    conversation::{Change, Conversation, Facts, Heard},
    feed::{Fed, Feed, takes_no_audio, text_output},
    settings::Identity,
};
use crate::{
    clock,
    config::RealtimeConfig,
    connections,
    domain::{Fault, FaultKind},
    frontend::websocket::frame::{AWAY, Frame, SocketError, close_code},
    native::Native,
    patience::{Due, Moment, Patience},
    registry::EMBEDDED_NAME,
    service::{Caller, Method, draining},
};

/// What sessions need besides their sockets. Clones share it.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) native: Native,
    pub(super) method: Method,
    pub(super) config: RealtimeConfig,
}

/// Serves a session over a socket, to its end.
pub(super) async fn converse<S>(socket: S, asked: Asked, host: Host, caller: Caller)
where
    S: Stream<Item = Result<Frame, SocketError>> + Sink<Frame, Error = SocketError> + Unpin + Send,
{
    let mut driver = Driver::new(socket, &asked, &host, caller);
    poll_fn(|cx| driver.poll(cx)).await;
    let Driver { mut socket, conversation, feed, .. } = driver;
    if let Some(feed) = feed {
        feed.leave();
    }
    if let Some(ending) = conversation.ending() {
        let _ = socket.send(Frame::close(ending.code, &ending.reason)).await;
    }
}

/// The audio of one event, as far as it has not been handed on.
struct Audio {
    bytes: Bytes,
    at_ticks: u64,
}

/// A change that waits for the audio before it.
struct Waiting {
    change: Change,
    is_flushed: bool,
}

struct Driver<'a, S> {
    socket: S,
    host: &'a Host,
    caller: Caller,
    conversation: Conversation,
    feed: Option<Feed>,
    audio: Option<Audio>,
    waiting: Option<Waiting>,
    /// Why everything has to end, once it has: the server drains, or the connection is too old.
    leaving: BoxFuture<'static, Fault>,
    /// Whether nothing more is read.
    is_leaving: bool,
    /// Whether the client has closed.
    has_left: bool,
    opened: Moment,
    heard: Moment,
    clocks: Patience,
}

impl<'a, S> Driver<'a, S>
where
    S: Stream<Item = Result<Frame, SocketError>> + Sink<Frame, Error = SocketError> + Unpin,
{
    fn new(socket: S, asked: &Asked, host: &'a Host, caller: Caller) -> Self {
        let identity = identity(&host.config);
        // A name that is not known is an error in the session: a client says more about that than about a handshake that fails.
        let named = asked.model.as_deref().map(|name| facts(&host.native, name));
        let (known, unknown) = match named {
            None => (only_model(&host.native).ok(), None),
            Some(Ok(known)) => (Some(known), None),
            Some(Err(fault)) => (None, Some(fault)),
        };
        let mut conversation = Conversation::new(identity, asked.dialect, known, host.config.max_append_bytes);
        if let Some(fault) = unknown {
            conversation.end_with(&host.method.refuse(fault));
        }
        let now = Moment::now();
        Self {
            socket,
            host,
            caller,
            conversation,
            feed: None,
            audio: None,
            waiting: None,
            leaving: leaving(&host.native),
            is_leaving: false,
            has_left: false,
            opened: now,
            heard: now,
            clocks: Patience::new(),
        }
    }

    /// Ready once nothing is left to do but to close.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.has_left {
                return Poll::Ready(());
            }
            match self.poll_speak(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.poll_clocks(cx),
            }
            if self.conversation.ending().is_some() && self.conversation.has_said_all() {
                return Poll::Ready(());
            }
            if self.poll_leaving(cx) || self.poll_feed(cx) || self.apply() || self.hand_on() || self.poll_hear(cx) {
                continue;
            }
            ready!(self.poll_clocks(cx));
        }
    }

    /// Sends what there is to say.
    fn poll_speak(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        while !self.conversation.has_said_all() {
            ready!(self.socket.poll_ready_unpin(cx))?;
            if let Some(event) = self.conversation.next() {
                self.socket.start_send_unpin(Frame::Text(event.into()))?;
            }
        }
        match self.socket.poll_flush_unpin(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // There is room for more.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_leaving {
            return false;
        }
        let Poll::Ready(fault) = self.leaving.poll_unpin(cx) else { return false };
        self.is_leaving = true;
        (self.audio, self.waiting) = (None, None);
        match &self.feed {
            // It answers what it has first.
            Some(feed) => feed.stop(fault),
            None => self.conversation.end_with(&fault),
        }
        true
    }

    /// Takes what the stream has to say.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(feed) = &mut self.feed else { return false };
        match feed.poll(cx) {
            Poll::Pending => return false,
            Poll::Ready(Fed::Window(window, position)) => self.conversation.window(window, position),
            Poll::Ready(Fed::Over(fault)) => {
                self.feed = None;
                self.conversation.end_with(&fault.unwrap_or_else(draining));
            }
        }
        true
    }

    /// Applies the change that waits, if everything before it has been answered.
    fn apply(&mut self) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        if let Some(feed) = &mut self.feed {
            let gives_text = self.conversation.facts().is_some_and(|facts| facts.gives_text);
            if gives_text && waiting.change.wants_text() && !waiting.is_flushed {
                waiting.is_flushed = true;
                if let Err(fault) = feed.flush() {
                    self.conversation.end_with(&fault);
                }
                return true;
            }
            if !feed.has_answered() {
                return false;
            }
        }
        let Some(Waiting { change, .. }) = self.waiting.take() else { return false };
        let host = self.host;
        self.conversation.apply(change, |name| facts(&host.native, name).map_err(|fault| host.method.refuse(fault)));
        let format = self.conversation.format();
        let model = self.conversation.facts().map(|facts| facts.name.as_str());
        match self.feed.take() {
            Some(feed) if Some(feed.model()) != model => feed.leave(),
            Some(mut feed) => {
                if let Err(fault) = feed.set_format(format) {
                    self.conversation.end_with(&fault);
                }
                feed.keep_alive();
                self.feed = Some(feed);
            }
            None => {}
        }
        true
    }

    /// Hands a piece of audio on to the stream, which opens with the first.
    fn hand_on(&mut self) -> bool {
        let Some(Audio { bytes, at_ticks }) = &mut self.audio else { return false };
        if self.feed.is_none() {
            let opened = match self.conversation.facts() {
                Some(facts) => {
                    let format = self.conversation.format();
                    Feed::open(&self.host.native, &self.host.method, self.caller, &facts.name, format)
                }
                None => {
                    let fault = only_model(&self.host.native).err().unwrap_or_else(no_model);
                    self.conversation.lacks_model(&self.host.method.refuse(fault));
                    self.audio = None;
                    return true;
                }
            };
            match opened {
                Ok(feed) => self.feed = Some(feed),
                Err(fault) => {
                    self.conversation.end_with(&fault);
                    self.audio = None;
                    return true;
                }
            }
            self.conversation.streams_from(*at_ticks);
        }
        let Some(feed) = self.feed.as_mut().filter(|feed| feed.has_room()) else { return false };
        if let Err(fault) = feed.give(bytes) {
            self.conversation.end_with(&fault);
        }
        if bytes.is_empty() {
            self.audio = None;
        }
        true
    }

    /// Reads the client's next event, if there is nothing left of the last.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> bool {
        let has_room = self.feed.as_ref().is_none_or(Feed::has_room);
        if self.is_leaving || self.audio.is_some() || self.waiting.is_some() || !has_room {
            return false;
        }
        match self.socket.poll_next_unpin(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(Frame::Text(text)))) => {
                self.heard = Moment::now();
                match self.conversation.hear(&text) {
                    Heard::Nothing => {}
                    Heard::Audio { bytes, at_ticks } => self.audio = Some(Audio { bytes, at_ticks }),
                    Heard::Change(change) => self.waiting = Some(Waiting { change, is_flushed: false }),
                }
            }
            Poll::Ready(Some(Ok(Frame::Binary(_)))) => {
                let message = "the message is binary; events are text, with audio in base64";
                self.conversation.end_with(&self.host.method.refuse(Fault::invalid("message", message)));
            }
            Poll::Ready(Some(Err(SocketError::Refused(fault)))) => {
                self.conversation.end(close_code(&fault), fault.message());
            }
            Poll::Ready(Some(Ok(Frame::Close { .. }) | Err(SocketError::Broken)) | None) => self.has_left = true,
        }
        true
    }

    /// Ready once a time is up, which the conversation then knows.
    fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { clocks, conversation, host, feed, opened, heard, .. } = self;
        let session_max = Duration::from_secs(host.config.session_max_s);
        let idle = host.native.service().config().idle_timeout();
        let is_idle = ready!(clocks.poll(cx, |now| {
            let expires_at = *opened + session_max;
            // A stream looks after itself.
            let idle_at = if feed.is_some() { now + idle } else { *heard + idle };
            if expires_at <= now {
                return Due::Now(false);
            }
            Due::at(idle_at.min(expires_at), now, || true)
        }));
        if is_idle {
            let seconds = idle.as_secs();
            conversation.end(AWAY, &format!("no event for {seconds} s (session.idle_timeout_s)"));
        } else if conversation.ending().is_none() {
            conversation.expire(host.config.session_max_s);
        }
        // A client that takes nothing learns it from the close alone.
        Poll::Ready(())
    }
}

/// What a new session is called.
fn identity(config: &RealtimeConfig) -> Identity {
    let created_s = clock::since_epoch(clock::now()).as_secs();
    let seed = format!("{:016x}", fastrand::u64(..));
    Identity { seed, created_s, expires_s: created_s + config.session_max_s }
}

/// Ready with the reason once the server drains, or the connection has used up its time.
fn leaving(native: &Native) -> BoxFuture<'static, Fault> {
    let drain = native.service().drain().token().clone();
    let ageing = connections::ageing();
    async move {
        let over = async {
            match ageing {
                Some(ageing) => ageing.over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = drain.cancelled() => draining(),
            () = over => Fault::new(
                FaultKind::Unavailable,
                "the connection is older than server.connection_max_age_s and server.connection_grace_s allow; connect again",
            ),
        }
    }
    .boxed()
}

/// What a session has to know about this model.
fn facts(native: &Native, name: &str) -> Result<Facts, Fault> {
    let model = native.service().find(name, "")?;
    let framing = model.loaded.framing.ok_or_else(|| takes_no_audio(name))?;
    Ok(Facts {
        name: model.loaded.name.to_string(),
        rate_hz: framing.sample_rate_hz,
        gives_probability: model.loaded.segments.is_some(),
        gives_text: text_output(&model).is_some(),
    })
}

/// The model of sessions that name none: the one that finds speech, if there is one alone, or the one inside the binary.
fn only_model(native: &Native) -> Result<Facts, Fault> {
    let names = native.service().models().into_iter().map(|model| model.name);
    let mut found: Vec<Facts> = Vec::new();
    for name in names {
        if let Ok(facts) = facts(native, &name)
            && facts.gives_probability
            && found.iter().all(|known| known.name != facts.name)
        {
            found.push(facts);
        }
    }
    if let Some(embedded) = found.iter().position(|facts| facts.name == EMBEDDED_NAME) {
        return Ok(found.swap_remove(embedded));
    }
    match found.len() {
        1 => found.pop().ok_or_else(no_model),
        0 => Err(no_model()),
        count => {
            Err(Fault::invalid("model", format!("the session names no model, and {count} of this server find speech; name one")))
        }
    }
}

fn no_model() -> Fault {
    Fault::invalid("model", "the session names no model, and this server has none that finds speech")
}
