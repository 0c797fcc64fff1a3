//! The settings of who may call.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use serde::{Deserialize, Serialize};

use super::{forms::path_or_empty, switch::Switch};

/// Which callers are let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// File of the callers that are known; none if absent.
    #[serde(with = "path_or_empty")]
    pub keys: Option<PathBuf>,
    /// Whether callers without a credential are let in.
    pub allow_anonymous: Switch,
    /// Whether keys and tokens are taken over connections that others can read.
    pub plain_keys: bool,
    /// Where the public keys of an issuer of tokens are: a path or a URL; empty for no issuer.
    pub jwks: String,
    /// The authorities to trust for such a URL; the system's if absent.
    #[serde(with = "path_or_empty")]
    pub jwks_ca: Option<PathBuf>,
    /// Seconds between two looks at such a URL.
    pub jwks_refresh_s: u64,
    /// What tokens must name as their issuer.
    pub jwt_issuer: String,
    /// What tokens must name as their audience.
    pub jwt_audience: String,
    /// Seconds by which the clocks of issuer and server may differ.
    pub jwt_leeway_s: u64,
    /// The claim that names the tenant.
    pub jwt_tenant_claim: String,
    /// The claim that lists scopes.
    pub jwt_scopes_claim: String,
    /// Whether callers that the keys file lists are lent short-lived tokens.
    pub tokens: bool,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            keys: None,
            allow_anonymous: Switch::Auto,
            plain_keys: false,
            jwks: String::new(),
            jwks_ca: None,
            jwks_refresh_s: 300,
            jwt_issuer: String::new(),
            jwt_audience: String::new(),
            jwt_leeway_s: 30,
            jwt_tenant_claim: "tenant".to_owned(),
            jwt_scopes_claim: "scope".to_owned(),
            tokens: false,
        }
    }
}

/// Where an issuer's public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerPlace<'a> {
    /// In a file.
    File(&'a Path),
    /// Behind a URL of `https`, or of `http` on this machine.
    Url(Uri),
}

impl SecurityConfig {
    /// Whether callers have credentials.
    #[must_use]
    pub const fn knows_callers(&self) -> bool {
        self.keys.is_some() || !self.jwks.is_empty()
    }

    /// Time between two looks at a URL of keys.
    #[must_use]
    pub const fn jwks_refresh(&self) -> Duration {
        Duration::from_secs(self.jwks_refresh_s)
    }

    /// Where the keys of the issuer are, if there is one.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn issuer(&self) -> Result<Option<IssuerPlace<'_>>, String> {
        let text = self.jwks.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.contains("://") {
            return Ok(Some(IssuerPlace::File(Path::new(text))));
        }
        let uri: Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        let host = uri.host().ok_or("names no host")?;
        let is_here = || {
            host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        };
        match uri.scheme_str() {
            Some("https") => Ok(Some(IssuerPlace::Url(uri))),
            Some("http") if is_here() => Ok(Some(IssuerPlace::Url(uri))),
            _ => Err("must begin with https://: whoever can change these keys can call as anybody".to_owned()),
        }
    }

    /// The first setting that contradicts another, its value, and what is wrong with it.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String, String)> {
        if let Err(reason) = self.issuer() {
            return Some(("security.jwks", self.jwks.clone(), reason));
        }
        let needed = |why: &str| format!("is needed, because security.jwks is set: {why}");
        if !self.jwks.is_empty() && self.jwt_issuer.is_empty() {
            return Some(("security.jwt_issuer", String::new(), needed("tokens of any other issuer must be refused")));
        }
        if !self.jwks.is_empty() && self.jwt_audience.is_empty() {
            return Some(("security.jwt_audience", String::new(), needed("tokens for anybody else must be refused")));
        }
        if self.tokens && self.keys.is_none() {
            return Some((
                "security.tokens",
                "true".to_owned(),
                "lends tokens to the callers of security.keys, which is not set".to_owned(),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut SecurityConfig)) -> SecurityConfig {
        let mut config = SecurityConfig::default();
        change(&mut config);
        config
    }

    #[test]
    fn an_issuer_is_a_file_or_a_url_that_nobody_can_tamper_with() {
        let place = |jwks: &str| with(|config| config.jwks = jwks.to_owned()).issuer().map(|place| format!("{place:?}"));
        assert_eq!(place(""), Ok("None".to_owned()));
        assert!(place("keys.json").is_ok_and(|place| place.contains("File")));
        for url in ["https://issuer.example/jwks", "http://127.0.0.1:9/jwks", "http://localhost/jwks", "http://[::1]:9/jwks"] {
            assert!(place(url).is_ok_and(|place| place.contains("Url")), "{url}");
        }
        for url in ["http://issuer.example/jwks", "ftp://127.0.0.1/jwks", "https://"] {
            assert!(place(url).is_err(), "{url}");
        }
    }

    #[test]
    fn an_issuer_needs_a_name_and_an_audience_and_lent_tokens_need_callers() {
        let name = |config: &SecurityConfig| config.contradiction().map(|(name, ..)| name);
        assert_eq!(name(&SecurityConfig::default()), None);
        let mut config = with(|config| config.jwks = "keys.json".to_owned());
        assert_eq!(name(&config), Some("security.jwt_issuer"));
        config.jwt_issuer = "https://issuer.example".to_owned();
        assert_eq!(name(&config), Some("security.jwt_audience"));
        config.jwt_audience = "tidemill".to_owned();
        assert_eq!(name(&config), None);
        config.tokens = true;
        assert_eq!(name(&config), Some("security.tokens"));
        config.keys = Some("keys.toml".into());
        assert_eq!(name(&config), None);
    }
}
