//! The certificates with which a server in this process, the bare echo and their clients encrypt what they say.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tidemill::config::{Config, PortTls};
use tidemill_client::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpIncoming};

/// The files that `tidemill tls self-signed DIR` writes.
#[derive(Debug, Clone)]
pub(crate) struct Encryption {
    folder: PathBuf,
}

impl Encryption {
    pub(crate) const fn of(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Sets the certificate of a server in this process.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.tls.cert = vec![self.folder.join("server.pem")];
        config.tls.key = vec![self.folder.join("server.key")];
        config.tls.admin = PortTls::Plain;
    }

    /// What its clients trust.
    pub(crate) fn tls(&self) -> anyhow::Result<Tls> {
        Ok(Tls { authorities: Some(read(&self.folder.join("ca.pem"))?), ..Tls::default() })
    }

    /// The same library with the same settings as in the server, without anything around it.
    pub(crate) fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let (chain, key) = (read(&self.folder.join("server.pem"))?, read(&self.folder.join("server.key"))?);
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>().context("server.pem")?;
        let key = PrivateKeyDer::from_pem_slice(&key).context("server.key")?;
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config).into())
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{}: make the files with `tidemill tls self-signed`", path.display()))
}

/// Connections, each encrypted once its client has shaken hands; one that does not keeps the others waiting.
pub(crate) fn encrypted(incoming: TcpIncoming, acceptor: TlsAcceptor) -> impl Stream<Item = io::Result<Encrypted>> {
    incoming.then(move |stream| {
        let acceptor = acceptor.clone();
        async move { Ok(Encrypted(acceptor.accept(stream?).await?)) }
    })
}

/// An encrypted connection, as tonic takes one.
pub(crate) struct Encrypted(TlsStream<TcpStream>);

impl Connected for Encrypted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
