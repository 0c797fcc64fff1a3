//! A server in this process, for decoders that can only be reached through its ports.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use clap::Parser;
use tidemill::app::Server;
use tidemill_cli::{self as cli, ClientCommand};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    time::timeout,
};

use crate::start::{bare_config, serve};

/// A request without an answer by then hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Takes several tensors of every kind of element.
const EVERYTHING: &str = "
engine = 'synthetic'
[[inputs]]
name = 'floats'
datatype = 'FP32'
dims = ['batch', -1]
[[inputs]]
name = 'integers'
datatype = 'INT64'
dims = ['batch', 2]
[[inputs]]
name = 'texts'
datatype = 'BYTES'
dims = ['batch', -1]
[[inputs]]
name = 'halves'
datatype = 'FP16'
dims = ['batch', 2]
[[inputs]]
name = 'truths'
datatype = 'BOOL'
dims = ['batch', 2]
[[outputs]]
name = 'out_floats'
datatype = 'FP32'
dims = ['batch', -1]
[[outputs]]
name = 'out_integers'
datatype = 'INT64'
dims = ['batch', 2]
[[outputs]]
name = 'out_texts'
datatype = 'BYTES'
dims = ['batch', -1]
[[outputs]]
name = 'out_halves'
datatype = 'FP16'
dims = ['batch', 2]
[[outputs]]
name = 'out_truths'
datatype = 'BOOL'
dims = ['batch', 2]
[synthetic]
kind = 'identity'
";

/// Takes audio.
const AUDIO: &str = "
engine = 'synthetic'
[[inputs]]
name = 'audio'
datatype = 'FP32'
dims = ['batch', 10]
[[outputs]]
name = 'out'
datatype = 'FP32'
dims = ['batch', 10]
[framing]
kind = 'pcm_s16le'
sample_rate_hz = 16000
window_samples = 8
context_samples = 2
[synthetic]
kind = 'identity'
";

/// The server, and what it runs on.
pub(crate) struct Serving {
    pub(crate) runtime: Runtime,
    server: Server,
    /// The address of a server with a certificate, started when first needed.
    encrypted: OnceLock<(SocketAddr, Server)>,
}

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: ClientCommand,
}

impl Serving {
    /// This process's server, started when first needed.
    pub(crate) fn get() -> &'static Self {
        static SERVING: OnceLock<Serving> = OnceLock::new();
        SERVING.get_or_init(Self::start)
    }

    fn start() -> Self {
        let mut config = bare_config();
        config.scheduler.lanes = 1;
        config.models.example = true;
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime.block_on(serve(config, &[("everything", EVERYTHING), ("audio", AUDIO)]));
        Self { runtime, server, encrypted: OnceLock::new() }
    }

    pub(crate) fn grpc_addr(&self) -> SocketAddr {
        self.server.grpc_addr()
    }

    /// The gRPC port of a server that speaks nothing but TLS.
    pub(crate) fn encrypted_addr(&self) -> SocketAddr {
        let (addr, _) = self.encrypted.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("tls");
            let path = path.to_str().expect("a path in Unicode");
            let command = Cli::parse_from(["tidemill", "tls", "self-signed", path]).command;
            let _ = self.runtime.block_on(cli::run(command, &[]));
            let mut config = bare_config();
            config.scheduler.lanes = 1;
            config.tls.cert = vec![format!("{path}/server.pem").into()];
            config.tls.key = vec![format!("{path}/server.key").into()];
            let server = self.runtime.block_on(serve(config, &[("audio", AUDIO)]));
            // The files are gone by now, which changes nothing for a server that has read them.
            (server.grpc_addr(), server)
        });
        *addr
    }

    /// Sends these bytes to the HTTP port, and reads until the server closes. `ends` half-closes after them, which cancels requests.
    pub(crate) fn http(&self, bytes: &[u8], ends: bool) -> Vec<u8> {
        self.exchange(self.server.http_addr(), bytes, ends)
    }

    /// The same with any port.
    pub(crate) fn exchange(&self, to: SocketAddr, bytes: &[u8], ends: bool) -> Vec<u8> {
        let asking = async {
            let mut stream = connect(to).await;
            let (mut reader, mut writer) = stream.split();
            let mut answer = Vec::new();
            let sending = async {
                // A server that has answered may have closed already.
                let _ = writer.write_all(bytes).await;
                if ends {
                    let _ = writer.shutdown().await;
                }
            };
            let (_, _) = tokio::join!(sending, reader.read_to_end(&mut answer));
            answer
        };
        self.runtime.block_on(async { timeout(PATIENCE, asking).await }).expect("an answer in time")
    }
}

/// A connection, each from the next loopback address, so that ports in TIME_WAIT never use them all up.
pub(crate) async fn connect(to: SocketAddr) -> TcpStream {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, high, middle, low] = (NEXT.fetch_add(1, Ordering::Relaxed) / 256).to_be_bytes();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 1 + (high & 63), middle, low.max(1)], 0))).expect("an address");
    let stream = socket.connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("a connection");
    stream
}
