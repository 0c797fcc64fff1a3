//! A socket of TCP, encrypted or not, or one of Unix, and its connections.

use std::{
    io::{self, IoSlice},
    mem,
    net::{self, IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::gate::Gate;
use crate::transport::{
    io::{Accept, Agreed, Io},
    local::{LocalListener, SocketFile},
};

/// A socket that listens, and that no runtime has yet.
#[derive(Debug)]
pub enum BoundSocket {
    /// Of TCP.
    Tcp(net::TcpListener),
    /// Of Unix.
    Local(LocalListener),
}

impl BoundSocket {
    /// Where it listens; `None` for a Unix socket.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Some),
            Self::Local(_) => Ok(None),
        }
    }

    /// The same socket for the runtime in which this is called. Its connections have to pass this gate first, if there is one, unless
    /// it is a Unix socket.
    ///
    /// # Errors
    /// The system's.
    pub fn into_socket(self, gate: Option<Gate>) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Socket::new(TcpListener::from_std(listener)?, gate))
            }
            Self::Local(listener) => {
                let (file, listener) = listener.into_parts()?;
                Ok(Socket { source: Source::Local { _file: file, listener }, gate: None })
            }
        }
    }
}

impl From<net::TcpListener> for BoundSocket {
    fn from(listener: net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// A port's socket, and the gate before it if the port is encrypted.
#[derive(Debug)]
pub struct Socket {
    source: Source,
    gate: Option<Gate>,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Local {
        /// First, so that it goes before the socket closes.
        _file: SocketFile,
        listener: UnixListener,
    },
}

impl Socket {
    /// A socket of TCP whose connections have to pass this gate first, if there is one.
    #[must_use]
    pub const fn new(listener: TcpListener, gate: Option<Gate>) -> Self {
        Self { source: Source::Tcp(listener), gate }
    }
}

impl Accept for Socket {
    type Io = Channel;

    async fn accept(&self) -> io::Result<(Channel, Option<IpAddr>)> {
        let (stream, address) = match &self.source {
            Source::Tcp(listener) => listener.accept().await?,
            Source::Local { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                return Ok((Channel(State::Local(stream)), None));
            }
        };
        let state = match &self.gate {
            None => State::Plain(stream),
            Some(gate) => State::Outside(stream, Box::new(gate.clone())),
        };
        Ok((Channel(state), Some(address.ip())))
    }
}

/// A connection of TCP, encrypted or not, or one of Unix.
#[derive(Debug)]
pub struct Channel(State);

#[derive(Debug)]
enum State {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
    /// The handshake has not begun.
    Outside(TcpStream, Box<Gate>),
    /// It was not finished.
    Broken,
}

fn broken() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Channel {
    /// Its socket, if it is of TCP.
    fn socket(&self) -> io::Result<Option<&TcpStream>> {
        match &self.0 {
            State::Plain(stream) | State::Outside(stream, _) => Ok(Some(stream)),
            State::Encrypted(stream) => Ok(Some(stream.get_ref().0)),
            State::Local(_) => Ok(None),
            State::Broken => Err(broken()),
        }
    }
}

impl Io for Channel {
    fn local_ip(&self) -> Option<IpAddr> {
        self.socket().ok()??.local_ip()
    }

    fn is_unix_socket(&self) -> bool {
        matches!(self.0, State::Local(_))
    }

    fn set_up(&self) -> io::Result<()> {
        self.socket()?.map_or(Ok(()), TcpStream::set_up)
    }

    fn carrier(&mut self) -> Option<&mut (dyn AsyncRead + Unpin + Send)> {
        match &mut self.0 {
            State::Plain(stream) | State::Outside(stream, _) => Some(stream),
            State::Encrypted(_) | State::Local(_) | State::Broken => None,
        }
    }

    async fn agree(&mut self) -> io::Result<Agreed> {
        match mem::replace(&mut self.0, State::Broken) {
            State::Outside(stream, gate) => {
                stream.set_up()?;
                // In a box of its own: few connections are in this state, and it is large.
                let (stream, agreed) = Box::pin(gate.pass(stream)).await?;
                self.0 = State::Encrypted(Box::new(stream));
                Ok(agreed)
            }
            other => {
                self.0 = other;
                Ok(Agreed::default())
            }
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            State::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Local(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Outside(..) | State::Broken => Poll::Ready(Err(broken())),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            State::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Local(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Outside(..) | State::Broken => Poll::Ready(Err(broken())),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            State::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            State::Encrypted(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            State::Local(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            State::Outside(..) | State::Broken => Poll::Ready(Err(broken())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            State::Plain(stream) => Pin::new(stream).poll_flush(cx),
            State::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
            State::Local(stream) => Pin::new(stream).poll_flush(cx),
            State::Outside(..) | State::Broken => Poll::Ready(Err(broken())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            State::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Outside(stream, _) => Pin::new(stream).poll_shutdown(cx),
            State::Broken => Poll::Ready(Ok(())),
        }
    }
}
