//! HTTP with JSON: the native API's answers are those of gRPC, and so are its errors.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::json;
use tonic::Code;

use tidemill::proto::{
    DESCRIPTORS,
    v1::{
        GetModelRequest, GetModelResponse, ItemList, ListModelsRequest, ListModelsResponse, PredictRequest, PredictResponse,
        ScanRequest, ScanResponse, StreamConfig, UploadConfig, UploadRequest, UploadResponse, item_result::Outcome,
        model_service_client::ModelServiceClient, predict_request, scan_request, scan_response::Event, upload_request::Part,
    },
};

use crate::{
    audio::{bytes, sound},
    http_client::{Http, Reply},
    keys::{key, known},
    serving::{DOUBLER, bare_config, connect, item, patiently, pcm_of, serve, slow_doubler, speech_config, tensors_of},
};

const PREDICT: &str = "/tidemill/v1/models/m/predict";
const SCAN: &str = "/tidemill/v1/models/m/scan";
const UPLOAD: &str = "/tidemill/v1/models/silero-vad/upload";

/// A message as the JSON that the channel takes.
fn json_of(name: &str, message: &impl Message) -> Vec<u8> {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
    let descriptor = pool.get_message_by_name(&format!("tidemill.v1.{name}")).expect("a message");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).expect("a message");
    serde_json::to_vec(&dynamic).expect("JSON")
}

/// A message from the JSON that the channel gives.
fn of_json<M: Message + Default>(name: &str, json: &[u8]) -> M {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors");
    let descriptor = pool.get_message_by_name(&format!("tidemill.v1.{name}")).expect("a message");
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer);
    let dynamic = dynamic.unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(json)));
    dynamic.transcode_to().expect("the same message")
}

/// Status, code and message of an error; all errors are google.rpc.Status.
fn error(reply: &Reply) -> (u16, i64, String) {
    let (status, body) = reply.json();
    assert_eq!(reply.header("content-type"), "application/json");
    let message = body["message"].as_str().unwrap_or_else(|| panic!("no message in {body}"));
    (status, body["code"].as_i64().unwrap_or_else(|| panic!("no code in {body}")), message.to_owned())
}

/// The events of a scan without what differs from one run to the next.
fn timeless(events: Vec<ScanResponse>) -> Vec<ScanResponse> {
    let timeless = |mut response: ScanResponse| {
        match &mut response.event {
            Some(Event::Result(result)) => {
                result.timing = None;
                if let Some(Outcome::Error(status)) = &mut result.outcome
                    && status.code == i32::from(Code::Internal)
                {
                    // It counts calls.
                    status.message.clear();
                }
            }
            Some(Event::Completed(summary)) => (summary.elapsed, summary.queue_ns, summary.compute_ns) = (None, 0, 0),
            _ => {}
        }
        response
    };
    events.into_iter().map(timeless).collect()
}

fn lines(body: &[u8]) -> Vec<ScanResponse> {
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| of_json("ScanResponse", line)).collect()
}

async fn scanned(server: &tidemill::app::Server, request: ScanRequest) -> Vec<ScanResponse> {
    let mut responses = patiently(connect(server).await.scan(request)).await.expect("the stream opens").into_inner();
    let mut events = Vec::new();
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        events.push(response);
    }
    events
}

#[tokio::test]
async fn a_prediction_is_that_of_grpc() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let payload = Some(predict_request::Payload::Item(item("mine", &[1.0, 2.0, 3.0, 4.0])));
    let request = PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() };
    let expected = patiently(connect(&server).await.predict(request.clone())).await.expect("an answer").into_inner();
    let mut http = Http::connect(&server).await;
    let without_model = PredictRequest { model: String::new(), ..request };
    for path in [PREDICT, "/tidemill/v1/models/m/versions/1/predict"] {
        let reply =
            http.send("POST", path, &[("content-type", "application/json")], json_of("PredictRequest", &without_model)).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"), "{reply:?}");
        let found: PredictResponse = of_json("PredictResponse", &reply.body);
        assert!(found.timing.is_some());
        assert_eq!(PredictResponse { timing: None, ..found }, PredictResponse { timing: None, ..expected.clone() });
    }
}

#[tokio::test]
async fn models_are_those_of_grpc() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    let mut client = ModelServiceClient::new(channel.connect().await.expect("the server accepts"));
    let mut http = Http::connect(&server).await;
    let all = patiently(client.list_models(ListModelsRequest {})).await.expect("an answer").into_inner();
    assert_eq!(of_json::<ListModelsResponse>("ListModelsResponse", &http.get("/tidemill/v1/models").await.body), all);
    for (path, version) in [
        ("/tidemill/v1/models/m", ""),
        ("/tidemill/v1/models/silero-vad/versions/6", "6"),
        ("/tidemill/v1/models/silero-vad?version=6", "6"),
    ] {
        let request =
            GetModelRequest { name: if version.is_empty() { "m" } else { "silero-vad" }.to_owned(), version: version.to_owned() };
        let expected = patiently(client.get_model(request)).await.expect("an answer").into_inner();
        assert_eq!(of_json::<GetModelResponse>("GetModelResponse", &http.get(path).await.body), expected, "{path}");
    }
}

#[tokio::test]
async fn a_scan_is_that_of_grpc_as_lines_and_as_events() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let items = vec![item("good", &[1.0; 4]), item("short", &[1.0; 3]), item("fails", &[-1.0; 4])];
    let payload = Some(scan_request::Payload::Items(ItemList { items }));
    let request = ScanRequest { config: Some(tensors_of("m")), payload };
    let expected = timeless(scanned(&server, request.clone()).await);
    let body = json_of("ScanRequest", &ScanRequest { config: Some(tensors_of("")), ..request });
    let mut http = Http::connect(&server).await;
    let reply = http.post(SCAN, body.clone()).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-ndjson"), "{reply:?}");
    assert_eq!(timeless(lines(&reply.body)), expected);
    let reply = http.send("POST", SCAN, &[("accept", "text/event-stream")], body).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    let text = String::from_utf8(reply.body.to_vec()).expect("text");
    let events = text
        .split_terminator("\n\n")
        .map(|event| of_json("ScanResponse", event.strip_prefix("data: ").expect("data").as_bytes()));
    assert_eq!(timeless(events.collect()), expected);
}

/// Reads until the body has so many lines.
async fn first_lines(body: &mut Incoming, count: usize) -> Vec<ScanResponse> {
    let mut found = Vec::new();
    while found.iter().filter(|byte| **byte == b'\n').count() < count {
        let frame = patiently(body.frame()).await.expect("more").expect("a frame");
        found.extend_from_slice(frame.data_ref().expect("data"));
    }
    lines(&found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_while_others_are_still_computed() {
    let server = serve(bare_config(), &[("m", &slow_doubler(20_000))]).await;
    let items = (0..200).map(|_| item("", &[1.0; 4])).collect();
    let request = ScanRequest { config: None, payload: Some(scan_request::Payload::Items(ItemList { items })) };
    let mut http = Http::connect(&server).await;
    let reply = http.begin("POST", SCAN, &[], json_of("ScanRequest", &request)).await.expect("an answer");
    let mut body = reply.into_body();
    let first = first_lines(&mut body, 2).await;
    assert!(matches!(first[0].event, Some(Event::Opened(_))) && matches!(first[1].event, Some(Event::Result(_))), "{first:?}");
    let account = crate::serving::Account::of(&server, "m");
    assert!(account.ledger().open() > 0, "the first answer came with the last");
    // A client that goes away ends the scan.
    drop((body, http));
    account.settled().await;
}

#[tokio::test]
async fn errors_have_the_status_of_their_kind_and_are_those_of_grpc() {
    let mut config = bare_config();
    config.session.window_items = 2;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let cases = [
        ("POST", "/tidemill/v1/models/nope/predict", r#"{"item":{}}"#, 404, 5, "nope"),
        ("POST", PREDICT, "{}", 400, 3, "the payload is missing"),
        ("POST", PREDICT, r#"{"itme":{}}"#, 400, 3, "itme"),
        ("POST", PREDICT, "{", 400, 3, "PredictRequest"),
        ("POST", "/tidemill/v1/models/m/predict?version=1", "{}", 400, 3, "version"),
        ("POST", "/tidemill/v1/models/nope/scan", r#"{"items":{}}"#, 404, 5, "nope"),
        ("POST", SCAN, r#"{"items":{"items":[{"id":7}]}}"#, 400, 3, "ScanRequest"),
        ("GET", "/tidemill/v1/models/nope", "", 404, 5, "nope"),
        ("GET", "/tidemill/v1/models/m?verison=1", "", 400, 3, "verison"),
        ("GET", "/tidemill/v1/models?x=1", "", 400, 3, "'x'"),
        ("GET", "/tidemill/v1/models/%ff", "", 400, 3, "UTF-8"),
        ("GET", "/tidemill/v1/nothing", "", 404, 5, "/tidemill/v1/nothing"),
        ("GET", PREDICT, "", 405, 12, "allow"),
        ("DELETE", "/tidemill/v1/models/m", "", 405, 12, "DELETE"),
        ("POST", "/tidemill/v1/models/m/upload", "RIFF", 400, 3, "tensors"),
    ];
    for (verb, path, body, status, code, says) in cases {
        let mut http = Http::connect(&server).await;
        let reply = http.send(verb, path, &[], body).await;
        let (found, found_code, message) = error(&reply);
        assert_eq!((found, found_code), (status, code), "{verb} {path}: {message}");
        assert!(message.contains(says), "{verb} {path}: {message}");
    }
    let reply = Http::connect(&server).await.get(PREDICT).await;
    assert_eq!(reply.header("allow"), "POST");
    let reply = Http::connect(&server).await.post("/tidemill/v1/models/nope/predict", r#"{"item":{}}"#).await;
    let details = &reply.json().1["details"];
    let types: Vec<&str> = details.as_array().expect("details").iter().filter_map(|detail| detail["@type"].as_str()).collect();
    assert!(types.contains(&"type.googleapis.com/google.rpc.ErrorInfo"), "{details}");
}

#[tokio::test]
async fn bodies_and_answers_of_other_forms_are_refused() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    for (path, headers, status) in [
        (PREDICT, ("content-type", "application/xml"), 415),
        (PREDICT, ("content-encoding", "br"), 415),
        (SCAN, ("accept", "text/html"), 406),
        (UPLOAD, ("content-type", "multipart/form-data; boundary=x"), 415),
        (UPLOAD, ("content-encoding", "gzip"), 415),
        ("/tidemill/v1/models/m/prove", ("content-type", "application/x-www-form-urlencoded"), 415),
    ] {
        let reply = Http::connect(&server).await.send("POST", path, &[headers], "{}").await;
        assert_eq!(error(&reply).0, status, "{path} {headers:?}: {reply:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_the_name_of_the_limit() {
    let mut config = bare_config();
    config.grpc.max_message_bytes = 1_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let (status, code, message) = error(&http.post(PREDICT, vec![b' '; 1_001]).await);
    assert_eq!((status, code), (413, 8), "{message}");
    assert!(message.contains("grpc.max_message_bytes"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_that_of_the_call() {
    let server = serve(bare_config(), &[("m", &slow_doubler(500_000))]).await;
    let request =
        PredictRequest { payload: Some(predict_request::Payload::Item(item("", &[1.0; 4]))), ..PredictRequest::default() };
    let body = json_of("PredictRequest", &request);
    let reply = Http::connect(&server).await.send("POST", PREDICT, &[("grpc-timeout", "10m")], body).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code), (504, 4), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_those_of_the_port_and_an_upload_needs_no_more_than_any() {
    let (mut config, _folder) = known(&[("a", 1, "scopes = ['infer']")]);
    config.models.embedded = true;
    let server = serve(config, &[]).await;
    let recording = wav(&sound(16_000, 0));
    let reply = Http::connect(&server).await.post(UPLOAD, recording.clone()).await;
    assert_eq!((error(&reply).0, error(&reply).1), (401, 16));
    assert_ne!(reply.header("www-authenticate"), "");
    let credential = format!("Bearer {}", key(1));
    let headers = [("authorization", credential.as_str())];
    let reply = Http::connect(&server).await.send("POST", UPLOAD, &headers, recording).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    let reply = Http::connect(&server).await.send("GET", "/tidemill/v1/models", &headers, "").await;
    assert_eq!((error(&reply).0, error(&reply).1), (403, 7));
    assert_eq!(Http::connect(&server).await.get("/openapi.json").await.status.as_u16(), 200);
}

// ---- Uploads ----------------------------------------------------------------------------------------------------------------

/// A WAV file of these samples.
fn wav(samples: &[i16]) -> Vec<u8> {
    let data = bytes(samples);
    let head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data";
    [&head[..], &(data.len() as u32).to_le_bytes(), &data].concat()
}

/// An AU file of these samples.
fn au(samples: &[i16]) -> Vec<u8> {
    let numbers = [24, u32::MAX, 3, 16_000, 1].map(u32::to_be_bytes).concat();
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    [b".snd".to_vec(), numbers, data].concat()
}

/// A FLAC file of these samples, none of them compressed.
fn flac(samples: &[i16]) -> Vec<u8> {
    const BLOCK: usize = 4_096;
    let mut file = b"fLaC\x80\0\0\x22".to_vec();
    file.extend_from_slice(&(BLOCK as u16).to_be_bytes().repeat(2));
    file.extend_from_slice(&[0; 6]);
    // 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of the number of samples, and a checksum that is not known.
    let described = (16_000_u64 << 44) | (15 << 36) | samples.len() as u64;
    file.extend_from_slice(&described.to_be_bytes());
    file.extend_from_slice(&[0; 16]);
    for (number, block) in samples.chunks(BLOCK).enumerate() {
        // A fixed block size, of 16 bits at the end of the header; the rate from the file's head; mono; 16 bits.
        let mut frame = vec![0xff, 0xf8, 0x70, 0x08];
        frame.extend(char::from_u32(number as u32).expect("few frames").to_string().bytes());
        frame.extend_from_slice(&((block.len() - 1) as u16).to_be_bytes());
        frame.push(crc(&frame, 0x07, 8) as u8);
        // A verbatim subframe.
        frame.push(0x02);
        frame.extend(block.iter().flat_map(|sample| sample.to_be_bytes()));
        let check = crc(&frame, 0x8005, 16);
        file.extend_from_slice(&frame);
        file.extend_from_slice(&check.to_be_bytes());
    }
    file
}

fn crc(bytes: &[u8], polynomial: u16, bits: u32) -> u16 {
    let (top, mask) = (1_u32 << (bits - 1), (1_u32 << bits) - 1);
    let mut crc = 0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte) << (bits - 8);
        for _ in 0..8 {
            crc = if crc & top == 0 { crc << 1 } else { (crc << 1) ^ u32::from(polynomial) } & mask;
        }
    }
    crc as u16
}

/// The answer to an upload of these samples over gRPC.
async fn uploaded(server: &tidemill::app::Server, samples: &[i16]) -> UploadResponse {
    let stream = Some(StreamConfig { sample_rate_hz: 16_000, ..pcm_of("silero-vad") });
    let open = UploadConfig { stream, include_results: true, ..UploadConfig::default() };
    let parts = [Part::Open(open), Part::Chunk(bytes(samples))].map(|part| UploadRequest { part: Some(part) });
    patiently(connect(server).await.upload(tokio_stream::iter(parts))).await.expect("an answer").into_inner()
}

/// Without what differs from one run to the next.
fn lasting(mut response: UploadResponse) -> UploadResponse {
    response.results.iter_mut().for_each(|result| result.timing = None);
    if let Some(summary) = &mut response.summary {
        (summary.elapsed, summary.queue_ns, summary.compute_ns) = (None, 0, 0);
    }
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_in_any_format_is_its_samples() {
    let server = serve(speech_config(), &[]).await;
    let samples = sound(50_000, 0);
    let expected = lasting(uploaded(&server, &samples).await);
    let raw = bytes(&samples).to_vec();
    let swapped: Vec<u8> = samples.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    let form = "application/x-www-form-urlencoded";
    for (name, content_type, query, body) in [
        ("WAV", "audio/wav", "", wav(&samples)),
        ("WAV by curl", form, "", wav(&samples)),
        ("WAV of no type", "application/octet-stream", "", wav(&samples)),
        ("WAV and its rate", "audio/wav", "&sample_rate_hz=16000", wav(&samples)),
        ("AU", "audio/basic", "", au(&samples)),
        ("FLAC", "audio/flac", "", flac(&samples)),
        ("raw", "application/octet-stream", "&sample_rate_hz=16000", raw.clone()),
        ("raw, meant", form, "&sampleRateHz=16000&accept_container_bytes=true", raw),
        ("L16", "audio/L16; rate=16000", "", swapped),
    ] {
        let path = format!("{UPLOAD}?include_results=true{query}");
        let reply = Http::connect(&server).await.send("POST", &path, &[("content-type", content_type)], body).await;
        assert_eq!(reply.status.as_u16(), 200, "{name}: {reply:?}");
        assert_eq!(reply.header("x-tidemill-warning"), "", "{name}");
        assert_eq!(lasting(of_json("UploadResponse", &reply.body)), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_rate_is_resampled_and_a_short_file_says_so() {
    let server = serve(speech_config(), &[]).await;
    let samples = sound(16_000, 0);
    let mut http = Http::connect(&server).await;
    let path = format!("{UPLOAD}?sample_rate_hz=8000");
    let reply = http.send("POST", &path, &[("content-type", "application/octet-stream")], bytes(&samples)).await;
    let response: UploadResponse = of_json("UploadResponse", &reply.body);
    let found = response.summary.expect("a summary").samples;
    assert!(found.abs_diff(32_000) <= 1, "{found} samples of 16,000 at half the rate");
    assert!(response.results.is_empty(), "nobody asked for them");
    let cut = wav(&samples)[..20_000].to_vec();
    let reply = http.post(UPLOAD, cut).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    assert!(reply.header("x-tidemill-warning").contains("cut off"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_recording_is_named() {
    let server = serve(speech_config(), &[]).await;
    let broken_wav = b"RIFF\x24\0\0\0WAVEfmt \x04\0\0\0abcd".to_vec();
    let opus = b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0".to_vec();
    for (query, body, says) in [
        ("", Vec::new(), "is empty"),
        ("", b"no recording at all".to_vec(), "sample_rate_hz"),
        ("", broken_wav, "WAV"),
        ("", opus, "Opus"),
        ("?sample_rate_hz=8000", wav(&[0; 100]), "16000"),
        ("?include_result=true", wav(&[0; 100]), "include_results"),
        ("?model=x", wav(&[0; 100]), "model"),
    ] {
        let reply = Http::connect(&server).await.post(&format!("{UPLOAD}{query}"), body).await;
        let (status, code, message) = error(&reply);
        assert_eq!((status, code), (400, 3), "{message}");
        assert!(message.contains(says), "{says}: {message}");
    }
    let reply = Http::connect(&server).await.post("/tidemill/v1/models/nope/upload", wav(&[0; 100])).await;
    assert_eq!(error(&reply).0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_limited_like_any_upload() {
    let mut config = speech_config();
    config.session.upload_max_bytes = 64_000;
    let server = serve(config, &[]).await;
    let reply = Http::connect(&server).await.post(UPLOAD, wav(&sound(31_000, 0))).await;
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    let reply = Http::connect(&server).await.post(UPLOAD, wav(&sound(40_000, 0))).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code), (413, 8), "{message}");
    assert!(message.contains("session.upload_max_bytes"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_larger_than_a_message_may_be_is_taken_as_it_comes() {
    let mut config = speech_config();
    config.grpc.max_message_bytes = 100_000;
    let server = serve(config, &[]).await;
    let samples = sound(500_000, 0);
    let reply = Http::connect(&server).await.post(UPLOAD, wav(&samples)).await;
    let response: UploadResponse = of_json("UploadResponse", &reply.body);
    assert_eq!(response.summary.expect("a summary").samples, samples.len() as u64);
}

#[tokio::test]
async fn the_api_is_described() {
    let server = serve(bare_config(), &[]).await;
    let mut http = Http::connect(&server).await;
    let reply = http.get("/openapi.json").await;
    let (status, document) = reply.json();
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.contains_key(PREDICT.replace("/m/", "/{model}/").as_str()), "{:?}", paths.keys());
    assert_eq!(error(&http.post("/openapi.json", "").await).0, 405);
}
