//! The codec between bytes on the wire and messages, as tonic uses it.

use std::{collections::VecDeque, convert::Infallible, pin::pin, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message as _;
use tidemill::{
    domain::{AnswerPart, Datatype, ItemTiming, Shape, Tensor, Timestamp},
    frontend::grpc::wire,
    proto::{
        codec::SmallBufferCodec,
        v1::{self, feed_request},
    },
    session::ItemResult,
};
use tonic::{
    Status, Streaming,
    codec::{Codec as _, EncodeBody, SingleMessageCompressionOverride},
};

use crate::{
    BATCH, TURNS, VALUES, device,
    identity::signature,
    meter::{case, counted},
};

type FeedCodec = SmallBufferCodec<wire::FeedResponse, wire::FeedRequest>;

/// An item of a feed, as a client sends it.
pub(crate) fn request() -> v1::FeedRequest {
    let datatype = v1::Datatype::Fp32.into();
    let tensor = v1::Tensor { name: "x".to_owned(), datatype, shape: vec![VALUES as i64], data: device::data() };
    let item = v1::Item { inputs: vec![tensor], ..v1::Item::default() };
    v1::FeedRequest { message: Some(feed_request::Message::Item(item)) }
}

/// The answer to an item, as a session gives it.
fn result(seq: u64) -> ItemResult {
    let tensor = Tensor::new(Datatype::Fp32, Shape::from_slice(&[VALUES]), device::data()).expect("as long as it must be");
    let at = |nanos: u64| Timestamp::from_nanos(1_000_000_000 + nanos);
    let timing = ItemTiming { arrived: at(0), started: at(200_000), finished: at(1_200_000), batch_size: 16 };
    ItemResult {
        seq: 100_000 + seq,
        part: AnswerPart::ONLY,
        id: String::new(),
        window: None,
        outcome: Ok([tensor].into_iter().collect()),
        timing,
        age: Duration::from_micros(1_500),
    }
}

/// A message with gRPC's prefix, which says that it is not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a short message"));
    frame.put_slice(message);
    frame.freeze()
}

/// From bytes of a stream, with one message per frame, to requests.
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

/// From answers to the bytes of a stream, with as many in a frame as the codec puts there.
pub(crate) fn encode() {
    let signature = signature(Vec::new());
    case("feed_response_encode", BATCH, TURNS, || {
        let results: Vec<_> = (0..BATCH as u64).map(result).collect();
        let answers = results.into_iter().map(|result| {
            let result = wire::ResultMessage::new(result, &signature);
            Ok::<_, Status>(wire::FeedResponse { event: Some(wire::feed_response::Event::Result(result)) })
        });
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
