//! Which certificate is for which host.

use std::sync::Arc;

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// Certificates with the hosts that they are for. Never empty.
#[derive(Debug)]
pub(super) struct ByName {
    pairs: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl ByName {
    pub(super) const fn new(pairs: Vec<(Vec<String>, Arc<CertifiedKey>)>) -> Self {
        Self { pairs }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let hosts = self.pairs.iter().map(|(names, _)| names.as_slice());
        let chosen = hello.server_name().and_then(|host| best(hosts, host)).unwrap_or(0);
        self.pairs.get(chosen).map(|(_, key)| Arc::clone(key))
    }
}

/// The first list that has the host itself, or else the first that has it by a wildcard.
fn best<'a>(lists: impl Iterator<Item = &'a [String]> + Clone, host: &str) -> Option<usize> {
    let exactly = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(host));
    let above = host.split_once('.').map(|(_, above)| above);
    let below = |names: &[String]| {
        let mut wildcards = names.iter().filter_map(|name| name.strip_prefix("*."));
        above.is_some_and(|above| wildcards.any(|rest| rest.eq_ignore_ascii_case(above)))
    };
    lists.clone().position(exactly).or_else(|| lists.clone().position(below))
}

/// The hosts that a certificate names.
pub(super) fn names_of(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.into_iter().flatten().filter_map(dns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_its_own_beats_a_wildcard_and_a_wildcard_is_one_label() {
        let lists =
            [vec!["a.example".to_owned()], vec!["*.example".to_owned()], vec!["B.example".to_owned(), "local".to_owned()]];
        let best = |host| best(lists.iter().map(Vec::as_slice), host);
        assert_eq!(best("a.example"), Some(0));
        assert_eq!(best("b.Example"), Some(2));
        assert_eq!(best("c.example"), Some(1));
        assert_eq!((best("c.b.example"), best("example"), best("local")), (None, None, Some(2)));
    }
}
