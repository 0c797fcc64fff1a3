//! What a connection shows of whoever made it.

use std::sync::Arc;

/// The certificate with which a client made a connection; the transport has verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject alternative names, as text: `spiffe://…` and other URIs, DNS names, addresses.
    pub alternative_names: Box<[Box<str>]>,
    /// Its subject's common name.
    pub common_name: Option<Box<str>>,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
}

/// How a connection is protected. The default is plain TCP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Channel {
    /// Whether it is encrypted.
    pub is_encrypted: bool,
    /// The client's certificate, if it has sent one.
    pub certificate: Option<Arc<ClientCertificate>>,
}
