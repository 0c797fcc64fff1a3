//! What the transport needs of a connection, whatever carries its bytes.

use std::{
    future::{Ready, ready},
    io,
    net::IpAddr,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::domain::Protection;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What server and client have settled before anything is said.
#[derive(Debug, Clone, Default)]
pub struct Agreed {
    /// What they will speak; `None` if that is the port's own protocol.
    pub protocol: Option<Protocol>,
    /// How the connection is protected, and whom the client has shown itself to be.
    pub protection: Protection,
}

/// A connection: bytes in two directions.
///
/// Shutting it down, in the sense of [`AsyncWrite`], ends the direction in which the server writes and leaves the other open.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The address at which it arrived. `None` if it has none: no network carries it, or it has already ended.
    fn local_ip(&self) -> Option<IpAddr>;

    /// Whether it came through a file, which programs of this machine open and web pages cannot name.
    fn is_unix_socket(&self) -> bool {
        false
    }

    /// Sets the options suited to a protocol with its own frames.
    ///
    /// # Errors
    /// If it has already ended.
    fn set_up(&self) -> io::Result<()>;

    /// What carries its bytes before they are protected, for what a proxy in front says first; `None` where there can be no proxy.
    fn carrier(&mut self) -> Option<&mut (dyn AsyncRead + Unpin + Send)> {
        None
    }

    /// Does what both ends have to do before anything is said, if there is such a thing. Nothing can be read or written until
    /// then. Dropping this before it is ready ends the connection.
    ///
    /// # Errors
    /// If they do not agree.
    fn agree(&mut self) -> impl Future<Output = io::Result<Agreed>> + Send {
        let nothing: Ready<io::Result<Agreed>> = ready(Ok(Agreed::default()));
        nothing
    }
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

    fn carrier(&mut self) -> Option<&mut (dyn AsyncRead + Unpin + Send)> {
        Some(self)
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, address) = Self::accept(self).await?;
        Ok((stream, Some(address.ip())))
    }
}
