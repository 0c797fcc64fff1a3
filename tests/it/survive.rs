//! Failing surroundings: a log that cannot be written, threads that end, files and memory that run out, signals.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, pipe},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_blocking,
};
use tonic::{Code, Status, transport::Endpoint};

use tidemill::proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    v1::{PredictRequest, PredictResponse, StreamConfig, feed_request::Message, predict_request::Payload},
};

use crate::{
    binary::{Binary, serving},
    http_client::{Http, infer_json},
    serving::{
        Client, DOUBLER, Feed, PATIENCE, bare_config, connect, folder_of, item, limits, message, metric, outcome, page,
        patiently, serve, slow_doubler, tensors_of, until, write,
    },
};

/// Exit codes of a server that could not start, and of one that has lost a part.
const EXIT_START: i32 = 2;
const EXIT_LOST: i32 = 3;

async fn client_of(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    Client::new(endpoint.connect().await.expect("it accepts"))
}

async fn predict(client: &mut Client, values: &[f32]) -> Result<PredictResponse, Status> {
    let payload = Some(Payload::Item(item("", values)));
    let request = PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.map(tonic::Response::into_inner)
}

fn in_unicode(path: &Path) -> &str {
    path.to_str().expect("a name in Unicode")
}

/// Ends the process, and returns its exit code and everything it said.
async fn ended(mut binary: Binary) -> (i32, String) {
    spawn_blocking(move || (binary.end(), binary.log.clone())).await.expect("no panic")
}

// ---- The log ----------------------------------------------------------------------------------------------------------------

/// The binary with a log that the test holds, not `Binary`. Killed when dropped.
struct Mute {
    child: Child,
    grpc: SocketAddr,
    admin: SocketAddr,
    _models: TempDir,
}

impl Mute {
    /// Starts it, and waits until it is ready: it has no way to say where it listens.
    async fn start(command: Command, stderr: Option<Stdio>, flags: &[&str]) -> Self {
        let models = folder_of(&[("m", DOUBLER)]);
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [grpc, admin] = ports.map(|port| port.local_addr().expect("it is bound"));
        let mut command = serving(command, &[&grpc.to_string(), &admin.to_string()], flags);
        command.args(["--models", in_unicode(models.path()), "--set", "models.embedded=false"]);
        if let Some(stderr) = stderr {
            command.stderr(stderr);
        }
        let mut this = Self { child: command.spawn().expect("the binary starts"), grpc, admin, _models: models };
        let ready = async {
            while !is_ready(admin).await {
                assert_eq!(this.child.try_wait().expect("it can be asked"), None, "it runs");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        patiently(ready).await;
        this
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(&patiently(page(self.admin, "/metrics")).await.1, name, "")
    }

    /// Asks it to stop, and returns its exit code.
    async fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        let waiting = spawn_blocking(move || self.child.wait().expect("it can be waited for"));
        patiently(waiting).await.expect("no panic").code().expect("no signal ended it")
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the server is there and ready.
async fn is_ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin).await else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200")
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidemill"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let closed = || {
        let (_, writer) = pipe().expect("a pipe");
        Stdio::from(writer)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("there is one"));
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 2>&-", "sh", env!("CARGO_BIN_EXE_tidemill")]);
    for (what, command, stderr) in
        [("closed by its reader", binary(), Some(closed())), ("full", binary(), Some(full())), ("not there", shell, None)]
    {
        let loses = stderr.is_some();
        let server = Mute::start(command, stderr, &[]).await;
        let mut client = client_of(server.grpc).await;
        // Each lane logs the first one.
        for _ in 0..20 {
            let error = predict(&mut client, &[-1.0; 4]).await.expect_err("the call fails");
            assert_eq!(error.code(), Code::Internal, "{what}: {error}");
        }
        assert!(predict(&mut client, &[1.0; 4]).await.is_ok(), "{what}");
        assert_eq!(server.metric("tidemill_log_lines_lost_total").await > 0.0, loses, "{what}");
        assert_eq!(server.stop().await, 0, "{what}");
    }
}

/// Calls a model until more lines have been lost than the queue and the pipe together could hold.
async fn fill_the_log(server: &Mute) {
    let mut client = client_of(server.grpc).await;
    while server.metric("tidemill_log_lines_lost_total").await == 0.0 {
        for _ in 0..50 {
            assert!(predict(&mut client, &[1.0; 4]).await.is_ok());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nobody_up_and_says_what_was_lost_once_it_is_read() {
    let flags = ["--set", "log.filter=trace,h2=trace", "--set", "log.format=json"];
    let (reader, writer) = pipe().expect("a pipe");
    let server = Mute::start(binary(), Some(writer.into()), &flags).await;
    fill_the_log(&server).await;
    let reading = thread::spawn(|| lines_of(reader));
    // Lines keep coming, and one of them says it.
    let mut client = client_of(server.grpc).await;
    assert!(predict(&mut client, &[1.0; 4]).await.is_ok());
    assert_eq!(server.stop().await, 0);
    let lines = reading.join().expect("no panic");
    let tells = |line: &&serde_json::Value| {
        line["fields"]["message"].as_str().is_some_and(|message| message.contains("lines of the log were lost"))
    };
    let told = lines.iter().find(tells).expect("a line says it");
    assert_eq!((told["level"].as_str(), told["target"].as_str()), (Some("WARN"), Some("tidemill::log")));
    assert!(lines.iter().any(|line| line["fields"]["message"] == "closed"), "the last words are there");
}

/// All lines, each of which is an object.
fn lines_of(reader: PipeReader) -> Vec<serde_json::Value> {
    let lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
    lines.map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_ever_reads_does_not_keep_the_process_from_ending() {
    let (reader, writer) = pipe().expect("a pipe");
    let server = Mute::start(binary(), Some(writer.into()), &["--set", "log.filter=trace,h2=trace"]).await;
    fill_the_log(&server).await;
    assert_eq!(server.stop().await, 0);
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_are_log_lines_and_only_a_few_of_many() {
    const CALLS: usize = 300;
    let models = folder_of(&[("m", &DOUBLER.replace("fail_value", "panic_value"))]);
    let mut server = Binary::serve(&["--models", in_unicode(models.path()), "--set", "models.embedded=false"]);
    let [grpc, _] = server.addresses();
    let mut client = client_of(grpc).await;
    for _ in 0..CALLS {
        let error = predict(&mut client, &[-1.0; 4]).await.expect_err("the engine panics");
        assert_eq!(error.code(), Code::Internal, "{error}");
    }
    assert!(predict(&mut client, &[1.0; 4]).await.is_ok());
    server.terminate();
    let (code, log) = ended(server).await;
    assert_eq!(code, 0, "{log}");
    let panics = log.lines().filter(|line| line.contains("panicked: ") && line.contains("ERROR")).count();
    assert!((1..CALLS / 2).contains(&panics), "{panics} of {CALLS} in\n{log}");
    assert!(!log.contains("RUST_BACKTRACE") && !log.lines().any(|line| line.starts_with("thread '")), "{log}");
}

// ---- Parts that end ---------------------------------------------------------------------------------------------------------

fn with_model(models: &TempDir) -> [&str; 6] {
    ["--models", in_unicode(models.path()), "--set", "models.embedded=false", "--set", "scheduler.lanes=2"]
}

/// The server's account of itself, for as long as it gives one.
async fn readiness(admin: SocketAddr) -> (u16, String) {
    patiently(page(admin, "/readyz")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_ends_is_the_end_of_the_server_and_its_items_are_answered() {
    const ITEMS: usize = 60;
    let models = folder_of(&[("m", &slow_doubler(50_000))]);
    // The sixth batch ends its lane, and the other lane gets the rest.
    let mut server = Binary::serve_with_variables(&[("FAILPOINTS", "lane=5*off->1*panic->off")], &with_model(&models));
    let [grpc, admin] = server.addresses();
    let mut client = client_of(grpc).await;
    let health = Endpoint::from_shared(format!("http://{grpc}")).expect("an address").connect().await.expect("it accepts");
    let (mut feed, _) = Feed::open(&mut client, StreamConfig { window_items: 64, ..tensors_of("m") }).await;
    for _ in 0..ITEMS {
        feed.send(Message::Item(item("", &[1.0; 4]))).await;
    }
    let mut outcomes = Vec::new();
    while outcomes.iter().all(Result::is_ok) {
        outcomes.push(outcome(&feed.next_result().await));
    }
    // The other lane has seconds of work left. The items are answered first.
    let lost = async {
        loop {
            match page(admin, "/readyz").await {
                (503, body) => return body,
                (status, body) => assert_eq!((status, body.contains("ready")), (200, true), "{body}"),
            }
        }
    };
    let body = patiently(lost).await;
    assert!(body.contains(r#""status":"lost""#) && body.contains("lane-cpu-") && body.contains("panicked"), "{body}");
    let mut health = HealthClient::new(health);
    let check = HealthCheckRequest { service: String::new() };
    let not_serving = async {
        while !health.check(check.clone()).await.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::NotServing) {}
    };
    patiently(not_serving).await;
    let (_, metrics) = patiently(page(admin, "/metrics")).await;
    let [received, ended_so_far] =
        ["received", "ended"].map(|name| metric(&metrics, &format!("tidemill_items_{name}_total"), "\"m\""));
    let [queued, running] = ["queued", "in_flight"].map(|name| metric(&metrics, &format!("tidemill_items_{name}"), "\"m\""));
    assert_eq!(received, ended_so_far + queued + running, "the account is even");
    outcomes.extend(feed.rest().await.results.iter().map(outcome));
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!((outcomes.len(), failed), (ITEMS, vec![&Code::Internal]));
    let (code, log) = ended(server).await;
    assert_eq!(code, EXIT_LOST, "{log}");
    assert!(log.contains("panicked: the server cannot go on without it"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timekeeper_that_ends_is_the_end_of_the_server() {
    let models = folder_of(&[("m", DOUBLER)]);
    let mut server = Binary::serve_with_variables(&[("FAILPOINTS", "timekeeper=1*off->panic")], &with_model(&models));
    let [grpc, _] = server.addresses();
    let mut client = client_of(grpc).await;
    // Items with ever earlier deadlines wake it.
    let calling = tokio::spawn(async move {
        for seconds in (1..1_000).rev() {
            let mut timed = item("", &[1.0; 4]);
            timed.deadline = Some(prost_types::Duration { seconds, nanos: 0 });
            let request =
                PredictRequest { model: "m".to_owned(), payload: Some(Payload::Item(timed)), ..PredictRequest::default() };
            if client.predict(request).await.is_err() {
                return;
            }
        }
    });
    let (code, log) = ended(server).await;
    assert_eq!(code, EXIT_LOST, "{log}");
    assert!(log.contains("timekeeper panicked"), "{log}");
    calling.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_panics_again_and_again_is_the_end_of_the_server() {
    let models = folder_of(&[("m", DOUBLER)]);
    for (part, port) in [("admin", "admin="), ("grpc_port", "grpc="), ("http_port", "http=")] {
        let mut server = Binary::serve_with_variables(&[("FAILPOINTS", &format!("{part}=panic"))], &with_model(&models));
        let listening = server.line("listening");
        let (_, address) = listening.split_once(port).expect("an address");
        let address: SocketAddr = address.split(' ').next().and_then(|text| text.parse().ok()).expect("an address");
        let knocking = tokio::spawn(async move { while TcpStream::connect(address).await.is_ok() {} });
        let (code, log) = ended(server).await;
        assert_eq!(code, EXIT_LOST, "{log}");
        assert!(log.contains(&format!("{part} panicked again and again")), "{log}");
        patiently(knocking).await.expect("no panic");
    }
}

/// Waits until the part has been restarted once, and checks that the server serves.
async fn assert_started_again(admin: SocketAddr, grpc: SocketAddr, part: &str) {
    let restarts = async {
        let labels = format!("part=\"{part}\"");
        while metric(&page(admin, "/metrics").await.1, "tidemill_part_restarts_total", &labels) < 1.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, restarts).await.is_ok(), "{part} was never started again");
    let (status, body) = readiness(admin).await;
    assert_eq!(status, 200, "{part}: {body}");
    assert!(predict(&mut client_of(grpc).await, &[1.0; 4]).await.is_ok(), "{part}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_panics_goes_on_accepting() {
    let models = folder_of(&[("m", DOUBLER)]);
    for part in ["admin", "grpc_port", "http_port"] {
        let mut server = Binary::serve_with_variables(&[("FAILPOINTS", &format!("{part}=1*panic->off"))], &with_model(&models));
        let [grpc, admin] = server.addresses();
        let address = match part {
            "admin" => admin,
            "grpc_port" => grpc,
            _ => server.http_address(),
        };
        let mut dropped = TcpStream::connect(address).await.expect("it listens");
        let mut rest = Vec::new();
        // Closed without a word, in order or not.
        let _ = patiently(dropped.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"", "{part}");
        assert_started_again(admin, grpc, part).await;
        assert_eq!(Http::connect_to(server.http_address()).await.get("/v2/health/ready").await.status, 200);
        server.terminate();
        assert_eq!(ended(server).await.0, 0, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_panic_go_on_and_miss_nothing() {
    let models = folder_of(&[("m", DOUBLER)]);
    let points = "health=1*off->1*panic->off;watcher=1*off->1*panic->off;kicker=1*off->1*panic->off";
    let flags = [with_model(&models).as_slice(), &["--watch"]].concat();
    let mut server = Binary::serve_with_variables(&[("FAILPOINTS", points)], &flags);
    let [grpc, admin] = server.addresses();
    // The change that makes them panic is followed all the same.
    write(models.path(), "new/model.toml", DOUBLER.as_bytes());
    let mut health = HealthClient::new(Endpoint::from_shared(format!("http://{grpc}")).expect("an address").connect_lazy());
    let serves = async {
        let check = HealthCheckRequest { service: "new".to_owned() };
        while !health.check(check.clone()).await.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently(serves).await;
    for part in ["health", "watcher"] {
        assert_started_again(admin, grpc, part).await;
    }
    // Lanes that take several items at a time are woken by the kicker.
    let client = client_of(grpc).await;
    let busy: Vec<_> = (0..16).map(|_| tokio::spawn(endless_feed(client.clone()))).collect();
    assert_started_again(admin, grpc, "kicker").await;
    let before = metric(&page(admin, "/metrics").await.1, "tidemill_items_ended_total", "outcome=\"ok\"");
    let goes_on = async {
        while metric(&page(admin, "/metrics").await.1, "tidemill_items_ended_total", "outcome=\"ok\"") < before + 1_000.0 {}
    };
    patiently(goes_on).await;
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    server.terminate();
    assert_eq!(ended(server).await.0, 0);
}

async fn endless_feed(mut client: Client) {
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    let sender = feed.sender();
    let sending = async { while sender.send(message(Message::Item(item("", &[1.0; 4])))).await.is_ok() {} };
    let reading = async { while feed.next().await.is_ok_and(|event| event.is_some()) {} };
    tokio::join!(sending, reading);
}

// ---- Signals and settings ---------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_mean_nothing_do_nothing_but_say_so() {
    let mut server = Binary::serve(&["--set", "models.embedded=false"]);
    let [_, admin] = server.addresses();
    for signal in ["USR1", "USR2", "ALRM", "QUIT", "VTALRM", "PROF", "IO", "XFSZ"] {
        server.signal(&format!("-{signal}"));
        let line = server.line(&format!("SIG{signal} does nothing here"));
        assert!(line.contains("INFO") && line.contains("SIGTERM") && line.contains("SIGHUP"), "{line}");
    }
    assert_eq!(readiness(admin).await.0, 200);
    server.terminate();
    assert_eq!(ended(server).await.0, 0);
}

#[test]
fn a_path_that_cannot_hold_a_recording_keeps_the_server_from_starting_and_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (fifo, socket) = (folder.path().join("fifo"), folder.path().join("socket"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    let _socket = UnixListener::bind(&socket).expect("a socket");
    for (path, what) in [(fifo.as_path(), "a FIFO"), (&socket, "a socket"), (folder.path(), "a folder")] {
        let mut binary = Binary::serve(&["--record", in_unicode(path)]);
        assert_eq!(binary.end(), EXIT_START, "{}", binary.log);
        for fragment in ["scheduler.record", what, in_unicode(path)] {
            assert!(binary.log.contains(fragment), "no {fragment:?} in\n{}", binary.log);
        }
    }
}

#[test]
fn the_value_of_a_variable_that_is_not_a_setting_is_not_shown() {
    let mut binary =
        Binary::serve_with_variables(&[("TIDEMILL_API_TOKEN", "hush-hush"), ("TIDEMILL_DRAIN__DEADLIN_S", "17171")], &[]);
    assert_eq!(binary.end(), EXIT_START, "{}", binary.log);
    for fragment in ["TIDEMILL_API_TOKEN", "TIDEMILL_DRAIN__DEADLINE_S"] {
        assert!(binary.log.contains(fragment), "no {fragment:?} in\n{}", binary.log);
    }
    assert!(!binary.log.contains("hush") && !binary.log.contains("17171"), "{}", binary.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_command_says_that_its_results_cannot_be_written() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let address = server.grpc_addr().to_string();
    let full = File::options().write(true).open("/dev/full").expect("there is one");
    let mut command = binary();
    command.args(["models", "--addr", &address]).env_remove("TIDEMILL_ADDR").stdout(full);
    let output = spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write the results to standard output: No space left on device"), "{said}");
}

// ---- The admin port, files and memory ---------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_despite_scrapers_that_are_silent_or_do_not_read() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut scrapers = Vec::new();
    for scraper in 0..300 {
        let mut stream = TcpStream::connect(server.admin_addr()).await.expect("it listens");
        if scraper % 2 == 0 {
            // Already closed if there is not enough room.
            let _ = stream.write_all("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100).as_bytes()).await;
        }
        scrapers.push(stream);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(patiently(page(server.admin_addr(), path)).await.0, 200, "{path}");
    }
    drop(scrapers);
    patiently(server.drain()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_all_files_leave_some_for_probes() {
    let models = folder_of(&[("m", DOUBLER)]);
    let mut server = Binary::serve_with_no_more_files(80, &with_model(&models));
    let [grpc, admin] = server.addresses();
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(TcpStream::connect(grpc).await.expect("the backlog takes it"));
    }
    let told = server.log.lines().find(|line| line.contains("grpc.max_connections = 10000"));
    assert!(told.is_some_and(|line| line.contains("ulimit -n") && line.contains("limit=80")), "{}", server.log);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(patiently(page(admin, path)).await.0, 200, "{path}");
    }
    // Connections that say nothing make room.
    assert!(predict(&mut client_of(grpc).await, &[1.0; 4]).await.is_ok());
    drop(connections);
    server.terminate();
    let (code, log) = ended(server).await;
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("could not be accepted"), "{log}");
}

#[test]
fn too_few_files_to_serve_keep_the_server_from_starting() {
    let mut binary = Binary::serve_with_no_more_files(40, &["--set", "models.embedded=false"]);
    assert_eq!(binary.end(), EXIT_START, "{}", binary.log);
    assert!(binary.log.contains("may open 40 files (ulimit -n); the server needs at least"), "{}", binary.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_streams_and_large_calls_are_refused_while_memory_is_short_and_small_calls_are_not() {
    let mut config = bare_config();
    // Any process uses more.
    config.memory.limit_bytes = 1 << 20;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let feed = Feed::call(&mut client).await;
    feed.send(Message::Open(tensors_of("m"))).await;
    let mut feed = feed;
    let error = feed.rest().await.error.expect("it is refused");
    assert_eq!((error.code(), limits(&error)), (Code::ResourceExhausted, vec!["memory.limit_bytes".to_owned()]), "{error}");
    assert!(predict(&mut client, &[1.0; 4]).await.is_ok());
    let mut http = Http::connect(&server).await;
    let large = http.post("/v2/models/m/infer", vec![b' '; 300 << 10]).await;
    assert_eq!((large.status.as_u16(), large.header("retry-after")), (429, "1"));
    assert!(large.error().1.contains("memory.limit_bytes"), "{:?}", large.error());
    let mut http = Http::connect(&server).await;
    assert_eq!(http.post("/v2/models/m/infer", infer_json(&[1, 4], &[1.0; 4])).await.status, 200);
    let text = server.metrics();
    assert_eq!(metric(&text, "tidemill_memory_refusals_total", ""), 2.0);
    assert_eq!(metric(&text, "tidemill_memory_limit_bytes", ""), f64::from(1 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_lanes_are_all_in_long_calls_is_alive() {
    let mut config = bare_config();
    config.drain.deadline_s = 0;
    let server = serve(config, &[("m", &slow_doubler(200_000))]).await;
    let client = connect(&server).await;
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { predict(&mut client, &[1.0; 4]).await })
        })
        .collect();
    until("all lanes are in a call", || metric(&server.metrics(), "tidemill_items_in_flight", "") >= 2.0).await;
    assert_eq!(patiently(page(server.admin_addr(), "/livez")).await, (200, "{\"status\":\"live\"}\n".to_owned()));
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    patiently(server.drain()).await;
}
