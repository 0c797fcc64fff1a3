//! The task of one HTTP/2 stream: hyper's own future, and what happens while its client does not read.
//!
//! Knows the transport and the clock, but neither messages nor sessions.
//!
//! # CANCELLATION
//! A stream that is given up is dropped: h2 throws away what was not sent and resets the stream with CANCEL, and the session, which
//! goes with it, cancels what is in flight.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::reader::{Reader, WithReader};
use crate::{
    clock,
    domain::Timestamp,
    telemetry::{GaugeGuard, StreamEnd},
};

/// Spawns the streams of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    /// Time after which a stream that is not read is reset.
    pub(super) unread_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(StreamTask::new(future, self.unread_timeout));
    }
}

pin_project! {
    /// See the module's text.
    pub(super) struct StreamTask<F> {
        #[pin]
        stream: WithReader<F>,
        reader: Arc<Reader>,
        patience: Patience,
    }
}

impl<F: Future<Output = ()>> StreamTask<F> {
    pub(super) fn new(stream: F, unread_timeout: Duration) -> Self {
        let reader = Arc::<Reader>::default();
        let patience = Patience { unread_timeout, unread: None, timer: None };
        Self { stream: Arc::clone(&reader).scope(stream), reader, patience }
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.patience.poll_end(this.reader, cx).map(|end| this.reader.give_up(end))
    }
}

/// How long a client has not read, and when that is long enough.
struct Patience {
    unread_timeout: Duration,
    unread: Option<UnreadSince>,
    timer: Option<Pin<Box<Sleep>>>,
}

struct UnreadSince {
    /// When the transport last took something.
    since: Instant,
    _counted: Option<GaugeGuard>,
}

impl Patience {
    /// `Ready` when the stream is to be given up.
    fn poll_end(&mut self, reader: &Reader, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        let took = reader.took_anything();
        if !reader.is_unread() {
            self.unread = None;
            // A timer that still runs is left alone: windows fill and empty all the time, and mostly it will be wanted again.
            self.timer.take_if(|timer| timer.is_elapsed());
            return Poll::Pending;
        }
        let begins = || UnreadSince { since: Instant::now(), _counted: reader.count_unread() };
        let unread = self.unread.get_or_insert_with(begins);
        if took {
            unread.since = Instant::now();
        }
        let patient_until = unread.since + self.unread_timeout;
        if reader.poll_backlog(cx).is_ready() {
            return Poll::Ready(StreamEnd::Unread);
        }
        self.poll_timer(patient_until, reader.ends_at(), cx)
    }

    fn poll_timer(&mut self, patient_until: Instant, ends_at: Timestamp, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        loop {
            let now = Instant::now();
            let left = (ends_at != Timestamp::NEVER).then(|| ends_at.since(clock::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Poll::Ready(StreamEnd::Expired);
            }
            if patient_until <= now {
                return Poll::Ready(StreamEnd::Unread);
            }
            let next = left.map_or(patient_until, |left| patient_until.min(now + left));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            // An earlier timer stays: when it fires, the loop sets it anew. So progress costs no timer operation.
            if timer.is_elapsed() || timer.deadline() > next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
