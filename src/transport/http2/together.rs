//! A connection and its streams as one task.
//!
//! hyper spawns a future for each stream of a connection. As separate tasks they would be woken one by one, each would wake the
//! connection's task to write its one frame, and all of them would contend for the connection's lock. Here the connection polls
//! them itself: a lane that answers items of many streams wakes one task, and everything they have to say goes out in one write.
//!
//! Knows the transport, but neither messages nor sessions. One connection uses one core at a time; a client that needs more opens
//! more connections.
//!
//! # CANCELLATION
//! Streams end with their connection, however it ends. Thousands may be open when a client leaves, so they are dropped in turns, and
//! others are served in between. A panic ends only its own stream.

use std::{
    marker::PhantomData,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::{
    FutureExt as _, Stream as _,
    future::BoxFuture,
    stream::{FuturesUnordered, futures_unordered::IntoIter},
    task::AtomicWaker,
};
use parking_lot::Mutex;
use pin_project_lite::pin_project;

use super::{exchange::Exchange, stream_task::StreamTask};
use crate::connections::Calls;

/// Rounds in one poll, after which other tasks get a turn.
const ROUNDS_MAX: usize = 8;

/// The most streams that begin in one poll: what they do at the start is most of the work of a short call.
const OPENED_MAX: usize = 32;

/// The most streams dropped in one poll: dropping one takes microseconds.
const ENDED_MAX: usize = 32;

/// Puts a connection's streams, for each of which the front end keeps an `X`, where [`Together`] finds them. Clones belong to the
/// same connection.
pub(crate) struct StreamExecutor<X> {
    /// Time after which an unread stream is reset.
    unread_timeout: Duration,
    calls: Calls,
    opened: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    exchange: PhantomData<fn() -> X>,
}

impl<X> StreamExecutor<X> {
    /// For one connection, with its calls counted in `calls`.
    pub(crate) fn new(unread_timeout: Duration, calls: Calls) -> Self {
        Self { unread_timeout, calls, opened: Arc::default(), exchange: PhantomData }
    }
}

impl<X> Clone for StreamExecutor<X> {
    fn clone(&self) -> Self {
        let Self { unread_timeout, calls, opened, exchange } = self;
        Self { unread_timeout: *unread_timeout, calls: calls.clone(), opened: Arc::clone(opened), exchange: *exchange }
    }
}

impl<X, F> hyper::rt::Executor<F> for StreamExecutor<X>
where
    X: Exchange,
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let task = AssertUnwindSafe(StreamTask::new(Arc::<X>::default(), future, self.unread_timeout)).catch_unwind();
        let call = self.calls.begin();
        self.opened.lock().push(task.map(move |_| drop(call)).boxed());
    }
}

pin_project! {
    /// The future of a connection, and those of its streams.
    pub(crate) struct Together<C: Future> {
        #[pin]
        connection: C,
        opened: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
        streams: FuturesUnordered<BoxFuture<'static, ()>>,
        ending: Option<Ending<C::Output>>,
        turn: Arc<Turn>,
        wakers: [Waker; 2],
    }
}

impl<C: Future> Together<C> {
    /// `connection` opens its streams through `executor`.
    pub(crate) fn new<X>(connection: C, executor: &StreamExecutor<X>) -> Self {
        let turn = Arc::new(Turn { state: AtomicU8::new(CONNECTION), task: AtomicWaker::new() });
        let waker = |part| Waker::from(Arc::new(PartWaker { part, turn: Arc::clone(&turn) }));
        let wakers = [waker(CONNECTION), waker(STREAMS)];
        Self { connection, opened: Arc::clone(&executor.opened), streams: FuturesUnordered::new(), ending: None, turn, wakers }
    }

    /// Changes the connection itself, then has it polled again.
    pub(crate) fn change(self: Pin<&mut Self>, change: impl FnOnce(Pin<&mut C>)) {
        let this = self.project();
        change(this.connection);
        this.turn.state.fetch_or(CONNECTION, Ordering::AcqRel);
    }
}

impl<C: Future> Future for Together<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let mut this = self.project();
        if this.ending.is_some() {
            return poll_ending(this.ending, this.opened, cx);
        }
        this.turn.task.register(cx.waker());
        let [for_connection, for_streams] = &*this.wakers;
        for _ in 0..ROUNDS_MAX {
            let woken = this.turn.begin_round();
            if woken & CONNECTION != 0
                && let Poll::Ready(ended) = this.connection.as_mut().poll(&mut Context::from_waker(for_connection))
            {
                *this.ending = Some(Ending { streams: std::mem::take(this.streams).into_iter(), output: ended });
                return poll_ending(this.ending, this.opened, cx);
            }
            // It woke itself: it has had its turn, and goes on after others have had theirs.
            let mut yields = this.turn.is_woken(CONNECTION);
            let opened = take_opened(this.opened);
            if woken & STREAMS != 0 || !opened.is_empty() {
                yields |= opened.len() == OPENED_MAX;
                this.streams.extend(opened);
                let mut cx = Context::from_waker(for_streams);
                let mut ended = 0;
                while ended < ENDED_MAX
                    && let Poll::Ready(Some(())) = Pin::new(&mut *this.streams).poll_next(&mut cx)
                {
                    ended += 1;
                }
                if ended == ENDED_MAX {
                    this.turn.wake(STREAMS);
                    yields = true;
                }
            }
            if yields {
                break;
            }
            if this.turn.rest() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What is left of a connection that has ended.
struct Ending<T> {
    streams: IntoIter<BoxFuture<'static, ()>>,
    output: T,
}

/// Drops some of the streams, and says how the connection ended once there are no more.
fn poll_ending<T>(ending: &mut Option<Ending<T>>, opened: &Mutex<Vec<BoxFuture<'static, ()>>>, cx: &Context<'_>) -> Poll<T> {
    let dropped = ending.as_mut().map_or(0, |ending| ending.streams.by_ref().take(ENDED_MAX).count());
    if dropped < ENDED_MAX
        && take_opened(opened).len() < OPENED_MAX
        && let Some(Ending { output, .. }) = ending.take()
    {
        return Poll::Ready(output);
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The streams that may begin now, in order.
fn take_opened(opened: &Mutex<Vec<BoxFuture<'static, ()>>>) -> Vec<BoxFuture<'static, ()>> {
    let mut opened = opened.lock();
    if opened.len() <= OPENED_MAX { std::mem::take(&mut *opened) } else { opened.drain(..OPENED_MAX).collect() }
}

/// Set while the task runs or is about to.
const RUNS: u8 = 1;
/// The connection was woken.
const CONNECTION: u8 = 2;
/// A stream was woken.
const STREAMS: u8 = 4;

/// Which part to poll, and whether the task has to be woken for that; while it runs, it does not.
struct Turn {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Turn {
    /// Says which parts were woken.
    fn begin_round(&self) -> u8 {
        self.state.swap(RUNS, Ordering::AcqRel)
    }

    /// Whether this part was woken in this round.
    fn is_woken(&self, part: u8) -> bool {
        self.state.load(Ordering::Acquire) & part != 0
    }

    /// Ends the turn, unless a part was woken in the meantime.
    fn rest(&self) -> bool {
        self.state.compare_exchange(RUNS, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn wake(&self, part: u8) {
        if self.state.fetch_or(part, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }
}

/// Wakes one part of a connection.
struct PartWaker {
    part: u8,
    turn: Arc<Turn>,
}

impl Wake for PartWaker {
    fn wake(self: Arc<Self>) {
        self.turn.wake(self.part);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.turn.wake(self.part);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, task::ready};

    use futures::task::ArcWake;
    use hyper::rt::Executor as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::transport::http2::reading::Reading;

    /// How often a task was woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Self>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that writes what its streams say, in one write a poll, and ends when no stream can say more.
    fn connection(mut said: mpsc::Receiver<u32>, writes: Arc<Mutex<Vec<Vec<u32>>>>) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            let mut written = Vec::new();
            let ended = loop {
                match said.poll_recv(cx) {
                    Poll::Ready(Some(word)) => written.push(word),
                    Poll::Ready(None) => break true,
                    Poll::Pending => break false,
                }
            };
            if !written.is_empty() {
                writes.lock().push(written);
            }
            if ended { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// A stream that repeats on its connection what it hears.
    fn stream(mut hears: mpsc::Receiver<u32>, says: mpsc::Sender<u32>) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            while let Some(word) = ready!(hears.poll_recv(cx)) {
                says.try_send(word).expect("there is room");
            }
            Poll::Ready(())
        })
    }

    #[test]
    fn what_many_streams_say_is_written_at_once_and_wakes_once() {
        let executor = StreamExecutor::<Reading>::new(Duration::from_secs(60), Calls::default());
        let (says, said) = mpsc::channel(16);
        let writes = Arc::<Mutex<Vec<Vec<u32>>>>::default();
        let mut together = Box::pin(Together::new(connection(said, Arc::clone(&writes)), &executor));
        let (tell, hears): (Vec<_>, Vec<_>) = (0..10).map(|_| mpsc::channel::<u32>(16)).unzip();
        for hears in hears {
            executor.execute(stream(hears, says.clone()));
        }
        drop(says);
        let wakes = Arc::<Wakes>::default();
        let waker = futures::task::waker(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        assert!(together.as_mut().poll(&mut cx).is_pending());
        for round in 0..3 {
            for (word, tell) in (0..).zip(&tell) {
                tell.try_send(round * 10 + word).expect("the stream lives");
            }
            assert_eq!(wakes.0.swap(0, Ordering::Relaxed), 1);
            assert!(together.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "nobody is woken for what is done in the same poll");
            let written = writes.lock().pop().expect("a write");
            assert!(writes.lock().is_empty(), "one write for all");
            assert_eq!(written, (round * 10..round * 10 + 10).collect::<Vec<_>>());
        }
        drop(tell);
        assert!(together.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn many_streams_that_begin_at_once_and_a_connection_that_wakes_itself_let_other_tasks_run() {
        let executor = StreamExecutor::<Reading>::new(Duration::from_secs(60), Calls::default());
        let wakes_itself = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&wakes_itself);
        let connection = poll_fn(move |cx| {
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        let mut together = Box::pin(Together::new(connection, &executor));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 * OPENED_MAX + 1 {
            let begun = Arc::clone(&begun);
            executor.execute(async move {
                begun.fetch_add(1, Ordering::Relaxed);
            });
        }
        let wakes = Arc::<Wakes>::default();
        let waker = futures::task::waker(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        for turn in 1..=3 {
            assert!(together.as_mut().poll(&mut cx).is_pending());
            assert_eq!((begun.load(Ordering::Relaxed), wakes.0.load(Ordering::Relaxed)), (turn * OPENED_MAX, turn));
        }
        assert!(together.as_mut().poll(&mut cx).is_pending());
        assert_eq!((begun.load(Ordering::Relaxed), wakes.0.swap(0, Ordering::Relaxed)), (3 * OPENED_MAX + 1, 3));

        wakes_itself.store(2, Ordering::Relaxed);
        together.turn.wake(CONNECTION);
        assert_eq!(wakes.0.swap(0, Ordering::Relaxed), 1);
        for left in [1, 0] {
            assert!(together.as_mut().poll(&mut cx).is_pending());
            assert_eq!((wakes_itself.load(Ordering::Relaxed), wakes.0.swap(0, Ordering::Relaxed)), (left, 1), "once a turn");
        }
        assert!(together.as_mut().poll(&mut cx).is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_connection_that_ends_with_many_streams_drops_them_in_turns() {
        /// Counts when it is dropped.
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let executor = StreamExecutor::<Reading>::new(Duration::from_secs(60), Calls::default());
        let (goes_on, ends) = mpsc::channel(1);
        let mut together = Box::pin(Together::new(connection(ends, Arc::default()), &executor));
        let mut cx = Context::from_waker(Waker::noop());
        let dropped = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 * ENDED_MAX {
            let counted = Counted(Arc::clone(&dropped));
            executor.execute(async move {
                let _counted = counted;
                std::future::pending::<()>().await;
            });
        }
        for _ in 0..3 {
            assert!(together.as_mut().poll(&mut cx).is_pending());
        }
        // One more, which has not begun.
        let counted = Counted(Arc::clone(&dropped));
        executor.execute(async move { drop(counted) });
        drop(goes_on);
        for turn in 1..=2 {
            assert!(together.as_mut().poll(&mut cx).is_pending());
            assert_eq!(dropped.load(Ordering::Relaxed), turn * ENDED_MAX);
        }
        assert!(together.as_mut().poll(&mut cx).is_ready());
        assert_eq!(dropped.load(Ordering::Relaxed), 2 * ENDED_MAX + 1);
    }

    #[test]
    fn a_stream_that_panics_ends_alone() {
        let executor = StreamExecutor::<Reading>::new(Duration::from_secs(60), Calls::default());
        let (says, said) = mpsc::channel(16);
        let writes = Arc::<Mutex<Vec<Vec<u32>>>>::default();
        let mut together = Box::pin(Together::new(connection(said, Arc::clone(&writes)), &executor));
        let (tell, hears) = mpsc::channel(16);
        executor.execute(async { std::panic::panic_any("on purpose") });
        executor.execute(stream(hears, says));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(together.as_mut().poll(&mut cx).is_pending());
        tell.try_send(7).expect("the stream lives");
        assert!(together.as_mut().poll(&mut cx).is_pending());
        assert_eq!(*writes.lock(), [[7]]);
    }

    #[tokio::test]
    async fn streams_that_wake_each_other_for_ever_let_other_tasks_run() {
        let executor = StreamExecutor::<Reading>::new(Duration::from_secs(60), Calls::default());
        let together = Together::new(std::future::pending::<()>(), &executor);
        executor.execute(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let busy = tokio::spawn(together);
        tokio::task::yield_now().await;
        busy.abort();
        assert!(busy.await.expect_err("it never ends by itself").is_cancelled());
    }
}
