//! Connections to the HTTP port: how long clients may keep it waiting, how connections end, and bytes that are not
//! requests.

use std::fs;

use futures::future::join_all;
use hyper::header::{self, HeaderValue};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config as ProptestConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use tidemill::{app::Server, config::Config, domain::Outcome};

use crate::{
    http_client::{Http, exchange, infer_json, read_to_end},
    serving::{Account, DOUBLER, bare_config, metric, patiently, serve, slow_doubler, until},
};

const INFER: &str = "/v2/models/m/infer";
const LIVE: &str = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn connections_open(server: &Server) -> f64 {
    metric(&server.metrics(), "tidemill_connections_open", "")
}

/// With timeouts as short as they can be.
fn impatient_config() -> Config {
    let mut config = bare_config();
    config.http.header_timeout_s = 1;
    config.http.body_timeout_s = 1;
    config.http.idle_timeout_s = 1;
    config
}

// ---- Limits -----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_begins_a_request_and_does_not_end_it_gets_an_error() {
    let server = serve(impatient_config(), &[("m", DOUBLER)]).await;
    for (begun, message) in [
        ("GET /v2/heal".to_owned(), "the head of the request did not arrive within the 1 s that http.header_timeout_s allows"),
        (format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\n"), "http.header_timeout_s"),
        (
            format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{"),
            "the body did not arrive within the 1 s that http.body_timeout_s allows",
        ),
        (
            format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"),
            "http.body_timeout_s",
        ),
    ] {
        let heard = exchange(&server, &begun).await;
        assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains(message), "{begun:?}: {heard}");
        assert!(heard.contains("connection: close\r\n"), "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_or_nothing_more_is_closed() {
    let server = serve(impatient_config(), &[("m", DOUBLER)]).await;
    assert_eq!(exchange(&server, "").await, "");
    let heard = exchange(&server, LIVE).await;
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with(r#"{"live":true}"#), "{heard}");
    until("no connection is open", || connections_open(&server) == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_or_a_body_that_is_too_large_is_refused_by_the_name_of_its_limit() {
    let mut config = bare_config();
    config.http.max_header_bytes = 2_048;
    config.http.max_body_bytes = 10_000;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let padded = |bytes: usize| {
        let head = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: ";
        format!("{head}{}\r\n\r\n", "a".repeat(bytes - head.len() - 4))
    };
    assert!(exchange(&server, padded(2_048)).await.starts_with("HTTP/1.1 200 "));
    for bytes in [2_049, 5_000, 100_000] {
        let heard = exchange(&server, padded(bytes)).await;
        assert!(heard.starts_with("HTTP/1.1 431 ") && heard.contains("2048 bytes that http.max_header_bytes allows"), "{heard}");
    }
    let many: String = (0..150).map(|index| format!("h{index}: 1\r\n")).collect();
    assert!(exchange(&server, format!("GET /v2 HTTP/1.1\r\n{many}\r\n")).await.starts_with("HTTP/1.1 431 "));

    let announced = format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 10001\r\n\r\n");
    let chunk = format!("800\r\n{}\r\n", " ".repeat(2_048));
    let chunked = format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{}", chunk.repeat(5));
    for request in [announced, chunked] {
        let heard = exchange(&server, request).await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && heard.contains("10000 bytes that http.max_body_bytes allows"), "{heard}");
        assert!(heard.contains("connection: close\r\n"), "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_wait_until_another_has_no_request() {
    let mut config = bare_config();
    config.http.max_connections = 1;
    let server = serve(config, &[("slow", &slow_doubler(100_000))]).await;
    let mut first = Http::connect(&server).await;
    let account = Account::of(&server, "slow");
    let asking = tokio::spawn(async move { first.post("/v2/models/slow/infer", infer_json(&[4], &[1.0; 4])).await });
    until("a request is in hand", || account.ledger().received() == 1).await;
    let mut waiting = TcpStream::connect(server.http_addr()).await.expect("the backlog takes it");
    waiting
        .write_all(format!("{}{LIVE}", LIVE.replace("\r\n\r\n", "\r\nconnection: keep-alive\r\n\r\n")).as_bytes())
        .await
        .expect("sent");
    assert_eq!(connections_open(&server), 1.0);
    assert_eq!(patiently(asking).await.expect("no panic").status, 200, "the first is answered");
    let mut heard = [0; 12];
    patiently(waiting.read_exact(&mut heard)).await.expect("its turn");
    assert_eq!(&heard, b"HTTP/1.1 200");
}

/// The system completes connections before the server takes them. When its queue is full, a client gets no answer and tries again
/// after one second, then two, then four: if nobody took connections, none of these would ever get through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connections_finds_room() {
    let mut config = bare_config();
    (config.http.max_connections, config.grpc.max_connections) = (1, 1);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let system_max: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux").trim().parse().expect("a number");
    for address in [server.http_addr(), server.grpc_addr()] {
        let connects = (0..system_max.min(250)).map(|_| TcpStream::connect(address));
        let connected = patiently(join_all(connects)).await;
        assert!(connected.iter().all(Result::is_ok), "{connected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_whose_lines_end_with_only_a_line_feed_is_refused() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    for broken in [
        "GET /v2 HTTP/1.1\nhost: localhost\n\n",
        "GET /v2 HTTP/1.1\r\nhost: localhost\nx: y\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nhost: localhost\r\n\n",
    ] {
        let heard = exchange(&server, broken).await;
        assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("line feed alone"), "{broken:?}: {heard}");
    }
    // In a body they are content like any other.
    let body = infer_json(&[4], &[1.0; 4]).replace(',', ",\n") + "\n\n";
    let length = body.len();
    let head = format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let heard = exchange(&server, format!("\r\n{head}{body}")).await;
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_size_without_end_is_refused() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let head = format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    for endless in ["0", " ", "\t"] {
        let begun = if endless == "0" { "" } else { "1" };
        let heard = exchange(&server, format!("{head}{begun}{}", endless.repeat(300_000))).await;
        assert!(heard.starts_with("HTTP/1.1 400 ") && heard.contains("without any content"), "{endless:?}: {heard}");
    }
    // Many small chunks are no fault.
    let body = infer_json(&[4], &[1.0; 4]) + &" ".repeat(100_000);
    let chunks: String = body.chars().map(|letter| format!("0001\r\n{letter}\r\n")).collect();
    let heard =
        exchange(&server, format!("{}{chunks}0\r\n\r\n", head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"))).await;
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_off() {
    let lists = DOUBLER.replace("'batch', 4", "'batch', -1");
    let mut config = bare_config();
    config.session.unread_timeout_s = 1;
    let server = serve(config, &[("m", &lists)]).await;
    let account = Account::of(&server, "m");
    let stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
    let (reader, mut writer) = stream.into_split();
    // Responses of 3 MiB each, more than any socket's buffers hold.
    let data = vec![0_u8; 3 << 20];
    let head = format!(
        "POST {INFER} HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 0\r\ncontent-length: {}\r\n\r\n",
        data.len()
    );
    let sending = tokio::spawn(async move {
        let request = [head.as_bytes(), &data].concat();
        while writer.write_all(&request).await.is_ok() {}
    });
    until("it was answered at least once", || account.ledger().ended() > 0).await;
    until("the connection is gone", || connections_open(&server) == 0.0).await;
    patiently(sending).await.expect("no panic");
    drop(reader);
}

// ---- Order ------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_wait_for_answers_are_answered_in_order() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("slow", &slow_doubler(20_000))]).await;
    let requests: String = (0..12)
        .map(|index| {
            let model = if index % 3 == 0 { "slow" } else { "m" };
            let body = infer_json(&[4], &[index as f32; 4]);
            let last = if index == 11 { "connection: close\r\n" } else { "" };
            let length = body.len();
            format!("POST /v2/models/{model}/infer HTTP/1.1\r\nhost: localhost\r\n{last}content-length: {length}\r\n\r\n{body}")
        })
        .collect();
    let heard = exchange(&server, &requests).await;
    let firsts: Vec<f32> = heard
        .split("\"data\":[")
        .skip(1)
        .map(|rest| rest.split(',').next().and_then(|number| number.parse().ok()).expect("a number"))
        .collect();
    assert_eq!(firsts, (0..12).map(|index| index as f32 * 2.0).collect::<Vec<_>>(), "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_come_in_chunks_of_any_size() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let body = infer_json(&[4], &[1.0, 2.0, 3.0, 4.0]);
    for size in [1, 7, 1_000] {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        let head = format!("POST {INFER} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        for chunk in body.as_bytes().chunks(size) {
            let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
            stream.write_all(&framed).await.expect("sent");
            stream.flush().await.expect("sent");
        }
        stream.write_all(b"0\r\n\r\n").await.expect("sent");
        let heard = read_to_end(&mut stream).await;
        assert!(heard.starts_with("HTTP/1.1 200 ") && heard.contains("\"data\":[2.0,4.0,6.0,8.0]"), "{heard}");
    }
}

// ---- Shutting down ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_answers_what_has_begun_closes_idle_connections_and_refuses_new_requests() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(100_000))]).await;
    let (address, account) = (server.http_addr(), Account::of(&server, "slow"));
    let mut idle = TcpStream::connect(address).await.expect("the HTTP port accepts");
    idle.write_all(LIVE.as_bytes()).await.expect("sent");
    let mut begun = [0; 12];
    idle.read_exact(&mut begun).await.expect("an answer");
    let mut busy = Http::connect(&server).await;
    let asking = tokio::spawn(async move {
        let reply = busy.post("/v2/models/slow/infer", infer_json(&[10, 4], &[1.0; 40])).await;
        (reply, busy)
    });
    until("all items are in", || account.ledger().received() == 10).await;
    let draining = tokio::spawn(server.drain());
    let heard = read_to_end(&mut idle).await;
    assert!(heard.ends_with(r#"{"live":true}"#), "a connection without a request is closed: {heard}");
    let request = infer_json(&[4], &[1.0; 4]);
    let refused = patiently(async {
        loop {
            let mut stream = TcpStream::connect(address).await.expect("the port is open while a request runs");
            let head =
                format!("POST /v2/models/slow/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", request.len());
            stream.write_all(format!("{head}{request}").as_bytes()).await.expect("sent");
            let heard = read_to_end(&mut stream).await;
            // A request that comes before the drain is served, or closed by it.
            if heard.starts_with("HTTP/1.1 503 ") {
                break heard;
            }
        }
    })
    .await;
    assert!(refused.contains("the server is draining"), "{refused}");
    assert!(refused.contains("connection: close\r\n"), "{refused}");
    let (reply, _busy) = patiently(asking).await.expect("no panic");
    assert_eq!(
        (reply.status.as_u16(), reply.headers.get(header::CONNECTION).map(HeaderValue::as_bytes)),
        (200, Some(&b"close"[..]))
    );
    patiently(draining).await.expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "{address} still listens");
    assert!(account.settled().await.outcome(Outcome::Ok) >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hard_deadline_cuts_off_requests_that_still_run() {
    let mut config = bare_config();
    config.drain.deadline_s = 0;
    config.scheduler.lanes = 1;
    let server = serve(config, &[("slow", &slow_doubler(50_000))]).await;
    let account = Account::of(&server, "slow");
    let mut asking = Vec::new();
    for _ in 0..4 {
        let mut http = Http::connect(&server).await;
        asking.push(tokio::spawn(async move {
            http.begin("POST", "/v2/models/slow/infer", &[], infer_json(&[100, 4], &[1.0; 400])).await.is_err()
        }));
    }
    until("seconds of work are queued", || account.ledger().received() == 400).await;
    patiently(server.drain()).await;
    for asking in asking {
        assert!(patiently(asking).await.expect("no panic"), "the connection breaks off");
    }
    assert!(account.settled().await.outcome(Outcome::Cancelled) > 300);
}

#[tokio::test]
async fn the_grpc_port_speaks_http1_too() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut stream = TcpStream::connect(server.grpc_addr()).await.expect("the gRPC port accepts");
    let request = "GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    patiently(stream.write_all(request.as_bytes())).await.expect("it fits");
    let heard = read_to_end(&mut stream).await;
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with(r#"{"ready":true}"#), "{heard}");
}

// ---- Garbage ----------------------------------------------------------------------------------------------------------------

/// The documented statuses, and what hyper itself answers to malformed heads.
const DOCUMENTED: [u16; 17] = [200, 400, 404, 405, 406, 408, 409, 413, 414, 415, 429, 431, 500, 501, 503, 504, 505];

/// The status codes of the responses in what was heard; every response that began must be whole.
fn statuses(heard: &str) -> Vec<u16> {
    let heads = heard.match_indices("HTTP/1.1 ").map(|(at, _)| &heard[at..]);
    heads.filter_map(|head| head.get(9..12)?.parse().ok()).collect()
}

fn path() -> impl Strategy<Value = String> {
    let known = select(vec![
        "/v2",
        "/v2/health/ready",
        "/v2/models/m",
        "/v2/models/m/infer",
        "/v2/models/m/versions/1/infer",
        "/v2/models/m/generate",
        "/v2/models/m/generate_stream",
        "/v2/models/m/stats",
        "/v2/repository/index",
        "/v2/systemsharedmemory/region/r/register",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "/[v2/%a-f0-9.]{0,20}"]
}

fn headers() -> impl Strategy<Value = String> {
    let known = select(vec![
        "inference-header-content-length: 5\r\n",
        "inference-header-content-length: 0\r\n",
        "content-encoding: gzip\r\n",
        "content-encoding: deflate\r\n",
        "accept-encoding: gzip\r\n",
        "accept-encoding: identity;q=0\r\n",
        "content-type: application/octet-stream\r\n",
        "expect: 100-continue\r\n",
        "connection: upgrade\r\n",
        "x: \u{e9}\r\n",
    ]);
    vec(known, 0..4).prop_map(|headers| headers.concat())
}

#[test]
fn random_bytes_are_answered_and_the_server_goes_on_serving() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let server = runtime.block_on(serve(bare_config(), &[("m", DOUBLER)]));
    proptest!(ProptestConfig::with_cases(64), |(bytes in vec(any::<u8>(), 0..200))| {
        let heard = runtime.block_on(exchange(&server, [&bytes[..], b"\r\n\r\n\r\n\r\n"].concat()));
        prop_assert!(statuses(&heard).iter().all(|status| DOCUMENTED.contains(status)), "{heard}");
    });
    let verbs = select(vec!["GET", "POST", "HEAD", "OPTIONS", "BREW"]);
    let bodies = prop_oneof![vec(any::<u8>(), 0..100), "[\\[\\]{}\":a-z0-9,x]{0,60}".prop_map(String::into_bytes)];
    proptest!(ProptestConfig::with_cases(256), |(verb in verbs, path in path(), headers in headers(), body in bodies)| {
        let length = body.len();
        let head = format!("{verb} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
        let heard = runtime.block_on(exchange(&server, [head.as_bytes(), &body].concat()));
        let found: Vec<u16> = statuses(&heard).into_iter().filter(|status| *status != 100).collect();
        prop_assert!(found.len() == 1 && DOCUMENTED.contains(&found[0]), "{head:?}: {heard}");
        let has_error = heard.contains("\r\n\r\n{\"error\":\"") || verb == "HEAD" || headers.contains("accept-encoding: gzip");
        prop_assert!(found[0] == 200 || has_error, "{head:?}: {heard}");
    });
    runtime.block_on(async {
        let ledger = Account::of(&server, "m").settled().await;
        assert_eq!(ledger.received(), ledger.ended());
        let reply = Http::connect(&server).await.post(INFER, infer_json(&[4], &[1.0; 4])).await;
        assert_eq!(reply.json().1["outputs"][0]["data"], serde_json::json!([2.0, 2.0, 2.0, 2.0]));
        until("no other connection is open", || connections_open(&server) <= 1.0).await;
        patiently(server.drain()).await;
    });
}
