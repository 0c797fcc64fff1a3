//! What goes out to a client: in pieces that the transport takes one by one, and charged until it has.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::frames::{CHUNK_BYTES_MAX, Charged};
use crate::transport::Charge;

/// How much goes out before others get their turn: a stream may have much that is ready at once.
const TURN_BYTES: usize = 64 << 10;

/// A body that is there as a whole.
pub(super) fn whole(all: Charged) -> Body {
    let Charged { bytes, charge } = all;
    Body::new(Outgoing { later: None, rest: bytes, charge: Some(charge), turn_bytes: 0 })
}

/// A body that comes as this stream gives it.
pub(super) fn streamed(pieces: impl Stream<Item = Charged> + Send + 'static) -> Body {
    Body::new(Outgoing { later: Some(pieces.boxed()), rest: Bytes::new(), charge: None, turn_bytes: 0 })
}

struct Outgoing {
    /// What comes after `rest`; `None` if nothing does.
    later: Option<BoxStream<'static, Charged>>,
    rest: Bytes,
    charge: Option<Charge>,
    /// What has gone out in this turn.
    turn_bytes: usize,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.turn_bytes >= TURN_BYTES {
            this.turn_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while this.rest.is_empty() {
            let Some(later) = &mut this.later else { return Poll::Ready(None) };
            match ready!(later.poll_next_unpin(cx)) {
                Some(Charged { bytes, charge }) => (this.rest, this.charge) = (bytes, Some(charge)),
                None => this.later = None,
            }
        }
        let data = this.rest.split_to(this.rest.len().min(CHUNK_BYTES_MAX));
        if let Some(charge) = &mut this.charge {
            charge.shrink_to(this.rest.len());
        }
        this.turn_bytes += data.len();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.later.is_none() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.later {
            None => SizeHint::with_exact(self.rest.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{domain::Peer, telemetry::Gauge, transport::Transfer};

    fn charged(transfer: &Transfer, bytes: &[u8]) -> Charged {
        let mut charge = transfer.connection(Peer::default()).charge();
        charge.grow(bytes.len()).expect("room");
        Charged { bytes: Bytes::copy_from_slice(bytes), charge }
    }

    #[tokio::test]
    async fn what_is_not_taken_yet_is_charged() {
        let transfer = Transfer::new(16 << 20, Gauge::noop());
        let all: Vec<u8> = (0..3 * CHUNK_BYTES_MAX + 7).map(|index| index as u8).collect();
        let mut body = whole(charged(&transfer, &all));
        assert_eq!(body.size_hint().exact(), Some(all.len() as u64));
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            taken.extend_from_slice(&frame.expect("no error").into_data().expect("data"));
            assert_eq!(transfer.bytes(), all.len() - taken.len());
        }
        assert_eq!(taken, all);
    }

    #[tokio::test]
    async fn a_stream_is_sent_as_it_comes_and_gives_others_their_turn() {
        let transfer = Transfer::new(16 << 20, Gauge::noop());
        let pieces: Vec<_> = [&[1_u8; TURN_BYTES][..], b"", b"end"].into_iter().map(|bytes| charged(&transfer, bytes)).collect();
        let mut body = streamed(stream::iter(pieces));
        assert_eq!(body.frame().await.expect("a frame").expect("no error").into_data().expect("data").len(), TURN_BYTES);
        assert!(futures::poll!(body.frame()).is_pending(), "others first");
        assert_eq!(body.collect().await.expect("no error").to_bytes(), "end");
        assert_eq!(transfer.bytes(), 0);
    }
}
