//! Bytes that are not messages, and messages that make no sense, at each method: always an answer with a documented status, and a server
//! that goes on serving.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::Config as ProptestConfig};
use tokio::runtime::Runtime;
use tokio_stream::iter;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use tidemill::{
    app::Server,
    proto::v1::{
        FeedRequest, Flush, Item, ItemList, KeepAlive, PayloadDigest, PredictRequest, ScanRequest, StreamConfig, Tensor,
        UploadConfig, UploadRequest, feed_request, predict_request, scan_request, upload_request,
    },
};

use crate::serving::{Account, Client, DOUBLER, bare_config, connect, item, patiently, serve, values};

/// The codes that `proto/` documents, and UNIMPLEMENTED for bodies that gRPC itself cannot read.
const DOCUMENTED: [Code; 9] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::NotFound,
    Code::ResourceExhausted,
    Code::DeadlineExceeded,
    Code::Unavailable,
    Code::DataLoss,
    Code::Internal,
    Code::Unimplemented,
];

/// Takes tensors of many shapes.
const PLAIN: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', -1]
[[inputs]]
name = 'n'
datatype = 'INT64'
dims = ['batch', 2, -1]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', -1]
[synthetic]
";
/// Takes raw audio.
const AUDIO: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', 4]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', 4]
[framing]
kind = 'pcm_s16le'
sample_rate_hz = 16000
window_samples = 3
context_samples = 1
[synthetic]
";

/// Messages as their bytes on the wire.
#[derive(Debug, Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// The four modes, and whatever else the server speaks; only `Watch` never ends on its own.
const METHODS: [&str; 9] = [
    "/tidemill.v1.InferenceService/Predict",
    "/tidemill.v1.InferenceService/Scan",
    "/tidemill.v1.InferenceService/Upload",
    "/tidemill.v1.InferenceService/Feed",
    "/tidemill.v1.ModelService/ListModels",
    "/tidemill.v1.ModelService/GetModel",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Calls a method with these messages, reads to the end, and returns the call's status.
async fn call(channel: Channel, method: &'static str, messages: Vec<Bytes>) -> Code {
    let mut grpc = Grpc::new(channel);
    let calling = async {
        grpc.ready().await.expect("the connection is there");
        let request = Request::new(iter(messages));
        let mut responses = grpc.streaming(request, PathAndQuery::from_static(method), Raw).await?.into_inner();
        while responses.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    patiently(calling).await.map_or_else(|status| status.code(), |()| Code::Ok)
}

struct Fixture {
    runtime: Runtime,
    server: Server,
    channel: Channel,
}

fn fixture() -> Fixture {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (server, channel) = runtime.block_on(async {
        let server = serve(bare_config(), &[("m", DOUBLER), ("plain", PLAIN), ("audio", AUDIO)]).await;
        let endpoint = Channel::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
        (server, endpoint.connect().await.expect("it accepts"))
    });
    Fixture { runtime, server, channel }
}

impl Fixture {
    fn check(&self, method: &'static str, messages: Vec<Bytes>) -> Result<(), TestCaseError> {
        let code = self.runtime.block_on(call(self.channel.clone(), method, messages));
        prop_assert!(DOCUMENTED.contains(&code), "{method}: {code:?}");
        Ok(())
    }

    /// After all this the server answers as always, and nothing is left of what was sent.
    fn check_sound(self) {
        let Self { runtime, server, channel } = self;
        runtime.block_on(async {
            for model in ["m", "plain", "audio"] {
                let ledger = Account::of(&server, model).settled().await;
                assert_eq!(ledger.received(), ledger.ended(), "{model}");
            }
            for mut client in [Client::new(channel), connect(&server).await] {
                let payload = Some(predict_request::Payload::Item(item("", &[1.5; 4])));
                let request = PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() };
                let response = patiently(client.predict(request)).await.expect("a result").into_inner();
                assert_eq!(values(&response.outputs.expect("outputs").tensors), [3.0; 4]);
            }
            patiently(server.drain()).await;
        });
    }
}

fn garbage() -> impl Strategy<Value = Bytes> {
    // Half of them begin like one of our messages: a known field, of a kind that may or may not be right.
    let begun = (1_u8..8, 0_u8..8, vec(any::<u8>(), 0..60)).prop_map(|(field, kind, rest)| {
        let mut bytes = vec![field << 3 | kind];
        bytes.extend(rest);
        Bytes::from(bytes)
    });
    prop_oneof![vec(any::<u8>(), 0..200).prop_map(Bytes::from), begun]
}

#[test]
fn random_bytes_at_every_method_are_answered() {
    let fixture = fixture();
    let opened: Bytes = encoded(&FeedRequest { message: Some(feed_request::Message::Open(config_of("audio", 2))) });
    let opened_upload = UploadConfig { stream: Some(config_of("plain", 1)), ..UploadConfig::default() };
    let opened_upload = encoded(&UploadRequest { part: Some(upload_request::Part::Open(opened_upload)) });
    proptest!(ProptestConfig::with_cases(96), |(messages in vec(garbage(), 0..4))| {
        for method in METHODS {
            fixture.check(method, messages.clone())?;
        }
        for (method, opening) in [(METHODS[3], &opened), (METHODS[2], &opened_upload)] {
            let mut after_opening = vec![opening.clone()];
            after_opening.extend(messages.iter().cloned());
            fixture.check(method, after_opening)?;
        }
    });
    fixture.check_sound();
}

// ---- Messages of extremes ---------------------------------------------------------------------------------------------------

fn config_of(model: &str, payload: i32) -> StreamConfig {
    StreamConfig { model: model.to_owned(), payload, ..StreamConfig::default() }
}

fn encoded(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

fn text() -> impl Strategy<Value = String> {
    let known = select(vec!["", "m", "plain", "audio", "x", "n", "1"]).prop_map(str::to_owned);
    prop_oneof![4 => known, 1 => ".{0,40}", 1 => Just("\u{0}\n\u{202e}".to_owned()), 1 => Just("x".repeat(5_000))]
}

fn duration() -> impl Strategy<Value = Option<prost_types::Duration>> {
    let seconds = select(vec![0, 1, -1, i64::MIN, i64::MAX, 366 * 24 * 3_600]);
    let nanos = select(vec![0, 1, -1, i32::MIN, i32::MAX, 999_999_999, 1_000_000_000]);
    option::of((seconds, nanos).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }))
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let sizes = select(vec![0, 1, 2, 3, 4, -1, i64::MIN, i64::MAX, 1 << 31, 1 << 32, 1 << 62]);
    let datatype = select(vec![0, 1, 4, 9, 10, 11, 12, 13, 14, -1, i32::MIN, i32::MAX]);
    let data = select(vec![0_usize, 1, 4, 8, 12, 16, 32, 64]).prop_flat_map(|length| vec(any::<u8>(), length));
    (text(), datatype, vec(sizes, 0..6), data).prop_map(|(name, datatype, shape, data)| Tensor {
        name,
        datatype,
        shape,
        data: data.into(),
    })
}

fn some_item() -> impl Strategy<Value = Item> {
    (text(), vec(tensor(), 0..4), duration()).prop_map(|(id, inputs, deadline)| Item { id, inputs, deadline })
}

fn config() -> impl Strategy<Value = StreamConfig> {
    let enums = || select(vec![0, 1, 2, 3, 4, -1, i32::MAX]);
    let window = select(vec![0, 1, 2, 1_024, u32::MAX]);
    let names = (text(), select(vec!["", "1", "2", "-1", "18446744073709551616"]), window);
    let policies = (enums(), enums(), enums(), enums(), enums());
    (names, policies, duration(), duration(), audio()).prop_map(|(names, policies, default_deadline, max_age, audio)| {
        let (model, version, window_items) = names;
        let (payload, order, overflow, unread, priority) = policies;
        let version = version.to_owned();
        let (sample_rate_hz, accept_container_bytes, audio_format) = audio;
        StreamConfig {
            model,
            version,
            payload,
            order,
            window_items,
            default_deadline,
            overflow,
            max_age,
            unread,
            priority,
            sample_rate_hz,
            accept_container_bytes,
            audio_format,
        }
    })
}

/// A client's statements about raw audio: its rate, whether it may begin like a file, and its format.
fn audio() -> impl Strategy<Value = (u32, bool, i32)> {
    let rate = prop_oneof![6 => Just(0), 2 => Just(16_000), 2 => 8_000_u32..=192_000, 1 => any::<u32>()];
    (rate, any::<bool>(), prop_oneof![4 => Just(0), 4 => 1..=4, 1 => Just(-1)])
}

/// Chunks of odd and even length, some of which begin like files.
fn raw() -> impl Strategy<Value = Bytes> {
    let beginning = prop_oneof![4 => Just(&b""[..]), 1 => select(vec![&b"RIFF"[..], b"fLaC", b"ID3\x04\0\0", b"\0\0\0\x18ftyp"])];
    (beginning, vec(any::<u8>(), 0..30)).prop_map(|(beginning, bytes)| [beginning, &bytes].concat().into())
}

fn digest() -> impl Strategy<Value = PayloadDigest> {
    let total = option::of(select(vec![0, 1, 16, u64::MAX]));
    let hash = select(vec![0_usize, 1, 31, 32, 33]).prop_map(|length| vec![7; length].into());
    (total, option::of(any::<u32>()), hash).prop_map(|(total_bytes, crc32c, sha256)| PayloadDigest {
        total_bytes,
        crc32c,
        sha256,
    })
}

fn predict_message() -> impl Strategy<Value = Bytes> {
    use predict_request::Payload;
    let payload = prop_oneof![some_item().prop_map(Payload::Item), raw().prop_map(Payload::PcmS16le)];
    (text(), text(), option::weighted(0.9, payload), audio()).prop_map(|(model, version, payload, audio)| {
        let (sample_rate_hz, accept_container_bytes, audio_format) = audio;
        encoded(&PredictRequest { model, version, payload, priority: 0, sample_rate_hz, accept_container_bytes, audio_format })
    })
}

fn scan_message() -> impl Strategy<Value = Bytes> {
    use scan_request::Payload;
    let items = vec(some_item(), 0..5).prop_map(|items| Payload::Items(ItemList { items }));
    let payload = prop_oneof![items, raw().prop_map(Payload::PcmS16le)];
    (option::weighted(0.9, config()), option::weighted(0.9, payload))
        .prop_map(|(config, payload)| encoded(&ScanRequest { config, payload }))
}

fn upload_messages() -> impl Strategy<Value = Vec<Bytes>> {
    use upload_request::Part;
    let open = || {
        (option::weighted(0.9, config()), option::of(digest()), any::<bool>())
            .prop_map(|(stream, expect, include_results)| Part::Open(UploadConfig { stream, expect, include_results }))
    };
    let part = prop_oneof![
        4 => some_item().prop_map(Part::Item),
        4 => raw().prop_map(Part::Chunk),
        1 => digest().prop_map(Part::Finish),
        1 => open(),
    ];
    let parts = (option::weighted(0.95, open()), vec(option::weighted(0.95, part), 0..6));
    parts.prop_map(|(open, parts)| {
        let parts = open.into_iter().map(Some).chain(parts);
        parts.map(|part| encoded(&UploadRequest { part })).collect()
    })
}

fn feed_messages() -> impl Strategy<Value = Vec<Bytes>> {
    use feed_request::Message;
    let content = prop_oneof![
        4 => some_item().prop_map(Message::Item),
        4 => raw().prop_map(Message::Chunk),
        2 => text().prop_map(|id| Message::Flush(Flush { id })),
        1 => Just(Message::Keepalive(KeepAlive {})),
        1 => config().prop_map(Message::Open),
    ];
    let messages = (option::weighted(0.95, config()), vec(option::weighted(0.95, content), 0..8));
    messages.prop_map(|(open, messages)| {
        let messages = open.map(Message::Open).into_iter().map(Some).chain(messages);
        messages.map(|message| encoded(&FeedRequest { message })).collect()
    })
}

#[test]
fn messages_of_extremes_are_answered() {
    let fixture = fixture();
    let messages = (predict_message(), scan_message(), upload_messages(), feed_messages());
    proptest!(ProptestConfig::with_cases(256), |((predict, scan, upload, feed) in messages)| {
        fixture.check(METHODS[0], vec![predict])?;
        fixture.check(METHODS[1], vec![scan])?;
        fixture.check(METHODS[2], upload)?;
        fixture.check(METHODS[3], feed)?;
    });
    fixture.check_sound();
}
