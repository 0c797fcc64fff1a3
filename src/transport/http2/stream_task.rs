//! The task of one HTTP/2 stream: hyper's own future, and what happens while its client does not read.
//!
//! Knows the transport and the clock, but neither messages nor sessions.
//!
//! # CANCELLATION
//! A stream that is given up is dropped: h2 discards what was not sent and resets the stream with CANCEL; the session is dropped
//! with it and cancels everything in flight.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;

use super::{exchange::Exchange, reading::Reading};
use crate::{
    clock,
    domain::Timestamp,
    patience::{Due, Moment, Patience},
    telemetry::{GaugeGuard, StreamEnd},
};

pin_project! {
    /// The future `S` of a stream, for which the front end keeps an `X`. See the module's text.
    pub(super) struct StreamTask<S, X> {
        #[pin]
        stream: S,
        exchange: Arc<X>,
        wait: Wait,
    }
}

impl<S, X> StreamTask<S, X> {
    pub(super) fn new<F>(exchange: Arc<X>, stream: F, unread_timeout: Duration) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        X: Exchange<Within<F> = S>,
    {
        let wait = Wait { unread_timeout, unread: None, patience: Patience::new() };
        Self { stream: Arc::clone(&exchange).around(stream), exchange, wait }
    }
}

impl<S: Future<Output = ()>, X: Exchange> Future for StreamTask<S, X> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let reading = this.exchange.reading();
        this.wait.poll_end(reading, cx).map(|end| reading.give_up(end))
    }
}

/// How long a client has not read, and when that is too long.
struct Wait {
    unread_timeout: Duration,
    unread: Option<UnreadSince>,
    patience: Patience,
}

struct UnreadSince {
    /// When the transport last took something.
    since: Moment,
    _counted: Option<GaugeGuard>,
}

impl Wait {
    /// `Ready` when the stream should be given up.
    fn poll_end(&mut self, reading: &Reading, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        let took = reading.took_anything();
        if !reading.is_unread() {
            self.unread = None;
            // Windows fill and empty all the time.
            self.patience.rest();
            return Poll::Pending;
        }
        let begins = || UnreadSince { since: Moment::now(), _counted: reading.count_unread() };
        let unread = self.unread.get_or_insert_with(begins);
        if took {
            unread.since = Moment::now();
        }
        let patient_until = unread.since + self.unread_timeout;
        if reading.poll_backlog(cx).is_ready() {
            return Poll::Ready(StreamEnd::Unread);
        }
        let ends_at = reading.ends_at();
        self.patience.poll(cx, |now| {
            let left = (ends_at != Timestamp::NEVER).then(|| ends_at.since(clock::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Due::Now(StreamEnd::Expired);
            }
            if patient_until <= now {
                return Due::Now(StreamEnd::Unread);
            }
            Due::At(left.map_or(patient_until, |left| patient_until.min(now + left)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::telemetry::Telemetry;

    const TIMEOUT: Duration = Duration::from_secs(300);

    /// A frame.
    struct Data;

    /// A transport that asks for a frame, and for the next one when a permit says that the client took the last.
    async fn pipe(mut frames: mpsc::Receiver<Data>, taken: Arc<Semaphore>, reading: Arc<Reading>) {
        let next = |cx: &mut Context<'_>, frames: &mut mpsc::Receiver<Data>| {
            let frame = frames.poll_recv(cx);
            reading.note_frame(matches!(frame, Poll::Ready(Some(Data))));
            frame
        };
        while poll_fn(|cx| next(cx, &mut frames)).await.is_some() {
            taken.acquire().await.expect("never closed").forget();
        }
    }

    type Task<S> = StreamTask<S, Reading>;

    /// Frames to send, permits to take them, what is known of its client, and the task.
    fn task() -> (mpsc::Sender<Data>, Arc<Semaphore>, Arc<Reading>, Task<impl Future<Output = ()> + Send>) {
        let (sender, frames) = mpsc::channel(8);
        let (taken, reading) = (Arc::new(Semaphore::new(0)), Arc::<Reading>::default());
        let stream = pipe(frames, Arc::clone(&taken), Arc::clone(&reading));
        let task = StreamTask::new(Arc::clone(&reading), stream, TIMEOUT);
        (sender, taken, reading, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_nothing_to_send_is_never_given_up() {
        let (sender, taken, reading, task) = task();
        sender.try_send(Data).expect("room");
        taken.add_permits(1);
        let task = tokio::spawn(task);
        tokio::time::sleep(TIMEOUT * 100).await;
        assert!(!task.is_finished() && !reading.is_unread());
        drop(sender);
        task.await.expect("it ends by itself");
        assert_eq!(reading.given_up(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_after_the_timeout() {
        let (sender, _taken, reading, task) = task();
        sender.try_send(Data).expect("room");
        let begun = Moment::now();
        task.await;
        assert_eq!((reading.given_up(), Moment::now().since(begun).as_secs()), (Some(StreamEnd::Unread), TIMEOUT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_frame_taken_postpones_the_end() {
        let (sender, taken, reading, task) = task();
        for _ in 0..4 {
            sender.try_send(Data).expect("room");
        }
        let (begun, task) = (Moment::now(), tokio::spawn(task));
        for _ in 0..3 {
            tokio::time::sleep(TIMEOUT * 9 / 10).await;
            taken.add_permits(1);
        }
        task.await.expect("no panic");
        assert_eq!(reading.given_up(), Some(StreamEnd::Unread));
        assert_eq!(Moment::now().since(begun).as_secs(), (TIMEOUT * 27 / 10 + TIMEOUT).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_read_again_gets_its_full_time_again() {
        let (sender, taken, reading, task) = task();
        let task = tokio::spawn(task);
        for _ in 0..20 {
            sender.try_send(Data).expect("room");
            tokio::time::sleep(TIMEOUT / 2).await;
            taken.add_permits(1);
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        assert!(!task.is_finished());
        assert_eq!(reading.given_up(), None);
    }

    #[tokio::test]
    async fn the_deadline_of_the_call_still_applies() {
        let (sender, _taken, reading, task) = task();
        reading.begin_call(&Arc::new(Telemetry::new().method("feed")), clock::now());
        sender.try_send(Data).expect("room");
        task.await;
        assert_eq!(reading.given_up(), Some(StreamEnd::Expired));
    }

    #[test]
    fn a_stream_that_is_read_costs_little_more_than_its_future() {
        let (_, _, reading, task) = task();
        let future = size_of_val(&pipe(mpsc::channel(1).1, Arc::new(Semaphore::new(0)), reading));
        assert!(size_of_val(&task) - future <= 88, "{} bytes above {future}", size_of_val(&task) - future);
        assert!(size_of::<Reading>() <= 96, "{} bytes", size_of::<Reading>());
    }
}
