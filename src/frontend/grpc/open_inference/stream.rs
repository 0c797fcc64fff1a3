//! The response stream of `ModelStreamInfer`.
//!
//! Faults of requests are messages, and the stream goes on; a client that sends `triton_grpc_error: true` gets the first of them as
//! the status that ends it. A draining server reads no more, answers what it has, and ends the stream. So does a stream with nothing in
//! flight that is silent for `session.idle_timeout_s`.
//!
//! A request that is slow to decode, or to read from shared memory, is handled on another thread while those behind it
//! wait.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{FutureExt as _, Stream, future::BoxFuture};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{
    super::{
        reader::Reader,
        status::{fault_of, status_of},
    },
    wire::{self, DecodedRequest, ReplyForm},
};
use crate::{
    clock,
    domain::{Fault, FaultKind, Timestamp},
    frontend::grpc::wire::InferRequestBytes,
    open_inference::{Conversation, OpenInference, Reply},
    patience::{Due, Moment, Patience},
    proto::inference::{ModelInferResponse, ModelStreamInferResponse},
    service::{Caller, Method, draining},
    session::Place,
    side::{INLINE_BYTES_MAX, SideThreads},
};

/// See the module's text.
pub(in super::super) struct InferStream {
    messages: Streaming<InferRequestBytes>,
    rules: StreamRules,
    door: OpenInference,
    conversation: Conversation<ReplyForm>,
    reading: bool,
    /// The next request, while another thread works on it.
    working: Option<BoxFuture<'static, Result<Arrived, Fault>>>,
    /// When anything last came or went.
    heard: Moment,
    patience: Patience,
    /// How the stream ends once everything is answered.
    end: Option<Fault>,
    done: bool,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
    ends: Option<Pin<Box<Sleep>>>,
    reader: Arc<Reader>,
    _place: Place,
}

/// The settings of one stream.
pub(super) struct StreamRules {
    pub(super) side: SideThreads,
    /// `grpc.max_message_bytes`.
    pub(super) max_message_bytes: usize,
    /// Whether the first fault ends it.
    pub(super) ends_on_fault: bool,
}

/// A request, and the bytes of it that are kept until it is answered: not its tensors alone, as an id may be just as long.
struct Arrived {
    bytes: usize,
    request: DecodedRequest,
}

impl InferStream {
    /// # Errors
    /// [`FaultKind::Unavailable`] while the server drains, [`FaultKind::Overloaded`] if `session.max_streams` are open.
    pub(super) fn open(
        door: &OpenInference,
        method: &Method,
        caller: Caller,
        reader: Arc<Reader>,
        messages: Streaming<InferRequestBytes>,
        rules: StreamRules,
    ) -> Result<Self, Fault> {
        // A stream costs memory even before its first request, and its flows are counted separately.
        door.service().memory().admit()?;
        let place = door.service().admit(&caller)?;
        let drain = door.service().drain();
        let left = (caller.ends_at != Timestamp::NEVER).then(|| caller.ends_at.since(clock::now()));
        Ok(Self {
            messages,
            rules,
            door: door.clone(),
            conversation: Conversation::new(door.clone(), method.clone(), caller),
            reading: true,
            working: None,
            heard: Moment::now(),
            patience: Patience::new(),
            end: None,
            done: false,
            drained: Box::pin(drain.token().clone().cancelled_owned()),
            ends: left.map(|left| Box::pin(sleep(left))),
            reader,
            _place: place,
        })
    }

    /// Takes in what has arrived, as far as the window has room.
    fn read(&mut self, cx: &mut Context<'_>) {
        if self.reading && self.drained.as_mut().poll(cx).is_ready() {
            self.stop_reading(Some(draining()));
        }
        while self.reading && self.conversation.has_room() {
            match self.poll_request(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.stop_reading(None),
                Poll::Ready(Some(Err(fault))) => self.stop_reading(Some(fault)),
                Poll::Ready(Some(Ok(Arrived { bytes, request: (form, request) }))) => {
                    self.heard = Moment::now();
                    self.conversation.push(form, bytes, request);
                }
            }
        }
    }

    /// The next request; a fault is the stream's.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arrived, Fault>>> {
        loop {
            if let Some(working) = &mut self.working {
                let arrived = ready!(working.as_mut().poll(cx));
                self.working = None;
                return Poll::Ready(Some(arrived));
            }
            let message = match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(fault_of(&status, self.rules.max_message_bytes)))),
                Some(Ok(message)) => message,
            };
            let bytes = message.bytes().len();
            if wire::long_bytes(&message) > INLINE_BYTES_MAX {
                let (side, door) = (self.rules.side.clone(), self.door.clone());
                let working = async move {
                    let decoded = side.run(move || wire::decode(message)).await?;
                    Ok(fetch(&door, bytes, decoded).await)
                };
                self.working = Some(working.boxed());
                continue;
            }
            let decoded = wire::decode(message)?;
            if decoded.1.as_ref().is_ok_and(OpenInference::is_long) {
                let door = self.door.clone();
                self.working = Some(async move { Ok(fetch(&door, bytes, decoded).await) }.boxed());
                continue;
            }
            return Poll::Ready(Some(Ok(Arrived { bytes, request: decoded })));
        }
    }

    fn stop_reading(&mut self, end: Option<Fault>) {
        (self.reading, self.end, self.working) = (false, end, None);
        self.conversation.finish();
    }

    fn message(
        &self,
        Reply { tag: form, part, decoupled, result }: Reply<ReplyForm>,
    ) -> Result<ModelStreamInferResponse, Status> {
        match result {
            Ok(response) => {
                let mut message = wire::encode(response, &form);
                if decoupled {
                    wire::set_final(&mut message, part.last);
                }
                Ok(ModelStreamInferResponse { infer_response: Some(message), ..ModelStreamInferResponse::default() })
            }
            Err(fault) if self.rules.ends_on_fault => Err(status_of(&fault)),
            Err(fault) => Ok(ModelStreamInferResponse {
                error_message: fault.message().to_owned(),
                infer_response: Some(ModelInferResponse { id: form.id, ..ModelInferResponse::default() }),
            }),
        }
    }

    /// `Ready` if nothing is in flight, and nothing has come for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let timeout = self.door.service().config().idle_timeout();
        let quiet_until = self.heard + timeout;
        self.patience.poll(cx, |now| {
            Due::at(quiet_until, now, || {
                let message = format!("no request for {timeout:?} (session.idle_timeout_s)");
                Fault::new(FaultKind::Expired, message).with_limit("session.idle_timeout_s", timeout.as_secs())
            })
        })
    }

    fn end_with(&mut self, fault: &Fault) -> Poll<Option<Result<ModelStreamInferResponse, Status>>> {
        self.done = true;
        Poll::Ready(Some(Err(status_of(fault))))
    }
}

/// Reads what a request has in shared memory, if that is a lot.
async fn fetch(door: &OpenInference, bytes: usize, (form, request): DecodedRequest) -> Arrived {
    let request = match request {
        Ok(request) if OpenInference::is_long(&request) => {
            let shared = usize::try_from(OpenInference::shared_bytes(&request)).unwrap_or(usize::MAX);
            let fetched = door.fetch(request).await;
            return Arrived { bytes: bytes.saturating_add(shared), request: (form, fetched) };
        }
        other => other,
    };
    Arrived { bytes, request: (form, request) }
}

impl Stream for InferStream {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if this.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready()) {
            return this.end_with(&Fault::new(FaultKind::Expired, "the deadline of the whole call (grpc-timeout) passed"));
        }
        this.read(cx);
        match this.conversation.poll_reply(cx) {
            Poll::Ready(Some(reply)) => {
                this.heard = Moment::now();
                let message = this.message(reply);
                this.done = message.is_err();
                Poll::Ready(Some(message))
            }
            Poll::Ready(None) if !this.reading => {
                this.done = true;
                Poll::Ready(this.end.take().map(|fault| Err(status_of(&fault))))
            }
            Poll::Ready(None) | Poll::Pending if this.reading && this.working.is_none() && this.conversation.is_quiet() => {
                let fault = ready!(this.poll_idle(cx));
                this.end_with(&fault)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for InferStream {
    fn drop(&mut self) {
        if let Some(end) = self.reader.given_up() {
            self.conversation.abandon(end);
        }
    }
}
