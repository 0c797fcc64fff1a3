//! What a client's certificate says.

use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use crate::domain::{AlternativeName, ClientCertificate};

/// Longest name that is kept; no name that means anything is longer.
const NAME_BYTES_MAX: usize = 1_024;
/// Most names of one certificate that are kept.
const NAMES_MAX: usize = 64;

/// What the certificate says, if it can be read. It was verified before, so that it can be read is hardly in doubt.
pub(super) fn read(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let fits = |name: &&str| name.len() <= NAME_BYTES_MAX;
    let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    let names = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name).filter(|name| fits(name)).map(|name| AlternativeName::Dns((*name).to_owned())),
        GeneralName::URI(name) => Some(name).filter(|name| fits(name)).map(|name| AlternativeName::Uri((*name).to_owned())),
        GeneralName::RFC822Name(name) => {
            Some(name).filter(|name| fits(name)).map(|name| AlternativeName::Email((*name).to_owned()))
        }
        _ => None,
    });
    let names = names.take(NAMES_MAX).collect();
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let common_name = common_name.filter(fits).map(str::to_owned);
    Some(ClientCertificate { names, common_name, fingerprint: Sha256::digest(der).into() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_and_fingerprint_are_those_of_the_certificate() {
        let mut params = CertificateParams::new(vec!["robot.example".to_owned()]).expect("a name");
        let uri = "spiffe://example/robot";
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        params.distinguished_name.push(DnType::CommonName, "robot");
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let read = read(certificate.der()).expect("it can be read");
        assert_eq!(read.names, [AlternativeName::Dns("robot.example".to_owned()), AlternativeName::Uri(uri.to_owned())]);
        assert_eq!(read.common_name.as_deref(), Some("robot"));
        assert_eq!(read.fingerprint, <[u8; 32]>::from(Sha256::digest(certificate.der())));
    }

    #[test]
    fn noise_says_nothing() {
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0x30, 0x82, 0xff, 0xff]), None);
    }
}
