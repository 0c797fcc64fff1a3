//! The operator's door: `/metrics`, `/livez`, `/readyz` over HTTP/1.1.
//!
//! It runs on its own OS thread and runtime, so that it answers while the data plane is saturated, and it is the last to close.
//! It knows no model and no client; its owner says whether the models are ready.
//!
//! Probes are answered however many others are connected ([`probes`]). The page of metrics, which takes a while, is made
//! on another thread ([`Scrapes`]).
//!
//! # SHUTDOWN
//! [`AdminHandle::close`] stops accepting, lets each connection finish the response that it is writing, for at most two seconds, and
//! returns when the thread is done. Dropping the handle asks for the same and does not wait.

mod scrapes;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::{
    runtime::{self, Runtime},
    sync::oneshot,
};

use crate::{
    clock,
    domain::FaultKind,
    drain::{Drain, Phase},
    frontend::{MetricsGate, web::WebRules},
    telemetry::{Seldom, Telemetry},
    transport::{
        BoundSocket, Gate, Listener, Shutdown, Socket,
        probes::{self, Places},
    },
    vitals::{Liveness, Part, Stall, Vitals},
};

use scrapes::Scrapes;

const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Whether the server should be sent work, as `/readyz` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Readiness {
    /// It should.
    Ready,
    /// It is starting.
    Starting,
    /// A model is being loaded.
    Loading {
        /// Its name.
        model: String,
    },
    /// A model could not be loaded.
    Failed {
        /// Its name.
        model: String,
        /// Why.
        error: String,
    },
    /// It has started, but has no model to serve.
    NoModel,
    /// A part that it cannot do without has ended; it is about to end too.
    Lost {
        /// Which part.
        part: String,
        /// How it ended.
        reason: String,
    },
    /// It is shutting down.
    Draining,
}

/// The sources of the admin server's reports.
#[derive(Clone)]
pub struct AdminSource {
    /// The metrics to serve.
    pub telemetry: Telemetry,
    /// The server's phase.
    pub drain: Drain,
    /// The parts that must not end.
    pub vitals: Vitals,
    /// Whether anything hangs.
    pub liveness: Arc<Liveness>,
    /// Updates whatever is not counted as it happens; called before each scrape, on the thread that makes the page.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Whether the models are ready; asked for each `/readyz`, on the admin thread.
    pub models: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Which requests are answered, as far as web pages are concerned.
    pub web: WebRules,
    /// Lets those read metrics who may; absent if everybody may.
    pub gate: Option<MetricsGate>,
}

impl AdminSource {
    fn readiness(&self) -> Readiness {
        if let Some(loss) = self.vitals.loss() {
            return Readiness::Lost { part: loss.part.to_string(), reason: loss.to_string() };
        }
        match (self.drain.phase(), (self.models)()) {
            (Phase::Draining | Phase::Closed, _) => Readiness::Draining,
            (Phase::Starting, Readiness::Ready) => Readiness::Starting,
            (Phase::Starting | Phase::Serving, models) => models,
        }
    }
}

/// A running admin server.
#[derive(Debug)]
pub struct AdminHandle {
    address: Option<SocketAddr>,
    stop: CloseOnDrop,
    done: oneshot::Receiver<()>,
}

/// Closes the port when it is dropped.
#[derive(Debug)]
struct CloseOnDrop(Shutdown);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl AdminHandle {
    /// Where it listens; `None` for a Unix socket.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops it and waits until it has stopped.
    pub async fn close(self) {
        drop(self.stop);
        // The sender is never used: its end is the thread's end.
        let _ = self.done.await;
    }
}

/// Serves up to `connections_max` connections at once on a socket, behind the gate if there is one, from its own thread.
///
/// # Errors
/// If the socket, the runtime or the thread cannot be set up.
pub fn spawn(bound: BoundSocket, gate: Option<Gate>, source: AdminSource, connections_max: usize) -> io::Result<AdminHandle> {
    let address = bound.address()?;
    let stop = CloseOnDrop(Shutdown::default());
    let shutdown = stop.0.clone();
    let (running, done) = oneshot::channel();
    let (preparing, prepared) = mpsc::sync_channel(1);
    // Apart from the lanes and the log, this is the only thread outside the runtime: its answers must not wait for the data plane.
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        let (runtime, socket) = match prepare(bound, gate) {
            Ok(prepared) => prepared,
            Err(error) => return drop(preparing.send(Err(error))),
        };
        if preparing.send(Ok(())).is_err() {
            return;
        }
        let vital = source.vitals.clone().watch(Part::Admin);
        runtime.block_on(serve(socket, source, connections_max, shutdown));
        vital.end();
        // Not by dropping it, which would wait for a page of metrics that may never be finished.
        runtime.shutdown_background();
        drop(running);
    })?;
    prepared.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended")))?;
    Ok(AdminHandle { address, stop, done })
}

/// The runtime, and the socket registered with it. Call it outside any other runtime: dropping one within another panics.
fn prepare(bound: BoundSocket, gate: Option<Gate>) -> io::Result<(Runtime, Socket)> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let context = runtime.enter();
    let socket = bound.into_socket(gate);
    drop(context);
    Ok((runtime, socket?))
}

/// Serves until it is asked to stop and all connections have ended.
async fn serve(socket: Socket, source: AdminSource, connections_max: usize, shutdown: Shutdown) {
    let (web, vitals, places) = (source.web.clone(), source.vitals.clone(), Arc::new(Places::new(connections_max)));
    let scrapes = Arc::new(Scrapes::new(source.telemetry.clone(), Arc::clone(&source.refresh), Arc::clone(&places)));
    let router = router(Api { source, scrapes, stalls: Arc::default() });
    let listener = Listener { socket, part: Part::Admin, places, vitals, shutdown: shutdown.clone() };
    listener
        .serve(|io, place| {
            let service = web.on(&io).guard(router.clone());
            probes::converse(io, place, service, HEADER_BYTES_MAX, shutdown.clone())
        })
        .await;
}

/// The state that handlers share.
#[derive(Clone)]
struct Api {
    source: AdminSource,
    scrapes: Arc<Scrapes>,
    /// Which failures of `/livez` are logged.
    stalls: Arc<Seldom>,
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(api)
}

/// The answer to a scrape where metrics are switched off.
const METRICS_OFF: &str = "there are no metrics: the server was started with metrics.enabled = false\n";

async fn index() -> &'static str {
    "Tidemill admin\n/metrics  Prometheus metrics\n/livez    200 unless something hangs\n/readyz   200 when it should be sent work\n"
}

async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    if let Some(gate) = &api.source.gate
        && let Err(fault) = gate.check(&headers)
    {
        let body = format!("{fault}\n");
        return match fault.kind() {
            FaultKind::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer realm=\"tidemill\"")], body).into_response()
            }
            _ => (StatusCode::FORBIDDEN, body).into_response(),
        };
    }
    if !api.source.telemetry.is_on() {
        return (StatusCode::NOT_FOUND, METRICS_OFF).into_response();
    }
    match api.scrapes.page().await {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], Body::from(page)).into_response(),
        Err(late) => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], format!("{late}\n")).into_response(),
    }
}

async fn livez(State(api): State<Api>) -> Response {
    let now = clock::now();
    let stall = api.source.liveness.stall(now);
    if let Some(stall) = &stall
        && let Some(left_out) = api.stalls.due(now)
    {
        tracing::error!(left_out, "/livez fails: {stall}");
    }
    life(stall)
}

fn life(stall: Option<Stall>) -> Response {
    let Some(Stall { part, lasts, limit }) = stall else {
        return json(StatusCode::OK, &serde_json::json!({ "status": "live" }));
    };
    let (seconds, limit_s) = (lasts.as_secs(), limit.as_secs());
    let body = serde_json::json!({ "status": "stalled", "part": part, "seconds": seconds, "limit_s": limit_s });
    json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

async fn readyz(State(api): State<Api>) -> Response {
    let readiness = api.source.readiness();
    let status = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

/// One line of JSON.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        sync::LazyLock,
        time::Duration,
    };

    use axum::{body, http::Request};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };
    use tower::ServiceExt as _;

    use super::*;

    /// Few, so that a test can fill them.
    const CONNECTIONS_MAX: usize = 8;

    /// Leaked, as a runtime must not end within another.
    static WORKERS: LazyLock<Runtime> = LazyLock::new(|| runtime::Builder::new_current_thread().build().expect("a runtime"));

    fn source(phase: Phase, models: Readiness) -> AdminSource {
        let drain = Drain::new();
        match phase {
            Phase::Starting => {}
            Phase::Serving => drain.serve(),
            Phase::Draining => drain.begin(),
            Phase::Closed => drain.close(),
        }
        let telemetry = Telemetry::new();
        let vitals = Vitals::new(&telemetry);
        let liveness = Arc::new(Liveness::new(vitals.clone(), WORKERS.metrics(), || None));
        AdminSource {
            telemetry,
            drain,
            vitals,
            liveness,
            refresh: Arc::new(|| {}),
            models: Arc::new(move || models.clone()),
            web: WebRules::default(),
            gate: None,
        }
    }

    fn api(source: AdminSource) -> Api {
        let places = Arc::new(Places::new(CONNECTIONS_MAX));
        let scrapes = Arc::new(Scrapes::new(source.telemetry.clone(), Arc::clone(&source.refresh), places));
        Api { source, scrapes, stalls: Arc::default() }
    }

    async fn get(source: AdminSource, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router(api(source)).oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let body = body::to_bytes(response.into_body(), 1 << 20).await.expect("a short body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn readiness_names_what_it_waits_for() {
        let loading = Readiness::Loading { model: "magika".to_owned() };
        let failed = Readiness::Failed { model: "magika".to_owned(), error: "no \"model.onnx\"".to_owned() };
        let cases = [
            (Phase::Starting, Readiness::Ready, 503, r#"{"status":"starting"}"#),
            (Phase::Starting, loading.clone(), 503, r#"{"status":"loading","model":"magika"}"#),
            (Phase::Serving, Readiness::Ready, 200, r#"{"status":"ready"}"#),
            (Phase::Serving, loading, 503, r#"{"status":"loading","model":"magika"}"#),
            (Phase::Serving, failed, 503, r#"{"status":"failed","model":"magika","error":"no \"model.onnx\""}"#),
            (Phase::Draining, Readiness::Ready, 503, r#"{"status":"draining"}"#),
            (Phase::Closed, Readiness::Ready, 503, r#"{"status":"draining"}"#),
        ];
        for (phase, models, status, body) in cases {
            assert_eq!(get(source(phase, models), "/readyz").await, (status, format!("{body}\n")));
        }
    }

    #[tokio::test]
    async fn a_part_that_is_lost_is_the_reason_whatever_the_phase() {
        let body = "{\"status\":\"lost\",\"part\":\"timekeeper\",\"reason\":\"timekeeper ended\"}\n".to_owned();
        for phase in [Phase::Serving, Phase::Draining] {
            let source = source(phase, Readiness::Ready);
            drop(source.vitals.watch(Part::Timekeeper));
            assert_eq!(get(source, "/readyz").await, (503, body.clone()));
        }
    }

    #[tokio::test]
    async fn what_hangs_is_named_with_the_time() {
        let stall = Stall { part: "lane-cpu-3".to_owned(), lasts: Duration::from_secs(41), limit: Duration::from_secs(30) };
        let response = life(Some(stall));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = body::to_bytes(response.into_body(), 1 << 10).await.expect("a short body");
        assert_eq!(body, "{\"limit_s\":30,\"part\":\"lane-cpu-3\",\"seconds\":41,\"status\":\"stalled\"}\n");
    }

    #[tokio::test]
    async fn lives_while_it_drains() {
        assert_eq!(get(source(Phase::Draining, Readiness::Ready), "/livez").await.0, 200);
    }

    #[tokio::test]
    async fn the_index_names_what_there_is_and_nothing_else_is_there() {
        let (status, index) = get(source(Phase::Serving, Readiness::Ready), "/").await;
        assert_eq!(status, 200);
        for path in ["/metrics", "/livez", "/readyz"] {
            assert!(index.contains(path));
            assert_ne!(get(source(Phase::Serving, Readiness::Ready), path).await.0, 404);
        }
        assert_eq!(get(source(Phase::Serving, Readiness::Ready), "/debug").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_that_are_off_are_not_found_and_the_answer_says_why() {
        let off = AdminSource { telemetry: Telemetry::off(), ..source(Phase::Serving, Readiness::Ready) };
        let (status, body) = get(off.clone(), "/metrics").await;
        assert_eq!(status, 404);
        assert!(body.contains("metrics.enabled"), "{body}");
        assert_eq!(get(off, "/readyz").await.0, 200);
    }

    fn start() -> AdminHandle {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        spawn(listener.into(), None, source(Phase::Serving, Readiness::Ready), CONNECTIONS_MAX).expect("it starts")
    }

    fn place(admin: &AdminHandle) -> SocketAddr {
        admin.address().expect("an address of IP")
    }

    #[test]
    fn serves_metrics_where_no_other_runtime_runs() {
        let admin = start();
        let mut stream = std::net::TcpStream::connect(place(&admin)).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("it answers and closes");
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
        assert!(response.contains("\ntidemill_build_info{"), "{response}");
    }

    #[test]
    fn a_foreign_page_is_told_nothing() {
        let admin = start();
        for (fields, status) in
            [("host: evil.example", "403"), ("host: localhost\r\norigin: http://evil.example", "403"), ("x: y", "400")]
        {
            let mut stream = std::net::TcpStream::connect(place(&admin)).expect("it listens");
            let request = format!("GET /readyz HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("it reads");
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("it answers and closes");
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")) && !response.contains("ready"), "{response}");
        }
    }

    #[tokio::test]
    async fn closing_ends_connections_that_are_kept_alive() {
        let admin = start();
        let mut stream = TcpStream::connect(place(&admin)).await.expect("it listens");
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it reads");
        let mut first = [0];
        stream.read_exact(&mut first).await.expect("it answers");
        admin.close().await;
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("it closes in order");
        assert!(rest.ends_with("{\"status\":\"live\"}\n"), "{rest}");
    }

    #[tokio::test]
    async fn refuses_headers_that_are_too_long() {
        let admin = start();
        // No longer than what the server reads before it answers: bytes left unread would turn the answer into a reset.
        let request = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(HEADER_BYTES_MAX));
        let mut stream = TcpStream::connect(place(&admin)).await.expect("it listens");
        stream.write_all(&request.as_bytes()[..HEADER_BYTES_MAX]).await.expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("it answers and closes");
        assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    }

    /// Whether the server closes the connection, with or without an answer.
    async fn is_closed(mut stream: TcpStream) -> bool {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.is_ok()
    }

    async fn probe(admin: &AdminHandle) -> String {
        let mut stream = TcpStream::connect(place(admin)).await.expect("it listens");
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("it answers and closes");
        response
    }

    #[tokio::test]
    async fn a_probe_is_answered_beside_any_number_of_silent_connections_and_the_longest_silent_ones_go() {
        let admin = start();
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(place(&admin)).await.expect("it listens"));
        }
        assert!(probe(&admin).await.starts_with("HTTP/1.1 200 OK"));
        assert!(is_closed(silent.remove(0)).await);
    }

    #[tokio::test]
    async fn a_probe_is_answered_beside_scrapers_that_do_not_read() {
        let admin = start();
        let mut unread = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(place(&admin)).await.expect("it listens");
            // More answers than the buffers between take.
            let asked = stream.write_all("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(300).as_bytes()).await;
            unread.push((asked, stream));
        }
        assert!(probe(&admin).await.starts_with("HTTP/1.1 200 OK"));
    }
}
