//! How a connection is protected, and the certificate by which its client showed who it is.

use std::sync::Arc;

/// How a connection is protected. By default, not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protection {
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// The client's certificate, if it has shown one.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// What is known of a client's certificate, whose chain was verified when the connection began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificate {
    /// Its subject alternative names, in its order.
    pub names: Vec<AlternativeName>,
    /// The common name of its subject, if it has one.
    pub common_name: Option<String>,
    /// SHA-256 of the certificate as it was sent, in DER.
    pub fingerprint: [u8; 32],
}

/// One subject alternative name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlternativeName {
    /// A host, such as `client.example.com`.
    Dns(String),
    /// A URI, such as `spiffe://example.com/service`.
    Uri(String),
    /// An address of mail.
    Email(String),
}

impl AlternativeName {
    /// The name without its kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) | Self::Uri(name) | Self::Email(name) => name,
        }
    }
}
