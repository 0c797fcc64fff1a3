//! Callers who are known by keys: what each protocol answers to those who are not, what a key lets its holder do, and what becomes of
//! what it has open when it is revoked.

use std::{fs, net::Ipv4Addr, path::Path};

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tempfile::TempDir;
use tidemill::{
    app::{Server, StartError},
    auth::Key,
    config::{Config, Switch},
    proto::{
        DESCRIPTORS,
        inference::{ModelInferRequest, RepositoryModelUnloadRequest},
        v1::{FeedRequest, FeedResponse, feed_request::Message, feed_response::Event},
    },
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, metadata::AsciiMetadataValue};

use crate::{
    http_client::{Http, infer_json},
    infer::{infer_client, request as infer_request},
    serving::{DOUBLER, bare_config, connect, item, message, page, patiently, serve, tensors_of, write},
};

const INFER: &str = "/v2/models/m/infer";
const FILE: &str = "keys.toml";

/// The text of the key of these bytes.
pub(crate) fn key(byte: u8) -> String {
    Key::from_random([byte; 32]).reveal()
}

/// A file of callers with these names, whose keys are of these bytes, and what else is said about them.
pub(crate) fn listed(callers: &[(&str, u8, &str)]) -> String {
    let block = |(name, byte, rest): &(&str, u8, &str)| {
        format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n{rest}\n", Key::from_random([*byte; 32]).digest().to_hex())
    };
    callers.iter().map(block).collect()
}

pub(crate) const ALL: &str = "scopes = ['infer', 'models:read']";

/// A configuration with these callers, and the folder of their file.
pub(crate) fn known(callers: &[(&str, u8, &str)]) -> (Config, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), FILE, listed(callers).as_bytes());
    let mut config = bare_config();
    config.security.keys = Some(folder.path().join(FILE));
    (config, folder)
}

/// Puts another file in the place of the one that the server reads.
pub(crate) fn replace(folder: &TempDir, text: &str) {
    write(folder.path(), "next", text.as_bytes());
    fs::rename(folder.path().join("next"), folder.path().join(FILE)).expect("replaced");
}

pub(crate) fn with_key<M>(message: M, byte: u8) -> Request<M> {
    let mut request = Request::new(message);
    let value: AsciiMetadataValue = format!("Bearer {}", key(byte)).parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

/// The status of an answer over HTTP, and what it says.
async fn ask(server: &Server, verb: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, HeaderMap) {
    let reply = Http::connect(server).await.send(verb, path, headers, body.to_owned()).await;
    (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned(), reply.headers)
}

async fn infer_over_http(server: &Server, headers: &[(&str, &str)]) -> u16 {
    ask(server, "POST", INFER, headers, &infer_json(&[4], &[1.0; 4])).await.0
}

async fn infer_over_grpc(server: &Server, byte: Option<u8>) -> Code {
    let request: ModelInferRequest = infer_request("m", "x", &[1, 4], &[1.0; 4]);
    let request = byte.map_or_else(|| Request::new(request.clone()), |byte| with_key(request.clone(), byte));
    let answered = patiently(infer_client(server).await.model_infer(request)).await;
    answered.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Waits until a call with this key ends like this.
async fn until_inferred(server: &Server, byte: u8, code: Code) {
    let inferred = async {
        while infer_over_grpc(server, Some(byte)).await != code {
            tokio::task::yield_now().await;
        }
    };
    patiently(inferred).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_take_good_keys_and_refuse_the_rest_with_the_same_kind() {
    let expired = "scopes = ['infer']\nexpires = 2020-01-01";
    let (config, _folder) = known(&[("a", 1, ALL), ("old", 2, expired)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    assert_eq!(infer_over_grpc(&server, Some(1)).await, Code::Ok);
    for byte in [None, Some(2), Some(3)] {
        assert_eq!(infer_over_grpc(&server, byte).await, Code::Unauthenticated, "{byte:?}");
    }
    let (good, wrong) = (key(1), key(3));
    let (bearer, other) = (format!("Bearer {good}"), format!("key {good}"));
    for headers in [[("authorization", bearer.as_str())], [("authorization", &other)], [("x-api-key", &good)]] {
        assert_eq!(infer_over_http(&server, &headers).await, 200, "{headers:?}");
    }
    for headers in [
        &[][..],
        &[("authorization", good.as_str())],
        &[("authorization", "Basic YTpi")],
        &[("x-api-key", wrong.as_str())],
        &[("x-api-key", key(2).as_str())],
        // The first credential counts.
        &[("authorization", "Bearer x"), ("x-api-key", good.as_str())],
        &[("x-api-key", good.as_str()), ("x-api-key", good.as_str())],
    ] {
        let (status, body, head) = ask(&server, "POST", INFER, headers, "").await;
        assert_eq!(
            (status, &head["www-authenticate"]),
            (401, &"Bearer realm=\"tidemill\"".parse().expect("a value")),
            "{headers:?}"
        );
        assert!(body.contains("\"error\"") && !body.contains(&good[3..]) && !body.contains(&wrong[3..]), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_where_none_would_do() {
    let (mut config, _folder) = known(&[("a", 1, ALL)]);
    config.security.allow_anonymous = Switch::On;
    let server = serve(config, &[("m", DOUBLER)]).await;
    for (byte, code) in [(None, Code::Ok), (Some(1), Code::Ok), (Some(2), Code::Unauthenticated)] {
        assert_eq!(infer_over_grpc(&server, byte).await, code, "{byte:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lets_its_holder_do_what_it_names_with_the_models_that_it_names() {
    let one_model = "scopes = ['infer', 'models:read']\nmodels = ['m*']";
    let changes = "scopes = ['models:write']";
    let (config, _folder) = known(&[("a", 1, one_model), ("ops", 2, changes), ("root", 3, "scopes = ['admin']")]);
    let server = serve(config, &[("m", DOUBLER), ("other", DOUBLER)]).await;
    let with = |byte| [("x-api-key", key(byte))];
    let say = async |byte, verb: &str, path: &str, body: &str| {
        let [(name, value)] = with(byte);
        let (status, body, _) = ask(&server, verb, path, &[(name, &value)], body).await;
        (status, body)
    };
    let items = infer_json(&[4], &[1.0; 4]);
    assert_eq!(say(1, "POST", INFER, &items).await.0, 200);
    let (status, body) = say(1, "POST", "/v2/models/other/infer", &items).await;
    assert!(status == 403 && body.contains("model 'other'"), "{body}");
    let (status, body) = say(2, "POST", INFER, &items).await;
    assert!(status == 403 && body.contains("scope infer"), "{body}");
    // Only what it may use is listed.
    for (byte, lists_other) in [(1, false), (3, true)] {
        let (status, index) = say(byte, "POST", "/v2/repository/index", "").await;
        assert!(status == 200 && index.contains("\"m\"") && index.contains("\"other\"") == lists_other, "{index}");
        let (status, stats) = say(byte, "GET", "/v2/models/stats", "").await;
        assert!(status == 200 && stats.contains("\"other\"") == lists_other, "{stats}");
    }
    assert_eq!(say(2, "POST", "/v2/repository/index", "").await.0, 403);
    let unload = "/v2/repository/models/other/unload";
    assert_eq!((say(1, "POST", unload, "").await.0, say(2, "POST", unload, "").await.0), (403, 200));
    for (byte, status) in [(1, 403), (2, 403), (3, 200)] {
        assert_eq!(say(byte, "GET", "/v2/systemsharedmemory/status", "").await.0, status, "{byte}");
    }
    let request = RepositoryModelUnloadRequest { model_name: "m".to_owned(), ..RepositoryModelUnloadRequest::default() };
    let refused = patiently(infer_client(&server).await.repository_model_unload(with_key(request, 1))).await;
    assert_eq!(refused.expect_err("it lacks the scope").code(), Code::PermissionDenied);
}

// ---- All methods ------------------------------------------------------------------------------------------------------------

/// The code with which a call of an empty message ends.
async fn code_of(sender: &mut SendRequest<Full<Bytes>>, path: &str, key: Option<&str>) -> Code {
    let mut request =
        HttpRequest::post(format!("http://localhost{path}")).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    patiently(sender.ready()).await.expect("a connection");
    let request = request.body(Full::new(Bytes::from_static(&[0; 5]))).expect("a request");
    let (head, mut body) = patiently(sender.send_request(request)).await.expect("an answer").into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status.code();
    }
    // A watch does not end; one message is enough of it.
    while let Some(frame) = patiently(body.frame()).await {
        let frame = frame.expect("a frame");
        match frame.trailers_ref() {
            Some(trailers) => return Status::from_header_map(trailers).expect("a status").code(),
            None if path.ends_with("/Watch") => return Code::Ok,
            None => {}
        }
    }
    panic!("{path} ended without a status");
}

/// The paths of all methods that the server describes.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("sound").file;
    let paths = files.iter().flat_map(|file| {
        file.service.iter().flat_map(|service| {
            service.method.iter().map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
        })
    });
    paths.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_probes_are_answered_to_callers_without_a_key_and_nothing_to_one_without_the_scope() {
    let (config, _folder) = known(&[("scraper", 1, "scopes = ['metrics']")]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.grpc_addr().port())).await.expect("the gRPC port accepts");
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let is_probe = |path: &str| {
        path.starts_with("/grpc.health.v1.Health/")
            || path.ends_with("Service/ServerLive")
            || path.ends_with("Service/ServerReady")
    };
    // Tell nothing of a model: the server's name and version, that a model is not ready, and that no region of a GPU is registered.
    let says_nothing = ["ServerMetadata", "ModelReady", "CudaSharedMemoryUnregister"];
    let methods = methods();
    assert!(methods.len() > 20, "{methods:?}");
    for path in methods {
        let code = code_of(&mut sender, &path, None).await;
        if is_probe(&path) {
            assert_ne!(code, Code::Unauthenticated, "{path}");
            continue;
        }
        assert_eq!(code, Code::Unauthenticated, "{path}");
        let code = code_of(&mut sender, &path, Some(&key(1))).await;
        let refused = matches!(code, Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented);
        assert!(refused || says_nothing.iter().any(|method| path.ends_with(method)), "{path}: {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_only_probes_are_answered_to_callers_without_a_key() {
    let (config, _folder) = known(&[("a", 1, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    for probe in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(ask(&server, "GET", probe, &[("x-api-key", "wrong")], "").await.0, 200, "{probe}");
    }
    for (verb, path) in [
        ("GET", "/v2"),
        ("GET", "/v2/models/m"),
        ("GET", "/v2/models/m/ready"),
        ("GET", "/v2/models/m/config"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/models/m/generate"),
        ("POST", "/v2/models/m/generate_stream"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/m/load"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/health/live/"),
        ("GET", "/nothing"),
    ] {
        assert_eq!(ask(&server, verb, path, &[], "").await.0, 401, "{path}");
    }
    // Probes and metrics of the admin port, where only this machine reaches it.
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(page(server.admin_addr(), path).await.0, 200, "{path}");
    }
}

// ---- Revocation -------------------------------------------------------------------------------------------------------------

/// A feed of the holder of a key, which is open.
pub(crate) async fn feed(server: &Server, byte: u8) -> (mpsc::Sender<FeedRequest>, Streaming<FeedResponse>) {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(message(Message::Open(tensors_of("m")))).await.expect("room");
    let mut client = connect(server).await;
    let mut responses = client.feed(with_key(ReceiverStream::new(receiver), byte)).await.expect("headers").into_inner();
    let opened = patiently(responses.message()).await.expect("it opens").expect("an event");
    assert!(matches!(opened.event, Some(Event::Opened(_))), "{opened:?}");
    (sender, responses)
}

pub(crate) async fn answers(sender: &mpsc::Sender<FeedRequest>, responses: &mut Streaming<FeedResponse>) -> bool {
    sender.send(message(Message::Item(item("", &[1.0; 4])))).await.expect("it is open");
    let response = patiently(responses.message()).await.expect("it goes on").expect("an event");
    matches!(response.event, Some(Event::Result(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_revoked_key_has_open_ends_and_the_rest_goes_on() {
    let (config, folder) = known(&[("a", 1, ALL), ("b", 2, ALL), ("c", 3, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (_a, mut of_a) = feed(&server, 1).await;
    let (b, mut of_b) = feed(&server, 2).await;
    let (_c, mut of_c) = feed(&server, 3).await;
    let (idle, receiver) = mpsc::channel::<ModelInferRequest>(1);
    let conversation = infer_client(&server).await.model_stream_infer(with_key(ReceiverStream::new(receiver), 1)).await;
    let mut conversation = conversation.expect("headers").into_inner();

    // One is gone, one has new quotas, and one has fewer scopes.
    let quotas = format!("{ALL}\nquotas.streams = 7");
    replace(&folder, &listed(&[("b", 2, &quotas), ("c", 3, "scopes = ['models:read']")]));
    for responses in [&mut of_a, &mut of_c] {
        let status = patiently(responses.message()).await.expect_err("it ends");
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains("revoked or changed"), "{status:?}");
    }
    assert_eq!(patiently(conversation.message()).await.expect_err("it ends").code(), Code::Unauthenticated);
    assert!(answers(&b, &mut of_b).await);
    for (byte, code) in [(1, Code::Unauthenticated), (2, Code::Ok), (3, Code::PermissionDenied)] {
        assert_eq!(infer_over_grpc(&server, Some(byte)).await, code, "{byte}");
    }
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_file_is_wrong_what_it_said_before_applies() {
    let (config, folder) = known(&[("a", 1, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (a, mut of_a) = feed(&server, 1).await;
    replace(&folder, "[[key]]\nname = 'a'");
    fs::remove_file(folder.path().join(FILE)).expect("removed");
    replace(&folder, "not TOML");
    replace(&folder, &listed(&[("a", 1, ALL), ("b", 2, ALL)]));
    until_inferred(&server, 2, Code::Ok).await;
    assert!(answers(&a, &mut of_a).await);
    replace(&folder, &listed(&[("b", 2, ALL)]));
    until_inferred(&server, 1, Code::Unauthenticated).await;
    assert_eq!(patiently(of_a.message()).await.expect_err("it ends").code(), Code::Unauthenticated);
}

// ---- Start ------------------------------------------------------------------------------------------------------------------

async fn start_error(config: Config) -> StartError {
    match Server::start(config).await {
        Ok(_) => panic!("it must not start"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_others_reach_needs_known_callers_or_leave_for_everybody() {
    let mut config = bare_config();
    config.server.http_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    let error = start_error(config.clone()).await.to_string();
    for part in ["server.http_addr = 0.0.0.0:0 is open to other machines", "security.keys", "security.allow_anonymous = true"] {
        assert!(error.contains(part), "{error} lacks {part}");
    }

    config.security.allow_anonymous = Switch::On;
    config.control.repository = Switch::On;
    let server = serve(config.clone(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect_to((Ipv4Addr::LOCALHOST, server.http_addr().port()).into()).await;
    assert_eq!(http.post(INFER, infer_json(&[4], &[1.0; 4])).await.status, 200);
    for path in ["/v2/repository/models/m/unload", "/v2/systemsharedmemory/unregister"] {
        assert_eq!(http.post(path, "").await.status, 403, "{path}");
    }
    server.drain().await;

    let (known, _folder) = known(&[("a", 1, "scopes = ['models:write']")]);
    config.security = known.security;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let address = (Ipv4Addr::LOCALHOST, server.http_addr().port()).into();
    assert_eq!(Http::connect_to(address).await.post(INFER, "").await.status, 401);
    let unload =
        Http::connect_to(address).await.send("POST", "/v2/repository/models/m/unload", &[("x-api-key", &key(1))], "").await;
    assert_eq!(unload.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keys_file_that_is_wrong_or_missing_stops_the_start() {
    let (config, folder) = known(&[("a", 1, "scopes = ['everything']")]);
    let error = start_error(config.clone()).await;
    assert!(matches!(&error, StartError::Keys { .. }) && error.to_string().contains("key 'a': 'scopes' may list"), "{error}");
    fs::remove_file(folder.path().join(FILE)).expect("removed");
    assert!(matches!(start_error(config.clone()).await, StartError::Keys { .. }));
    let mut config = config;
    config.security.keys = Some(Path::new("/nowhere/keys.toml").to_owned());
    assert!(matches!(start_error(config).await, StartError::Keys { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_need_the_scope_where_others_reach_them() {
    let (mut config, _folder) = known(&[("a", 1, ALL), ("scraper", 2, "scopes = ['metrics']")]);
    config.server.admin_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    config.security.plain_keys = true;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let admin = (Ipv4Addr::LOCALHOST, server.admin_addr().port()).into();
    let scrape = async |headers: &[(&str, &str)]| {
        let reply = Http::connect_to(admin).await.send("GET", "/metrics", headers, "").await;
        (reply.status.as_u16(), reply.headers.contains_key("www-authenticate"))
    };
    assert_eq!(scrape(&[]).await, (401, true));
    assert_eq!(scrape(&[("x-api-key", &key(3))]).await, (401, true));
    assert_eq!(scrape(&[("x-api-key", &key(1))]).await, (403, false));
    assert_eq!(scrape(&[("authorization", &format!("Bearer {}", key(2)))]).await, (200, false));
    for probe in ["/livez", "/readyz"] {
        assert_eq!(Http::connect_to(admin).await.get(probe).await.status, 200, "{probe}");
    }
}
