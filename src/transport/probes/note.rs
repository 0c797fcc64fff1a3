//! What a connection is waiting for, since when, and how long it may.
//!
//! Everything about a connection runs in its one task, which has the one timer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::patience::{Due, Moment, Patience};

/// For a first request to arrive, whole.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
/// For another one: longer than the pause between two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to take anything of an answer.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the connection is waiting for, and since when.
#[derive(Debug)]
pub(super) struct Note {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    awaited: Awaited,
    /// A write has to wait.
    blocked: bool,
    since: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    First,
    Request,
    /// The server's answers to this many requests. Over HTTP/1.1 there is one at a time.
    Answers(u32),
}

impl State {
    /// Whether the server has to answer.
    fn is_answered(self) -> bool {
        matches!(self.awaited, Awaited::Answers(_)) && !self.blocked
    }
}

impl Note {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { awaited: Awaited::First, blocked: false, since: Moment::now() }) }
    }

    /// A request has arrived.
    pub(super) fn answers(&self) {
        self.change(|state| {
            let others = if let Awaited::Answers(others) = state.awaited { others } else { 0 };
            state.awaited = Awaited::Answers(others + 1);
        });
    }

    /// A request has been answered.
    pub(super) fn answered(&self) {
        self.change(|state| {
            state.awaited = match state.awaited {
                Awaited::Answers(all @ 2..) => Awaited::Answers(all - 1),
                _ => Awaited::Request,
            };
        });
    }

    pub(super) fn wrote(&self, waits: bool) {
        let mut state = self.state.lock();
        // A write that makes progress restarts the clock; one that still waits does not.
        if !waits || !state.blocked {
            state.since = Moment::now();
        }
        state.blocked = waits;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.since = Moment::now();
    }

    /// Whether the server has to answer, and since when it or the client is the one to act.
    pub(super) fn turn(&self) -> (bool, Moment) {
        let state = *self.state.lock();
        (state.is_answered(), state.since)
    }

    /// `Ready` when the client's time is up. Poll it after the connection, every time.
    pub(super) fn poll_lapse(&self, patience: &mut Patience, cx: &mut Context<'_>) -> Poll<()> {
        patience.poll(cx, |now| self.lapses_at().map_or(Due::Never, |at| Due::at(at, now, || ())))
    }

    /// When the client's time is up; `None` if the server has to answer.
    fn lapses_at(&self) -> Option<Moment> {
        let State { awaited, blocked, since } = *self.state.lock();
        let limit = match awaited {
            _ if blocked => UNREAD_TIMEOUT,
            Awaited::First => FIRST_TIMEOUT,
            Awaited::Request => IDLE_TIMEOUT,
            Awaited::Answers(_) => return None,
        };
        Some(since + limit)
    }
}

/// A connection that records when a write has to wait.
pub(super) struct Noted<I> {
    stream: I,
    note: Arc<Note>,
}

impl<I> Noted<I> {
    pub(super) const fn new(stream: I, note: Arc<Note>) -> Self {
        Self { stream, note }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Noted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noted<I> {
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

    async fn lapse(note: &Note) -> Duration {
        let (begun, mut patience) = (Moment::now(), Patience::new());
        poll_fn(|cx| note.poll_lapse(&mut patience, cx)).await;
        Moment::now().since(begun)
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
        note.answers();
        note.answered();
        assert!(timeout(Duration::from_secs(10_000), lapse(&note)).await.is_err(), "one is left to answer");
        note.answered();
        assert_eq!(lapse(&note).await, IDLE_TIMEOUT);
    }
}
