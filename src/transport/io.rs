//! What the transport asks of a connection, whatever carries its bytes.

use std::{io, net::IpAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A connection: bytes in two directions.
///
/// To shut it down, as [`AsyncWrite`] has it, ends the direction in which the server writes, and leaves the other one open.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The address at which it arrived. `None` if it has none: no network carries it, or it has ended already.
    fn local_ip(&self) -> Option<IpAddr>;

    /// Sets the options that a conversation with frames of its own needs.
    ///
    /// # Errors
    /// If it has ended already.
    fn set_up(&self) -> io::Result<()>;
}

/// Where connections come from.
pub trait Accept: Send + Sync + 'static {
    /// Such a connection.
    type Io: Io;

    /// The next one, and the address of its client; `None` for a client on this machine that needs none. To drop this before it is
    /// ready loses no connection.
    ///
    /// # Errors
    /// If the system has no room for another connection, or the connection has ended already.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<IpAddr>)>> + Send;
}

impl Io for TcpStream {
    fn local_ip(&self) -> Option<IpAddr> {
        self.local_addr().ok().map(|address| address.ip())
    }

    /// What is written leaves at once: it is written in one go already.
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
