//! How streams open.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};

use crate::{
    clock,
    codec::FramingRule,
    domain::{Fault, FaultKind, Timestamp},
    registry::Model,
    service::{Method, OpenRequest, Service, StreamLimits, draining},
    session::{Inbound, Session, Unread},
};

/// The native API in front of the one door. Clones share everything.
#[derive(Clone)]
pub struct Native {
    service: Service,
    max_message_bytes: usize,
}

/// The limits of a stream, and on its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Those of the stream.
    pub stream: StreamLimits,
    /// Largest message.
    pub max_message_bytes: usize,
}

/// A stream that has opened, and what its client learns about it first.
pub struct Opened<I> {
    /// The model that the stream stays on.
    pub model: Arc<Model>,
    /// The limits in force.
    pub limits: Limits,
    /// How raw payloads are cut, if the stream was opened for them.
    pub framing: Option<FramingRule>,
    /// The stream itself.
    pub session: Session<I>,
    /// What gives way when its client does not read.
    pub unread: Unread,
}

impl Native {
    /// The API for clients whose messages have at most `max_message_bytes` bytes.
    #[must_use]
    pub const fn new(service: Service, max_message_bytes: usize) -> Self {
        Self { service, max_message_bytes }
    }

    /// The door behind it.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// Opens a stream of `inbound` messages.
    ///
    /// # Errors
    /// Those of [`Service::open`].
    pub fn open<I>(&self, method: &Method, request: OpenRequest, inbound: I) -> Result<Opened<I>, Fault>
    where
        I: Stream<Item = Result<Inbound, Fault>> + Unpin,
    {
        let stream = self.service.open(method, request)?;
        let limits = Limits { stream: stream.limits(), max_message_bytes: self.max_message_bytes };
        let (model, framing, unread) = (Arc::clone(stream.model()), stream.framing(), stream.unread());
        let session = stream.session(inbound).map_err(|fault| method.refuse(fault))?;
        Ok(Opened { model, limits, framing, session, unread })
    }

    /// A stream's first message, which opens it. `opens` returns what it opens with, or nothing for any other message.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the first message is not one that opens, or there is none; [`FaultKind::Expired`] if none comes
    /// within `session.open_timeout_s`, or before the call ends; [`FaultKind::Unavailable`] once the server drains; those of
    /// `messages`.
    pub async fn first<M, O>(
        &self,
        method: &Method,
        ends_at: Timestamp,
        messages: &mut (impl Stream<Item = Result<M, Fault>> + Unpin),
        opens: impl FnOnce(M) -> Option<O>,
    ) -> Result<O, Fault> {
        let limit = self.service.config().open_timeout();
        let left = ends_at.since(clock::now());
        let opened = tokio::select! {
            message = messages.next() => match message {
                Some(message) => message.and_then(|message| opens(message).ok_or_else(not_opened)),
                None => Err(Fault::invalid("open", "the stream ended before its first message, which must be `open`")),
            },
            () = tokio::time::sleep(limit.min(left)) => {
                let message = format!("no `open` message within {limit:?} (session.open_timeout_s)");
                Err(Fault::new(FaultKind::Expired, message).with_limit("session.open_timeout_s", limit.as_secs()))
            }
            () = self.service.drain().token().cancelled() => Err(draining()),
        };
        opened.map_err(|fault| method.refuse(fault))
    }
}

fn not_opened() -> Fault {
    Fault::invalid("open", "the first message must be `open`")
}
