//! Whether the client of a stream reads, and what is to be done if it does not.
//!
//! HTTP/2 flow control is hyper's alone: while a client's window is full, hyper keeps the one frame that it cannot send and does
//! not poll the response body. So a body whose last frame went out is read, and one that was not polled again since it gave a
//! frame is not. The front end's body notes that here, and [`StreamTask`](super::stream_task::StreamTask) asks.

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
/// nothing here is ever waited for.
#[derive(Default)]
pub(crate) struct Reading {
    /// The transport has a frame in hand that it could not send yet.
    holds_frame: AtomicBool,
    /// The body was polled since this was last asked.
    took: AtomicBool,
    call: OnceLock<Call>,
    backlog: OnceLock<Arc<dyn PollUnread>>,
    given_up: OnceLock<StreamEnd>,
}

struct Call {
    metrics: Arc<MethodMetrics>,
    ends_at: Timestamp,
}

/// What goes on behind a response while nobody reads it.
pub(crate) trait PollUnread: Send + Sync {
    /// `Ready` if the stream is to be reset.
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Reading {
    /// Says which call this is, and when it ends. A second time changes nothing.
    pub(crate) fn begin_call(&self, metrics: &Arc<MethodMetrics>, ends_at: Timestamp) {
        self.call.get_or_init(|| Call { metrics: Arc::clone(metrics), ends_at });
    }

    /// Names what goes on while nobody reads.
    pub(crate) fn keep_polling(&self, backlog: Arc<dyn PollUnread>) {
        self.backlog.get_or_init(|| backlog);
    }

    /// The body was polled, and gave a frame that may have to wait for the client, or something else.
    pub(crate) fn note_frame(&self, holds_frame: bool) {
        self.took.store(true, Ordering::Relaxed);
        self.holds_frame.store(holds_frame, Ordering::Relaxed);
    }

    /// Why the stream is being reset, if it is.
    pub(crate) fn given_up(&self) -> Option<StreamEnd> {
        self.given_up.get().copied()
    }

    /// Whether the transport waits for the client to read.
    pub(crate) fn is_unread(&self) -> bool {
        self.holds_frame.load(Ordering::Relaxed)
    }

    /// Whether the transport took anything since the last time this was asked.
    pub(crate) fn took_anything(&self) -> bool {
        self.took.swap(false, Ordering::Relaxed)
    }

    /// Counts the stream as unread for as long as the guard lives; none for calls that nobody counts.
    pub(super) fn count_unread(&self) -> Option<GaugeGuard> {
        self.call.get().map(|call| GaugeGuard::new(&call.metrics.streams_unread))
    }

    /// When the whole call ends.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.call.get().map_or(Timestamp::NEVER, |call| call.ends_at)
    }

    /// Lets what keeps a backlog go on. `Ready` if the stream is to be reset.
    pub(super) fn poll_backlog(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.backlog.get().map_or(Poll::Pending, |backlog| backlog.poll_unread(cx))
    }

    /// Says why the stream is about to be reset.
    pub(super) fn give_up(&self, end: StreamEnd) {
        self.given_up.get_or_init(|| end);
    }
}
