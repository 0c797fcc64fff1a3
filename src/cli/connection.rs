//! How to reach a server: its address, the channel, and the clients that run over it.
//!
//! Knows transport settings and limits; does not know what the server is asked.

use std::{str::FromStr, time::Duration};

use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    transport::{Channel, Endpoint, Uri},
};

use super::status::{Failure, root_cause};
use crate::proto::v1::{
    GetModelRequest, ModelDetail, inference_service_client::InferenceServiceClient, model_service_client::ModelServiceClient,
};

/// Largest message taken from a server: the results of a long upload come in one.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long questions about models and health may take.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that answers no ping for this long is dead; without it, a pulled cable would look like silence.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// HTTP/2's flow-control windows. They are fixed because the HTTP/2 library counts each small frame that waits to be read as 256
/// bytes less its own, and gives up the connection when together they reach half its window. Adaptive windows begin so small that a
/// command whose output pauses for a moment would be cut off.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 20;

/// How long the server at an address may take to show which protocol it speaks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The beginning of an HTTP/2 connection, with empty settings.
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The fourth byte of the frame that answers it.
const SETTINGS_FRAME: u8 = 4;
/// The beginning of any HTTP/1 server's answer.
const HTTP1_QUESTION: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Which server to talk to, and in which form to print; the same for all client commands.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Server to connect to: HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "ADDRESS", env = "TIDEMILL_ADDR", default_value = "http://127.0.0.1:50051")]
    pub(super) addr: ServerAddress,

    /// Print one JSON object per line on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,
}

/// An address that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerAddress(Uri);

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|error| format!("'{text}' is not HOST:PORT or http://HOST:PORT: {error}"))?;
        match uri.scheme_str() {
            Some("http") if uri.port_u16().is_some() => Ok(Self(uri)),
            Some("http") => Err(format!("'{text}' names no port; the server's default is 50051")),
            _ => Err(format!("'{text}' must begin with http://; for TLS, connect through a proxy on this machine")),
        }
    }
}

impl ConnectionArgs {
    /// Explains a lost connection, if it can: the listener at the address may speak HTTP/1 and not gRPC, as the server's other
    /// ports do.
    pub(super) async fn explained(&self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::ConnectionLost(_)) {
            return failure;
        }
        // A port with an HTTP/2 greeting is the right one, however it reacts to HTTP/1.
        let is_http2 = self.answer(HTTP2_GREETING).await.is_some_and(|answer| answer[3] == SETTINGS_FRAME);
        let is_http1 = !is_http2 && self.answer(HTTP1_QUESTION).await.is_some_and(|answer| answer.starts_with(b"HTTP/1"));
        if is_http1 { Failure::NotGrpc { address: self.addr.0.to_string() } } else { failure }
    }

    /// The first bytes of the answer.
    async fn answer(&self, question: &[u8]) -> Option<[u8; 9]> {
        let address = (self.addr.0.host()?.trim_matches(['[', ']']), self.addr.0.port_u16()?);
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(question).await?;
            let mut answer = [0; 9];
            stream.read_exact(&mut answer).await.map(|_| answer)
        };
        timeout(PROBE_TIMEOUT, asking).await.ok()?.ok()
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure::CannotConnect`] with what the operating system said.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        let cannot = |error: tonic::transport::Error| Failure::CannotConnect {
            address: self.addr.0.to_string(),
            reason: root_cause(&error),
        };
        let endpoint = Endpoint::from(self.addr.0.clone())
            .user_agent(concat!("tidemill-cli/", env!("CARGO_PKG_VERSION")))
            .map_err(cannot)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        endpoint.connect().await.map_err(cannot)
    }
}

/// A client of the inference service.
pub(super) fn inference(channel: Channel) -> InferenceServiceClient<Channel> {
    InferenceServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// A client of the model service.
pub(super) fn models(channel: Channel) -> ModelServiceClient<Channel> {
    ModelServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Asks for one model in full.
///
/// # Errors
/// [`Failure::Refused`] with NOT_FOUND if there is none of this name and version.
pub(super) async fn model_detail(channel: Channel, name: &str, version: &str) -> Result<ModelDetail, Failure> {
    let request = question(GetModelRequest { name: name.to_owned(), version: version.to_owned() });
    let response = models(channel).get_model(request).await?.into_inner();
    response.model.ok_or_else(|| Failure::UnexpectedAnswer("the answer to GetModel holds no model".to_owned()))
}

/// A request that a server answers from memory; if no answer comes, something is wrong with the server.
pub(super) fn question<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(QUESTION_TIMEOUT);
    request
}

/// Waits for `work`, or for Ctrl-C, which abandons it.
///
/// # Errors
/// [`Failure::Interrupted`] on Ctrl-C, otherwise those of `work`.
pub(super) async fn unless_interrupted<T>(
    interrupt: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    interrupt.run_until_cancelled(work).await.unwrap_or(Err(Failure::Interrupted))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::{
        body::{Frame, Incoming},
        server::conn::http2,
        service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{net::TcpListener, sync::mpsc};
    use tonic::body::Body;
    use tower::{Service as _, ServiceExt as _};

    use super::*;

    const FRAMES: usize = 5_000;

    /// Answers everything with many small frames, one by one, and reports when the last one is out.
    async fn trickle(listener: TcpListener, sent: mpsc::Sender<()>) {
        let (stream, _) = listener.accept().await.expect("a client");
        let service = service_fn(move |_: http::Request<Incoming>| {
            let sent = sent.clone();
            let frames = stream::iter(0..FRAMES).map(|_| Bytes::from_static(&[0; 30]));
            let last = stream::once(async move {
                let _ = sent.send(()).await;
                Bytes::from_static(&[0; 30])
            });
            let body = StreamBody::new(frames.chain(last).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
            async { Ok::<_, Infallible>(http::Response::new(body)) }
        });
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    #[tokio::test]
    async fn a_command_that_stands_still_for_a_moment_keeps_its_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound").to_string().parse().expect("an address");
        let (sent, mut sending) = mpsc::channel(1);
        tokio::spawn(trickle(listener, sent));
        let mut channel = ConnectionArgs { addr, json: false }.connect().await.expect("it accepts");
        let mut ask = async || {
            let request = http::Request::post("/a/b").body(Body::empty()).expect("a request");
            channel.ready().await.expect("the connection lives").call(request).await.expect("a response")
        };
        let unread = ask().await;
        sending.recv().await.expect("all is sent");
        let later = ask().await;
        for response in [unread, later] {
            let body = response.into_body().collect().await.expect("the connection lives").to_bytes();
            assert_eq!(body.len(), 30 * (FRAMES + 1));
        }
    }

    #[test]
    fn an_address_needs_no_scheme_but_a_port() {
        let plain: ServerAddress = "localhost:1234".parse().expect("host and port");
        assert_eq!(Ok(plain), "http://localhost:1234".parse());
        assert!("[::1]:1234".parse::<ServerAddress>().is_ok());
        assert!("localhost".parse::<ServerAddress>().expect_err("no port").contains("names no port"));
        assert!("https://localhost:1".parse::<ServerAddress>().expect_err("tls").contains("must begin with http://"));
        assert!("a b:1".parse::<ServerAddress>().is_err());
    }
}
