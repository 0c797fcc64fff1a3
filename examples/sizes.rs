//! Prints how many bytes the same messages take on each wire: protobuf in gRPC's frames, proto3's JSON, and JSON of the Realtime kind.
//! The table in docs/protocol.md is its output.

use std::{
    error::Error,
    io::{self, Write as _},
};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::json;
use tidemill::proto::{
    DESCRIPTORS,
    v1::{
        Datatype, FeedRequest, FeedResponse, Item, ItemResult, Outputs, Segment, Tensor, Timing, WindowPosition, feed_request,
        feed_response, item_result,
    },
};
use tidemill_recording::Recording;

/// What gRPC puts before each message, and a WebSocket before a frame of this length.
const GRPC_PREFIX_BYTES: usize = 5;

struct Row {
    what: &'static str,
    protobuf: usize,
    json: usize,
    /// The same in Realtime's events, where they have it.
    realtime: Option<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let rows = [
        audio(&pool, "100 ms of audio, 16 kHz", 1_600)?,
        audio(&pool, "20 ms of audio, 16 kHz", 320)?,
        request(&pool, "an item: 80 x 300 numbers, FP32", feed_request::Message::Item(item()), None)?,
        response(&pool, "a result: one number, and where and when", feed_response::Event::Result(result()), None)?,
        response(&pool, "a segment of speech", feed_response::Event::Segment(segment()), Some(realtime_segment()))?,
    ];
    let mut output = io::stdout().lock();
    writeln!(output, "| message | protobuf | JSON | Realtime |\n|---|---|---|---|")?;
    for Row { what, protobuf, json, realtime } in rows {
        let times = |bytes: usize| format!("{bytes} ({:.1} x)", bytes as f64 / protobuf as f64);
        let realtime = realtime.map_or_else(|| "–".to_owned(), times);
        writeln!(output, "| {what} | {protobuf} | {} | {realtime} |", times(json))?;
    }
    Ok(output.flush()?)
}

/// A chunk of the clip that is made here.
fn audio(pool: &DescriptorPool, what: &'static str, samples: usize) -> Result<Row, Box<dyn Error>> {
    let mut clip = Recording::sample_clip();
    // The first half second is quiet.
    clip.next_chunk(8_000)?;
    let chunk = clip.next_chunk(samples)?;
    let event = json!({"type": "input_audio_buffer.append", "audio": base64(&chunk)}).to_string();
    request(pool, what, feed_request::Message::Chunk(chunk.into()), Some(event.len()))
}

fn request(
    pool: &DescriptorPool,
    what: &'static str,
    message: feed_request::Message,
    realtime: Option<usize>,
) -> Result<Row, Box<dyn Error>> {
    row(pool, what, "tidemill.v1.FeedRequest", &FeedRequest { message: Some(message) }, realtime)
}

fn response(
    pool: &DescriptorPool,
    what: &'static str,
    event: feed_response::Event,
    realtime: Option<usize>,
) -> Result<Row, Box<dyn Error>> {
    row(pool, what, "tidemill.v1.FeedResponse", &FeedResponse { event: Some(event) }, realtime)
}

fn row(
    pool: &DescriptorPool,
    what: &'static str,
    name: &str,
    message: &impl Message,
    realtime: Option<usize>,
) -> Result<Row, Box<dyn Error>> {
    let descriptor = pool.get_message_by_name(name).ok_or("the message is not in the proto")?;
    let protobuf = message.encode_to_vec();
    let json = serde_json::to_vec(&DynamicMessage::decode(descriptor, protobuf.as_slice())?)?;
    Ok(Row { what, protobuf: protobuf.len() + GRPC_PREFIX_BYTES, json: json.len(), realtime })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn item() -> Item {
    let data: Vec<u8> = (0..80 * 300).flat_map(|at| (at as f32 / 7.0).sin().to_le_bytes()).collect();
    Item {
        id: "17".to_owned(),
        inputs: vec![Tensor { shape: vec![80, 300], data: data.into(), ..Tensor::default() }],
        deadline: None,
    }
}

fn result() -> ItemResult {
    let tensor = Tensor {
        name: "output".to_owned(),
        datatype: Datatype::Fp32.into(),
        shape: vec![1],
        data: 0.937_f32.to_le_bytes().to_vec().into(),
    };
    ItemResult {
        seq: 1_234,
        window: Some(WindowPosition { index: 1_234, start_sample: 631_808, end_sample: 632_320 }),
        outcome: Some(item_result::Outcome::Outputs(Outputs { tensors: vec![tensor] })),
        timing: Some(Timing { queue_ns: 41_507, compute_ns: 212_660, age_ns: 371_902, batch_size: 4 }),
        last: true,
        ..ItemResult::default()
    }
}

fn segment() -> Segment {
    Segment { index: 3, start_sample: 631_808, end_sample: 650_240, start_ms: 39_488, end_ms: 40_640 }
}

/// The events that say the same in Realtime: that speech has stopped, was committed, and is an item.
fn realtime_segment() -> usize {
    let (event, item) = ("event_CfQbYqgTqN8jUfxqDpXzN", "item_CfQbYkVYhD4LGTD7fQbVt");
    let stopped =
        json!({"event_id": event, "type": "input_audio_buffer.speech_stopped", "audio_end_ms": 40_640, "item_id": item});
    let committed = json!({"event_id": event, "type": "input_audio_buffer.committed", "previous_item_id": item, "item_id": item});
    stopped.to_string().len() + committed.to_string().len()
}
