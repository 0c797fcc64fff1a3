//! Between bytes on the wire and messages: the codec, as tonic drives it.

use std::{collections::VecDeque, convert::Infallible, pin::pin};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message as _;
use tidemill::proto::{
    codec::SmallBufferCodec,
    v1::{self, feed_request, feed_response, item_result},
};
use tonic::{
    Status, Streaming,
    codec::{Codec as _, EncodeBody, SingleMessageCompressionOverride},
};

use crate::{
    BATCH, TURNS, VALUES, device,
    meter::{case, counted},
};

type FeedCodec = SmallBufferCodec<v1::FeedResponse, v1::FeedRequest>;

fn tensor() -> v1::Tensor {
    let datatype = v1::Datatype::Fp32.into();
    v1::Tensor { name: "x".to_owned(), datatype, shape: vec![VALUES as i64], data: device::data() }
}

/// An item of a feed.
pub(crate) fn request() -> v1::FeedRequest {
    let item = v1::Item { inputs: vec![tensor()], ..v1::Item::default() };
    v1::FeedRequest { message: Some(feed_request::Message::Item(item)) }
}

fn response(seq: u64) -> v1::FeedResponse {
    let timing = v1::Timing { queue_ns: 200_000, compute_ns: 1_000_000, age_ns: 1_500_000, batch_size: 16 };
    let outputs = v1::Outputs { tensors: vec![tensor()] };
    let result = v1::ItemResult {
        seq: 100_000 + seq,
        outcome: Some(item_result::Outcome::Outputs(outputs)),
        timing: Some(timing),
        ..v1::ItemResult::default()
    };
    v1::FeedResponse { event: Some(feed_response::Event::Result(result)) }
}

/// A message with gRPC's prefix: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a short message"));
    frame.put_slice(message);
    frame.freeze()
}

/// Bytes of a stream that come one message a frame, to requests.
pub(crate) fn decode() {
    let frame = framed(&request().encode_to_vec());
    case("feed_request_decode", BATCH, TURNS, || {
        let frames: VecDeque<_> = (0..BATCH).map(|_| Ok::<_, Infallible>(Frame::data(frame.clone()))).collect();
        let decoder = FeedCodec::default().decoder();
        let mut messages = Streaming::new_request(decoder, StreamBody::new(stream::iter(frames)), None, None);
        let decoded = counted(|| {
            let next = || messages.next().now_or_never().flatten().expect("all is there").expect("a sound message");
            std::iter::repeat_with(next).take(BATCH).fold(0, |count, message| count + usize::from(message.message.is_some()))
        });
        assert_eq!(decoded, BATCH);
    });
}

/// Responses to the bytes of a stream, as many to a frame as the codec likes.
pub(crate) fn encode() {
    case("feed_response_encode", BATCH, TURNS, || {
        let answers: Vec<_> = (0..BATCH as u64).map(|seq| Ok::<_, Status>(response(seq))).collect();
        let (encoder, keep) = (FeedCodec::default().encoder(), SingleMessageCompressionOverride::default());
        let mut body = pin!(EncodeBody::new_server(encoder, stream::iter(answers), None, keep, None));
        let bytes = counted(|| {
            let mut bytes = 0;
            while let Some(frame) = body.as_mut().frame().now_or_never().flatten() {
                bytes += frame.expect("a sound message").data_ref().map_or(0, Bytes::len);
            }
            bytes
        });
        assert!(bytes > BATCH * crate::BYTES);
    });
}
