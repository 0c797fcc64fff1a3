//! What a request makes the server hold, and for how long: in proportion to what was sent, whatever it announces.

use std::{convert::Infallible, fs::File, io::Write as _, process};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request,
    body::{Frame, Incoming},
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustix::{fs::Mode, shm};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use tidemill::{
    app::Server,
    config::Config,
    proto::{
        health::{HealthCheckRequest, health_client::HealthClient},
        inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor},
        v1::{
            FeedRequest, Item, ItemList, PredictRequest, ScanRequest, Tensor, UploadConfig, UploadRequest, feed_request,
            predict_request, scan_request, upload_request,
        },
    },
};

use crate::{
    http_client::{Http, infer_json, read_to_end},
    infer::{InferStream, infer_client, numbers, request},
    serving::{DOUBLER, bare_config, connect, item, limits, metric, outcome, patiently, serve, tensors_of, until, values},
};

const PREDICT: &str = "/tidemill.v1.InferenceService/Predict";
const SCAN: &str = "/tidemill.v1.InferenceService/Scan";
const UPLOAD: &str = "/tidemill.v1.InferenceService/Upload";
const FEED: &str = "/tidemill.v1.InferenceService/Feed";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const NUMBERS: &str = "/model.ModelInference/Predict";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// The bytes that a counted call may hold on top of what was sent.
const UNIT_BYTES: f64 = 2048.0;

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// A connection on which a test sends whatever bytes it likes.
#[derive(Clone)]
struct Raw(SendRequest<Body>);

/// A call on it that sends only what it is given.
struct RawCall {
    body: Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>,
    response: tokio::task::JoinHandle<hyper::Result<hyper::Response<Incoming>>>,
}

impl Raw {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.grpc_addr()).await.expect("the gRPC port accepts");
        // A client that does not read holds little itself.
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(65_535);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self(sender)
    }

    async fn call(&self, path: &str, headers: &[(&str, &str)], parts: impl IntoIterator<Item = Bytes>) -> RawCall {
        let (body, receiver) = mpsc::channel(64);
        let mut request =
            Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(StreamBody::new(ReceiverStream::new(receiver))).expect("a request");
        let mut sender = self.0.clone();
        patiently(sender.ready()).await.expect("the connection lives");
        let response = tokio::spawn(sender.send_request(request));
        let call = RawCall { body: Some(body), response };
        for part in parts {
            call.send(part).await;
        }
        call
    }
}

impl RawCall {
    /// Lost if the call has ended.
    async fn send(&self, part: Bytes) {
        let _ = patiently(self.body.as_ref().expect("not closed").send(Ok(Frame::data(part)))).await;
    }

    fn close(&mut self) {
        self.body = None;
    }

    /// How the call ends, whatever comes before that.
    async fn status(self) -> Status {
        let response = patiently(self.response).await.expect("no panic").expect("an answer");
        let (head, body) = response.into_parts();
        let trailers = patiently(body.collect()).await.expect("a whole body").trailers().cloned().unwrap_or_default();
        let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
        status.expect("a status")
    }
}

fn prefixed(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).expect("short"));
    bytes.put_slice(message);
    bytes.freeze()
}

fn zstd(message: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(message, 3).expect("into memory")
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(message).expect("into memory");
    encoder.finish().expect("into memory")
}

fn transfer_bytes(server: &Server) -> f64 {
    metric(&server.metrics(), "tidemill_transfer_bytes", "")
}

fn calls_open(server: &Server, kind: &str) -> f64 {
    metric(&server.metrics(), "tidemill_calls_open", kind)
}

async fn is_idle(server: &Server) {
    until("nothing is open or in transfer", || transfer_bytes(server) == 0.0 && calls_open(server, "") == 0.0).await;
}

fn impatient() -> Config {
    let mut config = bare_config();
    config.grpc.body_timeout_s = 1;
    config
}

// ---- What is announced ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_announced_and_never_come_cost_little_and_end() {
    let mut config = bare_config();
    config.grpc.body_timeout_s = 3;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let announced = prefixed(0, &vec![0; 16 << 20]).slice(..6);
    let mut calls = Vec::new();
    for path in [PREDICT, SCAN, INFER, STREAM_INFER, NUMBERS, UPLOAD].into_iter().cycle().take(300) {
        calls.push(raw.call(path, &[], [announced.clone()]).await);
    }
    until("all calls are counted", || calls_open(&server, "") == 300.0).await;
    let held = transfer_bytes(&server);
    assert!(held <= 300.0 * UNIT_BYTES, "{held} bytes for 300 calls of 6 bytes");
    for call in calls {
        let status = call.status().await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(
            status.message().contains("grpc.body_timeout_s") || status.message().contains("session.open_timeout_s"),
            "{status}"
        );
    }
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_part_of_a_message_that_arrived_is_held() {
    let server = serve(impatient(), &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let message = prefixed(0, &vec![0; 4 << 20]);
    let parts: Vec<_> = (0..16).map(|part| message.slice(part * 16_384..(part + 1) * 16_384)).collect();
    let call = raw.call(INFER, &[], parts).await;
    until("it has come", || transfer_bytes(&server) >= 262_144.0 - 5.0).await;
    assert!(transfer_bytes(&server) <= 2.0 * 262_144.0, "{} bytes", transfer_bytes(&server));
    assert_eq!(call.status().await.code(), Code::DeadlineExceeded);
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_the_limit_get_one_answer_on_all_methods() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let inflated = zstd(&vec![0; (16 << 20) + 1]);
    for path in [PREDICT, SCAN, UPLOAD, FEED, INFER, STREAM_INFER, NUMBERS] {
        let announced = Bytes::from_static(&[0, 1, 0, 0, 1]);
        let call = raw.call(path, &[], [announced]).await;
        let status = call.status().await;
        assert_eq!(
            (status.code(), limits(&status)),
            (Code::ResourceExhausted, vec!["grpc.max_message_bytes".to_owned()]),
            "{path}: {status}"
        );
        let mut call = raw.call(path, &[("grpc-encoding", "zstd")], [prefixed(1, &inflated)]).await;
        call.close();
        let status = call.status().await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{path}: {status}");
        assert!(["grpc.max_message_bytes", "message.max_inflate_ratio"].contains(&&*limits(&status)[0]), "{path}: {status}");
    }
    is_idle(&server).await;
}

// ---- What a message holds ---------------------------------------------------------------------------------------------------

fn scan_of(items: Vec<Item>) -> ScanRequest {
    ScanRequest { config: Some(tensors_of("m")), payload: Some(scan_request::Payload::Items(ItemList { items })) }
}

fn predict_of(inputs: Vec<Tensor>) -> PredictRequest {
    let payload = Some(predict_request::Payload::Item(Item { inputs, ..Item::default() }));
    PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() }
}

fn infer_of(contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    ModelInferRequest { model_name: "m".to_owned(), inputs: vec![input], ..ModelInferRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_more_memory_than_bytes_is_counted_before_it_is_decoded() {
    let mut config = bare_config();
    // Contents that are to be counted must not be refused for their density.
    config.message.max_inflate_ratio = 1_000_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let dims = InferInputTensor { shape: vec![1; 8_000_000], ..InferInputTensor::default() };
    let dims = ModelInferRequest { inputs: vec![dims], ..ModelInferRequest::default() };
    let strings = InferTensorContents { bytes_contents: vec![Bytes::new(); 4_000_000], ..InferTensorContents::default() };
    let booleans = InferTensorContents { bool_contents: vec![true; 16_000_000], ..InferTensorContents::default() };
    let named = PredictRequest { model: "m".repeat(100_000), ..PredictRequest::default() };
    let cases = [
        (SCAN, scan_of(vec![Item::default(); 4_000_000]).encode_to_vec(), "message.max_items"),
        (PREDICT, predict_of(vec![Tensor::default(); 4_000_000]).encode_to_vec(), "message.max_members"),
        (INFER, dims.encode_to_vec(), "message.max_dims"),
        (PREDICT, named.encode_to_vec(), "message.max_text_bytes"),
        (INFER, infer_of(strings).encode_to_vec(), "message.max_strings"),
        (INFER, infer_of(booleans.clone()).encode_to_vec(), "message.max_elements"),
        (STREAM_INFER, infer_of(booleans).encode_to_vec(), "message.max_elements"),
    ];
    for (path, message, key) in cases {
        for frames in
            [vec![prefixed(1, &zstd(&message))], prefixed(0, &message).chunks(16_000).map(Bytes::copy_from_slice).collect()]
        {
            let mut call = raw.call(path, &[("grpc-encoding", "zstd")], frames).await;
            call.close();
            let status = call.status().await;
            assert_eq!((status.code(), limits(&status)), (Code::ResourceExhausted, vec![key.to_owned()]), "{path}: {status}");
        }
    }
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_of_many_items_that_nobody_reads_holds_what_was_sent() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let request = scan_of(vec![item("", &[1.0; 4]); 20_000]);
    let sent = request.encoded_len() as f64;
    let mut responses = patiently(client.scan(request)).await.expect("it opens").into_inner();
    let held = transfer_bytes(&server);
    assert!((sent..3.0 * sent).contains(&held), "{held} bytes for {sent}");
    let mut results = 0;
    while let Some(response) = patiently(responses.message()).await.expect("it goes on") {
        if let Some(tidemill::proto::v1::scan_response::Event::Result(result)) = response.event {
            assert_eq!(outcome(&result), Ok(vec![2.0; 4]));
            results += 1;
        }
    }
    assert_eq!(results, 20_000);
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_typed_contents_are_read_elsewhere_and_answered_in_order() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let typed = |rows: usize| {
        let contents = InferTensorContents { fp32_contents: vec![1.5; 4 * rows], ..InferTensorContents::default() };
        let mut request = infer_of(contents);
        request.inputs[0].shape = vec![rows as i64, 4];
        request
    };
    let answer = patiently(client.model_infer(typed(1_000))).await.expect("an answer").into_inner();
    assert_eq!(numbers(&answer), vec![3.0; 4_000]);
    let status = patiently(client.model_infer(typed(10_000))).await.expect_err("more items than a request may hold");
    assert_eq!(limits(&status), ["session.window_items_max"]);
    let mut stream = InferStream::open(&mut client).await;
    for _ in 0..3 {
        stream.send(typed(10_000));
        stream.send(typed(1_000));
        stream.send(request("m", "x", &[1, 4], &[2.0; 4]));
    }
    for _ in 0..3 {
        let error = stream.next().await.expect_err("more items than a request may hold");
        assert!(error.contains("session.window_items_max"), "{error}");
        assert_eq!(stream.next().await, Ok(vec![3.0; 4_000]));
        assert_eq!(stream.next().await, Ok(vec![4.0; 4]));
    }
}

// ---- Large messages on small streams ----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_keeps_nothing_of_a_large_message() {
    let mut config = bare_config();
    config.message.max_inflate_ratio = 1_000_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let wire = |message| FeedRequest { message: Some(message) }.encode_to_vec();
    let open = prefixed(0, &wire(feed_request::Message::Open(tensors_of("m"))));
    let large = Item { inputs: vec![Tensor { data: vec![0; 15 << 20].into(), ..Tensor::default() }], ..Item::default() };
    let large = prefixed(1, &zstd(&wire(feed_request::Message::Item(large))));
    assert!(large.len() < 2_000);
    let mut feeds = Vec::new();
    for _ in 0..20 {
        feeds.push(raw.call(FEED, &[("grpc-encoding", "zstd")], [open.clone(), large.clone()]).await);
    }
    // Everything that was taken in is released.
    until("nothing is in transfer", || transfer_bytes(&server) == 0.0).await;
    for mut feed in feeds {
        feed.close();
        let status = feed.status().await;
        assert!(status.code() == Code::Ok || limits(&status) == ["memory.transfer_bytes"], "{status}");
    }
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_that_come_together_leave_room_for_small_ones() {
    let mut config = bare_config();
    config.memory.transfer_bytes = 32 << 20;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let half = prefixed(0, &vec![0; 8 << 20]).slice(..4 << 20);
    let parts: Vec<_> = half.chunks(16_384).map(Bytes::copy_from_slice).collect();
    let mut calls = Vec::new();
    // Together they are more than the 28 MiB for large messages.
    for _ in 0..8 {
        calls.push(raw.call(INFER, &[], parts.clone()).await);
    }
    let mut refused = 0;
    until("a share is used", || transfer_bytes(&server) >= 8_000_000.0).await;
    let mut client = connect(&server).await;
    let predict = PredictRequest {
        model: "m".to_owned(),
        payload: Some(predict_request::Payload::Item(item("", &[1.0; 4]))),
        ..PredictRequest::default()
    };
    let answer = patiently(client.predict(predict)).await.expect("room for a small one").into_inner();
    assert_eq!(values(&answer.outputs.expect("outputs").tensors), [2.0; 4]);
    for mut call in calls {
        call.close();
        let status = call.status().await;
        match status.code() {
            Code::ResourceExhausted => {
                assert_eq!(limits(&status), ["memory.transfer_bytes"]);
                refused += 1;
            }
            // It broke off.
            code => assert_eq!(code, Code::InvalidArgument, "{status}"),
        }
    }
    assert!((1..8).contains(&refused), "{refused} of 8 were refused");
    is_idle(&server).await;
}

// ---- Clocks and counts ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_send_nothing_are_counted_limited_and_ended() {
    let mut config = impatient();
    config.grpc.max_calls = 12;
    config.grpc.max_watches = 2;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    let mut silent = Vec::new();
    for path in
        [PREDICT, SCAN, INFER, NUMBERS, "/inference.GRPCInferenceService/ServerLive", "/nothing.Here/Method", WATCH, REFLECTION]
    {
        silent.push(raw.call(path, &[], []).await);
    }
    for status in futures::future::join_all(silent.into_iter().map(RawCall::status)).await {
        match status.code() {
            Code::DeadlineExceeded => assert_eq!(limits(&status), ["grpc.body_timeout_s"]),
            code => assert_eq!(code, Code::Unimplemented, "{status}"),
        }
    }
    is_idle(&server).await;
    let watch = prefixed(0, &HealthCheckRequest { service: String::new() }.encode_to_vec());
    let mut watching = Vec::new();
    for _ in 0..2 {
        let mut call = raw.call(WATCH, &[], [watch.clone()]).await;
        call.close();
        watching.push(call);
    }
    until("both are open", || calls_open(&server, "watch") == 2.0).await;
    for path in [WATCH, REFLECTION] {
        let status = raw.call(path, &[], []).await.status().await;
        assert_eq!((status.code(), limits(&status)), (Code::ResourceExhausted, vec!["grpc.max_watches".to_owned()]), "{status}");
    }
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(raw.call(FEED, &[], []).await);
    }
    until("as many are open as one connection may have", || calls_open(&server, "") == 11.0).await;
    let status = raw.call(PREDICT, &[], []).await.status().await;
    assert_eq!((status.code(), limits(&status)), (Code::ResourceExhausted, vec!["grpc.max_calls".to_owned()]), "{status}");
    drop((watching, others));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_a_call_ends_it_whatever_it_waits_for() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let raw = Raw::connect(&server).await;
    for path in [PREDICT, SCAN, UPLOAD, FEED, INFER, STREAM_INFER, NUMBERS, WATCH, REFLECTION] {
        let begun = prefixed(0, &[0; 100]).slice(..50);
        for parts in [vec![], vec![begun]] {
            let status = raw.call(path, &[("grpc-timeout", "300m")], parts).await.status().await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status}");
        }
    }
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    let mut health = HealthClient::new(channel.connect().await.expect("the server accepts"));
    let watch = prefixed(0, &HealthCheckRequest { service: "m".to_owned() }.encode_to_vec());
    let mut call = raw.call(WATCH, &[("grpc-timeout", "300m")], [watch]).await;
    call.close();
    assert_eq!(call.status().await.code(), Code::DeadlineExceeded);
    let long = HealthCheckRequest { service: "m".repeat(2_000) };
    for status in [
        patiently(health.watch(long.clone())).await.expect_err("too long"),
        patiently(health.check(long)).await.expect_err("too long"),
    ] {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("2000 bytes"), "{status}");
    }
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_requests_that_is_silent_ends() {
    let mut config = bare_config();
    config.session.idle_timeout_s = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let mut stream = InferStream::open(&mut client).await;
    stream.send(request("m", "x", &[1, 4], &[2.0; 4]));
    assert_eq!(stream.next().await, Ok(vec![4.0; 4]));
    let status = stream.message().await.expect_err("nothing comes");
    assert_eq!((status.code(), limits(&status)), (Code::DeadlineExceeded, vec!["session.idle_timeout_s".to_owned()]), "{status}");
}

// ---- HTTP -------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arriving_bodies_share_one_budget_with_grpc_messages() {
    let mut config = bare_config();
    config.memory.transfer_bytes = 32 << 20;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let begin = async || {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        let head = "POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("it is read");
        // The server may refuse it before it has all of it.
        let _ = patiently(stream.write_all(&vec![b' '; 12 << 20])).await;
        stream
    };
    let held = [begin().await, begin().await];
    until("both are there", || transfer_bytes(&server) >= f64::from(24 << 20)).await;
    // Of the 28 MiB for large messages they leave 4, and another may have seven eighths of those.
    for _ in 0..3 {
        let heard = read_to_end(&mut begin().await).await;
        assert!(heard.starts_with("HTTP/1.1 429 ") && heard.contains("memory.transfer_bytes"), "{heard}");
    }
    let raw = Raw::connect(&server).await;
    let message = prefixed(0, &vec![0; 15 << 20]);
    let call = raw.call(INFER, &[], message.chunks(16_384).map(Bytes::copy_from_slice)).await;
    let status = call.status().await;
    assert_eq!((status.code(), limits(&status)), (Code::ResourceExhausted, vec!["memory.transfer_bytes".to_owned()]), "{status}");
    let mut http = Http::connect(&server).await;
    assert_eq!(http.post("/v2/models/m/infer", infer_json(&[1, 4], &[1.0; 4])).await.status.as_u16(), 200);
    drop(held);
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_inflates_to_too_much_is_refused_by_its_ratio() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let bomb = gzip(&vec![b' '; 15_000_000]);
    assert!(bomb.len() < 20_000);
    let reply = http.send("POST", "/v2/models/m/infer", &[("content-encoding", "gzip")], bomb).await;
    let (status, message) = reply.error();
    assert!(status == 413 && message.contains("message.max_inflate_ratio"), "{status}: {message}");
    is_idle(&server).await;
}

// ---- Answers ----------------------------------------------------------------------------------------------------------------

fn upload_of(parts: usize) -> Vec<UploadRequest> {
    let open = UploadConfig { stream: Some(tensors_of("m")), include_results: true, ..UploadConfig::default() };
    let item = |_| UploadRequest { part: Some(upload_request::Part::Item(item("", &[1.0; 4]))) };
    let open = UploadRequest { part: Some(upload_request::Part::Open(open)) };
    std::iter::once(open).chain((0..parts).map(item)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_an_upload_collects_are_limited_in_bytes() {
    let mut config = bare_config();
    config.session.upload_max_result_bytes = 100_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let response = patiently(client.upload(tokio_stream::iter(upload_of(200)))).await.expect("few").into_inner();
    assert_eq!(response.results.len(), 200);
    assert!(response.results.iter().all(|result| outcome(result) == Ok(vec![2.0; 4])));
    let status = patiently(client.upload(tokio_stream::iter(upload_of(2_000)))).await.expect_err("many");
    assert_eq!(
        (status.code(), limits(&status)),
        (Code::ResourceExhausted, vec!["session.upload_max_result_bytes".to_owned()]),
        "{status}"
    );
    is_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_takes_is_in_the_budget() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    // Enough results for an answer that is encoded elsewhere.
    let response = patiently(client.upload(tokio_stream::iter(upload_of(5_000)))).await.expect("an answer").into_inner();
    assert_eq!(response.results.len(), 5_000);
    is_idle(&server).await;
    let raw = Raw::connect(&server).await;
    let messages: Vec<_> = upload_of(20_000).iter().map(|part| prefixed(0, &part.encode_to_vec())).collect();
    let mut call = raw.call(UPLOAD, &[], messages.chunks(100).map(|messages| Bytes::from(messages.concat()))).await;
    call.close();
    let RawCall { response, .. } = call;
    let response = patiently(response).await.expect("no panic").expect("an answer");
    // The client's window is full, and the rest waits.
    until("it waits", || transfer_bytes(&server) > 64_000.0).await;
    drop(response);
    is_idle(&server).await;
}

// ---- Shared memory ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_is_not_read_for_what_cannot_be_an_input() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let key = format!("/tidemill-test-proportion-{}", process::id());
    let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
    let object = File::from(shm::open(&key, flags, Mode::RUSR | Mode::WUSR).expect("an object"));
    object.set_len(64 << 20).expect("memory");
    let mut http = Http::connect(&server).await;
    let register = serde_json::json!({"key": key, "offset": 0, "byte_size": 64 << 20}).to_string();
    let registered = http.post("/v2/systemsharedmemory/region/large/register", register).await;
    shm::unlink(&key).expect("it is there");
    assert_eq!(registered.status.as_u16(), 200);
    // A reader now learns that it was made shorter.
    object.set_len(0).expect("shorter");
    let infer = |shape: &[i64], bytes: u64| {
        let parameters = serde_json::json!({"shared_memory_region": "large", "shared_memory_byte_size": bytes});
        serde_json::json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "parameters": parameters}]}).to_string()
    };
    let mut said = async |shape: &[i64], bytes| http.post("/v2/models/m/infer", infer(shape, bytes)).await.error();
    assert!(said(&[1, 4], 16).await.1.contains("made shorter"));
    assert!(said(&[131_072, 4], 2 << 20).await.1.contains("session.window_items_max"));
    for (shape, bytes, status, message) in [
        (&[1, 4][..], 64 << 20, 400, "shape [1, 4] of FP32 takes 16"),
        (&[1, 16_777_216], 64 << 20, 400, "does not fit the model's"),
        (&[4_194_304, 4], 64 << 20, 413, "session.window_items_max"),
        (&[4_194_304, 4], 65 << 20, 400, "do not lie in shared memory region 'large'"),
    ] {
        let found = said(shape, bytes).await;
        assert_eq!((found.0, found.1.contains(message)), (status, true), "{found:?}");
    }
}
