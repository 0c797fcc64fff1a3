//! The public keys of an issuer of tokens: read when the server starts, and again when they may have changed.

use std::{fs, path::Path, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tidemill_client::{Tls, TlsConnector};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::StartError;
use crate::{
    auth::{ISSUER_KEYS_BYTES_MAX, IssuerKeys},
    config::{IssuerPlace, SecurityConfig},
    service::Keyring,
    watched::Watched,
};

/// How long an answer may take in all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The soonest that a URL is asked again because a token names a key that is not known, or because it could not be had.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Where the keys come from.
pub(super) enum Issuer {
    File(Watched),
    Url { url: Uri, connector: Option<TlsConnector>, refresh: Duration },
}

impl Issuer {
    /// The issuer that is configured, if there is one, and its keys; none yet if they are behind a URL that does not answer.
    ///
    /// # Errors
    /// [`StartError::Issuer`] if the file cannot be read or watched, or is wrong, or the authorities to trust cannot be read.
    pub(super) async fn of(config: &SecurityConfig) -> Result<Option<(Self, IssuerKeys)>, StartError> {
        let fault = |reason| StartError::Issuer { place: config.jwks.clone(), reason };
        let issuer = match config.issuer().map_err(fault)? {
            None => return Ok(None),
            Some(IssuerPlace::File(path)) => Self::File(Watched::new(path, ISSUER_KEYS_BYTES_MAX).map_err(fault)?),
            Some(IssuerPlace::Url(url)) => {
                let connector = connector(&url, config.jwks_ca.as_deref()).map_err(fault)?;
                Self::Url { url, connector, refresh: config.jwks_refresh() }
            }
        };
        let keys = match issuer.read().await {
            Ok(keys) => keys,
            // It may be back before its tokens are used.
            Err(reason) if matches!(issuer, Self::Url { .. }) => {
                tracing::error!(
                    "{} (security.jwks) gives no keys: {reason}; no token of its issuer is taken until it does",
                    config.jwks
                );
                IssuerKeys::default()
            }
            Err(reason) => return Err(fault(reason)),
        };
        tracing::info!(keys = keys.len(), "tokens of {} are checked by {}", config.jwt_issuer, config.jwks);
        Ok(Some((issuer, keys)))
    }

    /// Follows the keys. While they cannot be had, those that were there before apply.
    pub(super) async fn follow(self, keyring: Keyring) -> Option<()> {
        let mut failed = false;
        loop {
            let read = self.read_next(&keyring, failed).await;
            failed = read.is_err();
            match read {
                Ok(keys) => {
                    let known = keys.len();
                    let gone = keyring.replace_issuer(keys);
                    tracing::debug!(known, gone, "{self} (security.jwks) was read again");
                }
                Err(reason) => {
                    tracing::error!("{self} (security.jwks) gives no keys: {reason}; those that it gave before still apply");
                }
            }
        }
    }

    /// The keys as they are when they may have changed.
    async fn read_next(&self, keyring: &Keyring, failed: bool) -> Result<IssuerKeys, String> {
        match self {
            Self::File(file) => IssuerKeys::parse(&file.read_next().await?),
            Self::Url { refresh, .. } => {
                let wanted = async {
                    sleep(ASKED_AGAIN_AFTER).await;
                    if !failed {
                        keyring.issuer_wanted().await;
                    }
                };
                tokio::select! {
                    () = sleep(*refresh) => {}
                    () = wanted => {}
                }
                self.read().await
            }
        }
    }

    async fn read(&self) -> Result<IssuerKeys, String> {
        let text = match self {
            Self::File(file) => file.read().await?,
            Self::Url { url, connector, .. } => {
                let late = |_| format!("nothing within {} s", ANSWER_TIMEOUT.as_secs());
                timeout(ANSWER_TIMEOUT, Box::pin(fetch(url, connector.as_ref()))).await.map_err(late)??
            }
        };
        IssuerKeys::parse(&text)
    }
}

impl std::fmt::Display for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => file.path().display().fmt(f),
            Self::Url { url, .. } => url.fmt(f),
        }
    }
}

/// What encrypts connections to a URL, if it asks for that.
fn connector(url: &Uri, authorities: Option<&Path>) -> Result<Option<TlsConnector>, String> {
    if url.scheme_str() != Some("https") {
        return Ok(None);
    }
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{} (security.jwks_ca): {error}", path.display()));
    let tls = Tls { authorities: authorities.map(read).transpose()?, ..Tls::default() };
    tls.connector(&["http/1.1"]).map(Some).map_err(|error| error.to_string())
}

async fn fetch(url: &Uri, connector: Option<&TlsConnector>) -> Result<Vec<u8>, String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if connector.is_some() { 443 } else { 80 });
    let failed = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    match connector {
        None => get(url, stream).await,
        Some(connector) => get(url, connector.connect(host, stream).await.map_err(failed)?).await,
    }
}

/// What is found there. Nothing else is asked: an issuer that sends one elsewhere has moved, and its operator should say so.
async fn get(url: &Uri, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<Vec<u8>, String> {
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let asking = async {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header(header::CONNECTION, "close")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("it is answered with {}", response.status()));
        }
        let limit = usize::try_from(ISSUER_KEYS_BYTES_MAX).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes().to_vec())
    };
    let mut connection = pin!(connection);
    let mut asking = pin!(asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = &mut connection => match ended {
            // What came before the end may be all of it.
            Ok(()) => asking.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
