//! Encrypted connections: whom to trust, and what to show.

use std::{fmt, io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How to connect to an encrypted port. The default trusts the authorities that the system does, and shows nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Authorities to trust in place of the system's, in PEM.
    pub authorities: Option<Vec<u8>>,
    /// The client's own certificate with its chain, and its key, both in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether any certificate will do: the connection is encrypted, but with whom is anybody's guess.
    pub insecure: bool,
    /// The host that the server's certificate must be for, if it is not the one of the address.
    pub host: Option<String>,
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authorities, identity, insecure, host } = self;
        f.debug_struct("Tls")
            .field("authorities", &authorities.as_ref().map(Vec::len))
            .field("has_identity", &identity.is_some())
            .field("insecure", insecure)
            .field("host", host)
            .finish()
    }
}

/// What is wrong with a [`Tls`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTls(String);

/// Makes encrypted connections. Clones share what is needed to resume sessions.
#[derive(Clone)]
pub struct TlsConnector {
    connector: tokio_rustls::TlsConnector,
    host: Option<String>,
}

impl Tls {
    /// A connector for connections that speak one of these protocols, as ALPN calls them: `h2` or `http/1.1`.
    ///
    /// # Errors
    /// If an authority, the certificate or its key cannot be read, or there is nobody to trust.
    pub fn connector(&self, protocols: &[&str]) -> Result<TlsConnector, InvalidTls> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let invalid = |error: rustls::Error| InvalidTls(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(invalid)?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain, "the client's certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| InvalidTls(format!("the client's key is no private key in PEM: {error}")))?;
                let unfit = |error| InvalidTls(format!("the client's certificate does not go with its key: {error}"));
                builder.with_client_auth_cert(chain, key).map_err(unfit)?
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(TlsConnector { connector: Arc::new(config).into(), host: self.host.clone() })
    }

    fn roots(&self) -> Result<RootCertStore, InvalidTls> {
        let mut roots = RootCertStore::empty();
        let Some(authorities) = &self.authorities else {
            // Those that cannot be read are none to trust; it matters only if there are no others.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(InvalidTls("the system names no authorities to trust: name some, in PEM".to_owned()));
            }
            return Ok(roots);
        };
        for certificate in certificates(authorities, "the file of authorities")? {
            roots.add(certificate).map_err(|error| InvalidTls(format!("an authority cannot be used: {error}")))?;
        }
        Ok(roots)
    }
}

impl TlsConnector {
    /// Encrypts a connection to `host`, a name or an address, which the server's certificate must be for unless the settings name
    /// another.
    ///
    /// # Errors
    /// The system's, and whatever the two do not agree about.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = self.host.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.connector.connect(name, stream).await
    }
}

fn certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>, InvalidTls> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| InvalidTls(format!("{whose} is no PEM: {error}")))?;
    if found.is_empty() {
        return Err(InvalidTls(format!("{whose} holds no certificate in PEM")));
    }
    Ok(found)
}

/// Takes any certificate, from whomever; only that the other end has its key is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said_before_any_connection() {
        let refused = |tls: Tls| tls.connector(&["h2"]).err().expect("it cannot be used").to_string();
        let nothing = Tls { authorities: Some(Vec::new()), ..Tls::default() };
        assert_eq!(refused(nothing), "the file of authorities holds no certificate in PEM");
        let identity = Some((b"no certificate".to_vec(), b"secret".to_vec()));
        let tls = Tls { identity, insecure: true, ..Tls::default() };
        assert!(!format!("{tls:?}").contains("115, 101"), "the key is not shown");
        assert_eq!(refused(tls), "the client's certificate holds no certificate in PEM");
    }
}
