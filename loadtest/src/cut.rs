//! A connection that can be cut at once, as a client's is that crashes: nothing on it is ended first.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

/// The connection and the means to cut it.
pub(crate) struct CutConnection {
    pub(crate) channel: Channel,
    socket: Arc<OnceLock<std::net::TcpStream>>,
}

impl CutConnection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = Arc::new(OnceLock::new());
        let connector = Connector { address, socket: Arc::clone(&socket) };
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_with_connector(connector).await?;
        Ok(Self { channel, socket })
    }

    /// Closes both directions.
    ///
    /// # Errors
    /// The system's, if the connection is closed already.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.socket.get().map_or(Ok(()), |socket| socket.shutdown(Shutdown::Both))
    }
}

/// Connects once more each time it is asked, but only the first connection can be cut.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    socket: Arc<OnceLock<std::net::TcpStream>>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, socket } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = stream.into_std()?;
            let second = stream.try_clone()?;
            socket.get_or_init(|| second);
            Ok(TokioIo::new(TcpStream::from_std(stream)?))
        })
    }
}
