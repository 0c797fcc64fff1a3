//! Callers that are known by tokens: an issuer's, whose keys change, and those that the server lends.

use std::fs;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill::{
    app::{Server, StartError},
    auth::Key,
    clock,
    config::Config,
    proto::v1::{FeedRequest, FeedResponse, feed_request::Message, feed_response::Event},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, metadata::AsciiMetadataValue};

use crate::{
    http_client::{Http, infer_json},
    serving::{DOUBLER, bare_config, connect, message, patiently, serve, tensors_of, write},
};

const INFER: &str = "/v2/models/m/infer";
const ISSUER: &str = "https://issuer.example";

/// A key of an issuer.
struct Signer {
    id: &'static str,
    key: EncodingKey,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { id, key: EncodingKey::from_ec_der(&KeyPair::generate().expect("a key").serialize_der()) }
    }

    /// Its public half.
    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("it has a public half");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.key).expect("it signs")
    }

    /// A token that is good.
    fn good(&self) -> String {
        self.sign(&claims("aud", json!("tidemill")))
    }
}

fn now_s() -> u64 {
    clock::since_epoch(clock::now()).as_secs()
}

/// Good claims, but for one.
fn claims(name: &str, value: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": "tidemill", "sub": "ann", "exp": now_s() + 600, "tenant": "acme", "scope": "openid infer"});
    claims[name] = value;
    claims
}

fn set_of(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// A configuration that takes tokens by the keys at this place.
fn trusting(jwks: String) -> Config {
    let mut config = bare_config();
    config.security.jwks = jwks;
    config.security.jwt_issuer = ISSUER.to_owned();
    config.security.jwt_audience = "tidemill".to_owned();
    config
}

/// The same with a file of these keys.
fn trusting_file(signers: &[&Signer]) -> (Config, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "jwks.json", set_of(signers).as_bytes());
    (trusting(folder.path().join("jwks.json").display().to_string()), folder)
}

fn replace(folder: &TempDir, name: &str, text: &str) {
    write(folder.path(), "next", text.as_bytes());
    fs::rename(folder.path().join("next"), folder.path().join(name)).expect("replaced");
}

async fn post(server: &Server, path: &str, credential: &str, body: &str) -> (u16, String) {
    let headers = [("authorization", credential)];
    let reply = Http::connect(server).await.send("POST", path, &headers, body.to_owned()).await;
    (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
}

async fn infer(server: &Server, token: &str) -> (u16, String) {
    post(server, INFER, &format!("Bearer {token}"), &infer_json(&[4], &[1.0; 4])).await
}

/// Waits until a request with this token is answered with this status.
async fn until_inferred(server: &Server, token: &str, status: u16) {
    let inferred = async {
        while infer(server, token).await.0 != status {
            tokio::task::yield_now().await;
        }
    };
    patiently(inferred).await;
}

/// A feed of a token's caller, which is open.
async fn feed(server: &Server, token: &str) -> (mpsc::Sender<FeedRequest>, Streaming<FeedResponse>) {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(message(Message::Open(tensors_of("m")))).await.expect("room");
    let mut request = Request::new(ReceiverStream::new(receiver));
    let value: AsciiMetadataValue = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    let mut responses = connect(server).await.feed(request).await.expect("headers").into_inner();
    let opened = patiently(responses.message()).await.expect("it opens").expect("an event");
    assert!(matches!(opened.event, Some(Event::Opened(_))), "{opened:?}");
    (sender, responses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_tokens_of_the_issuer_are_taken_and_others_refused_with_the_reason() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let (config, _folder) = trusting_file(&[&ours]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (status, body) = infer(&server, &ours.good()).await;
    assert_eq!(status, 200, "{body}");
    let cases = [
        (theirs.good(), "signature"),
        (ours.sign(&claims("exp", json!(now_s() - 100))), "expired"),
        (ours.sign(&claims("nbf", json!(now_s() + 100))), "not valid yet"),
        (ours.sign(&claims("aud", json!("other"))), "security.jwt_audience"),
        (ours.sign(&claims("iss", json!("https://other.example"))), "security.jwt_issuer"),
        (Signer { id: "b", key: ours.key.clone() }.good(), "security.jwks"),
        (format!("{}.{}.", "eyJhbGciOiJub25lIn0", "e30"), "JWT"),
        ("a.".repeat(5_000), "neither a key nor a token"),
        (format!("{}.b.c", "a".repeat(9_000)), "8192 bytes"),
    ];
    for (token, reason) in cases {
        let (status, body) = infer(&server, &token).await;
        assert!(status == 401 && body.contains(reason), "{status} {body} lacks {reason}");
    }
    let (status, body) = post(&server, "/v2/repository/index", &format!("Bearer {}", ours.good()), "").await;
    assert!(status == 403 && body.contains("'token:ann'"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tokens_of_a_key_that_is_gone_have_open_ends_and_the_rest_goes_on() {
    let (old, kept, new) = (Signer::new("old"), Signer::new("kept"), Signer::new("new"));
    let (config, folder) = trusting_file(&[&old, &kept]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (_of_old, mut old_responses) = feed(&server, &old.good()).await;
    let (of_kept, mut kept_responses) = feed(&server, &kept.good()).await;
    assert_eq!(infer(&server, &new.good()).await.0, 401);

    // What cannot be used changes nothing.
    replace(&folder, "jwks.json", "{}");
    replace(&folder, "jwks.json", &set_of(&[&kept, &new]));
    let status = patiently(old_responses.message()).await.expect_err("it ends");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    until_inferred(&server, &new.good(), 200).await;
    assert_eq!(infer(&server, &old.good()).await.0, 401);
    of_kept.send(message(Message::Item(crate::serving::item("", &[1.0; 4])))).await.expect("it is open");
    let response = patiently(kept_responses.message()).await.expect("it goes on").expect("an event");
    assert!(matches!(response.event, Some(Event::Result(_))), "{response:?}");
}

/// Answers each connection with this set of keys.
async fn publish(listener: TcpListener, set: String) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        assert!(head.starts_with(b"GET /jwks?of=tidemill HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&head));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len());
        stream.write_all(answer.as_bytes()).await.expect("it reads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuers_keys_may_be_behind_a_url() {
    let signer = Signer::new("a");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("http://{}/jwks?of=tidemill", listener.local_addr().expect("it is bound"));
    let publishing = tokio::spawn(publish(listener, set_of(&[&signer])));
    let server = serve(trusting(url.clone()), &[("m", DOUBLER)]).await;
    assert_eq!(infer(&server, &signer.good()).await.0, 200);
    publishing.abort();
    let _ = publishing.await;
    // The keys stay where they came from; a server that starts without any serves, and takes no tokens.
    assert_eq!(infer(&server, &signer.good()).await.0, 200);
    let without = serve(trusting(url), &[("m", DOUBLER)]).await;
    assert_eq!(infer(&without, &signer.good()).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_keys_that_is_wrong_stops_the_start() {
    let (config, folder) = trusting_file(&[]);
    let error = Server::start(config.clone()).await.err().expect("it must not start");
    assert!(matches!(&error, StartError::Issuer { .. }) && error.to_string().contains("security.jwks"), "{error}");
    fs::remove_file(folder.path().join("jwks.json")).expect("removed");
    assert!(matches!(Server::start(config).await.err(), Some(StartError::Issuer { .. })));
}

// ---- Tokens that are lent ---------------------------------------------------------------------------------------------------

const TOKENS: &str = "/v1/tokens";

fn listed(callers: &[(&str, u8, &str)]) -> String {
    let block = |(name, byte, scopes): &(&str, u8, &str)| {
        format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n{scopes}\n", Key::from_random([*byte; 32]).digest().to_hex())
    };
    callers.iter().map(block).collect()
}

fn lending(callers: &[(&str, u8, &str)]) -> (Config, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "keys.toml", listed(callers).as_bytes());
    let mut config = bare_config();
    config.security.keys = Some(folder.path().join("keys.toml"));
    config.security.tokens = true;
    (config, folder)
}

fn bearer(byte: u8) -> String {
    format!("Bearer {}", Key::from_random([byte; 32]).reveal())
}

async fn lend(server: &Server, credential: &str, asked: &str) -> Value {
    let (status, body) = post(server, TOKENS, credential, asked).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lent_token_does_what_was_asked_for_and_ends_with_its_caller() {
    let all = "scopes = ['infer', 'models:read']\nmodels = ['m']";
    let (config, folder) = lending(&[("alice", 1, all), ("bob", 2, "scopes = ['admin']")]);
    let server = serve(config, &[("m", DOUBLER), ("n", DOUBLER)]).await;
    let lent = lend(&server, &bearer(1), r#"{"scopes": ["infer"], "expires_in_s": 120}"#).await;
    assert_eq!((&lent["token_type"], &lent["expires_in_s"], &lent["scopes"]), (&json!("Bearer"), &json!(120), &json!(["infer"])));
    let token = lent["token"].as_str().expect("text");
    assert_eq!(infer(&server, token).await.0, 200);
    assert_eq!(post(&server, "/v2/repository/index", &format!("Bearer {token}"), "").await.0, 403);
    assert_eq!(post(&server, TOKENS, &format!("Bearer {token}"), "").await.0, 403, "a token buys no other");
    let of_bob = lend(&server, &bearer(2), r#"{"models": ["n"]}"#).await;
    assert_eq!(infer(&server, of_bob["token"].as_str().expect("text")).await.0, 403, "it is for another model");

    let (_sender, mut responses) = feed(&server, token).await;
    replace(&folder, "keys.toml", &listed(&[("bob", 2, "scopes = ['admin']")]));
    let status = patiently(responses.message()).await.expect_err("it ends");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert_eq!(infer(&server, token).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_lent_more_than_they_have_and_strangers_nothing() {
    let (mut config, _folder) = lending(&[("alice", 1, "scopes = ['infer']\nmodels = ['m']")]);
    let server = serve(config.clone(), &[("m", DOUBLER)]).await;
    let cases = [
        (r#"{"scopes": ["admin"]}"#, 403),
        (r#"{"models": ["*"]}"#, 403),
        (r#"{"scopes": ["everything"]}"#, 400),
        (r#"{"expires_in_s": 9}"#, 400),
        (r#"{"expires_in_s": 7201}"#, 400),
        (r#"{"expires": 60}"#, 400),
        ("[]", 400),
        ("{", 400),
    ];
    for (asked, expected) in cases {
        let (status, body) = post(&server, TOKENS, &bearer(1), asked).await;
        assert!(status == expected && body.contains("\"error\""), "{asked}: {status} {body}");
    }
    assert_eq!(post(&server, TOKENS, &bearer(2), "").await.0, 401);
    let reply = Http::connect(&server).await.send("POST", TOKENS, &[("content-type", "text/plain")], "{}".to_owned()).await;
    assert_eq!(reply.status, 401);
    let form = [("authorization", bearer(1)), ("content-type", "text/plain".to_owned())];
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(Http::connect(&server).await.send("POST", TOKENS, &form, "{}".to_owned()).await.status, 415);
    config.security.tokens = false;
    let server = serve(config, &[("m", DOUBLER)]).await;
    assert_eq!(post(&server, TOKENS, &bearer(1), "").await.0, 501);
}
