//! The way of a conversation's items to one of its flows.
//!
//! Both ends are polled by the stream's one task. The conversation bounds what is in it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use parking_lot::Mutex;

use crate::{domain::Fault, session::Inbound};

/// The items that a conversation puts in and a flow's session takes out.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<InboxState>>);

#[derive(Default)]
struct InboxState {
    messages: VecDeque<Inbound>,
    closed: bool,
    waker: Option<Waker>,
}

impl Inbox {
    pub(super) fn push(&self, message: Inbound) {
        self.change(|state| state.messages.push_back(message));
    }

    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut InboxState)) {
        let mut state = self.0.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Stream for Inbox {
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        if let Some(message) = state.messages.pop_front() {
            return Poll::Ready(Some(Ok(message)));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
