//! Which server a command talks to, and how Ctrl-C ends the wait for it.
//!
//! Knows flags; `tidemill_client` knows how to connect.

use clap::Args;
use tidemill_client::{Address, Client, Settings};
use tokio_util::sync::CancellationToken;

use super::status::Failure;

/// Which server to talk to, and in which form to print; the same for all client commands.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Server to connect to: HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "ADDRESS", env = "TIDEMILL_ADDR", default_value = "http://127.0.0.1:50051")]
    pub(super) addr: Address,

    /// Print one JSON object per line on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,
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
    /// [`Failure::Server`] with what the operating system said.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let user_agent = concat!("tidemill-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Client::connect_with(&self.addr, &Settings { user_agent, ..Settings::default() }).await?)
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
