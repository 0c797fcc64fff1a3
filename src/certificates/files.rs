//! Certificates, keys and authorities, as they are in files.

use std::{
    fmt::Display,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::names::{ByName, names_of};
use crate::config::{ClientAuth, TlsConfig};

/// Larger files are not read: no chain of certificates is as long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a certificate, a key or an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} ({key}): {reason}")]
pub struct CertificateFault {
    key: &'static str,
    path: String,
    reason: String,
}

impl CertificateFault {
    fn new(key: &'static str, path: &Path, reason: impl Display) -> Self {
        Self { key, path: path.display().to_string(), reason: reason.to_string() }
    }

    /// None of it is wrong with a single file.
    fn of_all(config: &TlsConfig, reason: impl Display) -> Self {
        let first = config.cert.first().cloned().unwrap_or_default();
        Self::new("tls.cert", &first, reason)
    }

    /// The system does not say when files change.
    pub(super) fn unwatched(config: &TlsConfig, reason: impl Display) -> Self {
        Self::of_all(config, format!("cannot be watched: {reason}"))
    }

    /// A certificate has expired, and the one that it would replace has not.
    pub(super) fn expired(config: &TlsConfig) -> Self {
        Self::of_all(config, "a certificate has expired already; the one in use has not")
    }
}

/// What the files held.
#[derive(Debug)]
pub(super) struct Loaded {
    provider: Arc<CryptoProvider>,
    resolver: Arc<ByName>,
    authorities: Option<(PathBuf, Arc<RootCertStore>)>,
    expires_at: i64,
}

impl Loaded {
    /// Reads all files of the settings.
    pub(super) fn read(config: &TlsConfig) -> Result<Self, CertificateFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (mut pairs, mut expires_at) = (Vec::new(), i64::MAX);
        for (cert, key) in config.cert.iter().zip(&config.key) {
            let fault = |reason: String| CertificateFault::new("tls.cert", cert, reason);
            let chain = certificates("tls.cert", cert)?;
            for der in &chain {
                let (_, parsed) = X509Certificate::from_der(der).map_err(|error| fault(format!("cannot be read: {error}")))?;
                expires_at = expires_at.min(parsed.validity().not_after.timestamp());
            }
            let names = chain.first().map(|der| names_of(der)).unwrap_or_default();
            let private = PrivateKeyDer::from_pem_slice(&read("tls.key", key)?)
                .map_err(|error| CertificateFault::new("tls.key", key, format!("holds no private key in PEM: {error}")))?;
            let certified = CertifiedKey::from_der(chain, private, &provider)
                .map_err(|error| fault(format!("does not go with the key in {} (tls.key): {error}", key.display())))?;
            pairs.push((names, Arc::new(certified)));
        }
        let with_path = |path: &Path| authorities(path).map(|roots| (path.to_owned(), Arc::new(roots)));
        let authorities = config.client_ca.as_deref().map(with_path).transpose()?;
        Ok(Self { provider, resolver: Arc::new(ByName::new(pairs)), authorities, expires_at })
    }

    /// When the first certificate expires, in seconds since 1970.
    pub(super) const fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// The configuration of a port that asks its clients for this. Each has tickets of its own, so that no session is resumed where
    /// more is asked of clients, or after the authorities have changed.
    pub(super) fn server(&self, auth: ClientAuth) -> Result<ServerConfig, CertificateFault> {
        let (key, path) = match &self.authorities {
            Some((path, _)) => ("tls.client_ca", path.clone()),
            None => ("tls.cert", PathBuf::new()),
        };
        let fault = |reason: &dyn Display| CertificateFault::new(key, &path, reason);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| fault(&error))?;
        let builder = match (auth, &self.authorities) {
            (ClientAuth::Off, _) => builder.with_no_client_auth(),
            (_, None) => return Err(fault(&"clients are asked for certificates, but tls.client_ca is not set")),
            (auth, Some((_, roots))) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&self.provider));
                let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| fault(&error))?)
            }
        };
        let resolver = Arc::clone(&self.resolver);
        let mut config = builder.with_cert_resolver(resolver);
        // What a client needs to resume a session, it keeps itself.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| fault(&error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, CertificateFault> {
    let mut roots = RootCertStore::empty();
    for der in certificates("tls.client_ca", path)? {
        roots.add(der).map_err(|error| CertificateFault::new("tls.client_ca", path, error))?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(key, path)?).collect();
    let found = found.map_err(|error| CertificateFault::new(key, path, format!("is no PEM: {error}")))?;
    if found.is_empty() {
        return Err(CertificateFault::new(key, path, "holds no certificate in PEM"));
    }
    Ok(found)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, CertificateFault> {
    let fault = |reason: String| CertificateFault::new(key, path, reason);
    let metadata = fs::metadata(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    // Reading a pipe might wait for ever.
    if !metadata.is_file() {
        return Err(fault("is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let length = read.map_err(|error| fault(format!("cannot be read: {error}")))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(fault(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// What the files look like from outside: it changes when they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<FileStamp>>);

/// Device, inode, length and time, in seconds and nanoseconds.
type FileStamp = (u64, u64, u64, i64, i64);

impl Stamp {
    /// Follows links.
    pub(super) fn of(config: &TlsConfig) -> Self {
        let paths = config.cert.iter().chain(&config.key).chain(&config.client_ca);
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
        };
        Self(paths.map(stamp).collect())
    }
}
