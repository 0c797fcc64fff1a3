//! Feeds over WebSocket against a whole server: what they say, compared with gRPC, and how they end.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::join_all};
use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use tidemill::{
    app::Server,
    domain::Outcome,
    proto::v1::{FeedResponse, Finish, StreamConfig, UnreadPolicy, feed_request::Message as Request, feed_response::Event},
};

use crate::{
    keys::{ALL, key, known, listed, replace},
    serving::{
        Account, DOUBLER, Feed, bare_config, connect, first_values, item, message, metric, patiently, pcm_of, serve,
        slow_doubler, speech_config, tensors_of, until,
    },
    sockets::{Socket, hear, say, try_open},
};

async fn open(server: &Server, path: &str) -> Socket {
    try_open(server, path, &[]).await.unwrap_or_else(|refused| panic!("{refused:?}")).0
}

/// All messages until the close, and its code.
async fn rest(socket: &mut Socket) -> (Vec<Value>, u16) {
    let mut heard = Vec::new();
    loop {
        match hear(socket).await {
            Ok(message) => heard.push(message),
            Err((code, _)) => return (heard, code),
        }
    }
}

fn item_json(id: &str, values: &[f32]) -> Value {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    json!({ "item": { "id": id, "inputs": [{ "data": STANDARD.encode(data) }] } })
}

/// The first number of the first output of a result.
fn first_value(result: &Value) -> f32 {
    let data = result["result"]["outputs"]["tensors"][0]["data"].as_str().unwrap_or_else(|| panic!("no output: {result}"));
    f32::from_le_bytes(STANDARD.decode(data).expect("base64")[..4].try_into().expect("four bytes"))
}

/// A noise that is the same everywhere.
fn samples(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let sample = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) as i16 / 4).to_le_bytes()
    };
    (0..count).flat_map(sample).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_in_json_opens_answers_flushes_and_ends() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut socket = open(&server, "/tidemill/v1/feed").await;
    say(&mut socket, json!({ "open": { "model": "m", "payload": "PAYLOAD_KIND_TENSORS", "window_items": "7" } })).await;
    let opened = hear(&mut socket).await.expect("it opens");
    assert_eq!((&opened["opened"]["model"], &opened["opened"]["limits"]["windowItems"]), (&json!("m"), &json!(7)), "{opened}");
    for (id, value) in [("a", 1.0), ("b", 3.0)] {
        say(&mut socket, item_json(id, &[value; 4])).await;
        let result = hear(&mut socket).await.expect("a result");
        assert_eq!(
            (first_value(&result), &result["result"]["id"], &result["result"]["last"]),
            (value * 2.0, &json!(id), &json!(true))
        );
    }
    say(&mut socket, json!({ "keepalive": {} })).await;
    say(&mut socket, json!({ "flush": { "id": "now" } })).await;
    assert_eq!(hear(&mut socket).await, Ok(json!({ "flushed": { "id": "now", "items": "2" } })));
    say(&mut socket, json!({ "finish": {} })).await;
    let completed = hear(&mut socket).await.expect("a summary");
    assert_eq!((&completed["completed"]["items"], &completed["completed"]["ok"]), (&json!("2"), &json!("2")), "{completed}");
    assert_eq!(hear(&mut socket).await, Err((1000, String::new())));
    until("it counts as finished", || {
        metric(&server.metrics(), "tidemill_streams_ended_total", "ws_feed\",reason=\"finished") == 1.0
    })
    .await;
    until("the socket is gone", || metric(&server.metrics(), "tidemill_websockets_open", "") == 0.0).await;
    server.drain().await;
}

/// The probabilities and segments of this audio over gRPC.
async fn over_grpc(server: &Server, audio: &[u8]) -> Vec<Event> {
    let mut client = connect(server).await;
    let messages = audio.chunks(1_000).map(|chunk| Request::Chunk(Bytes::copy_from_slice(chunk))).collect();
    let said = Feed::run(&mut client, pcm_of("silero-vad"), messages).await;
    assert!(said.error.is_none(), "{:?}", said.error);
    said.results.into_iter().map(Event::Result).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_audio_gives_the_same_results_in_every_form() {
    let server = serve(speech_config(), &[]).await;
    let audio = samples(16_000);
    let expected: Vec<f32> = {
        let results = over_grpc(&server, &audio).await.into_iter().map(|event| match event {
            Event::Result(result) => result,
            other => panic!("not a result: {other:?}"),
        });
        first_values(&results.collect::<Vec<_>>())
    };
    assert_eq!(expected.len(), 32);

    // Chunks in binary frames, on a feed that its query has opened; and in base64, on one that a message opens.
    for in_binary in [true, false] {
        let query = if in_binary { "?payload=PAYLOAD_KIND_PCM_S16LE&sample_rate_hz=16000" } else { "" };
        let mut socket = open(&server, &format!("/tidemill/v1/models/silero-vad/feed{query}")).await;
        if !in_binary {
            say(&mut socket, json!({ "open": { "payload": "PAYLOAD_KIND_PCM_S16LE" } })).await;
        }
        for chunk in audio.chunks(1_000) {
            let frame = if in_binary {
                Message::binary(chunk.to_vec())
            } else {
                Message::text(json!({ "chunk": STANDARD.encode(chunk) }).to_string())
            };
            patiently(socket.send(frame)).await.expect("it is taken");
        }
        say(&mut socket, json!({ "finish": {} })).await;
        let (heard, code) = rest(&mut socket).await;
        assert_eq!((code, heard[0]["opened"]["framing"]["windowSamples"].as_u64()), (1000, Some(512)), "{:?}", heard[0]);
        let found: Vec<f32> = heard.iter().filter(|message| message["result"].is_object()).map(first_value).collect();
        assert_eq!(found, expected);
        let last = heard.last().expect("some");
        assert_eq!(last["completed"]["samples"], json!("16000"), "{last}");
    }

    let (mut socket, head) =
        try_open(&server, "/tidemill/v1/feed", &[("sec-websocket-protocol", "other, tidemill.v1.proto, tidemill.v1.json")])
            .await
            .expect("it opens");
    assert_eq!(head["sec-websocket-protocol"], "tidemill.v1.proto");
    let requests = [Request::Open(pcm_of("silero-vad"))]
        .into_iter()
        .chain(audio.chunks(1_000).map(|chunk| Request::Chunk(Bytes::copy_from_slice(chunk))))
        .chain([Request::Finish(Finish {})]);
    for request in requests {
        patiently(socket.send(Message::binary(message(request).encode_to_vec()))).await.expect("it is taken");
    }
    let mut results = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = patiently(socket.next()).await {
        if let Some(Event::Result(result)) = FeedResponse::decode(bytes).expect("sound").event {
            results.push(result);
        }
    }
    assert_eq!(first_values(&results), expected);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finish_ends_a_feed_over_grpc_too() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Request::Item(item("a", &[1.0; 4]))).await;
    feed.send(Request::Finish(Finish {})).await;
    let said = feed.rest().await;
    assert_eq!((first_values(&said.results), said.completed.map(|summary| summary.ok)), (vec![2.0], Some(1)));
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_ordinary_answers_before_the_upgrade_and_a_last_message_after_it() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    for (path, status, says) in [
        ("/tidemill/v1/models/none/feed", 404, "none"),
        ("/tidemill/v1/models/m/versions/9/feed", 404, "9"),
        ("/tidemill/v1/models/m/feed?colour=red", 400, "colour"),
        ("/tidemill/v1/feed?payload=PAYLOAD_KIND_TENSORS", 400, "open"),
    ] {
        let (found, body) = try_open(&server, path, &[]).await.expect_err("refused");
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.starts_with("{\"error\":") && body.contains(says), "{path}: {body}");
    }
    let mut http = crate::http_client::Http::connect(&server).await;
    let reply = http.get("/tidemill/v1/feed").await;
    assert_eq!((reply.status.as_u16(), &reply.headers["upgrade"]), (426, &"websocket".parse().expect("a value")));
    assert_eq!(http.get("/v2/health/live").await.status.as_u16(), 200, "the connection goes on");

    for (said, code, status, field) in [
        (json!({ "keepalive": {} }), 1008, 3, "open"),
        (json!({ "open": { "model": "none" } }), 1008, 5, ""),
        (json!({ "open": { "model": "m", "payload": "PAYLOAD_KIND_PCM_S16LE" } }), 1008, 3, "payload"),
        (json!({ "opne": {} }), 1008, 3, "message"),
    ] {
        let mut socket = open(&server, "/tidemill/v1/feed").await;
        say(&mut socket, said.clone()).await;
        let (heard, found) = rest(&mut socket).await;
        let error = &heard.last().expect("a message")["error"];
        assert_eq!((found, error["code"].as_i64(), heard.len()), (code, Some(status), 1), "{said}: {heard:?}");
        assert!(field.is_empty() || error.to_string().contains(&format!("\"field\":\"{field}\"")), "{said}: {error}");
    }
    let (mut socket, _) =
        try_open(&server, "/tidemill/v1/feed", &[("sec-websocket-protocol", "tidemill.v1.proto")]).await.expect("it opens");
    patiently(socket.send(Message::binary(message(Request::Open(tensors_of("none"))).encode_to_vec())))
        .await
        .expect("it is taken");
    let (code, reason) = hear(&mut socket).await.expect_err("a close");
    assert_eq!(code, 1008);
    assert!(reason.starts_with("NOT_FOUND: "), "{reason}");
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_fails_is_answered_and_the_feed_goes_on() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut socket = open(&server, "/tidemill/v1/models/m/feed?payload=PAYLOAD_KIND_TENSORS").await;
    say(&mut socket, item_json("bad", &[-1.0; 4])).await;
    say(&mut socket, item_json("good", &[1.0; 4])).await;
    assert!(hear(&mut socket).await.expect("it opens")["opened"].is_object());
    let bad = hear(&mut socket).await.expect("a result");
    assert_eq!(
        (&bad["result"]["error"]["code"], &bad["result"]["error"]["details"][0]["reason"]),
        (&json!(13), &json!("FAILED")),
        "{bad}"
    );
    assert_eq!(first_value(&hear(&mut socket).await.expect("a result")), 2.0);
    say(&mut socket, json!({ "open": { "model": "m" } })).await;
    let (heard, code) = rest(&mut socket).await;
    assert_eq!((heard.len(), code), (1, 1008), "a second opening ends it: {heard:?}");
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_is_in_flight_and_closes_as_going_away() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(20_000))]).await;
    let account = Account::of(&server, "slow");
    let mut socket = open(&server, "/tidemill/v1/models/slow/feed?payload=PAYLOAD_KIND_TENSORS").await;
    // One that has said nothing yet.
    let mut silent = open(&server, "/tidemill/v1/feed").await;
    for _ in 0..10 {
        say(&mut socket, item_json("", &[1.0; 4])).await;
    }
    until("all are taken in", || account.ledger().received() == 10).await;
    let draining = tokio::spawn(server.drain());
    let (heard, code) = rest(&mut socket).await;
    assert_eq!((heard.iter().filter(|message| message["result"].is_object()).count(), code), (10, 1001), "{heard:?}");
    assert_eq!(heard.last().expect("some")["error"]["code"], json!(14), "{heard:?}");
    let (heard, code) = rest(&mut silent).await;
    assert_eq!((heard.len(), code), (1, 1001), "{heard:?}");
    patiently(draining).await.expect("no panic");
    assert_eq!(account.settled().await.outcome(Outcome::Ok), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_asked_for_at_the_handshake_and_ends_an_open_socket_when_it_is_revoked() {
    let (config, folder) = known(&[("a", 1, ALL), ("b", 2, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let path = "/tidemill/v1/models/m/feed?payload=PAYLOAD_KIND_TENSORS";
    let bearer = |byte| format!("Bearer {}", key(byte));
    for headers in [&[][..], &[("authorization", bearer(3).as_str())]] {
        assert_eq!(try_open(&server, path, headers).await.expect_err("refused").0, 401);
    }
    let (mut gone, _) = try_open(&server, path, &[("authorization", &bearer(1))]).await.expect("it opens");
    let (mut kept, _) = try_open(&server, path, &[("authorization", &bearer(2))]).await.expect("it opens");
    for socket in [&mut gone, &mut kept] {
        say(socket, item_json("", &[1.0; 4])).await;
        assert!(hear(socket).await.expect("it opens")["opened"].is_object());
        assert_eq!(first_value(&hear(socket).await.expect("a result")), 2.0);
    }
    replace(&folder, &listed(&[("b", 2, ALL)]));
    let (code, reason) = hear(&mut gone).await.expect_err("a close");
    assert_eq!(code, 1008);
    assert!(reason.starts_with("UNAUTHENTICATED: ") && reason.contains("'a'"), "{reason}");
    say(&mut kept, item_json("", &[2.0; 4])).await;
    assert_eq!(first_value(&hear(&mut kept).await.expect("a result")), 4.0);
    drop((gone, kept));
    account.settled().await;
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_sites_open_no_socket() {
    let mut config = bare_config();
    config.server.allowed_origins = vec!["https://app.example".parse().expect("a pattern")];
    let server = serve(config, &[("m", DOUBLER)]).await;
    for (origin, is_served) in
        [("https://app.example", true), ("http://localhost", true), ("https://evil.example", false), ("null", false)]
    {
        let opened = try_open(&server, "/tidemill/v1/models/m/feed", &[("origin", origin)]).await;
        assert_eq!(opened.map_err(|(status, _)| status).map(drop), if is_served { Ok(()) } else { Err(403) }, "{origin}");
    }
    let fetched = try_open(&server, "/tidemill/v1/models/m/feed", &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(fetched.expect_err("refused").0, 403);
    server.drain().await;
}

/// A row so long that a few results fill all buffers between server and client.
const LONG_ROW: usize = 256 * 1024;

fn long_rows() -> String {
    DOUBLER.replace("'batch', 4", &format!("'batch', {LONG_ROW}"))
}

fn long_item() -> Message {
    Message::binary(message(Request::Item(item("", &vec![1.0; LONG_ROW]))).encode_to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_more_than_its_window() {
    const WINDOW: u32 = 4;
    const ITEMS: u64 = 60;
    /// Results that the kernel's buffers and the socket hold: a few MiB of them.
    const ON_THE_WAY: u64 = 16;
    let server = serve(bare_config(), &[("m", &long_rows()), ("other", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let (socket, _) =
        try_open(&server, "/tidemill/v1/feed", &[("sec-websocket-protocol", "tidemill.v1.proto")]).await.expect("it opens");
    let (mut sink, mut stream) = socket.split();
    let sending = tokio::spawn(async move {
        let config = StreamConfig { window_items: WINDOW, ..tensors_of("m") };
        sink.send(Message::binary(message(Request::Open(config)).encode_to_vec())).await.expect("it is taken");
        for _ in 0..ITEMS {
            sink.send(long_item()).await.expect("it is taken");
        }
        sink.send(Message::binary(message(Request::Finish(Finish {})).encode_to_vec())).await.expect("it is taken");
        sink
    });
    until("the first items are taken in", || account.ledger().received() > 0).await;
    // Others are served all the while, so only the window holds this client back.
    let mut other = connect(&server).await;
    for _ in 0..5 {
        let messages = (0..200).map(|_| Request::Item(item("", &[1.0; 4]))).collect();
        assert_eq!(Feed::run(&mut other, tensors_of("other"), messages).await.results.len(), 200);
        let received = account.ledger().received();
        assert!(received <= u64::from(WINDOW) + ON_THE_WAY, "{received} items were taken in from a client that reads nothing");
    }
    let mut seqs = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = patiently(stream.next()).await {
        if let Some(Event::Result(result)) = FeedResponse::decode(bytes).expect("sound").event {
            seqs.push(result.seq);
        }
    }
    assert_eq!(seqs, (0..ITEMS).collect::<Vec<_>>());
    drop(patiently(sending).await.expect("no panic"));
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_result_alone_waits_for_a_client_that_asks_for_that() {
    const ITEMS: u64 = 60;
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let account = Account::of(&server, "m");
    let (mut socket, _) =
        try_open(&server, "/tidemill/v1/feed", &[("sec-websocket-protocol", "tidemill.v1.proto")]).await.expect("it opens");
    let config = StreamConfig { unread: UnreadPolicy::Latest.into(), ..tensors_of("m") };
    patiently(socket.send(Message::binary(message(Request::Open(config)).encode_to_vec()))).await.expect("it is taken");
    for _ in 0..ITEMS {
        patiently(socket.send(long_item())).await.expect("it is taken though nothing is read");
    }
    until("all have run", || account.ledger().ended() == ITEMS).await;
    patiently(socket.send(Message::binary(message(Request::Finish(Finish {})).encode_to_vec()))).await.expect("it is taken");
    let (mut results, mut skipped) = (0, 0);
    while let Some(Ok(Message::Binary(bytes))) = patiently(socket.next()).await {
        match FeedResponse::decode(bytes).expect("sound").event {
            Some(Event::Result(result)) => {
                assert_eq!(result.seq, results + skipped, "nothing is missing without a word");
                results += 1;
            }
            Some(Event::Skipped(gap)) => skipped += gap.results,
            _ => {}
        }
    }
    assert_eq!(results + skipped, ITEMS);
    assert!(skipped > 0);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_warned_before_its_old_connection_is_closed() {
    let mut config = bare_config();
    (config.server.connection_max_age_s, config.server.connection_grace_s) = (1, 2);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut socket = open(&server, "/tidemill/v1/models/m/feed?payload=PAYLOAD_KIND_TENSORS").await;
    assert!(hear(&mut socket).await.expect("it opens")["opened"].is_object());
    let advised = hear(&mut socket).await.expect("a warning");
    assert!(advised["reconnectAdvised"]["remaining"].is_string(), "{advised}");
    say(&mut socket, item_json("", &[4.0; 4])).await;
    assert_eq!(first_value(&hear(&mut socket).await.expect("a result")), 8.0);
    let (heard, code) = rest(&mut socket).await;
    assert_eq!((heard.len(), code), (1, 1001), "{heard:?}");
    assert!(heard[0]["error"]["message"].as_str().is_some_and(|text| text.contains("server.connection_max_age_s")), "{heard:?}");
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_cancels_what_it_has_in_flight() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(50_000))]).await;
    let account = Account::of(&server, "slow");
    for says_so in [true, false] {
        let mut socket = open(&server, "/tidemill/v1/models/slow/feed?payload=PAYLOAD_KIND_TENSORS").await;
        for _ in 0..20 {
            say(&mut socket, item_json("", &[1.0; 4])).await;
        }
        // Nothing more is read after this, and the client does not wait for its answers.
        say(&mut socket, json!({ "finish": {} })).await;
        assert!(hear(&mut socket).await.expect("it opens")["opened"].is_object());
        if says_so {
            patiently(socket.close(None)).await.expect("it is taken");
        }
        drop(socket);
        let ledger = account.settled().await;
        assert!(ledger.outcome(Outcome::Cancelled) > 0, "{ledger:?}");
    }
    assert_eq!(metric(&server.metrics(), "tidemill_streams_ended_total", "ws_feed\",reason=\"cancelled"), 2.0);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sockets_are_open_at_once_and_each_is_served() {
    const SOCKETS: usize = 200;
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let path = "/tidemill/v1/models/m/feed?payload=PAYLOAD_KIND_TENSORS";
    let mut sockets = join_all((0..SOCKETS).map(|_| open(&server, path))).await;
    until("all are open", || metric(&server.metrics(), "tidemill_websockets_open", "") == SOCKETS as f64).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for (index, socket) in sockets.iter_mut().enumerate() {
        say(socket, item_json("", &[index as f32; 4])).await;
        assert!(hear(socket).await.expect("it opens")["opened"].is_object());
        assert_eq!(first_value(&hear(socket).await.expect("a result")), index as f32 * 2.0);
    }
    drop(sockets);
    until("all are gone", || metric(&server.metrics(), "tidemill_websockets_open", "") == 0.0).await;
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_closes_its_socket_alone() {
    let mut config = bare_config();
    (config.websocket.max_message_bytes, config.websocket.max_frame_bytes) = (100_000, 100_000);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let path = "/tidemill/v1/models/m/feed?payload=PAYLOAD_KIND_TENSORS";
    let (mut large, mut other) = (open(&server, path).await, open(&server, path).await);
    let opened = hear(&mut large).await.expect("it opens");
    assert_eq!(opened["opened"]["limits"]["maxMessageBytes"], json!("100000"), "{opened}");
    // The server may close while this is still on its way.
    let _ = patiently(large.send(Message::binary(vec![0; 100_001]))).await;
    let (heard, code) = rest(&mut large).await;
    assert_eq!((heard[0]["error"]["code"].as_i64(), code), (Some(8), 1009), "{heard:?}");
    assert!(heard[0].to_string().contains("websocket.max_frame_bytes"), "{heard:?}");
    say(&mut other, item_json("", &[1.0; 4])).await;
    assert!(hear(&mut other).await.expect("it opens")["opened"].is_object());
    assert_eq!(first_value(&hear(&mut other).await.expect("a result")), 2.0);
    server.drain().await;
}
