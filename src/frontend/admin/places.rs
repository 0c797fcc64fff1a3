//! Who is connected to the admin port, and who has to go when there are too many.
//!
//! A connection does one of three things: the client is to send a request (it is silent), the server is to answer one, or the client is to
//! take an answer (it is unread). Of those that wait for their client, the one that has done so longest goes first. One that is answered
//! stays, unless its answer takes so long that it may never come to be, or there are twice as many connections as there should be. Each wait
//! for a client has a limit too. All of a connection runs in its one task, which has the one timer.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// For a first request to arrive, whole.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
/// For another one: longer than scrapers pause.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to take anything of an answer.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that takes longer gives its place to others.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The connections of the port.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    all: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    note: Arc<Note>,
    leave: CancellationToken,
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    note: Arc<Note>,
    leave: CancellationToken,
}

impl Places {
    /// For so many connections.
    pub(super) fn new(max: usize) -> Self {
        Self { max, all: Mutex::default() }
    }

    /// Lets a connection in. If it is one too many, the one that has been silent or unread longest is told to leave.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let mut all = self.all.lock();
        while all.open.len() >= self.max && all.close_longest(self.max) {}
        let number = all.next;
        all.next += 1;
        let (note, leave) = (Arc::new(Note::new()), CancellationToken::new());
        all.open.insert(number, Entry { note: Arc::clone(&note), leave: leave.clone() });
        drop(all);
        Place { places: Arc::clone(self), number, note, leave }
    }

    /// Tells the connection to leave that has been silent or unread longest.
    pub(super) fn close_longest(&self) {
        self.all.lock().close_longest(self.max);
    }
}

impl Entries {
    /// Whether there was one to close.
    fn close_longest(&mut self, max: usize) -> bool {
        let (now, crowded) = (Instant::now(), self.open.len() >= 2 * max);
        let closable = self.open.iter().filter_map(|(number, entry)| {
            let state = *entry.note.state.lock();
            let (is_answered, since) = (state.is_answered(), state.since);
            (!is_answered || crowded || now - since > ANSWER_MAX).then_some((is_answered, since, *number))
        });
        let Some((.., number)) = closable.min() else { return false };
        if let Some(entry) = self.open.remove(&number) {
            entry.leave.cancel();
        }
        true
    }
}

impl Place {
    /// What the connection does.
    pub(super) fn note(&self) -> Arc<Note> {
        Arc::clone(&self.note)
    }

    /// Waits until another connection needs the place more.
    pub(super) async fn told_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.all.lock().open.remove(&self.number);
    }
}

/// What is waited for, and since when.
#[derive(Debug)]
pub(super) struct Note {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    awaited: Awaited,
    /// A write has to wait.
    blocked: bool,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    First,
    Request,
    /// The server's answer.
    Answer,
}

impl State {
    /// Whether it is the server's turn.
    fn is_answered(self) -> bool {
        self.awaited == Awaited::Answer && !self.blocked
    }
}

impl Note {
    fn new() -> Self {
        Self { state: Mutex::new(State { awaited: Awaited::First, blocked: false, since: Instant::now() }) }
    }

    /// A request is there.
    pub(super) fn answers(&self) {
        self.change(|state| state.awaited = Awaited::Answer);
    }

    pub(super) fn answered(&self) {
        self.change(|state| state.awaited = Awaited::Request);
    }

    fn wrote(&self, waits: bool) {
        let mut state = self.state.lock();
        // A write that goes on takes the clock back; one that waits still does not.
        if !waits || !state.blocked {
            state.since = Instant::now();
        }
        state.blocked = waits;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.since = Instant::now();
    }

    /// When the client has had its time; `None` if it is the server's turn.
    fn lapses_at(&self) -> Option<Instant> {
        let State { awaited, blocked, since } = *self.state.lock();
        let limit = match awaited {
            _ if blocked => UNREAD_TIMEOUT,
            Awaited::First => FIRST_TIMEOUT,
            Awaited::Request => IDLE_TIMEOUT,
            Awaited::Answer => return None,
        };
        Some(since + limit)
    }
}

/// A connection's timer.
#[derive(Default)]
pub(super) struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// `Ready` when the client has had its time. To be polled after the connection, whenever that is.
    pub(super) fn poll_lapse(&mut self, note: &Note, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = note.lapses_at() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

/// A socket that notes when a write has to wait.
pub(super) struct Noted {
    stream: TcpStream,
    note: Arc<Note>,
}

impl Noted {
    pub(super) const fn new(stream: TcpStream, note: Arc<Note>) -> Self {
        Self { stream, note }
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    fn leaves(place: &Place) -> bool {
        place.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_was_silent_or_unread_longest_goes_and_never_one_that_is_answered() {
        let places = Arc::new(Places::new(3));
        let enter = async || {
            advance(Duration::from_secs(1)).await;
            places.enter()
        };
        let (answered, silent, unread) = (enter().await, enter().await, enter().await);
        answered.note.answers();
        unread.note.answers();
        unread.note.wrote(true);
        let fourth = enter().await;
        assert_eq!([&answered, &silent, &unread, &fourth].map(leaves), [false, true, false, false]);
        let fifth = enter().await;
        assert_eq!([&answered, &unread, &fourth, &fifth].map(leaves), [false, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_never_come_to_be_do_not_keep_others_out() {
        let places = Arc::new(Places::new(2));
        let answered: Vec<_> = (0..4).map(|_| places.enter()).inspect(|place| place.note.answers()).collect();
        assert_eq!(answered.iter().filter(|place| leaves(place)).count(), 0, "twice as many as there should be");
        let fifth = places.enter();
        assert!(leaves(&answered[0]) && !leaves(&answered[1]) && !leaves(&fifth));
        fifth.note.answers();
        advance(ANSWER_MAX + Duration::from_millis(1)).await;
        let sixth = places.enter();
        assert!(answered[1..].iter().all(leaves) && !leaves(&fifth) && !leaves(&sixth));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_makes_room() {
        let places = Arc::new(Places::new(1));
        drop(places.enter());
        let one = places.enter();
        assert!(!leaves(&one));
        let other = places.enter();
        assert!(leaves(&one) && !leaves(&other));
    }

    async fn lapse(note: &Note) -> Duration {
        let (begun, mut patience) = (Instant::now(), Patience::default());
        poll_fn(|cx| patience.poll_lapse(note, cx)).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_limit_and_the_server_has_none() {
        let note = Note::new();
        assert_eq!(lapse(&note).await, FIRST_TIMEOUT);
        note.answers();
        assert!(timeout(Duration::from_secs(10_000), lapse(&note)).await.is_err());
        note.wrote(true);
        advance(Duration::from_secs(4)).await;
        note.wrote(true);
        assert_eq!(lapse(&note).await, UNREAD_TIMEOUT - Duration::from_secs(4));
        note.wrote(false);
        note.answered();
        assert_eq!(lapse(&note).await, IDLE_TIMEOUT);
    }
}
