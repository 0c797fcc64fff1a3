//! Which server a command talks to, and how Ctrl-C ends the wait for it.
//!
//! Knows flags; `tidemill_client` knows how to connect.

use std::{fs, path::PathBuf};

use clap::Args;
use tidemill_client::{Address, Client, Settings, Tls};
use tokio_util::sync::CancellationToken;

use super::status::Failure;

/// Which server to talk to, and in which form to print; the same for all client commands.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Server to connect to: HOST:PORT, http://HOST:PORT, or https://HOST:PORT if the port is encrypted
    #[arg(long, value_name = "ADDRESS", env = "TIDEMILL_ADDR", default_value = "http://127.0.0.1:50051")]
    pub(super) addr: Address,

    /// Print one JSON object per line on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    tls: TlsArgs,
}

/// How to connect to an encrypted port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TlsArgs {
    /// Encrypt the connection; an address with https://, --ca, --cert and --insecure say so too
    #[arg(long)]
    tls: bool,

    /// Trust the authorities in this file, in PEM, and no others [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show the server the certificate in this file, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// File of its key, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Talk to whoever is there, without asking whether the server's certificate can be trusted
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

impl TlsArgs {
    /// What the flags say; `None` if they say nothing, so that it depends on the address.
    ///
    /// # Errors
    /// If a file cannot be read, in words.
    pub fn read(&self) -> Result<Option<Tls>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let read = |path: &PathBuf| fs::read(path).map_err(|error| format!("cannot read '{}': {error}", path.display()));
        let authorities = self.ca.as_ref().map(read).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Some(Tls { authorities, identity, insecure: self.insecure, host: None }))
    }
}

impl ConnectionArgs {
    /// Explains a connection that was lost, if it can.
    pub(super) async fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Server(error) => Client::explained(error, &self.addr).await.into(),
            failure => failure,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Server`] with what the operating system said, [`Failure::BadInput`] with a file that cannot be read.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let user_agent = concat!("tidemill-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        let tls = self.tls.read().map_err(Failure::BadInput)?;
        Ok(Client::connect_with(&self.addr, &Settings { user_agent, tls, ..Settings::default() }).await?)
    }
}

/// Waits for `work`, or for Ctrl-C, which abandons it.
///
/// # Errors
/// [`Failure::Interrupted`] on Ctrl-C, otherwise those of `work`.
pub(super) async fn unless_interrupted<T>(
    interrupt: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    interrupt.run_until_cancelled(work).await.unwrap_or(Err(Failure::Interrupted))
}
