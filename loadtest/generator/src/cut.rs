//! A connection that can be cut at once, like that of a client that crashes: nothing on it is ended first.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::{future::BoxFuture, task::AtomicWaker};
use hyper_util::rt::TokioIo;
use tidemill_client::Client;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::Endpoint,
};

/// The connection, and the means to cut it.
pub(crate) struct CutConnection {
    pub(crate) client: Client,
    socket: Arc<OnceLock<std::net::TcpStream>>,
    switch: Arc<Switch>,
}

impl CutConnection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let (socket, switch) = (Arc::new(OnceLock::new()), Arc::new(Switch::default()));
        let connector = Connector { address, socket: Arc::downgrade(&socket), switch: Arc::clone(&switch) };
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_with_connector(connector).await?;
        Ok(Self { client: Client::over(channel), socket, switch })
    }

    /// Closes both directions.
    ///
    /// # Errors
    /// The system's, if the connection is already closed.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.socket.get().map_or(Ok(()), |socket| socket.shutdown(Shutdown::Both))
    }

    /// Resets the connection: what is under way in either direction is lost, and the server learns of it from an RST.
    pub(crate) fn reset(self) {
        let Self { client, socket, switch } = self;
        // The kernel resets when the last descriptor of a socket that does not linger is closed.
        drop(socket);
        switch.is_off.store(true, Ordering::Release);
        switch.reader.wake();
        drop(client);
    }
}

/// Switches a connection off.
#[derive(Debug, Default)]
struct Switch {
    is_off: AtomicBool,
    reader: AtomicWaker,
}

/// A socket that, once switched off, fails without writing another byte, so that its owner drops it.
struct Switched {
    stream: TcpStream,
    switch: Arc<Switch>,
}

impl Switched {
    fn check(&self) -> io::Result<()> {
        if self.switch.is_off.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Switched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.switch.reader.register(cx.waker());
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Makes another connection each time it is asked, but only the first can be cut.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    /// Weak: a connector lives as long as anything that has the channel, and a second descriptor would keep the connection open.
    socket: Weak<OnceLock<std::net::TcpStream>>,
    switch: Arc<Switch>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Switched>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, socket, switch } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = stream.into_std()?;
            let second = stream.try_clone()?;
            if let Some(socket) = socket.upgrade() {
                socket.get_or_init(|| second);
            }
            let stream = TcpStream::from_std(stream)?;
            stream.set_zero_linger()?;
            Ok(TokioIo::new(Switched { stream, switch }))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_reset_reaches_the_server_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (connection, accepted) = tokio::join!(CutConnection::open(address), listener.accept());
        let (mut server, _) = accepted.expect("a connection");
        connection.expect("connected").reset();
        let mut heard = Vec::new();
        let error = server.read_to_end(&mut heard).await.expect_err("not an orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
