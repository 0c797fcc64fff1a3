//! Connections of every kind through the same loops: pipes in memory, and sockets of this machine.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{pending, poll_fn},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tower::service_fn;

use super::{Accept, Client, Clients, Io, Listener, Protocol, Shutdown, Talk, http1, http2, probes};
use crate::{
    connections::{self, Connections},
    domain::Address,
    telemetry::Telemetry,
    vitals::{Part, Vitals},
};

const TEN_SECONDS: Duration = Duration::from_secs(10);

const LIMITS: http1::Limits = http1::Limits {
    header_bytes_max: 1 << 10,
    header_timeout: TEN_SECONDS,
    idle_timeout: TEN_SECONDS,
    unread_timeout: TEN_SECONDS,
};

const HTTP2: http2::Plug = http2::Plug {
    stream_window_bytes: 64 << 10,
    connection_window_bytes: 1 << 20,
    send_buffer_bytes: 64 << 10,
    streams_max: 100,
    header_bytes_max: 16 << 10,
    greeting_timeout: TEN_SECONDS,
    idle_timeout: TEN_SECONDS,
    unread_timeout: TEN_SECONDS,
    keepalive_interval: None,
    keepalive_timeout: TEN_SECONDS,
};

impl Io for DuplexStream {
    fn local_ip(&self) -> Option<IpAddr> {
        None
    }

    fn set_up(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Io for UnixStream {
    fn local_ip(&self) -> Option<IpAddr> {
        None
    }

    fn set_up(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((Self::accept(self).await?.0, None))
    }
}

/// The server's ends of the pipes that the test opens.
struct Pipes(Mutex<mpsc::Receiver<DuplexStream>>);

impl Accept for Pipes {
    type Io = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, Option<IpAddr>)> {
        match self.0.lock().await.recv().await {
            Some(pipe) => Ok((pipe, None)),
            None => pending().await,
        }
    }
}

/// A port of one kind, as its clients see it.
trait Kind: Sized {
    type Socket: Accept;
    type Client: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn open() -> (Self, Self::Socket);

    async fn connect(&self) -> Self::Client;
}

struct InMemory(mpsc::Sender<DuplexStream>);

impl Kind for InMemory {
    type Socket = Pipes;
    type Client = DuplexStream;

    fn open() -> (Self, Pipes) {
        let (sender, receiver) = mpsc::channel(8);
        (Self(sender), Pipes(Mutex::new(receiver)))
    }

    async fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(64 << 10);
        self.0.send(server).await.expect("the port is open");
        client
    }
}

struct OnThisMachine {
    path: PathBuf,
    _folder: TempDir,
}

impl Kind for OnThisMachine {
    type Socket = UnixListener;
    type Client = UnixStream;

    fn open() -> (Self, UnixListener) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("port");
        let socket = UnixListener::bind(&path).expect("a new name");
        (Self { path, _folder: folder }, socket)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("it listens")
    }
}

/// Sends back what comes over HTTP/1.1.
#[derive(Clone)]
struct Http1Echo;

impl Talk for Http1Echo {
    const PROTOCOL: Protocol = Protocol::Http1;

    fn first_within(&self) -> Duration {
        TEN_SECONDS
    }

    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let plug = http1::Plug { limits: LIMITS, refusal: |breach, _| format!("{breach:?}").into_bytes() };
        http1::converse(io, client, service_fn(echo::<http1::RequestBody>), plug, shutdown)
    }
}

/// The same over HTTP/2.
#[derive(Clone)]
struct Http2Echo;

impl Talk for Http2Echo {
    const PROTOCOL: Protocol = Protocol::Http2;

    fn first_within(&self) -> Duration {
        TEN_SECONDS
    }

    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        http2::converse::<http2::Reading, _, _, _>(io, client, service_fn(echo::<Incoming>), HTTP2, shutdown)
    }
}

/// A port being served.
struct Served<K> {
    kind: K,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl<K: Kind> Served<K> {
    fn new<S>(serve: impl FnOnce(Listener<K::Socket, Clients>) -> S) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (kind, socket) = K::open();
        let (shutdown, metrics) = (Shutdown::default(), Telemetry::off().server());
        let port = Connections::default().port(8, metrics.clone());
        let listener = Listener::for_clients(socket, Part::HttpPort, port, metrics, shutdown.clone());
        let serving = tokio::spawn(serve(listener));
        Self { kind, shutdown, serving }
    }

    fn http1() -> Self {
        Self::new(|listener| listener.talk(Http1Echo, None::<Http2Echo>))
    }

    fn http2() -> Self {
        Self::new(|listener| listener.talk(Http2Echo, None::<Http1Echo>))
    }

    /// Closes the port, and returns once its connections have ended.
    async fn close(self) {
        self.shutdown.close();
        self.serving.await.expect("no panic");
    }
}

/// Sends back what came, and who sent it.
async fn echo<B: Body<Data = Bytes, Error: Debug>>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let peer = connections::peer();
    assert_eq!((peer.connection > 0, peer.address), (true, Address::Local));
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    Ok(Response::new(Full::new(body)))
}

async fn alive(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from("alive"))))
}

fn request(text: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://here/").header("host", "here").body(Full::new(Bytes::from(text))).expect("sound")
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// Everything read until the server closes its side.
async fn heard(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut heard = String::new();
    io.read_to_string(&mut heard).await.expect("it closes in order");
    heard
}

async fn requests_over_http1_are_answered<K: Kind>() {
    let served = Served::<K>::http1();
    let (mut client, connection) = conn::http1::handshake(TokioIo::new(served.kind.connect().await)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    for word in ["one", "two", "three"] {
        assert_eq!(text(client.send_request(request(word)).await.expect("an answer")).await, word);
    }
    served.close().await;
    connection.await.expect("no panic").expect("it closes in order");
}

async fn a_breach_of_http1_is_answered_and_ends_the_connection<K: Kind>() {
    let served = Served::<K>::http1();
    let mut client = served.kind.connect().await;
    client.write_all(b"GET / HTTP/1.1\n").await.expect("it fits");
    assert_eq!(heard(&mut client).await, "BareLineFeed");
    drop(client);
    served.close().await;
}

async fn streams_over_http2_are_answered<K: Kind>() {
    let served = Served::<K>::http2();
    let io = TokioIo::new(served.kind.connect().await);
    let (mut client, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let answers = ["one", "two", "three"].map(|word| {
        let answer = client.send_request(request(word));
        async move { assert_eq!(text(answer.await.expect("an answer")).await, word) }
    });
    futures::future::join_all(answers).await;
    served.close().await;
    connection.await.expect("no panic").expect("it closes in order");
    poll_fn(|cx| client.poll_ready(cx)).await.expect_err("it was told to go away");
}

async fn a_port_speaks_what_its_client_begins_with<K: Kind>() {
    let first_http1 = Served::<K>::new(|listener| listener.talk(Http1Echo, Some(Http2Echo)));
    let first_http2 = Served::<K>::new(|listener| listener.talk(Http2Echo, Some(Http1Echo)));
    for served in [first_http1, first_http2] {
        let (mut http1, over_http1) =
            conn::http1::handshake(TokioIo::new(served.kind.connect().await)).await.expect("a connection");
        let io = TokioIo::new(served.kind.connect().await);
        let (mut http2, over_http2) = conn::http2::handshake(TokioExecutor::new(), io).await.expect("a connection");
        let connections = [tokio::spawn(async { over_http1.await.is_ok() }), tokio::spawn(async { over_http2.await.is_ok() })];
        assert_eq!(text(http1.send_request(request("one")).await.expect("an answer")).await, "one");
        assert_eq!(text(http2.send_request(request("two")).await.expect("an answer")).await, "two");
        let mut silent = served.kind.connect().await;
        served.close().await;
        assert!(!matches!(silent.read(&mut [0]).await, Ok(1..)), "nothing is said to a client that said nothing");
        for connection in connections {
            assert!(connection.await.expect("no panic"), "it closes in order");
        }
    }
}

async fn the_longest_silent_connection_makes_room_for_a_probe<K: Kind>() {
    let (kind, socket) = K::open();
    let (shutdown, vitals) = (Shutdown::default(), Vitals::new(&Telemetry::off()));
    let places = Arc::new(probes::Places::new(1));
    let listener = Listener { socket, part: Part::Admin, places, vitals, shutdown: shutdown.clone() };
    let told = shutdown.clone();
    let serving =
        tokio::spawn(listener.serve(move |io, place| probes::converse(io, place, service_fn(alive), 1 << 13, told.clone())));
    let mut silent = kind.connect().await;
    let (mut client, connection) = conn::http1::handshake(TokioIo::new(kind.connect().await)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    assert_eq!(text(client.send_request(request("")).await.expect("an answer")).await, "alive");
    assert_eq!(heard(&mut silent).await, "");
    shutdown.close();
    serving.await.expect("no panic");
    connection.await.expect("no panic").expect("it closes in order");
}

/// Runs each of these over each kind of connection.
macro_rules! over_each_kind {
    ($($what:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $what() { super::$what::<super::InMemory>().await; })*
        }

        mod on_this_machine {
            $(#[tokio::test] async fn $what() { super::$what::<super::OnThisMachine>().await; })*
        }
    };
}

over_each_kind!(
    requests_over_http1_are_answered,
    a_breach_of_http1_is_answered_and_ends_the_connection,
    streams_over_http2_are_answered,
    a_port_speaks_what_its_client_begins_with,
    the_longest_silent_connection_makes_room_for_a_probe,
);

/// What no socket could do: time stands still in the test, and advances as the test waits.
#[tokio::test(start_paused = true)]
async fn clients_in_memory_have_the_same_time_as_any() {
    let begun = tokio::time::Instant::now();
    let (http1, http2) = (Served::<InMemory>::http1(), Served::<InMemory>::http2());
    let (mut silent, mut halfway) = (http1.kind.connect().await, http2.kind.connect().await);
    halfway.write_all(b"PRI * HTTP").await.expect("it fits");
    assert_eq!((heard(&mut silent).await, heard(&mut halfway).await), (String::new(), String::new()));
    assert_eq!(begun.elapsed().as_secs(), LIMITS.header_timeout.as_secs());
    drop((silent, halfway));
    timeout(TEN_SECONDS, async { tokio::join!(http1.close(), http2.close()) }).await.expect("nothing is left to wait for");
}
