//! A connection that is read in turns, and to its end before it is closed.
//!
//! If a socket is closed while bytes of its peer are unread, the kernel resets it, and the peer then loses what it had received
//! and not yet read: the last results of a drain, and the status that says why the stream ended. So the server signals that it
//! will write no more, and discards what the client still sends until the client closes too.
//!
//! A reader goes on for as long as there is anything to read, and tiny frames arrive as fast as they can be looked at. So after
//! [`TURN`] it finds nothing and is woken at once: whatever else the thread has to do comes first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{clock, domain::Timestamp};

/// How long a client may take to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes dropped in one read.
const DROPPED_BYTES: usize = 4 * 1024;

/// How long a connection may be read without a break.
const TURN: Duration = Duration::from_micros(300);

/// A stream whose shutdown ends when the client has closed its side, or [`LINGER`] has passed.
pub(super) struct Lingering<I> {
    /// What was read earlier and has to be read once more.
    read: Bytes,
    stream: I,
    reading: Reading,
    closing: Option<Pin<Box<Sleep>>>,
}

/// Reads since one last found nothing. Usually the second finds nothing, so these are not timed.
#[derive(Debug)]
enum Reading {
    /// None has found anything.
    Idle,
    /// One has.
    Begun,
    /// So has a second, which was over at that time, and all that followed.
    Since(Timestamp),
}

impl Reading {
    /// Whether others should go first. If so, the next turn begins.
    fn takes_long(&mut self, now: impl Fn() -> Timestamp) -> bool {
        let takes_long = matches!(*self, Self::Since(since) if now().since(since) >= TURN);
        if takes_long {
            *self = Self::Idle;
        }
        takes_long
    }

    fn note(&mut self, found_something: bool, now: impl Fn() -> Timestamp) {
        *self = match *self {
            _ if !found_something => Self::Idle,
            Self::Idle => Self::Begun,
            Self::Begun => Self::Since(now()),
            Self::Since(_) => return,
        };
    }
}

impl<I> Lingering<I> {
    pub(super) const fn new(stream: I) -> Self {
        Self::after(Bytes::new(), stream)
    }

    /// A stream from which `read` has been read already.
    pub(super) const fn after(read: Bytes, stream: I) -> Self {
        Self { read, stream, reading: Reading::Idle, closing: None }
    }

    /// The same stream, from which `read` has been read already, and nothing else.
    pub(super) fn with_read(self, read: &[u8]) -> Self {
        // A copy, which does not keep the whole buffer that they lie in.
        Self { read: Bytes::copy_from_slice(read), ..self }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Lingering<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let length = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if self.reading.takes_long(clock::now) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.reading.note(read.is_ready(), clock::now);
        read
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, closing, .. } = &mut *self;
        let closing = match closing {
            Some(closing) => closing,
            empty => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                empty.insert(Box::pin(sleep(LINGER)))
            }
        };
        loop {
            if closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut dropped = [0; DROPPED_BYTES];
            let mut dropped = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut dropped));
            if read.is_err() || dropped.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn connected() -> (Lingering<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Lingering::new(accepted.expect("a connection").0), client.expect("a connection"))
    }

    #[test]
    fn what_is_read_without_a_pause_for_long_lets_others_go_first() {
        let (mut reading, begun) = (Reading::Idle, Timestamp::from_nanos(1));
        let (soon, later) = (begun + TURN / 2, begun + TURN);
        reading.note(true, || begun);
        reading.note(true, || begun);
        reading.note(true, || soon);
        assert!(!reading.takes_long(|| soon) && reading.takes_long(|| later));
        assert!(!reading.takes_long(|| later), "that was the pause");
        reading.note(true, || begun);
        reading.note(true, || begun);
        reading.note(false, || begun);
        assert!(!reading.takes_long(|| later), "there was nothing to be read");
    }

    #[tokio::test]
    async fn a_client_that_is_still_sending_gets_all_that_was_written() {
        let (mut server, mut client) = connected().await;
        client.write_all(&[1; 100_000]).await.expect("it fits into the buffers");
        let closing = tokio::spawn(async move {
            server.write_all(b"the last words").await.expect("it fits");
            server.shutdown().await
        });
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.expect("no reset");
        assert_eq!(heard, "the last words");
        client.write_all(&[1; 100_000]).await.expect("still taken");
        drop(client);
        closing.await.expect("no panic").expect("closed");
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (server, mut client) = connected().await;
        let mut server = Lingering::after(Bytes::from_static(b"read before"), server.stream);
        client.write_all(b" and after").await.expect("it fits");
        let mut heard = [0; 21];
        server.read_exact(&mut heard).await.expect("all is there");
        assert_eq!(&heard, b"read before and after");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_client_that_does_not_close_ends() {
        let (mut server, _client) = connected().await;
        let begun = tokio::time::Instant::now();
        server.shutdown().await.expect("closed");
        assert!(begun.elapsed() >= LINGER);
    }
}
