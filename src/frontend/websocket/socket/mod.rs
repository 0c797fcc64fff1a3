//! A wire's end of a socket, and what runs the two.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, Sink, Stream};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    frame::{Frame, POLICY, SocketError},
    line::Line,
};
use crate::{domain::Fault, service::Holder};

/// How long the last words of a socket may take, once its wire has flushed what it had to say or has been given up.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A wire's end of a socket. It is used by the wire alone, in the task of its connection, so nothing ever waits for the lock.
pub(super) struct Socket(Arc<Mutex<Line>>);

impl Stream for Socket {
    type Item = Result<Frame, SocketError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().poll_message(cx)
    }
}

impl Sink<Frame> for Socket {
    type Error = SocketError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.0.lock().poll_room(cx)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<(), SocketError> {
        self.0.lock().write(frame)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.0.lock().poll_flush(cx)
    }

    /// Closing without a [`Frame::Close`] is up to what runs the socket.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.0.lock().poll_flush(cx)
    }
}

/// Runs a wire over a socket until either has ended, and then ends the connection. All of the wire is polled on behalf of `holder`, and nothing
/// of it once that may no longer call.
pub(super) async fn run<F: Future<Output = ()>>(line: Line, holder: Option<Arc<Holder>>, wire: impl FnOnce(Socket) -> F) {
    let line = Arc::new(Mutex::new(line));
    {
        let mut wire = pin!(wire(Socket(Arc::clone(&line))));
        let ended = async {
            match &holder {
                Some(holder) => Arc::clone(holder).ended().await,
                None => std::future::pending().await,
            }
        };
        let mut ended = pin!(ended);
        let mut poll_wire = |cx: &mut Context<'_>| match &holder {
            Some(holder) => holder.acting(|| wire.as_mut().poll(cx)),
            None => wire.as_mut().poll(cx),
        };
        let revoked = poll_fn(|cx| poll_both(cx, &mut ended, &mut poll_wire, &line)).await;
        if let Some(fault) = revoked {
            line.lock().close(POLICY, &format!("UNAUTHENTICATED: {}", fault.message()));
        }
        // The wire goes here, and with it all that it has open.
    }
    if line.lock().is_given_up() {
        return;
    }
    line.lock().close_by_default();
    let last_words = async {
        let flushed = poll_fn(|cx| line.lock().poll_flush(cx)).await;
        poll_fn(|cx| line.lock().poll_farewell(cx)).await;
        flushed.is_ok()
    };
    // A client that takes its time over its own close is not waited for, but one that has not taken ours is cut off.
    if timeout(LAST_WORDS, last_words).await.unwrap_or_else(|_| line.lock().is_flushed()) {
        // That has a clock of its own.
        poll_fn(|cx| line.lock().poll_shutdown(cx)).await;
    }
}

/// The wire, and all that goes on around it. Gives the reason if the caller may no longer call.
fn poll_both(
    cx: &mut Context<'_>,
    ended: &mut (impl Future<Output = Fault> + Unpin),
    mut poll_wire: impl FnMut(&mut Context<'_>) -> Poll<()>,
    line: &Mutex<Line>,
) -> Poll<Option<Fault>> {
    loop {
        if let Poll::Ready(fault) = ended.poll_unpin(cx) {
            return Poll::Ready(Some(fault));
        }
        if poll_wire(cx).is_ready() {
            return Poll::Ready(None);
        }
        if line.lock().poll_upkeep(cx).is_pending() {
            return Poll::Pending;
        }
        // It learns why, if it reads or writes at all.
        if poll_wire(cx).is_ready() || line.lock().must_end() {
            return Poll::Ready(None);
        }
    }
}

#[cfg(test)]
mod tests;
