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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::body::{Body, Frame};
    use tokio::sync::{Semaphore, mpsc};
    use tonic::Status;

    use super::*;
    use crate::{
        frontend::grpc::reader::{FRAME_BYTES_MAX, WatchedBody},
        telemetry::Telemetry,
    };

    const TIMEOUT: Duration = Duration::from_secs(300);

    struct Frames(mpsc::Receiver<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// A transport that asks for a frame, and for the next one when a permit says that the client took the last.
    async fn pipe(frames: Frames, taken: Arc<Semaphore>) {
        let mut body = WatchedBody::new(tonic::body::Body::new(frames));
        while std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some() {
            taken.acquire().await.expect("never closed").forget();
        }
    }

    /// Frames to send, permits to take them, the reader, and the task.
    fn task() -> (mpsc::Sender<Bytes>, Arc<Semaphore>, Arc<Reader>, StreamTask<impl Future<Output = ()> + Send>) {
        let (sender, frames) = mpsc::channel(8);
        let taken = Arc::new(Semaphore::new(0));
        let task = StreamTask::new(pipe(Frames(frames), Arc::clone(&taken)), TIMEOUT);
        (sender, taken, Arc::clone(&task.reader), task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_nothing_to_send_is_never_given_up() {
        let (sender, taken, reader, task) = task();
        sender.try_send(Bytes::from_static(b"frame")).expect("room");
        taken.add_permits(1);
        let task = tokio::spawn(task);
        tokio::time::sleep(TIMEOUT * 100).await;
        assert!(!task.is_finished() && !reader.is_unread());
        drop(sender);
        task.await.expect("it ends by itself");
        assert_eq!(reader.given_up(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_after_the_timeout() {
        let (sender, _taken, reader, task) = task();
        sender.try_send(Bytes::from_static(b"frame")).expect("room");
        let begun = Instant::now();
        task.await;
        assert_eq!((reader.given_up(), begun.elapsed().as_secs()), (Some(StreamEnd::Unread), TIMEOUT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_frame_taken_puts_the_end_off() {
        let (sender, taken, reader, task) = task();
        for _ in 0..4 {
            sender.try_send(Bytes::from_static(b"frame")).expect("room");
        }
        let (begun, task) = (Instant::now(), tokio::spawn(task));
        for _ in 0..3 {
            tokio::time::sleep(TIMEOUT * 9 / 10).await;
            taken.add_permits(1);
        }
        task.await.expect("no panic");
        assert_eq!(reader.given_up(), Some(StreamEnd::Unread));
        assert_eq!(begun.elapsed().as_secs(), (TIMEOUT * 27 / 10 + TIMEOUT).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_time_over_a_large_frame_is_reading() {
        let (sender, taken, reader, task) = task();
        sender.try_send(Bytes::from(vec![0; 10 * FRAME_BYTES_MAX])).expect("room");
        drop(sender);
        let task = tokio::spawn(task);
        for _ in 0..10 {
            assert!(!task.is_finished());
            tokio::time::sleep(TIMEOUT * 9 / 10).await;
            taken.add_permits(1);
        }
        task.await.expect("no panic");
        assert_eq!(reader.given_up(), None);
    }

    #[tokio::test]
    async fn a_large_frame_comes_in_pieces_and_whole() {
        let (sender, frames) = mpsc::channel(2);
        let large: Bytes = (0..2 * FRAME_BYTES_MAX + 1).map(|index| index as u8).collect();
        for frame in [&large, &large.slice(..10)] {
            sender.try_send(frame.clone()).expect("room");
        }
        drop(sender);
        let mut body = WatchedBody::new(tonic::body::Body::new(Frames(frames)));
        let mut pieces = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            assert!(!body.is_end_stream());
            pieces.push(frame.expect("no error").into_data().expect("data"));
        }
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [FRAME_BYTES_MAX, FRAME_BYTES_MAX, 1, 10]);
        assert_eq!(pieces.concat(), [&large[..], &large[..10]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_read_again_has_all_its_time_again() {
        let (sender, taken, reader, task) = task();
        let task = tokio::spawn(task);
        for _ in 0..20 {
            sender.try_send(Bytes::from_static(b"frame")).expect("room");
            tokio::time::sleep(TIMEOUT / 2).await;
            taken.add_permits(1);
            tokio::time::sleep(TIMEOUT / 2).await;
        }
        assert!(!task.is_finished());
        assert_eq!(reader.given_up(), None);
    }

    #[tokio::test]
    async fn the_end_of_the_call_is_kept() {
        let (sender, _taken, reader, task) = task();
        reader.begin_call(&Arc::new(Telemetry::new().method("feed")), clock::now());
        sender.try_send(Bytes::from_static(b"frame")).expect("room");
        task.await;
        assert_eq!(reader.given_up(), Some(StreamEnd::Expired));
    }

    #[test]
    fn a_stream_that_is_read_costs_little_more_than_its_future() {
        let (_, _, _, task) = task();
        let future = size_of_val(&pipe(Frames(mpsc::channel(1).1), Arc::new(Semaphore::new(0))));
        assert!(size_of_val(&task) - future <= 96, "{} bytes beside {future}", size_of_val(&task) - future);
        assert!(size_of::<Reader>() <= 192, "{} bytes", size_of::<Reader>());
    }
}
