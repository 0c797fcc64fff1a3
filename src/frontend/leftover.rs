//! What is left of a request that was answered before all of it had come, over HTTP/2.
//!
//! A stream whose request goes on after its response is over has to be reset (RFC 9113, section 8.1), and some clients, curl 7.88 among
//! them, then lose the response that came with it. So the response ends only when the rest of the request has come too, unless that is
//! large or takes long.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

/// More than this is not waited for.
const LEFT_BYTES_MAX: usize = 64 << 10;

/// Nor for longer than this.
const LEFT_WITHIN: Duration = Duration::from_secs(1);

/// Where the rest of a request is left.
pub(super) type Rest<B> = Arc<Mutex<Option<B>>>;

/// The body of a request that leaves its rest to the response.
pub(super) struct Leaving<B: Body + Unpin> {
    body: Option<B>,
    rest: Rest<B>,
}

/// The body of a response that waits for that rest.
pub(super) struct Lasting<R, B> {
    response: R,
    is_over: bool,
    rest: Rest<B>,
    bytes: usize,
    late: Option<Pin<Box<Sleep>>>,
}

/// A request's body, and where its rest will be left.
pub(super) fn leaving<B: Body + Unpin>(body: B) -> (Leaving<B>, Rest<B>) {
    let rest = Rest::default();
    (Leaving { body: Some(body), rest: Arc::clone(&rest) }, rest)
}

impl<B: Body + Unpin> Drop for Leaving<B> {
    fn drop(&mut self) {
        *self.rest.lock() = self.body.take().filter(|body| !body.is_end_stream());
    }
}

impl<B: Body + Unpin> Body for Leaving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<R, B: Body<Data = Bytes> + Unpin> Lasting<R, B> {
    pub(super) const fn new(response: R, rest: Rest<B>) -> Self {
        Self { response, is_over: false, rest, bytes: 0, late: None }
    }

    /// Ready once nothing more of the request is waited for.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rest = self.rest.lock();
        while let Some(body) = &mut *rest {
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.bytes = self.bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
                    if self.bytes > LEFT_BYTES_MAX {
                        drop(mem::take(&mut *rest));
                    }
                }
                Poll::Ready(_) => drop(mem::take(&mut *rest)),
                Poll::Pending => {
                    let late = self.late.get_or_insert_with(|| Box::pin(sleep(LEFT_WITHIN)));
                    std::task::ready!(late.as_mut().poll(cx));
                    drop(mem::take(&mut *rest));
                }
            }
        }
        Poll::Ready(())
    }
}

impl<R: Body + Unpin, B: Body<Data = Bytes> + Unpin> Body for Lasting<R, B> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let this = &mut *self;
        if !this.is_over {
            match Pin::new(&mut this.response).poll_frame(cx) {
                Poll::Ready(None) => this.is_over = true,
                other => return other,
            }
        }
        this.poll_rest(cx).map(|()| None)
    }

    fn is_end_stream(&self) -> bool {
        self.response.is_end_stream() && self.rest.lock().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.response.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{channel::mpsc, poll};
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    type Piece = Result<Frame<Bytes>, Infallible>;
    type Sent = StreamBody<mpsc::Receiver<Piece>>;

    fn request() -> (mpsc::Sender<Piece>, Leaving<Sent>, Lasting<Full<Bytes>, Sent>) {
        let (sender, receiver) = mpsc::channel(8);
        let (body, rest) = leaving(StreamBody::new(receiver));
        (sender, body, Lasting::new(Full::from("answer"), rest))
    }

    fn frame(bytes: usize) -> Piece {
        Ok(Frame::data(vec![0; bytes].into()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_answer_ends_when_its_request_has_come() {
        let (mut sender, body, mut answer) = request();
        drop(body);
        assert_eq!(answer.frame().await.expect("data").expect("no fault").into_data().expect("data"), "answer");
        assert!(!answer.is_end_stream());
        assert!(poll!(answer.frame()).is_pending());
        sender.try_send(frame(100)).expect("room");
        assert!(poll!(answer.frame()).is_pending());
        drop(sender);
        assert!(answer.frame().await.is_none() && answer.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_rest_and_a_slow_one_are_not_waited_for() {
        let (mut sender, body, mut answer) = request();
        drop(body);
        assert!(answer.frame().await.is_some());
        sender.try_send(frame(LEFT_BYTES_MAX)).expect("room");
        assert!(poll!(answer.frame()).is_pending());
        sender.try_send(frame(1)).expect("room");
        assert!(answer.frame().await.is_none());

        let (_sender, body, mut answer) = request();
        drop(body);
        assert!(answer.frame().await.is_some());
        let begun = tokio::time::Instant::now();
        assert!(answer.frame().await.is_none());
        assert_eq!(begun.elapsed(), LEFT_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_read_leaves_nothing() {
        let (mut sender, mut body, mut answer) = request();
        sender.try_send(frame(3)).expect("room");
        drop(sender);
        while body.frame().await.is_some() {}
        drop(body);
        assert!(answer.frame().await.is_some());
        assert!(answer.frame().await.is_none());
    }
}
