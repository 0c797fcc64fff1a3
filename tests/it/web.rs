//! Web pages as clients: what a browser on this machine would send for them is refused, and what programs send is not. And what can be
//! switched off, or is off where other machines can reach a port.

use std::{io, net::Ipv4Addr};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use tidemill::{
    app::Server,
    config::{Config, Switch},
    proto::{
        inference::{RepositoryModelUnloadRequest, ServerMetadataRequest, SystemSharedMemoryRegisterRequest},
        v1::{FeedRequest, ProveModelRequest, feed_request::Message, model_service_client::ModelServiceClient},
    },
};

use crate::{
    http_client::{Http, exchange, infer_json, read_to_end},
    infer::infer_client,
    serving::{
        Account, DOUBLER, bare_config, folder_of, item, message, metric, patiently, serve, slow_doubler, tensors_of, until,
    },
};

const INFER: &str = "/v2/models/m/infer";
const UNLOAD: &str = "/v2/repository/models/m/unload";
const REGISTER: &str = "/v2/systemsharedmemory/region/r/register";

/// One HTTP/1.1 request on its own connection: the status, and everything that was heard.
async fn say(server: &Server, verb: &str, path: &str, fields: &[&str], body: &str) -> (u16, String) {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = body.len();
    let request = format!("{verb} {path} HTTP/1.1\r\n{fields}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    let heard = exchange(server, request).await;
    (heard.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default(), heard)
}

/// The admin port's answer.
async fn ask_admin(server: &Server, fields: &str) -> String {
    let mut stream = TcpStream::connect(server.admin_addr()).await.expect("the admin port accepts");
    let request = format!("GET /readyz HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
    patiently(stream.write_all(request.as_bytes())).await.expect("it fits");
    read_to_end(&mut stream).await
}

async fn is_served(server: &Server) -> bool {
    Http::connect(server).await.post(INFER, infer_json(&[4], &[1.0; 4])).await.status == StatusCode::OK
}

// ---- HTTP/2, by hand --------------------------------------------------------------------------------------------------------

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A whole body of a request.
fn whole(bytes: &'static [u8]) -> Body {
    Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed_unsync()
}

/// A connection to the gRPC port that sends what it is given.
struct Http2 {
    sender: SendRequest<Body>,
}

impl Http2 {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.grpc_addr().port())).await.expect("the gRPC port accepts");
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self { sender }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<http::Response<Incoming>> {
        patiently(self.sender.ready()).await?;
        patiently(self.sender.send_request(request)).await
    }

    /// The head of the answer to `ServerLive`, asked this way.
    async fn ask(&mut self, verb: Method, authority: &str, fields: &[(&str, &str)]) -> hyper::Result<(u16, HeaderMap)> {
        let uri = format!("http://{authority}/inference.GRPCInferenceService/ServerLive");
        let mut request = Request::builder().method(verb).uri(uri).header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(whole(&[0; 5])).expect("a request");
        let (head, body) = self.send(request).await?.into_parts();
        let trailers = patiently(body.collect()).await?.trailers().cloned().unwrap_or_default();
        Ok((head.status.as_u16(), head.headers.into_iter().chain(trailers).fold(HeaderMap::new(), with_field)))
    }
}

/// `HeaderMap` moves names out like this: the name of a repeated field comes only once.
fn with_field(mut fields: HeaderMap, (name, value): (Option<http::HeaderName>, http::HeaderValue)) -> HeaderMap {
    if let Some(name) = name {
        fields.append(name, value);
    }
    fields
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// The code and message of a call that got a gRPC answer.
fn status_of(fields: &HeaderMap) -> (Code, String) {
    let status = Status::from_header_map(fields).expect("a status of gRPC");
    (status.code(), status.message().to_owned())
}

/// A message as gRPC frames it.
fn framed(message: &FeedRequest) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).expect("short"));
    message.encode(&mut framed).expect("it grows");
    framed.freeze()
}

// ---- Other sites ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_from_another_site_can_do_nothing_and_learns_nothing() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let register = json!({ "key": "/none", "byte_size": 1 }).to_string();
    let load = UNLOAD.replace("unload", "load");
    let infer = infer_json(&[4], &[1.0; 4]);
    let requests = [
        ("GET", "/v2", ""),
        ("GET", "/v2/models/m", ""),
        ("GET", "/nothing/here", ""),
        ("POST", "/v2/repository/index", ""),
        ("POST", UNLOAD, ""),
        ("POST", load.as_str(), ""),
        ("POST", REGISTER, register.as_str()),
        ("POST", "/v2/systemsharedmemory/unregister", ""),
        ("POST", INFER, infer.as_str()),
        ("OPTIONS", INFER, ""),
    ];
    let pages = [
        ("origin: http://evil.example", "origin"),
        ("origin: null", "origin"),
        ("Origin: http://localhost:3000", "origin"),
        ("sec-fetch-site: cross-site", "sec-fetch-site"),
        ("Sec-Fetch-Site: same-site", "sec-fetch-site"),
    ];
    for (verb, path, body) in requests {
        for (page, header) in pages {
            let (status, heard) = say(&server, verb, path, &["host: localhost", "content-type: text/plain", page], body).await;
            assert_eq!(status, 403, "{verb} {path} {page}: {heard}");
            let told = format!("as its header `{header}` says: \\\"");
            assert!(heard.contains(&told) && heard.contains("server.allowed_origins"), "{heard}");
            assert!(heard.contains("content-type: application/json\r\n") && !heard.contains("access-control"), "{heard}");
        }
    }
    for (page, _) in pages {
        let heard = ask_admin(&server, &format!("host: localhost\r\n{page}\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("server.allowed_origins"), "{heard}");
    }
    assert!(is_served(&server).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_own_pages_and_listed_ones_are_served() {
    let mut config = bare_config();
    config.server.allowed_origins = vec!["https://app.example".parse().expect("a pattern")];
    let server = serve(config, &[("m", DOUBLER)]).await;
    let port = server.http_addr().port();
    let (host, own) = (format!("host: localhost:{port}"), format!("origin: http://localhost:{port}"));
    for fields in [
        &[host.as_str(), own.as_str(), "sec-fetch-site: same-origin"][..],
        &[host.as_str(), "sec-fetch-site: none"],
        &[host.as_str(), "origin: https://app.example", "sec-fetch-site: cross-site"],
    ] {
        let (status, heard) = say(&server, "POST", INFER, fields, &infer_json(&[4], &[1.0; 4])).await;
        assert_eq!(status, 200, "{fields:?}: {heard}");
    }
    let (status, _) = say(&server, "GET", "/v2", &[&host, "origin: https://app.example:8443"], "").await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_made_to_point_here_is_not_answered() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"] {
        // To the page itself, the server is its own origin.
        let (named, page) = (format!("host: {host}"), format!("origin: http://{host}"));
        let fields = [named.as_str(), page.as_str(), "sec-fetch-site: same-origin"];
        for (verb, path) in [("GET", "/v2"), ("POST", UNLOAD), ("POST", INFER)] {
            let (status, heard) = say(&server, verb, path, &fields, "").await;
            assert_eq!(status, 403, "{verb} {path}: {heard}");
            assert!(heard.contains(&format!("the host \\\"{host}\\\"")) && heard.contains("server.allowed_hosts"), "{heard}");
        }
        let heard = ask_admin(&server, &format!("host: {host}\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("server.allowed_hosts"), "{heard}");
        let (_, fields) = Http2::connect(&server).await.ask(Method::POST, host, &[GRPC]).await.expect("an answer");
        let (code, message) = status_of(&fields);
        assert!(code == Code::PermissionDenied && message.contains("server.allowed_hosts"), "{code}: {message}");
    }
    // The host in the first line counts too, and takes precedence over the header.
    let (status, heard) = say(&server, "GET", "http://evil.example/v2", &["host: localhost"], "").await;
    assert_eq!(status, 403, "{heard}");
    for host in ["localhost", "127.0.0.1:1", "[::1]", "models.localhost:8080"] {
        let (status, heard) = say(&server, "GET", "/v2", &[&format!("host: {host}")], "").await;
        assert_eq!(status, 200, "{host}: {heard}");
    }
    assert!(is_served(&server).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_names_are_answered() {
    let mut config = bare_config();
    config.server.allowed_hosts = vec!["models.example".parse().expect("a pattern"), "*.internal".parse().expect("a pattern")];
    let server = serve(config, &[("m", DOUBLER)]).await;
    for (host, expected) in [("models.example:8080", 200), ("a.internal", 200), ("localhost", 200), ("example", 403)] {
        let (status, heard) = say(&server, "GET", "/v2", &[&format!("host: {host}")], "").await;
        assert_eq!(status, expected, "{host}: {heard}");
    }
    let mut grpc = Http2::connect(&server).await;
    let (_, fields) = grpc.ask(Method::POST, "a.internal:50051", &[GRPC]).await.expect("an answer");
    assert_eq!(status_of(&fields).0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_named_once_in_http11() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let cases: [(&[&str], &str); 4] = [
        (&[], "no `host` header"),
        (&["host: localhost", "Host: localhost"], "more than one `host` header"),
        (&["host:"], "which is not a host and port"),
        (&["host: localhost/x"], "which is not a host and port"),
    ];
    for (fields, says) in cases {
        let (status, heard) = say(&server, "GET", "/v2", fields, "").await;
        assert_eq!(status, 400, "{fields:?}: {heard}");
        assert!(heard.contains(says) && heard.contains("connection: close\r\n"), "{heard}");
    }
    let heard = exchange(&server, "GET /v2/health/live HTTP/1.0\r\n\r\n").await;
    assert!(heard.contains(" 200 OK\r\n"), "HTTP/1.0 knows no host: {heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_cannot_change_the_server() {
    let folder = folder_of(&[("m", DOUBLER)]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let forms = ["text/plain", "Application/X-WWW-Form-Urlencoded; charset=utf-8", "multipart/form-data; boundary=x"];
    for path in [UNLOAD, "/v2/repository/models/m/load", REGISTER, "/v2/systemsharedmemory/unregister"] {
        for form in forms {
            let (status, heard) = say(&server, "POST", path, &["host: localhost", &format!("content-type: {form}")], "").await;
            assert_eq!(status, 415, "{path} {form}: {heard}");
            assert!(heard.contains("`content-type` is") && heard.contains("application/json"), "{heard}");
        }
    }
    // curl labels whatever it posts as urlencoded.
    for form in forms {
        let named = format!("content-type: {form}");
        let fields = ["host: localhost", named.as_str()];
        let (status, heard) = say(&server, "POST", INFER, &fields, &infer_json(&[4], &[1.0; 4])).await;
        assert_eq!(status, 200, "{form}: {heard}");
    }
    // What programs send: JSON, or nothing, to which tritonclient gives no type.
    for fields in [&["host: localhost"][..], &["host: localhost", "content-type: application/json"]] {
        for path in [UNLOAD, "/v2/repository/models/m/load"] {
            let (status, heard) = say(&server, "POST", path, fields, "{}").await;
            assert_eq!(status, 200, "{path} {fields:?}: {heard}");
        }
    }
    assert!(is_served(&server).await);
}

// ---- gRPC -------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_grpc_calls_are_taken_for_grpc_calls() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut grpc = Http2::connect(&server).await;
    for verb in [Method::GET, Method::OPTIONS, Method::PUT] {
        let (status, fields) = grpc.ask(verb, "localhost", &[GRPC]).await.expect("an answer");
        assert_eq!((status, fields["allow"].as_bytes()), (405, &b"POST"[..]));
    }
    // JSON is a call in the form of Connect, here without a message; any other type is no call.
    for (content_type, expected) in [("application/json", 400), ("text/plain", 415), ("application/grpc+json", 415), ("", 415)] {
        let (status, fields) = grpc.ask(Method::POST, "localhost", &[("content-type", content_type)]).await.expect("an answer");
        assert_eq!((status, fields.get("grpc-status")), (expected, None), "{content_type}");
    }
    assert_eq!(grpc.ask(Method::POST, "localhost", &[]).await.expect("an answer").0, 415);
    let large = "x".repeat(17 << 10);
    let (status, _) = grpc.ask(Method::GET, "localhost", &[("x-large", &large)]).await.expect("an answer");
    assert_eq!(status, 431, "http.max_header_bytes is 16 KiB");
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
        let (status, fields) = grpc.ask(Method::POST, "localhost", &[("content-type", content_type)]).await.expect("an answer");
        assert_eq!((status, status_of(&fields).0), (200, Code::Ok), "{content_type}");
    }
    for page in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let (status, fields) = grpc.ask(Method::POST, "localhost", &[GRPC, page]).await.expect("an answer");
        let (code, message) = status_of(&fields);
        assert_eq!((status, code), (200, Code::PermissionDenied), "{page:?}: {message}");
        assert!(message.contains(page.0) && message.contains("server.allowed_origins"), "{message}");
    }
    let (_, fields) = grpc.ask(Method::POST, "localhost", &[GRPC, ("origin", "http://localhost")]).await.expect("an answer");
    assert_eq!(status_of(&fields).0, Code::Ok, "the server's own page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_with_large_headers_is_refused_by_the_name_of_the_limit_and_its_neighbours_go_on() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut grpc = Http2::connect(&server).await;
    let live = async |grpc: &mut Http2| {
        let (_, fields) = grpc.ask(Method::POST, "localhost", &[GRPC]).await.expect("an answer");
        status_of(&fields).0
    };
    for bytes in [17 << 10, 65 << 10, 200 << 10] {
        let large = "x".repeat(bytes);
        let (status, fields) = grpc.ask(Method::POST, "localhost", &[GRPC, ("x-large", &large)]).await.expect("an answer");
        let (code, message) = status_of(&fields);
        assert_eq!((status, code), (200, Code::ResourceExhausted), "{bytes}: {message}");
        assert!(message.contains("grpc.max_header_bytes allows 16384"), "{message}");
        assert_eq!(live(&mut grpc).await, Code::Ok);
    }
    let large = "x".repeat(15 << 10);
    let (_, fields) = grpc.ask(Method::POST, "localhost", &[GRPC, ("x-large", &large)]).await.expect("an answer");
    assert_eq!(status_of(&fields).0, Code::Ok);
    // Beyond what the transport takes, the answer is the transport's, and still concerns only that call.
    let larger = "x".repeat(300 << 10);
    let answer = grpc.ask(Method::POST, "localhost", &[GRPC, ("x-large", &larger)]).await;
    assert!(answer.as_ref().map_or(true, |(status, _)| *status == 431), "{answer:?}");
    assert_eq!(live(&mut grpc).await, Code::Ok);
}

/// Streams on one connection whose items, each in its own frame of some 30 bytes, come far faster than they are run.
async fn hold_back(streams: usize, items: usize) {
    let server = serve(bare_config(), &[("m", &slow_doubler(20_000))]).await;
    let account = Account::of(&server, "m");
    let mut grpc = Http2::connect(&server).await;
    let frame = framed(&message(Message::Item(item("", &[1.0; 4]))));
    assert!((20..40).contains(&frame.len()), "{}", frame.len());
    let (sent, mut sending) = mpsc::channel::<()>(streams);
    let leave = CancellationToken::new();
    let mut answers = Vec::new();
    for _ in 0..streams {
        let opening = framed(&message(Message::Open(tensors_of("m"))));
        let frames = stream::iter(std::iter::once(opening).chain(std::iter::repeat_n(frame.clone(), items)));
        let (sent, leave) = (sent.clone(), leave.clone());
        // The end of the sending side would be taken for the end of the feed.
        let end = stream::once(async move {
            let _ = sent.send(()).await;
            leave.cancelled().await;
            Err(io::Error::other("the client leaves"))
        });
        let body = StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes))).chain(end)).boxed_unsync();
        let request = Request::post("http://localhost/tidemill.v1.InferenceService/Feed").header(GRPC.0, GRPC.1);
        answers.push(grpc.send(request.header("te", "trailers").body(body).expect("a request")).await.expect("headers"));
    }
    for _ in 0..streams {
        patiently(sending.recv()).await.expect("it says so");
    }
    let stalled = || metric(&server.metrics(), "tidemill_streams_stalled", "feed");
    until("all streams are held back", || stalled() == streams as f64).await;
    // Sent after all that, on the same connection.
    for _ in 0..3 {
        let (_, fields) = grpc.ask(Method::POST, "localhost", &[GRPC]).await.expect("the connection lives");
        assert_eq!(status_of(&fields).0, Code::Ok);
    }
    until("they are held back again", || stalled() == streams as f64).await;
    leave.cancel();
    drop((answers, grpc));
    let ledger = account.settled().await;
    assert_eq!(ledger.received(), ledger.ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_few_streams_that_is_held_back_keeps_its_connection() {
    hold_back(5, 9_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_many_streams_that_is_held_back_keeps_its_connection() {
    hold_back(60, 1_000).await;
}

// ---- Switches ---------------------------------------------------------------------------------------------------------------

/// What each way to the models and to shared memory answers if it is switched off.
async fn assert_shut(server: &Server) {
    let fields = ["host: localhost", "content-type: application/json"];
    for (path, key) in [
        (UNLOAD, "control.repository"),
        ("/v2/repository/models/m/load", "control.repository"),
        (REGISTER, "shared_memory.enabled"),
        ("/v2/systemsharedmemory/unregister", "shared_memory.enabled"),
    ] {
        let (status, heard) = say(server, "POST", path, &fields, r#"{"key": "/none", "byte_size": 1}"#).await;
        assert_eq!(status, 403, "{path}: {heard}");
        assert!(heard.contains(key), "{path}: {heard}");
    }
    let (status, heard) = say(server, "GET", "/v2", &["host: localhost"], "").await;
    assert!(status == 200 && !heard.contains("system_shared_memory"), "{heard}");
    let mut infer = infer_client(server).await;
    let unload = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..RepositoryModelUnloadRequest::default() };
    let register = SystemSharedMemoryRegisterRequest { name: "r".to_owned(), key: "/none".to_owned(), offset: 0, byte_size: 1 };
    let mut models = ModelServiceClient::connect(format!("http://{}", server.grpc_addr())).await.expect("the server accepts");
    let prove = ProveModelRequest { name: "m".to_owned(), seed: 0 };
    for (answer, key) in [
        (patiently(infer.repository_model_unload(unload)).await.map(drop), "control.repository"),
        (patiently(infer.system_shared_memory_register(register)).await.map(drop), "shared_memory.enabled"),
        (patiently(models.prove_model(prove)).await.map(drop), "control.repository"),
    ] {
        let status = answer.expect_err("it is shut");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(key), "{status}");
    }
    let metadata = patiently(infer.server_metadata(ServerMetadataRequest {})).await.expect("an answer").into_inner();
    assert!(!metadata.extensions.contains(&"system_shared_memory".to_owned()), "{:?}", metadata.extensions);
    assert!(is_served(server).await, "questions about models are still answered");
}

fn open_to_others() -> Config {
    let mut config = bare_config();
    config.server.grpc_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    config.server.http_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    config.security.allow_anonymous = Switch::On;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_others_reach_changes_nothing_on_request() {
    let server = serve(open_to_others(), &[("m", DOUBLER)]).await;
    assert_shut(&server).await;
    let (status, _) = say(&server, "GET", "/v2", &["host: evil.example"], "").await;
    assert_eq!(status, 403, "it came over loopback, where a browser may be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_hold_whatever_the_address() {
    let mut config = bare_config();
    (config.control.repository, config.shared_memory.enabled) = (Switch::Off, Switch::Off);
    assert_shut(&serve(config, &[("m", DOUBLER)]).await).await;
    // Nothing lets callers whom nobody knows change a server that others reach.
    let mut config = open_to_others();
    (config.control.repository, config.shared_memory.enabled) = (Switch::On, Switch::On);
    assert_shut(&serve(config, &[("m", DOUBLER)]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_port_is_as_open_as_its_own_address() {
    let mut config = bare_config();
    config.server.http_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    config.security.allow_anonymous = Switch::On;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (status, heard) = say(&server, "POST", UNLOAD, &["host: localhost"], "").await;
    assert!(status == 403 && heard.contains("control.repository"), "{heard}");
    let unload = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..RepositoryModelUnloadRequest::default() };
    patiently(infer_client(&server).await.repository_model_unload(unload)).await.expect("gRPC is only on loopback");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_can_be_off() {
    const REFLECTION: [&str; 2] = ["grpc.reflection.v1", "grpc.reflection.v1alpha"];
    for (switch, expected) in [(Switch::Auto, Code::Ok), (Switch::Off, Code::Unimplemented)] {
        let mut config = bare_config();
        config.control.reflection = switch;
        let server = serve(config, &[("m", DOUBLER)]).await;
        let mut grpc = Http2::connect(&server).await;
        for package in REFLECTION {
            let uri = format!("http://localhost/{package}.ServerReflection/ServerReflectionInfo");
            let request = Request::post(uri).header(GRPC.0, GRPC.1).header("te", "trailers");
            let request = request.body(whole(&[])).expect("a request");
            let (head, body) = grpc.send(request).await.expect("an answer").into_parts();
            let trailers = patiently(body.collect()).await.expect("a whole body").trailers().cloned().unwrap_or_default();
            let fields = if head.headers.contains_key("grpc-status") { head.headers } else { trailers };
            assert_eq!(status_of(&fields).0, expected, "{package}");
        }
    }
}
