//! Ports on Unix sockets, and the key that our own clients show.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tidemill::{
    app::{Server, StartError},
    config::{BindAddress, Config},
};
use tidemill_client::{
    Address, Client, Credential, Error, Settings,
    wire::v1::{PredictRequest, predict_request::Payload},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Command,
};
use tonic::Code;

use crate::{
    http_client::infer_json,
    keys::{ALL, key, known},
    serving::{DOUBLER, PATIENCE, bare_config, item, patiently, serve, values},
};

const PORTS: [&str; 3] = ["grpc", "http", "admin"];

fn socket(folder: &Path, port: &str) -> PathBuf {
    folder.join(format!("{port}.sock"))
}

/// The address of a port, as a client names it.
fn address(folder: &Path, port: &str) -> String {
    format!("unix:{}", socket(folder, port).display())
}

/// Puts all ports on sockets in a folder.
fn on_sockets(mut config: Config, folder: &Path) -> Config {
    let server = &mut config.server;
    let places = [&mut server.grpc_addr, &mut server.http_addr, &mut server.admin_addr];
    for (place, port) in places.into_iter().zip(PORTS) {
        *place = BindAddress::Unix(socket(folder, port));
    }
    config
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn client(folder: &Path, credential: Option<Credential>) -> Client {
    let address: Address = address(folder, "grpc").parse().expect("an address");
    let settings = Settings { credential, ..Settings::default() };
    patiently(Client::connect_with(&address, &settings)).await.expect("it accepts")
}

/// Status and body of an answer to one request.
async fn ask(path: &Path, verb: &str, target: &str, host: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.expect("it accepts");
    let length = body.len();
    let head = format!("{verb} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await.expect("a request is taken");
    let mut response = String::new();
    patiently(stream.read_to_string(&mut response)).await.expect("an answer in text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

async fn start_error(config: Config) -> StartError {
    patiently(Server::start(config)).await.err().expect("it must not start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ports_serve_on_sockets_whatever_host_a_client_names_and_the_files_go_with_the_server() {
    let folder = folder();
    let folder = folder.path();
    let server = serve(on_sockets(bare_config(), folder), &[("m", DOUBLER)]).await;
    for port in PORTS {
        let mode = fs::metadata(socket(folder, port)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o660, "{port}");
    }
    let request =
        PredictRequest { model: "m".to_owned(), payload: Some(Payload::Item(item("", &[1.0; 4]))), ..PredictRequest::default() };
    let response = patiently(client(folder, None).await.predict(request, PATIENCE)).await.expect("a result");
    assert_eq!(values(&response.outputs.expect("outputs").tensors), [2.0; 4]);
    for host in ["localhost", "tidemill.example", "127.0.0.1:8080"] {
        let (status, body) = ask(&socket(folder, "http"), "POST", "/v2/models/m/infer", host, &infer_json(&[4], &[1.0; 4])).await;
        assert_eq!(status, 200, "{host}: {body}");
        let (status, metrics) = ask(&socket(folder, "admin"), "GET", "/metrics", host, "").await;
        assert!(status == 200 && metrics.contains("tidemill_build_info{"), "{metrics}");
    }
    // Whoever may open the file may do what programs of this machine may.
    assert_eq!(ask(&socket(folder, "http"), "POST", "/v2/repository/models/m/unload", "localhost", "").await.0, 200);
    server.drain().await;
    for port in PORTS {
        assert!(!socket(folder, port).exists(), "{port}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_socket_is_replaced_and_anything_else_in_the_way_stops_the_start() {
    let folder = folder();
    let folder = folder.path();
    let mut config = on_sockets(bare_config(), folder);
    config.server.socket_mode = 0o600;
    drop(UnixListener::bind(socket(folder, "grpc")).expect("nothing is there"));
    let server = serve(config.clone(), &[("m", DOUBLER)]).await;
    assert_eq!(fs::metadata(socket(folder, "grpc")).expect("a file").permissions().mode() & 0o777, 0o600);

    let error = start_error(config.clone()).await;
    let expected = format!("cannot listen on {} (server.grpc_addr): another server listens there", address(folder, "grpc"));
    assert!(matches!(error, StartError::Socket { key: "server.grpc_addr", .. }) && error.to_string() == expected, "{error}");
    patiently(client(folder, None).await.model("m", "")).await.expect("the first server goes on");
    server.drain().await;

    fs::write(socket(folder, "admin"), "text").expect("a file");
    let error = start_error(config).await;
    assert!(matches!(error, StartError::Socket { key: "server.admin_addr", .. }), "{error}");
    assert_eq!(fs::read_to_string(socket(folder, "admin")).expect("it is still there"), "text");
    assert!(!socket(folder, "grpc").exists(), "what was bound before is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_taken_over_sockets() {
    let folder = folder();
    let folder = folder.path();
    let (config, _keys) = known(&[("a", 1, ALL)]);
    let _server = serve(on_sockets(config, folder), &[("m", DOUBLER)]).await;
    for (credential, code) in [(None, Code::Unauthenticated), (Some(key(2)), Code::Unauthenticated), (Some(key(1)), Code::Ok)] {
        let credential = credential.map(|key| key.parse::<Credential>().expect("a key"));
        let answered = patiently(client(folder, credential).await.model("m", "")).await;
        assert_eq!(answered.as_ref().map_or_else(Error::code, |_| Code::Ok), code, "{answered:?}");
    }
    assert_eq!(ask(&socket(folder, "http"), "GET", "/v2/models/m", "localhost", "").await.0, 401);
    assert_eq!(ask(&socket(folder, "admin"), "GET", "/metrics", "localhost", "").await.0, 200);
}

// ---- The commands -----------------------------------------------------------------------------------------------------------

/// Exit code, and all that was written.
async fn run(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.env_remove("TIDEMILL_ADDR").env_remove("TIDEMILL_API_KEY").envs(variables.iter().copied());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = patiently(command.output()).await.expect("it runs");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_show_their_key_to_the_server_and_to_nobody_else() {
    let folder = folder();
    let folder = folder.path();
    let (config, _keys) = known(&[("a", 1, ALL)]);
    let _server = serve(on_sockets(config, folder), &[("m", DOUBLER)]).await;
    let (good, wrong, file) = (key(1), key(2), folder.join("key"));
    fs::write(&file, format!("{good}\n")).expect("a file");
    let (grpc, file) = (address(folder, "grpc"), file.display().to_string());
    let list = ["models", "--addr", &grpc];
    let with = |flags: &[&'static str]| -> Vec<&str> { [&list[..], flags].concat() };
    for (args, variables, code) in [
        (with(&[]), &[][..], 4),
        (with(&[]), &[("TIDEMILL_API_KEY", good.as_str())][..], 0),
        (with(&[]), &[("TIDEMILL_API_KEY", wrong.as_str())][..], 4),
        ([&list[..], &["--api-key", &good]].concat(), &[][..], 0),
        ([&list[..], &["--api-key", &good]].concat(), &[("TIDEMILL_API_KEY", wrong.as_str())][..], 0),
        ([&list[..], &["--api-key", &wrong]].concat(), &[][..], 4),
        ([&list[..], &["--api-key-file", &file]].concat(), &[][..], 0),
        ([&list[..], &["--api-key", "zq\nzq"]].concat(), &[][..], 2),
        (with(&["--api-key-file", "/nowhere/key"]), &[][..], 2),
        (vec!["models", "--addr", "http://192.0.2.1:50051", "--api-key", &good], &[][..], 2),
        (vec!["models", "--help"], &[("TIDEMILL_API_KEY", good.as_str())][..], 0),
    ] {
        let (found, text) = run(&args, variables).await;
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!([&good[3..], &wrong[3..], "zq"].iter().all(|secret| !text.contains(secret)), "{text}");
    }
    let (_, text) = run(&["models", "--addr", "http://192.0.2.1:50051", "--api-key", &good], &[]).await;
    assert!(text.contains("https://") && text.contains("192.0.2.1:50051"), "{text}");
    let (_, text) = run(&["health", "--addr", &grpc], &[]).await;
    assert!(text.to_lowercase().contains("serving"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_reads_metrics_over_a_socket_and_with_a_key() {
    let folder = folder();
    let folder = folder.path();
    let (config, _keys) = known(&[("scraper", 1, "scopes = ['metrics']")]);
    let _server = serve(on_sockets(config, folder), &[("m", DOUBLER)]).await;
    let admin = address(folder, "admin");
    let (code, text) = run(&["top", "--admin", &admin, "--api-key", &key(1), "--once", "--interval", "100ms"], &[]).await;
    assert!(code == Some(0) && text.contains(&admin), "{text}");
}
