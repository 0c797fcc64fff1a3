//! The operator's door: `/metrics`, `/livez`, `/readyz` over HTTP/1.1.
//!
//! It runs on an OS thread and a runtime of its own, so that it answers while the data plane is saturated, and it is the last to
//! close. It knows no model and no client; it is told whether the models are ready.
//!
//! # SHUTDOWN
//! [`AdminHandle::close`] stops accepting, lets each connection finish the response that it is writing, for at most
//! [`GRACE`], and returns when the thread is done. Dropping the handle asks for the same and does not wait.

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use tokio::{
    net::TcpStream,
    runtime, select,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    clock,
    drain::{Drain, Phase},
    frontend::web::{Guarded, WebRules},
    telemetry::{Seldom, Telemetry},
};

const CONNECTIONS_MAX: usize = 64;
/// Also how long a connection may idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After which a connection is closed, so that one that reads slowly does not hold its place for ever.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a connection that is to close may take to finish its response.
pub const GRACE: Duration = Duration::from_secs(2);
/// Accepting fails when descriptors run out; trying again at once would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Whether the server should be sent work, as `/readyz` says it.
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
    /// It is shutting down.
    Draining,
}

/// What the admin server reports on.
#[derive(Clone)]
pub struct AdminSource {
    /// The metrics to serve.
    pub telemetry: Telemetry,
    /// The server's phase.
    pub drain: Drain,
    /// Brings up to date what is not counted as it happens; called before each scrape, on the admin thread.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Whether the models are ready; asked for each `/readyz`, on the admin thread.
    pub models: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Which requests are answered, as far as web pages are concerned.
    pub web: WebRules,
}

impl AdminSource {
    fn readiness(&self) -> Readiness {
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
    address: SocketAddr,
    stop: DropGuard,
    done: oneshot::Receiver<()>,
}

impl AdminHandle {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it and waits until it has stopped.
    pub async fn close(self) {
        drop(self.stop);
        // The sender is never used: its end is the thread's end.
        let _ = self.done.await;
    }
}

/// Serves on `listener` from a thread of its own.
///
/// # Errors
/// If the listener, the runtime or the thread cannot be set up.
pub fn spawn(listener: TcpListener, source: AdminSource) -> io::Result<AdminHandle> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _context = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let stop = CancellationToken::new();
    let (running, done) = oneshot::channel();
    let serving = serve(listener, source, stop.clone());
    // Besides the lanes this is the one thread that is not the runtime's: its answers must not wait for the data plane.
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(serving);
        drop(runtime);
        drop(running);
    })?;
    Ok(AdminHandle { address, stop: stop.drop_guard(), done })
}

async fn serve(listener: tokio::net::TcpListener, source: AdminSource, stop: CancellationToken) {
    let web = source.web.clone();
    let router = router(source);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let failures = Seldom::default();
    loop {
        select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    let service = web.on(&stream).guard(router.clone());
                    connections.spawn(converse(stream, permit, service, stop.clone()));
                }
                Err(error) => {
                    if let Some(left_out) = failures.due(clock::now()) {
                        tracing::warn!(%error, left_out, "the admin server could not accept a connection");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Waits for a free place first, so that further connections stay in the kernel's backlog.
async fn accept(listener: &tokio::net::TcpListener, permits: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return pending().await };
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn converse(stream: TcpStream, _place: OwnedSemaphorePermit, router: Guarded<Router>, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = select! {
        ended = connection.as_mut() => ended,
        () = async { select! { () = stop.cancelled() => {}, () = sleep(CONNECTION_LIFETIME) => {} } } => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke off");
    }
}

fn router(source: AdminSource) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(source)
}

/// What a scrape is told that finds metrics switched off.
const METRICS_OFF: &str = "there are no metrics: the server was started with metrics.enabled = false\n";

async fn index() -> &'static str {
    "Tidemill admin\n/metrics  Prometheus metrics\n/livez    200 while the process answers\n/readyz   200 when it should be sent work\n"
}

async fn metrics(State(source): State<AdminSource>) -> Response {
    if !source.telemetry.is_on() {
        return (StatusCode::NOT_FOUND, METRICS_OFF).into_response();
    }
    (source.refresh)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], source.telemetry.render()).into_response()
}

async fn livez() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "status": "live" }))
}

async fn readyz(State(source): State<AdminSource>) -> Response {
    let readiness = source.readiness();
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
    use std::io::{Read as _, Write as _};

    use axum::{body, body::Body, http::Request};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tower::ServiceExt as _;

    use super::*;

    fn source(phase: Phase, models: Readiness) -> AdminSource {
        let drain = Drain::new();
        match phase {
            Phase::Starting => {}
            Phase::Serving => drain.serve(),
            Phase::Draining => drain.begin(),
            Phase::Closed => drain.close(),
        }
        let refresh = Arc::new(|| {});
        let (telemetry, web) = (Telemetry::new(), WebRules::default());
        AdminSource { telemetry, drain, refresh, models: Arc::new(move || models.clone()), web }
    }

    async fn get(source: AdminSource, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router(source).oneshot(request).await.expect("infallible");
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
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        spawn(listener, source(Phase::Serving, Readiness::Ready)).expect("it starts")
    }

    #[test]
    fn serves_metrics_where_no_other_runtime_runs() {
        let admin = start();
        let mut stream = std::net::TcpStream::connect(admin.address()).expect("it listens");
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
            let mut stream = std::net::TcpStream::connect(admin.address()).expect("it listens");
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
        let mut stream = TcpStream::connect(admin.address()).await.expect("it listens");
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
        let mut stream = TcpStream::connect(admin.address()).await.expect("it listens");
        stream.write_all(&request.as_bytes()[..HEADER_BYTES_MAX]).await.expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("it answers and closes");
        assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    }
}
