//! How to reach a server: transport settings and limits. What the server is asked is in `calls`.

use std::{io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tidemill_wire::{
    health::health_client::HealthClient,
    inference::grpc_inference_service_client::GrpcInferenceServiceClient,
    v1::{inference_service_client::InferenceServiceClient, model_service_client::ModelServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    address::Address,
    credential::{Credential, Transport},
    error::{Error, root_cause},
    tls::{InvalidTls, Tls, TlsConnector},
};

/// How long the server at an address may take to show which protocol it speaks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The beginning of an HTTP/2 connection, with empty settings.
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The fourth byte of the frame that answers it.
const SETTINGS_FRAME: u8 = 4;
/// How a port that is encrypted begins its answer to what is not.
const TLS_ALERT: [u8; 2] = [21, 3];
/// What any HTTP/1 server answers.
const HTTP1_QUESTION: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// How a connection is made, and what it may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the client, for the server's log.
    pub user_agent: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Pings; without them, a pulled cable would look like silence.
    pub keepalive: Option<Keepalive>,
    /// HTTP/2's flow-control window of a stream.
    pub stream_window_bytes: u32,
    /// HTTP/2's flow-control window of the connection.
    pub connection_window_bytes: u32,
    /// Largest message taken from a server: the results of a long upload come in one.
    pub message_bytes_max: usize,
    /// How to connect to an encrypted port. If absent, the address decides: `https://` stands for the default [`Tls`].
    pub tls: Option<Tls>,
    /// The key to show with every call. It is sent to this machine, or over encrypted connections.
    pub credential: Option<Credential>,
}

/// How a connection on which nothing comes is found to be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// From one ping to the next.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// The windows are fixed because of how the HTTP/2 library here treats small frames that wait to be read: each counts as 256 bytes less its
/// own, and when together they reach half the connection's window, it gives up the connection. Adaptive windows begin so small that a
/// program that stands still for a moment would be cut off.
impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("tidemill-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            keepalive: Some(Keepalive { interval: Duration::from_secs(20), timeout: Duration::from_secs(10) }),
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 128 << 20,
            message_bytes_max: 64 << 20,
            tls: None,
            credential: None,
        }
    }
}

/// A connection to a server. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
    message_bytes_max: usize,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::CannotConnect`] with what the operating system said.
    pub async fn connect(address: &Address) -> Result<Self, Error> {
        Self::connect_with(address, &Settings::default()).await
    }

    /// Connects with settings other than the usual ones.
    ///
    /// # Errors
    /// [`Error::CannotConnect`] with what the operating system said, [`Error::KeyInTheOpen`] if others could read the key.
    pub async fn connect_with(address: &Address, settings: &Settings) -> Result<Self, Error> {
        let cannot = |error: tonic::transport::Error| {
            let reason = root_cause(&error);
            Error::CannotConnect { address: address.clone(), reason }
        };
        let tls = settings.tls.clone().or_else(|| address.is_encrypted().then(Tls::default));
        if settings.credential.is_some() && tls.is_none() && !address.is_local() {
            return Err(Error::KeyInTheOpen { address: address.clone() });
        }
        if tls.is_some() && address.socket().is_some() {
            let reason = "a Unix socket is never encrypted; connect without TLS".to_owned();
            return Err(Error::CannotConnect { address: address.clone(), reason });
        }
        let place = if tls.is_some() { address.encrypted() } else { address.clone() };
        let mut endpoint = Endpoint::from(place.uri())
            .user_agent(settings.user_agent.as_str())
            .map_err(cannot)?
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes);
        if let Some(Keepalive { interval, timeout }) = settings.keepalive {
            endpoint = endpoint.http2_keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        let channel = match (tls, address.socket()) {
            (None, None) => endpoint.connect().await,
            (None, Some(path)) => {
                let path = path.to_owned();
                endpoint.connect_with_connector(service_fn(move |_: Uri| local(path.clone()))).await
            }
            (Some(tls), _) => {
                let invalid = |error: InvalidTls| Error::CannotConnect { address: address.clone(), reason: error.to_string() };
                let connector = tls.connector(&["h2"]).map_err(invalid)?;
                endpoint.connect_with_connector(service_fn(move |_: Uri| encrypted(place.clone(), connector.clone()))).await
            }
        }
        .map_err(cannot)?;
        let transport = Transport::new(channel, settings.credential.clone());
        Ok(Self { transport, message_bytes_max: settings.message_bytes_max })
    }

    /// A client over a connection that is there already. It shows no key.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { transport: Transport::new(channel, None), message_bytes_max: Settings::default().message_bytes_max }
    }

    /// Explains a connection that was lost, if it can: what listens at the address may speak HTTP/1 and not gRPC, as the server's other
    /// ports do. Any other error is left as it is.
    pub async fn explained(error: Error, address: &Address) -> Error {
        if !matches!(error, Error::ConnectionLost { .. }) {
            return error;
        }
        // A port that greets as HTTP/2 does is the right one, whatever it makes of HTTP/1.
        let greeted = answer(address, HTTP2_GREETING).await;
        if greeted.is_some_and(|answer| answer.starts_with(&TLS_ALERT)) && !address.is_encrypted() {
            let reason = "its connections are encrypted: use https:// in the address".to_owned();
            return Error::CannotConnect { address: address.clone(), reason };
        }
        let is_http2 = greeted.is_some_and(|answer| answer[3] == SETTINGS_FRAME);
        let is_http1 = !is_http2 && answer(address, HTTP1_QUESTION).await.is_some_and(|answer| answer.starts_with(b"HTTP/1"));
        if is_http1 { Error::NotGrpc { address: address.clone() } } else { error }
    }

    /// The connection, for services that are not known here. Calls show the key, if there is one.
    #[must_use]
    pub const fn channel(&self) -> &Transport {
        &self.transport
    }

    /// The generated client of the native service, for calls that need metadata, or messages of their own making.
    #[must_use]
    pub fn inference(&self) -> InferenceServiceClient<Transport> {
        InferenceServiceClient::new(self.transport.clone()).max_decoding_message_size(self.message_bytes_max)
    }

    /// The generated client of the Open Inference Protocol.
    #[must_use]
    pub fn open_inference(&self) -> GrpcInferenceServiceClient<Transport> {
        GrpcInferenceServiceClient::new(self.transport.clone()).max_decoding_message_size(self.message_bytes_max)
    }

    pub(crate) fn models(&self) -> ModelServiceClient<Transport> {
        ModelServiceClient::new(self.transport.clone()).max_decoding_message_size(self.message_bytes_max)
    }

    pub(crate) fn probes(&self) -> HealthClient<Transport> {
        HealthClient::new(self.transport.clone())
    }
}

/// A connection through a file.
async fn local(path: PathBuf) -> io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

/// An encrypted connection to a place.
async fn encrypted(place: Address, connector: TlsConnector) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let (host, port) = place.host_and_port().ok_or(io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(connector.connect(host, stream).await?))
}

/// The first bytes of what is sent back; zeros in place of those that do not come.
async fn answer(address: &Address, question: &[u8]) -> Option<[u8; 9]> {
    let address = address.host_and_port()?;
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        let (mut answer, mut length) = ([0; 9], 0);
        while length < answer.len() {
            match stream.read(&mut answer[length..]).await? {
                0 => break,
                more => length += more,
            }
        }
        Ok::<_, io::Error>(answer)
    };
    timeout(PROBE_TIMEOUT, asking).await.ok()?.ok()
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
    async fn a_program_that_stands_still_for_a_moment_keeps_its_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound").to_string().parse().expect("an address");
        let (sent, mut sending) = mpsc::channel(1);
        tokio::spawn(trickle(listener, sent));
        let mut channel = Client::connect(&addr).await.expect("it accepts").channel().clone();
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
}
