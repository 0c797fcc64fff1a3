//! A connection that records what comes and goes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::progress::Progress;
use crate::transport::linger::Lingering;

/// A connection that records what comes and goes.
pub(super) struct Watched<I> {
    stream: Lingering<I>,
    progress: Arc<Progress>,
}

impl<I> Watched<I> {
    pub(super) const fn new(io: I, progress: Arc<Progress>) -> Self {
        Self { stream: Lingering::new(io), progress }
    }

    /// The connection itself, from which `read` has been read already, and which nothing records any more.
    pub(super) fn unwatched(self, read: &[u8]) -> Lingering<I> {
        self.stream.with_read(read)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, progress } = self.get_mut();
        let before = buffer.filled().len();
        match progress.head_room() {
            // Either the task, which polls this, looks at the size of the head next and gives the connection up; or hyper has the
            // whole head, and its service, called later in the same turn, will record it. The rest is then read in the next turn.
            Some(0) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(room) => {
                ready!(Pin::new(&mut stream.take(room as u64)).poll_read(cx, buffer))?;
                if !progress.note_head(&buffer.filled()[before..]) {
                    buffer.set_filled(before);
                    return Poll::Pending;
                }
            }
            None if progress.body_goes_on() => ready!(Pin::new(stream).poll_read(cx, buffer))?,
            None => return Poll::Pending,
        }
        progress.note_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, progress } = self.get_mut();
        let written = Pin::new(stream).poll_write(cx, bytes);
        progress.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { stream, progress } = self.get_mut();
        let written = Pin::new(stream).poll_write_vectored(cx, slices);
        progress.note_write(written.is_pending());
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
