//! gRPC-Web and Connect on the HTTP port: what they answer is what gRPC answers, in their own form.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::{Code, Status};

use tidemill::{
    app::Server,
    domain::Outcome,
    proto::v1::{
        GetModelRequest, Item, ItemList, PredictRequest, PredictResponse, ScanRequest, ScanResponse, predict_request,
        scan_request, scan_response::Event,
    },
};

use crate::{
    http_client::{Http, Reply, read_to_end},
    keys::{ALL, key, known},
    serving::{
        Account, Client, DOUBLER, bare_config, connect, item, metric, patiently, pcm_of, serve, slow_doubler, speech_config,
        tensors_of, until,
    },
};

const PREDICT: &str = "/tidemill.v1.InferenceService/Predict";
const SCAN: &str = "/tidemill.v1.InferenceService/Scan";
const UPLOAD: &str = "/tidemill.v1.InferenceService/Upload";
const FEED: &str = "/tidemill.v1.InferenceService/Feed";
const LIST_MODELS: &str = "/tidemill.v1.ModelService/ListModels";
const GET_MODEL: &str = "/tidemill.v1.ModelService/GetModel";
const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";

const WEB: &str = "application/grpc-web+proto";
const WEB_TEXT: &str = "application/grpc-web-text";
const JSON: (&str, &str) = ("content-type", "application/json");
const PROTO: (&str, &str) = ("content-type", "application/proto");
const STREAM_JSON: (&str, &str) = ("content-type", "application/connect+json");
const STREAM_PROTO: (&str, &str) = ("content-type", "application/connect+proto");

/// A second of a tone, 16 kHz.
fn tone() -> Bytes {
    let samples = (0..16_000_u32).map(|index| ((f64::from(index) * 0.17).sin() * 9_000.0) as i16);
    samples.flat_map(i16::to_le_bytes).collect()
}

fn frame(flags: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flags);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, Bytes)> {
    let mut found = Vec::new();
    while let [flags, a, b, c, d, rest @ ..] = bytes {
        let (message, later) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        found.push((*flags, Bytes::copy_from_slice(message)));
        bytes = later;
    }
    assert!(bytes.is_empty(), "no frame is cut");
    found
}

/// The messages of an answer of gRPC-Web, and its status.
fn web_answer(reply: &Reply, is_text: bool) -> (Vec<Bytes>, Status) {
    assert_eq!(reply.status, 200);
    let body = if is_text {
        // Each piece has padding of its own.
        reply.body.chunks(4).flat_map(|group| STANDARD.decode(group).expect("base64")).collect()
    } else {
        reply.body.clone()
    };
    let mut found = frames(&body);
    let (flags, trailers) = found.pop().expect("trailers");
    assert_eq!(flags, 0x80, "the last frame holds the trailers");
    let mut headers = HeaderMap::new();
    for line in String::from_utf8(trailers.to_vec()).expect("text").lines() {
        let (name, value) = line.split_once(": ").expect("a name and a value");
        headers.append(http::HeaderName::try_from(name).expect("a name"), value.parse().expect("a value"));
    }
    let messages = found.into_iter().map(|(flags, message)| {
        assert_eq!(flags, 0);
        message
    });
    (messages.collect(), Status::from_header_map(&headers).expect("a status"))
}

async fn by_web(http: &mut Http, path: &str, message: &impl prost::Message, is_text: bool) -> (Vec<Bytes>, Status) {
    let framed = frame(0, &message.encode_to_vec());
    let (content_type, body) = if is_text {
        // In two halves, each with padding of its own.
        let (one, two) = framed.split_at(framed.len() / 2);
        (WEB_TEXT, Bytes::from(STANDARD.encode(one) + &STANDARD.encode(two)))
    } else {
        (WEB, framed)
    };
    let reply = http.send("POST", path, &[("content-type", content_type), ("x-grpc-web", "1")], body).await;
    web_answer(&reply, is_text)
}

fn predict_of(model: &str, payload: predict_request::Payload) -> PredictRequest {
    PredictRequest { model: model.to_owned(), payload: Some(payload), ..PredictRequest::default() }
}

fn untimed(response: PredictResponse) -> PredictResponse {
    PredictResponse { timing: None, ..response }
}

/// The events of a scan, without what differs from one run to the next.
fn events(messages: impl IntoIterator<Item = ScanResponse>) -> Vec<Event> {
    let events = messages.into_iter().map(|message| match message.event.expect("an event") {
        Event::Result(mut result) => {
            result.timing = None;
            Event::Result(result)
        }
        Event::Completed(mut summary) => {
            (summary.elapsed, summary.queue_ns, summary.compute_ns) = (None, 0, 0);
            Event::Completed(summary)
        }
        event => event,
    });
    events.collect()
}

async fn scan_by_grpc(client: &mut Client, request: ScanRequest) -> Vec<Event> {
    let mut responses = patiently(client.scan(request)).await.expect("it opens").into_inner();
    let mut found = Vec::new();
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        found.push(response);
    }
    events(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_model_answers_the_same_by_every_wire() {
    let server = serve(speech_config(), &[]).await;
    let (mut grpc, mut http) = (connect(&server).await, Http::connect(&server).await);
    let request = predict_of("silero-vad", predict_request::Payload::PcmS16le(tone().slice(..1_024)));
    let expected = untimed(patiently(grpc.predict(request.clone())).await.expect("a result").into_inner());
    for is_text in [false, true] {
        let (messages, status) = by_web(&mut http, PREDICT, &request, is_text).await;
        assert_eq!((messages.len(), status.code()), (1, Code::Ok), "{status}");
        assert_eq!(untimed(PredictResponse::decode(messages[0].clone()).expect("protobuf")), expected);
    }
    let reply = http.send("POST", PREDICT, &[PROTO], request.encode_to_vec()).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/proto"));
    assert_eq!(untimed(PredictResponse::decode(reply.body).expect("protobuf")), expected);
    let json = json!({"model": "silero-vad", "pcm_s16le": STANDARD.encode(&tone()[..1_024])});
    let (status, answer) = http.send("POST", PREDICT, &[JSON], json.to_string()).await.json();
    assert_eq!((status, &answer["model"]), (200, &json!("silero-vad")), "{answer}");
    let data = &expected.outputs.as_ref().expect("outputs").tensors[0];
    assert_eq!(answer["outputs"]["tensors"][0]["data"], STANDARD.encode(&data.data));

    let scan = ScanRequest { config: Some(pcm_of("silero-vad")), payload: Some(scan_request::Payload::PcmS16le(tone())) };
    let expected = scan_by_grpc(&mut grpc, scan.clone()).await;
    assert!(expected.len() > 30, "{}", expected.len());
    for is_text in [false, true] {
        let (messages, status) = by_web(&mut http, SCAN, &scan, is_text).await;
        assert_eq!(status.code(), Code::Ok, "{status}");
        let messages = messages.into_iter().map(|message| ScanResponse::decode(message).expect("protobuf"));
        assert_eq!(events(messages), expected);
    }
    let reply = http.send("POST", SCAN, &[STREAM_PROTO], frame(0, &scan.encode_to_vec())).await;
    let mut found = frames(&reply.body);
    assert_eq!(found.pop(), Some((2, Bytes::from_static(b"{}"))));
    assert_eq!(events(found.into_iter().map(|(_, message)| ScanResponse::decode(message).expect("protobuf"))), expected);
    let json = json!({"config": {"model": "silero-vad"}, "pcmS16le": STANDARD.encode(tone())});
    let reply = http.send("POST", SCAN, &[STREAM_JSON], frame(0, json.to_string().as_bytes())).await;
    assert_eq!(reply.header("content-type"), "application/connect+json");
    let found = frames(&reply.body);
    assert_eq!(found.len(), expected.len() + 1);
    let first: Value = serde_json::from_slice(&found[0].1).expect("JSON");
    assert_eq!(first["opened"]["model"], "silero-vad", "{first}");
}

/// A message without its numbers: calls are numbered.
fn said(message: &str) -> String {
    message.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_codes_of_grpc() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let (mut grpc, mut http) = (connect(&server).await, Http::connect(&server).await);
    let tensor = |count: usize| predict_request::Payload::Item(item("", &vec![1.0; count]));
    let failing = predict_request::Payload::Item(item("", &[-1.0; 4]));
    for (request, name, status) in [
        (predict_of("nobody", tensor(4)), "not_found", 404),
        (predict_of("m", tensor(5)), "invalid_argument", 400),
        (predict_of("m", failing), "internal", 500),
    ] {
        let expected = patiently(grpc.predict(request.clone())).await.expect_err("it must be refused");
        let (messages, found) = by_web(&mut http, PREDICT, &request, false).await;
        assert_eq!((messages.len(), found.code(), said(found.message())), (0, expected.code(), said(expected.message())));
        assert_eq!(found.details().is_empty(), expected.details().is_empty());
        let reply = http.send("POST", PREDICT, &[PROTO], request.encode_to_vec()).await;
        let (http_status, error) = reply.json();
        assert_eq!((http_status, error["code"].as_str()), (status, Some(name)));
        assert!(!reply.headers.contains_key("trailer-content-type"), "{reply:?}");
        assert_eq!(said(error["message"].as_str().expect("a message")), said(expected.message()));
        let kinds: Vec<_> = error["details"].as_array().expect("details").iter().map(|detail| &detail["type"]).collect();
        assert!(kinds.contains(&&json!("google.rpc.ErrorInfo")), "{error}");
        assert_eq!(error["details"][0]["debug"]["domain"], "tidemill", "{error}");
    }
    let scan =
        ScanRequest { config: Some(tensors_of("nobody")), payload: Some(scan_request::Payload::Items(ItemList::default())) };
    let (_, found) = by_web(&mut http, SCAN, &scan, true).await;
    assert_eq!(found.code(), Code::NotFound);
    let reply = http.send("POST", SCAN, &[STREAM_PROTO], frame(0, &scan.encode_to_vec())).await;
    let (flags, end) = frames(&reply.body).pop().expect("an end");
    let end: Value = serde_json::from_slice(&end).expect("JSON");
    assert_eq!((reply.status.as_u16(), flags, &end["error"]["code"]), (200, 2, &json!("not_found")), "{end}");
    assert_eq!(end.get("metadata"), None, "{end}");
    let (status, error) = http.send("POST", LOAD, &[JSON], r#"{"modelName": "nobody"}"#).await.json();
    assert_eq!((status, error["code"].as_str()), (404, Some("not_found")), "{error}");
}

#[tokio::test]
async fn what_is_no_call_is_refused_before_one_is_made() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    for (verb, path, content_type, status) in [
        ("GET", PREDICT, "application/json", 405),
        ("PUT", LIST_MODELS, "application/json", 405),
        ("POST", PREDICT, "application/grpc", 415),
        ("POST", PREDICT, "application/connect+json", 415),
        ("POST", SCAN, "application/json", 415),
        ("POST", PREDICT, "text/plain", 415),
        ("POST", PREDICT, "application/grpc-web+json", 415),
        ("GET", PREDICT, "application/grpc-web", 405),
        ("POST", "/tidemill.v1.InferenceService/Nothing", "application/json", 501),
        ("POST", "/no.Such/Thing", "application/json", 404),
    ] {
        let reply = http.send(verb, path, &[("content-type", content_type)], "{}").await;
        assert_eq!(reply.status, status, "{verb} {path} {content_type}");
    }
    for (body, headers, field) in [
        (r#"{"modle": "m"}"#, &[][..], "modle"),
        ("{", &[], "EOF"),
        ("{}", &[("connect-timeout-ms", "soon")], "connect-timeout-ms"),
        ("{}", &[("connect-protocol-version", "2")], "connect-protocol-version"),
    ] {
        let headers = [&[JSON], headers].concat();
        let (status, error) = http.send("POST", PREDICT, &headers, body).await.json();
        assert_eq!((status, error["code"].as_str()), (400, Some("invalid_argument")), "{error}");
        assert!(error["message"].as_str().expect("a message").contains(field), "{error}");
    }
    let (messages, status) = by_web(&mut http, FEED, &PredictRequest::default(), false).await;
    assert_eq!((messages.len(), status.code()), (0, Code::Unimplemented));
    assert!(status.message().contains("WebSocket"), "{status}");
    let (_, status) = by_web(&mut http, "/no.Such/Thing", &PredictRequest::default(), false).await;
    assert_eq!(status.code(), Code::Unimplemented);
    let reply = http.send("POST", PREDICT, &[("content-type", WEB_TEXT)], "not base64!!").await;
    assert_eq!(web_answer(&reply, true).1.code(), Code::InvalidArgument);
    let reply = http.send("POST", UPLOAD, &[STREAM_JSON], frame(1, b"{}")).await;
    assert!(String::from_utf8_lossy(&reply.body).contains("connect-content-encoding"), "{reply:?}");
}

#[tokio::test]
async fn what_changes_nothing_may_be_asked_with_get() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let (status, posted) = http.send("POST", LIST_MODELS, &[JSON], "{}").await.json();
    assert_eq!((status, &posted["models"][0]["name"]), (200, &json!("m")), "{posted}");
    let (status, got) = http.get(&format!("{LIST_MODELS}?connect=v1&encoding=json&message=%7B%7D")).await.json();
    assert_eq!((status, &got["models"][0]["name"]), (200, &json!("m")), "{got}");
    let request = GetModelRequest { name: "m".to_owned(), ..GetModelRequest::default() };
    let message = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(request.encode_to_vec());
    let reply = http.get(&format!("{GET_MODEL}?encoding=proto&base64=1&message={message}")).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/proto"));
    let (status, error) = http.get(&format!("{GET_MODEL}?encoding=json&message=%7B%22name%22:%22x%22%7D")).await.json();
    assert_eq!((status, error["code"].as_str()), (404, Some("not_found")));
    assert_eq!(http.get(&format!("{GET_MODEL}?encoding=json")).await.json().0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_stream_its_messages_as_far_as_its_http_does() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut stream = TcpStream::connect(server.http_addr()).await.expect("it accepts");
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/connect+json\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    patiently(stream.write_all(head.as_bytes())).await.expect("it is read");
    let data = STANDARD.encode([1.0_f32; 4].map(f32::to_le_bytes).concat());
    let open = json!({"open": {"stream": {"model": "m", "payload": "PAYLOAD_KIND_TENSORS"}, "includeResults": true}});
    let item = json!({"item": {"id": "a", "inputs": [{"name": "x", "datatype": "DATATYPE_FP32", "shape": ["4"], "data": data}]}});
    for (index, message) in [open, item.clone(), item].into_iter().enumerate() {
        let framed = frame(0, message.to_string().as_bytes());
        let chunk = [format!("{:x}\r\n", framed.len()).as_bytes(), &framed, b"\r\n"].concat();
        patiently(stream.write_all(&chunk)).await.expect("it is read");
        until("each is answered before the next is sent", || account.ledger().outcome(Outcome::Ok) == index as u64).await;
    }
    patiently(stream.write_all(b"0\r\n\r\n")).await.expect("it is read");
    let heard = read_to_end(&mut stream).await;
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("\"summary\""), "{heard}");
    assert!(heard.contains("\u{2}\0\0\0\u{2}{}"), "it ends well: {heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_counted_for_as_long_as_they_are_open_and_end_with_their_client() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(20_000))]).await;
    let open = || metric(&server.metrics(), "tidemill_calls_open", "stream");
    let items: Vec<Item> = vec![item("", &[1.0; 4]); 1_000];
    let scan = ScanRequest { config: Some(tensors_of("slow")), payload: Some(scan_request::Payload::Items(ItemList { items })) };
    for (content_type, path) in [(WEB, SCAN), ("application/connect+proto", SCAN)] {
        let mut http = Http::connect(&server).await;
        let body = frame(0, &scan.encode_to_vec());
        let mut response = http.begin("POST", path, &[("content-type", content_type)], body).await.expect("a response");
        patiently(response.body_mut().frame()).await.expect("a frame").expect("no error");
        assert_eq!(open(), 1.0);
        drop((response, http));
        until("the call ends with its client", || open() == 0.0).await;
    }
    let (mut http, request) =
        (Http::connect(&server).await, predict_of("slow", predict_request::Payload::Item(item("", &[1.0; 4]))));
    let headers = [PROTO, ("connect-timeout-ms", "1")];
    let (status, error) = http.send("POST", PREDICT, &headers, request.encode_to_vec()).await.json();
    assert_eq!((status, error["code"].as_str()), (504, Some("deadline_exceeded")), "{error}");
    let headers = [("content-type", WEB), ("grpc-timeout", "1m")];
    let reply = http.send("POST", PREDICT, &headers, frame(0, &request.encode_to_vec())).await;
    assert_eq!(web_answer(&reply, false).1.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn limits_are_those_of_grpc() {
    let mut config = bare_config();
    config.grpc.max_message_bytes = 4_096;
    config.session.max_item_bytes = 1_024;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let large = predict_of("m", predict_request::Payload::PcmS16le(vec![0; 5_000].into()));
    let (_, status) = by_web(&mut http, PREDICT, &large, false).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("grpc.max_message_bytes"), "{status}");
    let (_, status) = by_web(&mut http, PREDICT, &large, true).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let reply = http.send("POST", SCAN, &[STREAM_PROTO], frame(0, &large.encode_to_vec())).await;
    let (_, end) = frames(&reply.body).pop().expect("an end");
    assert!(String::from_utf8_lossy(&end).contains("resource_exhausted"), "{end:?}");
    let (status, error) = http.send("POST", PREDICT, &[PROTO], large.encode_to_vec()).await.json();
    assert_eq!((status, error["code"].as_str()), (429, Some("resource_exhausted")), "{error}");
    assert!(error["message"].as_str().expect("a message").contains("grpc.max_message_bytes"), "{error}");
}

#[tokio::test]
async fn a_message_may_be_compressed() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let gzip = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    };
    let request = predict_of("m", predict_request::Payload::Item(item("", &[1.0; 4]))).encode_to_vec();
    let reply = http.send("POST", PREDICT, &[PROTO, ("content-encoding", "gzip")], gzip(&request)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let (status, error) = http.send("POST", PREDICT, &[PROTO, ("content-encoding", "br")], request.clone()).await.json();
    assert_eq!((status, error["code"].as_str()), (501, Some("unimplemented")), "{error}");
    let headers = [("content-type", WEB), ("grpc-encoding", "gzip")];
    let reply = http.send("POST", PREDICT, &headers, frame(1, &gzip(&request))).await;
    assert_eq!(web_answer(&reply, false).1.code(), Code::Ok);
    let scan = json!({"config": {"model": "m"}, "items": {}}).to_string();
    let headers = [STREAM_JSON, ("connect-content-encoding", "gzip")];
    let reply = http.send("POST", SCAN, &headers, frame(1, &gzip(scan.as_bytes()))).await;
    assert_eq!(frames(&reply.body).pop(), Some((2, Bytes::from_static(b"{}"))), "{reply:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_during_a_call_cancels_it() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(300_000))]).await;
    let account = Account::of(&server, "slow");
    let request = predict_of("slow", predict_request::Payload::Item(item("", &[1.0; 4]))).encode_to_vec();
    let head = format!(
        "POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/proto\r\ncontent-length: {}\r\n\r\n",
        request.len()
    );
    // The first keeps the lane busy, so that the others wait.
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("it accepts");
        patiently(stream.write_all(&[head.as_bytes(), &request].concat())).await.expect("it is read");
        streams.push(stream);
    }
    until("all of them are there", || account.ledger().received() == 8).await;
    drop(streams);
    let ledger = account.settled().await;
    assert!(ledger.outcome(Outcome::Cancelled) > 0, "{ledger:?}");
}

#[tokio::test]
async fn while_the_server_drains_answers_close_their_connections() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    assert_eq!(http.send("POST", LIST_MODELS, &[JSON], "{}").await.header("connection"), "");
    server.phase().begin();
    let request = predict_of("m", predict_request::Payload::Item(item("", &[1.0; 4]))).encode_to_vec();
    let reply = http.send("POST", PREDICT, &[PROTO], request).await;
    assert_eq!((reply.status.as_u16(), reply.header("connection")), (503, "close"));
    assert_eq!(reply.json().1["code"], "unavailable");
}

async fn listed(server: &Server, headers: &[(&str, &str)]) -> Reply {
    Http::connect(server).await.send("POST", LIST_MODELS, &[&[JSON], headers].concat(), "{}").await
}

#[tokio::test]
async fn callers_are_those_of_grpc() {
    let (config, _folder) = known(&[("one", 1, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let reply = listed(&server, &[]).await;
    let (status, error) = reply.json();
    assert_eq!((status, error["code"].as_str()), (401, Some("unauthenticated")), "{error}");
    assert!(reply.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(listed(&server, &[("authorization", &format!("Bearer {}", key(1)))]).await.status, 200);
    assert_eq!(listed(&server, &[("x-api-key", &key(1))]).await.status, 200);
    let mut http = Http::connect(&server).await;
    let (_, status) = by_web(&mut http, LIST_MODELS, &GetModelRequest::default(), false).await;
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn pages_are_checked_and_listed_ones_may_read_what_they_need() {
    let mut config = bare_config();
    config.server.allowed_origins = vec!["https://app.example".parse().expect("a pattern")];
    let server = serve(config, &[("m", DOUBLER)]).await;
    assert_eq!(listed(&server, &[("origin", "https://evil.example")]).await.status, 403);
    let mut http = Http::connect(&server).await;
    let get = format!("{LIST_MODELS}?encoding=json&message=%7B%7D");
    assert_eq!(http.send("GET", &get, &[("sec-fetch-site", "cross-site")], "").await.status, 403);
    let page = ("origin", "https://app.example");
    let reply = listed(&server, &[page, ("sec-fetch-site", "cross-site")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-origin")), (200, "https://app.example"));
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        assert!(reply.header("access-control-expose-headers").contains(name), "{name}");
    }
    let wanted = "content-type,x-grpc-web,x-user-agent,grpc-timeout,connect-protocol-version,connect-timeout-ms,x-api-key";
    let asks = [page, ("access-control-request-method", "POST"), ("access-control-request-headers", wanted)];
    let reply = http.send("OPTIONS", PREDICT, &asks, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("access-control-allow-headers")), (204, wanted));
}
