//! Realtime sessions against a whole server: what the model hears, how sessions end, and who may open one.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::SinkExt as _;
use serde_json::{Value, json};
use tidemill::app::Server;
use tokio_tungstenite::tungstenite::{Message, http};

use crate::{
    http_client::Http,
    keys::{key, known},
    serving::{DOUBLER, bare_config, metric, patiently, serve, speech_config, until},
    sockets::{Socket, hear, say, try_open},
};

/// A model that takes the loudness of single samples for probabilities, 8,000 times a second.
const LOUDNESS: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', 1]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', 1]
[framing]
kind = 'pcm_s16le'
sample_rate_hz = 8000
window_samples = 1
[segments]
[synthetic]
";

async fn open(server: &Server, path: &str) -> Socket {
    let mut socket = try_open(server, path, &[]).await.unwrap_or_else(|refused| panic!("{refused:?}")).0;
    let created = hear(&mut socket).await.expect("an event");
    assert_eq!(created["type"], "session.created", "{created}");
    socket
}

const SCORE: &str = ".###....";

/// Tenths of a second: `#` is loud, anything else is quiet.
fn sound(rate_hz: usize, score: &str) -> Vec<u8> {
    let samples = score.chars().flat_map(|mark| std::iter::repeat_n(if mark == '#' { 15_000_i16 } else { 0 }, rate_hz / 10));
    samples.flat_map(i16::to_le_bytes).collect()
}

async fn append(socket: &mut Socket, audio: &[u8]) {
    say(socket, json!({ "type": "input_audio_buffer.append", "audio": STANDARD.encode(audio) })).await;
}

/// Whether two places in the audio are the same, but for what a filter spreads.
fn is_near(ms: &Value, wanted: u64) -> bool {
    ms.as_u64().is_some_and(|ms| ms.abs_diff(wanted) <= 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_are_found_in_every_format() {
    let server = serve(bare_config(), &[("m", LOUDNESS)]).await;
    let pcm = |rate_hz: usize| (json!({ "type": "audio/pcm", "rate": rate_hz }), sound(rate_hz, SCORE));
    // G.711: the loudest sample and the quietest.
    let g711 = |kind: &str, loud: u8, quiet: u8| {
        let samples = SCORE.chars().flat_map(|mark| std::iter::repeat_n(if mark == '#' { loud } else { quiet }, 800));
        (json!({ "type": kind }), samples.collect())
    };
    let formats = [pcm(16_000), pcm(24_000), pcm(48_000), g711("audio/pcmu", 0x80, 0xff), g711("audio/pcma", 0xaa, 0xd5)];
    for (format, audio) in formats {
        let mut socket = open(&server, "/v1/realtime?intent=transcription").await;
        let input = json!({ "format": format, "turn_detection": { "type": "server_vad", "prefix_padding_ms": 0, "silence_duration_ms": 200 } });
        say(
            &mut socket,
            json!({ "type": "session.update", "session": { "type": "transcription", "audio": { "input": input } } }),
        )
        .await;
        let updated = hear(&mut socket).await.expect("an event");
        assert_eq!(updated["session"]["audio"]["input"]["transcription"]["model"], "m", "the only one: {updated}");
        for piece in audio.chunks(3_300) {
            append(&mut socket, piece).await;
        }
        let mut heard = Vec::new();
        while heard.len() < 5 {
            heard.push(hear(&mut socket).await.expect("an event"));
        }
        let kinds: Vec<_> = heard.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        let expected = [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ];
        assert_eq!(kinds, expected, "{format}");
        assert!(is_near(&heard[0]["audio_start_ms"], 100) && is_near(&heard[1]["audio_end_ms"], 600), "{heard:?}");
        patiently(socket.close(None)).await.expect("it closes");
    }
    until("all have ended", || metric(&server.metrics(), "tidemill_streams_open", "realtime") == 0.0).await;
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_a_commit_is_heard_before_it_is_committed() {
    let server = serve(bare_config(), &[("m", LOUDNESS)]).await;
    let mut socket = open(&server, "/v1/realtime?model=m").await;
    // Far more than the window, in one event, and a commit at once.
    append(&mut socket, &sound(24_000, &".#".repeat(10))).await;
    say(&mut socket, json!({ "type": "input_audio_buffer.commit" })).await;
    say(&mut socket, json!({ "type": "input_audio_buffer.commit" })).await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "error") {
        kinds.push(hear(&mut socket).await.expect("an event")["type"].as_str().expect("a type").to_owned());
    }
    let expected = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "error",
    ];
    assert_eq!(kinds, expected);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_to_another_model() {
    let server = serve(speech_config(), &[("m", LOUDNESS), ("tensors", DOUBLER)]).await;
    let mut socket = open(&server, "/v1/realtime").await;
    append(&mut socket, &sound(24_000, "......")).await;
    let model = |name: &str| {
        json!({ "type": "session.update", "event_id": name,
                "session": { "audio": { "input": { "transcription": { "model": name } } } } })
    };
    say(&mut socket, model("m")).await;
    assert_eq!(hear(&mut socket).await.expect("an event")["session"]["audio"]["input"]["transcription"]["model"], "m");
    append(&mut socket, &sound(24_000, ".###......")).await;
    let started = hear(&mut socket).await.expect("an event");
    assert!(is_near(&started["audio_start_ms"], 700 - 300), "600 ms went to the model of before: {started}");
    say(&mut socket, model("tensors")).await;
    let error = loop {
        let event = hear(&mut socket).await.expect("an event");
        if event["type"] == "error" {
            break event;
        }
    };
    assert_eq!((&error["error"]["event_id"], &error["error"]["type"]), (&json!("tensors"), &json!("invalid_request_error")));
    assert_eq!(hear(&mut socket).await.expect_err("the close").0, 1008);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_the_code_that_fits() {
    let mut config = bare_config();
    config.realtime.max_append_bytes = 100_000;
    let server = serve(config, &[("m", LOUDNESS)]).await;
    // A model that is not there.
    let (mut socket, _) = try_open(&server, "/v1/realtime?model=gpt-4o-transcribe", &[]).await.expect("it opens");
    let heard = [hear(&mut socket).await, hear(&mut socket).await].map(|event| event.expect("an event"));
    assert_eq!((&heard[0]["type"], &heard[1]["error"]["code"]), (&json!("session.created"), &json!("model_not_found")));
    let (code, reason) = hear(&mut socket).await.expect_err("the close");
    assert!(code == 1008 && reason.contains("gpt-4o-transcribe"), "{code}: {reason}");
    // What cannot be read changes nothing.
    let mut socket = open(&server, "/v1/realtime").await;
    patiently(socket.send(Message::text("{"))).await.expect("it is taken");
    assert_eq!(hear(&mut socket).await.expect("an event")["error"]["code"], "invalid_json");
    append(&mut socket, &vec![0; 100_001]).await;
    let error = hear(&mut socket).await.expect("an event");
    assert!(error.to_string().contains("realtime.max_append_bytes"), "{error}");
    patiently(socket.send(Message::binary(vec![1, 2]))).await.expect("it is taken");
    assert_eq!(hear(&mut socket).await.expect("an event")["error"]["param"], "message");
    assert_eq!(hear(&mut socket).await.expect_err("the close").0, 1008);
    let refused = try_open(&server, "/v1/realtime?intent=conversation", &[]).await.expect_err("another kind");
    assert_eq!(refused.0, 400, "{refused:?}");
    // A drain ends both what has begun and what has not.
    let (mut begun, mut idle) = (open(&server, "/v1/realtime").await, open(&server, "/v1/realtime").await);
    append(&mut begun, &sound(24_000, "###")).await;
    assert_eq!(hear(&mut begun).await.expect("an event")["type"], "input_audio_buffer.speech_started");
    let draining = server.drain();
    let ended = async {
        for socket in [&mut begun, &mut idle] {
            let (code, reason) = hear(socket).await.expect_err("the close");
            assert!(code == 1001 && reason.contains("draining"), "{code}: {reason}");
        }
    };
    tokio::join!(draining, ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_its_key_by_a_subprotocol_and_gets_it_from_a_secret() {
    let (mut config, _folder) = known(&[("a", 1, "scopes = ['infer', 'models:write']")]);
    config.security.tokens = true;
    let server = serve(config, &[("m", LOUDNESS)]).await;
    let path = "/v1/realtime?model=m";
    assert_eq!(try_open(&server, path, &[]).await.expect_err("no key").0, 401);
    let two = format!("realtime, openai-insecure-api-key.{}, openai-insecure-api-key.{}", key(1), key(1));
    assert_eq!(try_open(&server, path, &[("sec-websocket-protocol", &two)]).await.expect_err("which one?").0, 401);
    let offered = |key: &str| format!("realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let refused = try_open(&server, path, &[("sec-websocket-protocol", &offered(&key(2)))]).await.expect_err("a wrong key");
    assert!(refused.0 == 401 && !refused.1.contains(&key(2)), "{refused:?}");
    let (mut socket, headers) =
        try_open(&server, path, &[("sec-websocket-protocol", &offered(&key(1)))]).await.expect("it opens");
    assert_eq!(headers["sec-websocket-protocol"], "realtime");
    let created = hear(&mut socket).await.expect("an event");
    assert!(created["session"]["input_audio_format"].is_string(), "it speaks the beta: {created}");

    let ask = async |path: &str, bearer: &str, body: &str| {
        let bearer = format!("Bearer {bearer}");
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        let reply = Http::connect(&server).await.send("POST", path, &headers, body.to_owned()).await;
        (reply.status.as_u16(), serde_json::from_slice::<Value>(&reply.body).expect("JSON"), reply.headers)
    };
    let body = r#"{"expires_after":{"anchor":"created_at","seconds":60},"session":{"type":"transcription"}}"#;
    let (status, lent, headers) = ask("/v1/realtime/client_secrets", &key(1), body).await;
    assert_eq!((status, &headers["cache-control"]), (200, &http::HeaderValue::from_static("no-store")), "{lent}");
    let secret = lent["value"].as_str().expect("a secret");
    assert!(secret.starts_with("ek_") && lent["expires_at"].is_u64() && lent["session"]["type"] == "transcription", "{lent}");
    for _ in 0..2 {
        let (mut socket, headers) =
            try_open(&server, path, &[("sec-websocket-protocol", &format!("realtime, openai-insecure-api-key.{secret}"))])
                .await
                .expect("it opens many");
        assert_eq!(headers["sec-websocket-protocol"], "realtime");
        assert_eq!(hear(&mut socket).await.expect("an event")["session"]["type"], "transcription");
    }
    assert!(try_open(&server, path, &[("authorization", &format!("Bearer {secret}"))]).await.is_ok());
    let (status, refused, _) = ask("/v1/realtime/client_secrets", secret, body).await;
    assert_eq!(status, 403, "no secret for a secret: {refused}");
    let (status, beta, _) = ask("/v1/realtime/transcription_sessions", &key(1), "{}").await;
    assert!(status == 200 && beta["client_secret"]["value"].as_str().is_some_and(|value| value.starts_with("ek_")), "{beta}");
    let (status, wrong, _) = ask("/v1/realtime/client_secrets", &key(1), r#"{"expires_after":{"seconds":1}}"#).await;
    assert_eq!(status, 400, "{wrong}");
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_no_callers_lends_secrets_that_nobody_looks_at() {
    let server = serve(bare_config(), &[("m", LOUDNESS)]).await;
    let reply = Http::connect(&server).await.send("POST", "/v1/realtime/client_secrets", &[], String::new()).await;
    let lent: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let secret = lent["value"].as_str().expect("a secret");
    let offered = format!("realtime, openai-insecure-api-key.{secret}");
    let (_, headers) = try_open(&server, "/v1/realtime", &[("sec-websocket-protocol", &offered)]).await.expect("it opens");
    assert_eq!(headers["sec-websocket-protocol"], "realtime");
    let reply = Http::connect(&server)
        .await
        .send("POST", "/v1/realtime/client_secrets", &[("content-type", "text/plain")], "{}".to_owned())
        .await;
    assert_eq!(reply.status.as_u16(), 415, "any page could send that");
    server.drain().await;
}
