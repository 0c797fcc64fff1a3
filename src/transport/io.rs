//! What the transport needs of a connection, whatever carries its bytes.

use std::{io, net::IpAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A connection: bytes in two directions.
///
/// Shutting it down, in the sense of [`AsyncWrite`], ends the direction in which the server writes and leaves the other open.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The address at which it arrived. `None` if it has none: no network carries it, or it has already ended.
    fn local_ip(&self) -> Option<IpAddr>;

    /// Sets the options suited to a protocol with its own frames.
    ///
    /// # Errors
    /// If it has already ended.
    fn set_up(&self) -> io::Result<()>;
}

/// Where connections come from.
pub trait Accept: Send + Sync + 'static {
    /// The connections it yields.
    type Io: Io;

    /// The next connection, and its client's address; `None` for a client on this machine that needs none. Dropping this before
    /// it is ready loses no connection.
    ///
    /// # Errors
    /// If the system has no room for another connection, or the connection has already ended.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<IpAddr>)>> + Send;
}

impl Io for TcpStream {
    fn local_ip(&self) -> Option<IpAddr> {
        self.local_addr().ok().map(|address| address.ip())
    }

    /// Sends what is written at once: it is already written in one go.
    fn set_up(&self) -> io::Result<()> {
        self.set_nodelay(true)
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, address) = Self::accept(self).await?;
        Ok((stream, Some(address.ip())))
    }
}
