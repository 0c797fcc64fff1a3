//! The REST form of the Open Inference Protocol, as a client of the HTTP port sees it.

use std::io::{Read as _, Write as _};

use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use tidemill::domain::Outcome;

use crate::{
    http_client::{Http, exchange, infer_json},
    serving::{Account, DOUBLER, bare_config, metric, patiently, serve, slow_doubler, speech_config, until},
};

/// Takes lists of numbers of any length.
const LISTS: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', -1]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', -1]
[synthetic]
kind = 'identity'
";

/// Returns one number of each of three kinds.
const KINDS: &str = "
engine = 'synthetic'
[[inputs]]
name = 'a'
datatype = 'INT64'
dims = ['batch', 1]
[[inputs]]
name = 'b'
datatype = 'FP64'
dims = ['batch', 2]
[[inputs]]
name = 'c'
datatype = 'FP16'
dims = ['batch', 2]
[[outputs]]
name = 'p'
datatype = 'INT64'
dims = ['batch', 1]
[[outputs]]
name = 'q'
datatype = 'FP64'
dims = ['batch', 2]
[[outputs]]
name = 'r'
datatype = 'FP16'
dims = ['batch', 2]
[synthetic]
kind = 'identity'
";

const INFER: &str = "/v2/models/m/infer";
const GENERATE: &str = "/v2/models/m/generate";

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A request with one FP32 input in binary form, and the length of its JSON.
fn binary_request(shape: &[usize], values: &[f32], rest: Value) -> (String, Vec<u8>) {
    let data = bytes_of(values);
    let input = json!({"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": data.len()}});
    let mut request = json!({"inputs": [input]});
    if let (Some(request), Value::Object(rest)) = (request.as_object_mut(), rest) {
        request.extend(rest);
    }
    let json = request.to_string();
    (json.len().to_string(), [json.into_bytes(), data].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_in_json_are_answered_in_json() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let request = json!({
        "id": "seven",
        "inputs": [{"data": [[1, 2.5, -3, 4e1], [0.1, 0, 0, 1]], "shape": [2, 4], "datatype": "FP32", "name": "x"}],
        "outputs": [{"name": "y"}],
    });
    for path in [INFER, "/v2/models/m/versions/1/infer"] {
        let reply = http.post(path, request.to_string()).await;
        let output =
            json!({"name": "y", "datatype": "FP32", "shape": [2, 4], "data": [2.0, 5.0, -6.0, 80.0, 0.2, 0.0, 0.0, 2.0]});
        let expected = json!({"id": "seven", "model_name": "m", "model_version": "1", "outputs": [output]});
        assert_eq!(reply.json(), (200, expected));
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    }
    let alone = http.post(INFER, infer_json(&[4], &[1.0; 4])).await.json().1;
    assert_eq!(alone["outputs"][0]["shape"], json!([4]), "without a batch dimension there is none in the answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_data_goes_in_and_comes_out_after_the_json() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    for rest in [
        json!({"parameters": {"binary_data_output": true}}),
        json!({"outputs": [{"name": "y", "parameters": {"binary_data": true}}]}),
    ] {
        let (length, body) = binary_request(&[1, 4], &[1.0, 2.0, f32::INFINITY, -4.0], rest);
        let reply = http.send("POST", INFER, &[("inference-header-content-length", &length)], body).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/octet-stream"));
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        let (json, data) = reply.body.split_at(reply.header("inference-header-content-length").parse().expect("a number"));
        assert_eq!(data, bytes_of(&[2.0, 4.0, f32::INFINITY, -8.0]));
        let json: Value = serde_json::from_slice(json).expect("JSON");
        let output = json!({"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}});
        assert_eq!(json["outputs"], json!([output]));
    }
    let (length, body) = binary_request(&[1, 4], &[f32::NAN; 4], json!({}));
    let (status, error) = http.send("POST", INFER, &[("inference-header-content-length", &length)], body).await.error();
    assert_eq!((status, error.contains("output 'y' has NaN as element 0")), (400, true), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_and_outputs_of_one_request_may_differ_in_form() {
    let server = serve(bare_config(), &[("m", KINDS)]).await;
    let mut http = Http::connect(&server).await;
    let json = json!({
        "inputs": [
            {"name": "b", "datatype": "FP64", "shape": [1, 2], "parameters": {"binary_data_size": 16}},
            {"name": "a", "datatype": "INT64", "shape": [1, 1], "data": [9_007_199_254_740_993_i64]},
            {"name": "c", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
        ],
        "parameters": {"binary_data_output": true},
        "outputs": [{"name": "r"}, {"name": "p", "parameters": {"binary_data": false}}, {"name": "q"}],
    })
    .to_string();
    let double = [0.1_f64, -2.0].map(f64::to_le_bytes).concat();
    let body = [json.as_bytes(), &double, &[1, 2, 3, 4]].concat();
    let reply = http.send("POST", INFER, &[("inference-header-content-length", &json.len().to_string())], body).await;
    let (head, data) = reply.body.split_at(reply.header("inference-header-content-length").parse().expect("a number"));
    assert_eq!(data, [&[1, 2, 3, 4][..], &double].concat());
    let head: Value = serde_json::from_slice(head).expect("JSON");
    let names: Vec<_> = head["outputs"].as_array().expect("outputs").iter().map(|output| &output["name"]).collect();
    assert_eq!(names, ["r", "p", "q"]);
    assert_eq!(head["outputs"][1]["data"], json!([9_007_199_254_740_993_i64]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_json_is_the_one_input() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("lists", LISTS), ("kinds", KINDS)]).await;
    let mut http = Http::connect(&server).await;
    for (model, values) in [("m", &[1.0, 2.0, 3.0, 4.0][..]), ("lists", &[1.0, 2.0, 3.0])] {
        let path = format!("/v2/models/{model}/infer");
        let reply = http.send("POST", &path, &[("inference-header-content-length", "0")], bytes_of(values)).await;
        let (head, data) = reply.body.split_at(reply.header("inference-header-content-length").parse().expect("a number"));
        let factor = if model == "m" { 2.0 } else { 1.0 };
        assert_eq!(data, bytes_of(&values.iter().map(|value| value * factor).collect::<Vec<_>>()));
        let head: Value = serde_json::from_slice(head).expect("JSON");
        assert_eq!(head["outputs"][0]["shape"], json!([1, values.len()]));
    }
    for (model, body, message) in [("m", 15, "15 bytes of data"), ("kinds", 16, "models of one input, but 'kinds' has 3")] {
        let path = format!("/v2/models/{model}/infer");
        let reply = http.send("POST", &path, &[("inference-header-content-length", "0")], vec![0; body]).await;
        let (status, error) = reply.error();
        assert_eq!((status, error.contains(message)), (400, true), "{error}");
    }
}

// ---- Plain JSON -------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_json_is_answered_in_plain_json() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("lists", LISTS)]).await;
    let mut http = Http::connect(&server).await;
    let reply = http.post(GENERATE, r#"{"x": [1, 2, 3, 4.5], "id": "a", "parameters": {"priority": 1}}"#).await;
    assert_eq!(reply.json(), (200, json!({"id": "a", "model_name": "m", "model_version": "1", "y": [2.0, 4.0, 6.0, 9.0]})));
    let reply = http.post("/v2/models/m/versions/1/generate", r#"{"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}"#).await;
    assert_eq!(reply.json().1["y"], json!([[2.0, 4.0, 6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]));
    let reply = http.post("/v2/models/lists/generate", r#"{"x": 7}"#).await;
    assert_eq!(reply.json().1["y"], json!(7.0));
    let (status, error) = http.post(GENERATE, r#"{"text": "hello"}"#).await.error();
    assert_eq!((status, error.contains("the model has no input 'text'; its inputs are 'x'")), (400, true), "{error}");
}

/// A stream's status, type and events.
async fn events(http: &mut Http, path: &str, body: &str) -> (u16, String, Vec<Value>) {
    let reply = http.send("POST", path, &[("accept-encoding", "gzip")], body.to_owned()).await;
    let text = String::from_utf8(reply.body.to_vec()).expect("text");
    let events = text.split_terminator("\n\n").map(|event| {
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("no event: {event:?}"));
        serde_json::from_str(data).expect("JSON")
    });
    (reply.status.as_u16(), reply.header("content-type").to_owned(), events.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_an_event_for_each_item_and_ends_with_the_first_error() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let path = "/v2/models/m/generate_stream";
    let (status, kind, found) = events(&mut http, path, r#"{"id": "a", "x": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]}"#).await;
    assert_eq!((status, kind.as_str()), (200, "text/event-stream"));
    let firsts: Vec<_> = found.iter().map(|event| event["y"].to_string()).collect();
    assert_eq!(firsts, ["[[2.0,4.0,6.0,8.0]]", "[[10.0,12.0,14.0,16.0]]", "[[18.0,18.0,18.0,18.0]]"]);
    assert!(found.iter().all(|event| event["id"] == "a" && event["model_name"] == "m"));
    let (status, _, found) = events(&mut http, path, r#"{"x": [[1, 2, 3, 4], [-1, 0, 0, 0], [9, 9, 9, 9]]}"#).await;
    assert_eq!((status, found.len()), (200, 2), "{found:?}");
    assert!(found[1]["error"].is_string(), "{found:?}");
    let reply = http.post(path, r#"{"x": [-1, 2, 3, 4]}"#).await;
    assert_eq!(reply.error().0, 500, "an error before the first event is the status");
    assert_eq!(http.post(path, r#"{"x": [1, 2, 3]}"#).await.error().0, 400);
}

// ---- Encodings --------------------------------------------------------------------------------------------------------------

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}

fn inflated(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    let read = match encoding {
        "gzip" => GzDecoder::new(bytes).read_to_end(&mut whole),
        "deflate" => ZlibDecoder::new(bytes).read_to_end(&mut whole),
        _ => bytes.take(u64::MAX).read_to_end(&mut whole),
    };
    read.expect("it was encoded so");
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_gzip_or_deflate_both_ways() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let (length, body) = binary_request(&[4], &[1.0, 2.0, 3.0, 4.0], json!({"parameters": {"binary_data_output": true}}));
    for (sent, body) in [("identity", body.clone()), ("gzip", gzip(&body)), ("Deflate", deflate(&body))] {
        for wanted in ["identity", "gzip", "deflate", "br"] {
            let headers =
                [("inference-header-content-length", &*length), ("content-encoding", sent), ("accept-encoding", wanted)];
            let reply = http.send("POST", INFER, &headers, body.clone()).await;
            let encoding = reply.header("content-encoding");
            assert_eq!(encoding, if ["gzip", "deflate"].contains(&wanted) { wanted } else { "" });
            let whole = inflated(encoding, &reply.body);
            let json_length = reply.header("inference-header-content-length").parse().expect("a number, encoded or not");
            assert_eq!(whole.split_at(json_length).1, bytes_of(&[2.0, 4.0, 6.0, 8.0]), "{sent} {wanted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_inflated_is_refused() {
    let mut config = bare_config();
    config.http.max_body_bytes = 100_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut cut = gzip(infer_json(&[4], &[1.0; 4]).as_bytes());
    cut.truncate(cut.len() - 10);
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert!(bomb.len() < 400_000);
    let cases = [
        ("br", vec![1, 2, 3], 415, "encoded as \"br\"; send gzip, deflate or identity"),
        ("gzip, gzip", vec![1, 2, 3], 415, "send gzip"),
        ("gzip", b"no gzip at all".to_vec(), 400, "the body cannot be inflated"),
        ("deflate", b"no zlib at all".to_vec(), 400, "the body cannot be inflated"),
        ("gzip", cut, 400, "the body cannot be inflated"),
        ("gzip", gzip(&vec![b' '; 100_001]), 413, "larger than the 100000 bytes that http.max_body_bytes allows"),
    ];
    for (encoding, body, status, message) in cases {
        let mut http = Http::connect(&server).await;
        let found = http.send("POST", INFER, &[("content-encoding", encoding)], body).await.error();
        assert_eq!((found.0, found.1.contains(message)), (status, true), "{encoding}: {found:?}");
    }
    let head =
        format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
    let heard = exchange(&server, [head.as_bytes(), &bomb].concat()).await;
    assert!(heard.starts_with("HTTP/1.1 413 ") && heard.contains("http.max_body_bytes"), "{heard}");
}

// ---- Errors -----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_error_has_its_status_and_says_why() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("slow", &slow_doubler(100_000))]).await;
    let mut http = Http::connect(&server).await;
    let good = infer_json(&[4], &[1.0; 4]);
    let late = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}], "parameters": {"timeout": 1_000}});
    let cases = [
        ("GET", "/nothing", "", 404, "there is nothing at /nothing; the Open Inference Protocol begins at /v2"),
        ("POST", "/v2/models/m/fly", "{}", 404, "there is nothing at /v2/models/m/fly"),
        ("GET", INFER, "", 405, "/v2/models/m/infer is not for GET"),
        ("DELETE", "/v2", "", 405, "/v2 is not for DELETE"),
        ("POST", "/v2/models/%ff/infer", &good, 400, "UTF-8"),
        ("POST", "/v2/models/nobody/infer", &good, 404, "there is no model 'nobody'"),
        ("POST", "/v2/models/m/versions/9/infer", &good, 404, "has no version '9'"),
        ("POST", "/v2/models/nobody/generate", "{}", 404, "there is no model 'nobody'"),
        ("POST", INFER, "", 400, "the body is empty"),
        ("POST", INFER, &infer_json(&[3], &[1.0; 3]), 400, "shape [3] does not fit"),
        ("POST", INFER, &infer_json(&[4], &[1.0; 3]), 400, "there are 3 elements, but shape [4] takes 4"),
        ("POST", INFER, &infer_json(&[4], &[-1.0; 4]), 500, "fail"),
        ("POST", "/v2/models/slow/infer", &late.to_string(), 504, "deadline of 1.0ms"),
        ("GET", "/v2/cudasharedmemory/status", "", 501, "this server has no /v2/cudasharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/r/register", "{}", 501, "cudasharedmemory"),
        ("GET", "/v2/trace/setting", "", 501, "/v2/trace/setting"),
        ("POST", "/v2/models/m/trace/setting", "{}", 501, "/v2/models/m/trace/setting"),
        ("GET", "/v2/logging", "", 501, "/v2/logging"),
    ];
    for (verb, path, body, status, message) in cases {
        let found = http.send(verb, path, &[], body.to_owned()).await.error();
        assert_eq!((found.0, found.1.contains(message)), (status, true), "{verb} {path}: {found:?}");
    }
    assert_eq!(http.send("PUT", INFER, &[], "").await.header("allow"), "POST");
    for length in ["-1", "1.5", "many", "99999999999999999999"] {
        let found = http.send("POST", INFER, &[("inference-header-content-length", length)], good.clone()).await.error();
        assert_eq!((found.0, found.1.contains("is not a number of bytes")), (400, true), "{length}: {found:?}");
    }
    let past = http.send("POST", INFER, &[("inference-header-content-length", "100000")], good.clone()).await.error();
    assert_eq!((past.0, past.1.contains("but the body has")), (400, true), "{past:?}");
    let short = http.send("POST", INFER, &[("inference-header-content-length", "10")], good).await.error();
    assert_eq!((short.0, short.1.contains("EOF")), (400, true), "{short:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_with_a_time_to_come_back() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    config.scheduler.max_queued_items = 1;
    let server = serve(config, &[("slow", &slow_doubler(1_000_000))]).await;
    let key = server.registry().get("slow", None).expect("it serves").key;
    let queue = || server.devices().status(key).map(|status| (status.running, status.queued));
    let mut asking = Vec::new();
    for wanted in [(1, 0), (1, 1)] {
        let mut http = Http::connect(&server).await;
        asking.push(tokio::spawn(async move { http.post("/v2/models/slow/infer", infer_json(&[4], &[1.0; 4])).await.status }));
        until("one runs, and one waits", || queue() == Some(wanted)).await;
    }
    let refused = Http::connect(&server).await.post("/v2/models/slow/infer", infer_json(&[4], &[1.0; 4])).await;
    let (status, error) = refused.error();
    assert_eq!((status, error.contains("scheduler.max_queued_items")), (429, true), "{error}");
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    for asking in asking {
        assert_eq!(patiently(asking).await.expect("no panic"), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_their_errors_are_counted_by_method() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    for body in [infer_json(&[2, 4], &[1.0; 8]), "{".to_owned(), infer_json(&[4], &[-1.0; 4])] {
        http.post(INFER, body).await;
    }
    http.post(GENERATE, r#"{"x": [1, 2, 3, 4]}"#).await;
    http.post(GENERATE, r#"{"y": 1}"#).await;
    Account::of(&server, "m").settled().await;
    let text = server.metrics();
    let count = |name: &str, labels: &str| metric(&text, name, labels);
    assert_eq!(count("tidemill_faults_total", "method=\"http_infer\",reason=\"invalid\""), 1.0);
    assert_eq!(count("tidemill_faults_total", "method=\"http_infer\",reason=\"failed\""), 1.0);
    assert_eq!(count("tidemill_faults_total", "method=\"http_generate\",reason=\"invalid\""), 1.0);
    assert_eq!(count("tidemill_faults_total", ""), 3.0);
    assert_eq!(count("tidemill_streams_opened_total", "method=\"http_infer\""), 2.0);
    assert_eq!(count("tidemill_streams_opened_total", "method=\"http_generate\""), 1.0);
    assert_eq!(count("tidemill_items_ended_total", "outcome=\"ok\""), 3.0);
    assert_eq!(count("tidemill_streams_open", ""), 0.0);
    assert_eq!(count("tidemill_connections_open", ""), 1.0);
}

// ---- Cancellation -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_connection_cancels_what_is_queued() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(200_000))]).await;
    let account = Account::of(&server, "slow");
    for (path, body) in [
        ("/v2/models/slow/infer", infer_json(&[20, 4], &[1.0; 80])),
        ("/v2/models/slow/generate", json!({"x": vec![[1.0; 4]; 20]}).to_string()),
        ("/v2/models/slow/generate_stream", json!({"x": vec![[1.0; 4]; 20]}).to_string()),
    ] {
        let before = account.ledger();
        let mut http = Http::connect(&server).await;
        let asking = tokio::spawn(async move { http.post(path, body).await });
        until("all items are in", || account.ledger().received() == before.received() + 20).await;
        asking.abort();
        let after = account.settled().await;
        assert!(after.outcome(Outcome::Cancelled) >= before.outcome(Outcome::Cancelled) + 15, "{path}: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_a_stream_of_events_cancels_the_rest_of_it() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(100_000))]).await;
    let account = Account::of(&server, "slow");
    let mut http = Http::connect(&server).await;
    let body = json!({"x": vec![[1.0; 4]; 50]}).to_string();
    let mut response = http.begin("POST", "/v2/models/slow/generate_stream", &[], body).await.expect("a response");
    let first = patiently(response.frame()).await.expect("an event").expect("no error").into_data().expect("data");
    assert!(first.starts_with(b"data: {"), "{first:?}");
    drop((response, http));
    let ledger = account.settled().await;
    assert!(ledger.outcome(Outcome::Cancelled) > 30, "events come as they are computed: {ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_speech_model_answers() {
    let server = patiently(tidemill::app::Server::start(speech_config())).await.unwrap_or_else(|error| panic!("{error}"));
    let mut http = Http::connect(&server).await;
    let reply = http.post("/v2/models/silero-vad/generate", json!({"input": vec![0.0; 576]}).to_string()).await;
    let (status, json) = reply.json();
    let probability = json["output"].as_f64().unwrap_or_else(|| panic!("no number in {json}"));
    assert!(status == 200 && (0.0..0.5).contains(&probability), "{json}");
}

// ---- Events that end early --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_passes_in_a_stream_of_events_is_its_last_event() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(100_000))]).await;
    let account = Account::of(&server, "slow");
    let mut http = Http::connect(&server).await;
    // The first takes a tenth of a second, the last would take ten.
    let body = json!({"x": vec![[1.0; 4]; 100], "parameters": {"timeout": 3_000_000}}).to_string();
    let (status, kind, found) = events(&mut http, "/v2/models/slow/generate_stream", &body).await;
    assert_eq!((status, kind.as_str()), (200, "text/event-stream"));
    let (last, answers) = found.split_last().expect("events");
    assert!(!answers.is_empty() && answers.len() < 100 && answers.iter().all(|answer| answer["y"].is_array()), "{found:?}");
    assert!(last["error"].as_str().is_some_and(|error| error.contains("deadline")), "{last}");
    let ledger = account.settled().await;
    assert_eq!(ledger.received(), ledger.ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_that_has_begun_goes_on_while_the_server_drains() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(20_000))]).await;
    let mut http = Http::connect(&server).await;
    let body = json!({"x": vec![[1.0; 4]; 30]}).to_string();
    let mut response = http.begin("POST", "/v2/models/slow/generate_stream", &[], body).await.expect("a response");
    let first = patiently(response.frame()).await.expect("an event").expect("no error").into_data().expect("data");
    let draining = tokio::spawn(server.drain());
    let rest = patiently(response.into_body().collect()).await.expect("it ends well").to_bytes();
    let text = String::from_utf8([first, rest].concat()).expect("text");
    assert_eq!((text.matches("data: {\"model_name\"").count(), text.contains("error")), (30, false), "{text}");
    patiently(draining).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_that_outlasts_the_drain_breaks_off() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    config.drain.deadline_s = 0;
    let server = serve(config, &[("slow", &slow_doubler(50_000))]).await;
    let mut http = Http::connect(&server).await;
    let body = json!({"x": vec![[1.0; 4]; 1_000]}).to_string();
    let mut response = http.begin("POST", "/v2/models/slow/generate_stream", &[], body).await.expect("a response");
    patiently(response.frame()).await.expect("an event").expect("no error");
    let draining = tokio::spawn(server.drain());
    assert!(patiently(response.into_body().collect()).await.is_err(), "a client can tell it from a whole answer");
    patiently(draining).await.expect("no panic");
}

// ---- Clients that do not read -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_counts_under_its_method() {
    let server = serve(bare_config(), &[("m", LISTS)]).await;
    let unread = |method: &str| metric(&server.metrics(), "tidemill_streams_unread", method);
    let plain = json!({"x": vec![1.5; 1 << 19]}).to_string();
    let tensors = infer_json(&[1, 1 << 19], &vec![1.5; 1 << 19]);
    let cases =
        [("infer", &tensors, "http_infer"), ("generate", &plain, "http_generate"), ("generate_stream", &plain, "http_generate")];
    for (path, body, method) in cases {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        let head = format!("POST /v2/models/m/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        let request = format!("{head}{body}");
        // It goes on asking until no buffer between the two holds any more answers.
        let asking = tokio::spawn(async move { while stream.write_all(request.as_bytes()).await.is_ok() {} });
        until("it is seen not to read", || unread(method) == 1.0).await;
        assert_eq!(unread(""), 1.0, "{path}");
        asking.abort();
        until("it is gone", || unread("") == 0.0).await;
    }
}
