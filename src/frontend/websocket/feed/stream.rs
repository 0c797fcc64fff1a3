//! One feed: the client's messages into a session, its events into messages.
//!
//! The session goes on for as long as the client takes what it says. While the client does not, the stream's policy on unread results decides,
//! as it does over gRPC.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Sink, SinkExt as _, Stream, StreamExt as _};

use super::{
    Form,
    open::Opening,
    request::{self, Said},
    response,
};
use crate::{
    domain::{Fault, FaultKind},
    frontend::{
        messages::{convert, feed::FeedInput},
        websocket::frame::{Frame, NORMAL, POLICY, SocketError},
    },
    native::{Native, Opened},
    registry::Model,
    service::{Caller, Method},
    session::{Backlog, Event, Inbound, Session, Unread},
    telemetry::{GaugeGuard, StreamEnd},
};

/// Serves a feed over a socket, to its end.
pub(super) async fn serve<S>(socket: S, native: Native, feed: Method, caller: Caller, opening: Opening, form: Form)
where
    S: Stream<Item = Result<Frame, SocketError>> + Sink<Frame, Error = SocketError> + Unpin + Send,
{
    let (mut sink, stream) = socket.split();
    let mut messages = Messages { stream, form, is_over: false };
    let request = opening.request(&native, &feed, caller, &mut messages).await;
    let opened = request.and_then(|request| native.open(&feed, request, FeedInput::new(messages.map(more))));
    let opened = match opened {
        Ok(opened) => opened,
        Err(fault) => return refuse(&mut sink, &fault, form).await,
    };
    let Ok(first) = response::opened(convert::opened(&opened), form) else { return };
    let Opened { model, session, unread, .. } = opened;
    let mut outgoing = Outgoing { events: Events::new(session, unread), model, feed, form, unread: None };
    if sink.feed(first).await.is_err() {
        return outgoing.events.abandon(StreamEnd::Cancelled);
    }
    // The session is kept until the client has all of it: for a drain, one that has not read to the end is still there.
    match poll_fn(|cx| outgoing.poll(&mut sink, cx)).await {
        Ended::Completed => drop(sink.send(Frame::close(NORMAL, "")).await),
        Ended::Fault(fault) => refuse(&mut sink, &fault, form).await,
        Ended::Unread(why) => {
            outgoing.events.abandon(StreamEnd::Unread);
            // There is no room to say it, but there may be before long.
            let _ = sink.start_send_unpin(Frame::close(POLICY, why));
        }
        Ended::Left => {}
    }
}

fn more(said: Result<Said, Fault>) -> Result<Option<Inbound>, Fault> {
    said.and_then(Said::into_more)
}

/// Says why the stream ends, and closes. A client that has gone learns nothing.
async fn refuse(sink: &mut (impl Sink<Frame, Error = SocketError> + Unpin), fault: &Fault, form: Form) {
    if fault.kind() == FaultKind::Cancelled && fault.limit().is_none() {
        return;
    }
    if let Some(error) = response::error(fault, form)
        && sink.feed(error).await.is_err()
    {
        return;
    }
    let _ = sink.send(Frame::refusing(fault, response::code_name(fault.kind()))).await;
}

/// The client's messages.
struct Messages<S> {
    stream: S,
    form: Form,
    is_over: bool,
}

impl<S: Stream<Item = Result<Frame, SocketError>> + Unpin> Stream for Messages<S> {
    type Item = Result<Said, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let said = match ready!(this.stream.poll_next_unpin(cx)) {
            Some(Ok(Frame::Text(text))) if this.form == Form::Json => request::from_json(&text),
            Some(Ok(Frame::Text(_))) => Err(Fault::invalid(
                "message",
                "the message is text, and the subprotocol tidemill.v1.proto has binary messages alone",
            )),
            Some(Ok(Frame::Binary(chunk))) if this.form == Form::Json => Ok(Said::More(Some(Inbound::Chunk(chunk)))),
            Some(Ok(Frame::Binary(message))) => request::from_proto(message),
            Some(Err(SocketError::Refused(fault))) => Err(fault),
            Some(Ok(Frame::Close { .. }) | Err(SocketError::Broken)) | None => {
                Err(Fault::new(FaultKind::Cancelled, "the client closed the socket before it had said that it was done"))
            }
        };
        this.is_over = said.is_err();
        Poll::Ready(Some(said))
    }
}

/// The events of a session.
enum Events<I> {
    /// It waits with its client.
    Session(Box<Session<I>>),
    /// It goes on while its client does not read.
    Backlog(Box<Backlog<I>>),
}

impl<I: Stream<Item = Result<Inbound, Fault>> + Unpin> Events<I> {
    fn new(session: Session<I>, unread: Unread) -> Self {
        Backlog::new(Box::new(session), unread).map_or_else(Self::Session, |backlog| Self::Backlog(Box::new(backlog)))
    }

    fn abandon(&mut self, end: StreamEnd) {
        match self {
            Self::Session(session) => session.abandon(end),
            Self::Backlog(backlog) => backlog.abandon(end),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Fault>>> {
        match self {
            Self::Session(session) => session.poll_next_unpin(cx),
            Self::Backlog(backlog) => Pin::new(&mut **backlog).poll_next(cx),
        }
    }

    /// What goes on while nothing can be sent. `Ready` if the stream should end.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Session(_) => Poll::Pending,
            Self::Backlog(backlog) => backlog.poll_unread(cx),
        }
    }
}

/// How a stream ends.
enum Ended {
    /// Everything has been answered.
    Completed,
    Fault(Fault),
    /// The client did not read.
    Unread(&'static str),
    /// The client has gone.
    Left,
}

/// The way from a session to its client.
struct Outgoing<I> {
    events: Events<I>,
    model: Arc<Model>,
    feed: Method,
    form: Form,
    /// While the client takes nothing.
    unread: Option<GaugeGuard>,
}

impl<I: Stream<Item = Result<Inbound, Fault>> + Unpin> Outgoing<I> {
    /// Sends what there is, all of it in one flush.
    fn poll(&mut self, sink: &mut (impl Sink<Frame, Error = SocketError> + Unpin), cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match sink.poll_ready_unpin(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(ended_by(&error)),
                Poll::Pending => return self.poll_unread(cx),
            }
            let sent = match self.events.poll_next(cx) {
                Poll::Ready(Some(Ok(event))) => {
                    response::event(event, &self.model, self.form).map(|frame| sink.start_send_unpin(frame))
                }
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Ended::Fault(fault)),
                Poll::Ready(None) => return Poll::Ready(Ended::Completed),
                Poll::Pending => match sink.poll_flush_unpin(cx) {
                    Poll::Ready(Ok(())) => {
                        self.unread = None;
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(ended_by(&error)),
                    Poll::Pending => return self.poll_unread(cx),
                },
            };
            match sent {
                Ok(Ok(())) => {}
                // There is no room for the answer.
                Ok(Err(SocketError::Refused(fault))) | Err(fault) => return Poll::Ready(Ended::Fault(self.feed.refuse(fault))),
                Ok(Err(SocketError::Broken)) => return Poll::Ready(Ended::Left),
            }
        }
    }

    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.unread.get_or_insert_with(|| GaugeGuard::new(&self.feed.metrics().streams_unread));
        self.events.poll_unread(cx).map(|()| Ended::Unread("CANCELLED: the client did not read, and its policy is DISCONNECT"))
    }
}

fn ended_by(error: &SocketError) -> Ended {
    match error {
        SocketError::Refused(_) => Ended::Unread("CANCELLED: the client did not read"),
        SocketError::Broken => Ended::Left,
    }
}
