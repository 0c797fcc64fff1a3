//! What a port's clients have to pass before anything is said.

use std::{io, pin::pin, sync::Arc, time::Duration};

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncWriteExt as _, copy, sink},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{client, handshakes::Handshakes};
use crate::{
    connections,
    domain::Protection,
    telemetry::{GaugeGuard, HandshakeEnd, TlsMetrics},
    transport::io::{Agreed, Protocol},
};

/// The protocol names of ALPN.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// How long a client that is refused may take to read why.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// What handshakes of all ports share. Clones share it too.
#[derive(Debug, Clone)]
pub struct GateLimits {
    handshakes: Handshakes,
    timeout: Duration,
    metrics: TlsMetrics,
}

impl GateLimits {
    /// At most `handshakes_max` at once, each of which may take `timeout`, the wait for its turn included.
    #[must_use]
    pub fn new(handshakes_max: usize, timeout: Duration, metrics: TlsMetrics) -> Self {
        Self { handshakes: Handshakes::new(handshakes_max), timeout, metrics }
    }
}

/// The gate of one port. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    limits: GateLimits,
}

impl Gate {
    /// A gate before a port, which speaks both protocols.
    #[must_use]
    pub fn new(config: ServerConfig, limits: GateLimits) -> Self {
        Self { config: Arc::new(RwLock::new(Arc::new(with_protocols(config)))), limits }
    }

    /// From now on, connections begin with this configuration; those that are open keep theirs.
    pub fn replace(&self, config: ServerConfig) {
        *self.config.write() = Arc::new(with_protocols(config));
    }

    /// Lets a connection pass, or ends it. Each is counted once.
    pub(super) async fn pass(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Agreed)> {
        let GateLimits { handshakes, timeout, metrics } = &self.limits;
        let _open = GaugeGuard::new(&metrics.handshakes_open);
        let mut outcome = Outcome { metrics, end: HandshakeEnd::Left };
        let mut late = pin!(sleep(*timeout));
        let turn = tokio::select! {
            turn = handshakes.turn(connections::peer()) => turn.ok_or(io::ErrorKind::Other)?,
            () = late.as_mut() => return Err(outcome.refused(HandshakeEnd::Refused)),
        };
        let config = Arc::clone(&self.config.read());
        let shaken = tokio::select! {
            shaken = TlsAcceptor::from(config).accept(stream).into_fallible() => shaken,
            () = late => return Err(outcome.refused(HandshakeEnd::Late)),
            () = turn.over() => return Err(outcome.refused(HandshakeEnd::Refused)),
        };
        drop(turn);
        match shaken {
            Ok(stream) => {
                outcome.end = HandshakeEnd::Done;
                let agreed = agreed(&stream);
                Ok((stream, agreed))
            }
            Err((error, stream)) => {
                outcome.end = HandshakeEnd::Failed;
                // The alert that says why is written by now. Closing with bytes unread would take it back.
                let _ = read_to_end(stream).await;
                Err(error)
            }
        }
    }
}

/// Discards what the client still sends, until it closes or some time has passed.
async fn read_to_end(mut stream: TcpStream) -> io::Result<u64> {
    stream.shutdown().await?;
    timeout(ALERT_TIMEOUT, copy(&mut stream, &mut sink())).await?
}

/// How a handshake ended, counted when this is dropped.
struct Outcome<'a> {
    metrics: &'a TlsMetrics,
    /// Until anything else is known, its client or its port has gone.
    end: HandshakeEnd,
}

impl Outcome<'_> {
    fn refused(&mut self, end: HandshakeEnd) -> io::Error {
        self.end = end;
        let why = match end {
            HandshakeEnd::Late => "the handshake took longer than tls.handshake_timeout_s",
            _ => "as many handshakes as tls.max_handshakes allows had begun, and others were waiting for their turn",
        };
        io::Error::new(io::ErrorKind::TimedOut, why)
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.metrics.handshakes(self.end).increment(1);
    }
}

/// A client that speaks both gets HTTP/2: everything is served over it, many requests at a time.
fn with_protocols(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = [HTTP2, HTTP1].map(<[u8]>::to_vec).into();
    config
}

fn agreed(stream: &TlsStream<TcpStream>) -> Agreed {
    let (_, session) = stream.get_ref();
    let protocol = match session.alpn_protocol() {
        Some(HTTP1) => Some(Protocol::Http1),
        Some(HTTP2) => Some(Protocol::Http2),
        _ => None,
    };
    let certificate = session.peer_certificates().and_then(<[_]>::first).and_then(|first| client::read(first)).map(Arc::new);
    Agreed { protocol, protection: Protection { is_encrypted: true, certificate } }
}
