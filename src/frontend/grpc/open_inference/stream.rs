//! The response stream of `ModelStreamInfer`.
//!
//! Faults of requests are messages, and the stream goes on; a client that sends `triton_grpc_error: true` gets the first of them as
//! the status that ends it. A draining server reads no more, answers what it has, and ends the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use prost::Message as _;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{
    super::{
        reader::Reader,
        status::{fault_of, status_of},
    },
    wire::{self, ReplyForm},
};
use crate::{
    clock,
    domain::{Fault, FaultKind, Timestamp},
    open_inference::{Conversation, OpenInference, Reply},
    proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse},
    service::{Caller, draining},
    session::Place,
    telemetry::Method,
};

/// See the module's text.
pub(in super::super) struct InferStream {
    messages: Streaming<ModelInferRequest>,
    max_message_bytes: usize,
    conversation: Conversation<ReplyForm>,
    reading: bool,
    /// How the stream ends once everything is answered.
    end: Option<Fault>,
    /// Whether the first fault ends it.
    ends_on_fault: bool,
    done: bool,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
    ends: Option<Pin<Box<Sleep>>>,
    reader: Arc<Reader>,
    _place: Place,
}

impl InferStream {
    /// # Errors
    /// [`FaultKind::Unavailable`] while the server drains, [`FaultKind::Overloaded`] if `session.max_streams` are open.
    pub(super) fn open(
        door: &OpenInference,
        caller: Caller,
        reader: Arc<Reader>,
        messages: Streaming<ModelInferRequest>,
        max_message_bytes: usize,
        ends_on_fault: bool,
    ) -> Result<Self, Fault> {
        // A stream costs memory before its first request, too, and its flows are counted beside it.
        let place = door.service().admit(&caller)?;
        let drain = door.service().drain();
        let left = (caller.ends_at != Timestamp::NEVER).then(|| caller.ends_at.since(clock::now()));
        Ok(Self {
            messages,
            max_message_bytes,
            conversation: Conversation::new(door.clone(), Method::ModelStreamInfer, caller),
            reading: true,
            end: None,
            ends_on_fault,
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
            match Pin::new(&mut self.messages).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.stop_reading(None),
                Poll::Ready(Some(Err(status))) => self.stop_reading(Some(fault_of(&status, self.max_message_bytes))),
                Poll::Ready(Some(Ok(message))) => {
                    // What is kept of a request until it is answered is more than its tensors: an id may be as long.
                    let bytes = message.encoded_len();
                    let (form, request) = wire::decode(message);
                    self.conversation.push(form, bytes, request);
                }
            }
        }
    }

    fn stop_reading(&mut self, end: Option<Fault>) {
        (self.reading, self.end) = (false, end);
        self.conversation.finish();
    }

    fn message(&self, Reply { tag: form, result }: Reply<ReplyForm>) -> Result<ModelStreamInferResponse, Status> {
        match result {
            Ok(response) => Ok(ModelStreamInferResponse {
                infer_response: Some(wire::encode(response, &form)),
                ..ModelStreamInferResponse::default()
            }),
            Err(fault) if self.ends_on_fault => Err(status_of(&fault)),
            Err(fault) => Ok(ModelStreamInferResponse {
                error_message: fault.message().to_owned(),
                infer_response: Some(ModelInferResponse { id: form.id, ..ModelInferResponse::default() }),
            }),
        }
    }

    fn end_with(&mut self, fault: &Fault) -> Poll<Option<Result<ModelStreamInferResponse, Status>>> {
        self.done = true;
        Poll::Ready(Some(Err(status_of(fault))))
    }
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
                let message = this.message(reply);
                this.done = message.is_err();
                Poll::Ready(Some(message))
            }
            Poll::Ready(None) if !this.reading => {
                this.done = true;
                Poll::Ready(this.end.take().map(|fault| Err(status_of(&fault))))
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
