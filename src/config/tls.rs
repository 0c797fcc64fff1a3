//! The settings of encrypted connections.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::forms::{path_or_empty, paths};

/// Certificates, and what clients have to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Chains of certificates; the first is for clients that name no host, or one that no certificate is for. None: no TLS.
    #[serde(with = "paths")]
    pub cert: Vec<PathBuf>,
    /// Their keys, in the same order.
    #[serde(with = "paths")]
    pub key: Vec<PathBuf>,
    /// The authorities that issue certificates of clients.
    #[serde(with = "path_or_empty")]
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to show a certificate.
    pub client_auth: ClientAuth,
    /// The gRPC port.
    pub grpc: PortTls,
    /// The HTTP port.
    pub http: PortTls,
    /// The admin port.
    pub admin: PortTls,
    /// Seconds that a handshake may take.
    pub handshake_timeout_s: u64,
    /// Handshakes at once.
    pub max_handshakes: usize,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert: Vec::new(),
            key: Vec::new(),
            client_ca: None,
            client_auth: ClientAuth::Off,
            grpc: PortTls::Auto,
            http: PortTls::Auto,
            admin: PortTls::Auto,
            handshake_timeout_s: 10,
            max_handshakes: 1_024,
        }
    }
}

impl TlsConfig {
    /// Whether there are certificates.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !self.cert.is_empty()
    }

    /// What clients of a port with this setting have to show; `None` if the port is not encrypted.
    #[must_use]
    pub const fn port(&self, port: PortTls) -> Option<ClientAuth> {
        match port {
            _ if !self.is_on() => None,
            PortTls::Plain => None,
            PortTls::Auto => Some(self.client_auth),
            PortTls::Off => Some(ClientAuth::Off),
            PortTls::Optional => Some(ClientAuth::Optional),
            PortTls::Required => Some(ClientAuth::Required),
        }
    }

    /// Time that a handshake may take.
    #[must_use]
    pub const fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_s)
    }

    /// The first setting that contradicts another, its value, and what is wrong with it.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String, String)> {
        let Self { cert, key, client_ca, .. } = self;
        if cert.len() != key.len() {
            let found = format!("{} file(s)", key.len());
            return Some((
                "tls.key",
                found,
                format!("tls.cert names {} file(s); each needs its key, in the same order", cert.len()),
            ));
        }
        let ports = [("tls.grpc", self.grpc), ("tls.http", self.http), ("tls.admin", self.admin)];
        let asks = |port: PortTls| self.port(port).is_some_and(|auth| auth != ClientAuth::Off);
        if client_ca.is_none()
            && let Some((name, port)) = ports.into_iter().find(|(_, port)| asks(*port))
        {
            let name = if port == PortTls::Auto { "tls.client_auth" } else { name };
            return Some((
                name,
                String::new(),
                "asks clients for certificates; tls.client_ca must say who issues them".to_owned(),
            ));
        }
        let wants = |port: PortTls| matches!(port, PortTls::Off | PortTls::Optional | PortTls::Required);
        if !self.is_on()
            && let Some((name, _)) = ports.into_iter().find(|(_, port)| wants(*port))
        {
            return Some((name, String::new(), "asks for an encrypted port, which needs tls.cert and tls.key".to_owned()));
        }
        if !self.is_on() && self.client_auth != ClientAuth::Off {
            return Some(("tls.client_auth", String::new(), "only encrypted ports can ask; set tls.cert and tls.key".to_owned()));
        }
        None
    }
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    Off,
    /// They are asked. One that is shown must be sound.
    Optional,
    /// They are not served without one.
    Required,
}

/// Whether a port is encrypted, and what its clients have to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortTls {
    /// Encrypted if there are certificates; clients have to show what `tls.client_auth` says.
    #[default]
    Auto,
    /// Not encrypted.
    Plain,
    /// Encrypted, without certificates of clients.
    Off,
    /// Encrypted; see [`ClientAuth::Optional`].
    Optional,
    /// Encrypted; see [`ClientAuth::Required`].
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_encrypted_if_there_are_certificates_and_it_does_not_say_otherwise() {
        let none = TlsConfig::default();
        assert_eq!(none.port(PortTls::Auto), None);
        let some = TlsConfig { cert: vec!["a".into()], client_auth: ClientAuth::Required, ..none };
        let found = [PortTls::Auto, PortTls::Plain, PortTls::Off, PortTls::Optional].map(|port| some.port(port));
        assert_eq!(found, [Some(ClientAuth::Required), None, Some(ClientAuth::Off), Some(ClientAuth::Optional)]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let name = |config: &TlsConfig| config.contradiction().map(|(name, ..)| name);
        let pair = || TlsConfig { cert: vec!["a".into()], key: vec!["b".into()], ..TlsConfig::default() };
        assert_eq!((name(&TlsConfig::default()), name(&pair())), (None, None));
        assert_eq!(name(&TlsConfig { key: Vec::new(), ..pair() }), Some("tls.key"));
        assert_eq!(name(&TlsConfig { client_auth: ClientAuth::Required, ..pair() }), Some("tls.client_auth"));
        assert_eq!(name(&TlsConfig { http: PortTls::Optional, ..pair() }), Some("tls.http"));
        assert_eq!(name(&TlsConfig { admin: PortTls::Off, ..TlsConfig::default() }), Some("tls.admin"));
        let asks = TlsConfig { client_auth: ClientAuth::Optional, client_ca: Some("c".into()), ..TlsConfig::default() };
        assert_eq!(name(&asks), Some("tls.client_auth"));
        assert_eq!(name(&TlsConfig { cert: vec!["a".into()], key: vec!["b".into()], ..asks }), None);
    }
}
