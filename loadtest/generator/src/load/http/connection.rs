//! Connections that are kept alive between calls.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidemill_client::TlsConnector;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

/// Why a call has no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NotConnected,
    BrokenOff,
}

/// A connection and the task that reads and writes it. Dropping it closes it, whatever is going on.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Connection {
    async fn open(address: SocketAddr, connector: Option<&TlsConnector>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match connector {
            None => Self::over(stream).await,
            Some(connector) => Self::over(connector.connect(&address.ip().to_string(), stream).await?).await,
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // The call that a connection carries sees what ends it.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, task })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections to one server that carry no call. There are never more of them than there were calls at once.
pub(super) struct Pool {
    address: SocketAddr,
    connector: Option<TlsConnector>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// With one connection, so that a server that is not there is found before the run.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) async fn open(address: SocketAddr, connector: Option<TlsConnector>) -> io::Result<Self> {
        let first = Connection::open(address, connector.as_ref()).await?;
        Ok(Self { address, connector, idle: Mutex::new(vec![first]) })
    }

    /// Sends a request and reads its answer to the end. Dropping the future closes the connection.
    pub(super) async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<StatusCode, Fault> {
        // The most recent first: the others may idle until the server closes them.
        while let Some(mut connection) = self.take() {
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => return self.read(connection, response).await,
                // The server had closed the connection, and has seen nothing of the request.
                Err(mut error) => request = error.take_message().ok_or(Fault::BrokenOff)?,
            }
        }
        let mut connection = Connection::open(self.address, self.connector.as_ref()).await.map_err(|_| Fault::NotConnected)?;
        let response = connection.sender.send_request(request).await.map_err(|_| Fault::BrokenOff)?;
        self.read(connection, response).await
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().pop()
    }

    async fn read(&self, connection: Connection, response: Response<Incoming>) -> Result<StatusCode, Fault> {
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| Fault::BrokenOff)?;
        }
        self.idle.lock().push(connection);
        Ok(status)
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().len()
    }
}
