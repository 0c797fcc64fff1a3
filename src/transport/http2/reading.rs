//! Whether the client of a stream reads, and what to do if it does not.
//!
//! HTTP/2 flow control is entirely hyper's: while a client's window is full, hyper keeps the one frame it cannot send and does
//! not poll the response body. So a body whose last frame went out is being read, and one that has not been polled since it gave
//! a frame is not. The front end's body records this here, and [`StreamTask`](super::stream_task::StreamTask) asks.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use crate::{
    domain::Timestamp,
    telemetry::{GaugeGuard, MethodMetrics, StreamEnd},
};

/// The client's end of one stream or call, as its task, its body and its handler know it. All of them run in the one task, so
/// nothing here ever waits.
#[derive(Default)]
pub(crate) struct Reading {
    /// The transport holds a frame that it could not send yet.
    holds_frame: AtomicBool,
    /// The body has been polled since this was last asked.
    took: AtomicBool,
    call: OnceLock<Call>,
    backlog: OnceLock<Arc<dyn PollUnread>>,
    given_up: OnceLock<StreamEnd>,
}

struct Call {
    metrics: Arc<MethodMetrics>,
    ends_at: Timestamp,
}

/// What goes on behind a response while it is not being read.
pub(crate) trait PollUnread: Send + Sync {
    /// `Ready` if the stream should be reset.
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Reading {
    /// Says which call this is, and when it ends. A second time changes nothing.
    pub(crate) fn begin_call(&self, metrics: &Arc<MethodMetrics>, ends_at: Timestamp) {
        self.call.get_or_init(|| Call { metrics: Arc::clone(metrics), ends_at });
    }

    /// Sets what goes on while the client does not read.
    pub(crate) fn keep_polling(&self, backlog: Arc<dyn PollUnread>) {
        self.backlog.get_or_init(|| backlog);
    }

    /// The body was polled, and gave either a frame that may have to wait for the client, or something else.
    pub(crate) fn note_frame(&self, holds_frame: bool) {
        self.took.store(true, Ordering::Relaxed);
        self.holds_frame.store(holds_frame, Ordering::Relaxed);
    }

    /// Why the stream is being reset, if it is.
    pub(crate) fn given_up(&self) -> Option<StreamEnd> {
        self.given_up.get().copied()
    }

    /// Whether the transport is waiting for the client to read.
    pub(crate) fn is_unread(&self) -> bool {
        self.holds_frame.load(Ordering::Relaxed)
    }

    /// Whether the transport has taken anything since this was last asked.
    pub(crate) fn took_anything(&self) -> bool {
        self.took.swap(false, Ordering::Relaxed)
    }

    /// Counts the stream as unread for as long as the guard lives; `None` for calls that are not counted.
    pub(super) fn count_unread(&self) -> Option<GaugeGuard> {
        self.call.get().map(|call| GaugeGuard::new(&call.metrics.streams_unread))
    }

    /// When the whole call ends.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.call.get().map_or(Timestamp::NEVER, |call| call.ends_at)
    }

    /// Lets a backlog go on, if there is one. `Ready` if the stream should be reset.
    pub(super) fn poll_backlog(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.backlog.get().map_or(Poll::Pending, |backlog| backlog.poll_unread(cx))
    }

    /// Says why the stream is about to be reset.
    pub(super) fn give_up(&self, end: StreamEnd) {
        self.given_up.get_or_init(|| end);
    }
}
