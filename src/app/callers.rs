//! The callers that are known: read when the server starts, and again whenever what says who they are changes.

use std::sync::Arc;

use super::{StartError, changes, issuer::Issuer};
use crate::{
    audit,
    auth::{Entry, FILE_BYTES_MAX, Keys, Scope, TokenRules},
    config::{Config, Port, SecurityConfig},
    frontend::MetricsGate,
    service::{Keyring, Tokens},
    watched::Watched,
};

/// The callers, and the watch on what says who they are.
pub(super) struct Callers {
    keyring: Keyring,
    file: Option<Watched>,
    /// The callers that the file lists.
    listed: Vec<Arc<Entry>>,
    issuer: Option<Issuer>,
}

impl Callers {
    /// The callers that are configured, if any.
    ///
    /// # Errors
    /// [`StartError::Keys`] if the file cannot be read or watched, or is wrong; [`StartError::Issuer`] likewise;
    /// [`StartError::Unguarded`] if there are none, and anybody could call from other machines although nobody has said so.
    pub(super) async fn of(config: &Config) -> Result<Option<Self>, StartError> {
        let unguarded: Vec<_> = config.unguarded().iter().map(ToString::to_string).collect();
        if !unguarded.is_empty() {
            return Err(StartError::Unguarded(unguarded.join("; ")));
        }
        let security = &config.security;
        if !security.knows_callers() {
            return Ok(None);
        }
        let (file, keys) = match &security.keys {
            None => (None, Keys::default()),
            Some(path) => {
                let fault = |reason| StartError::Keys { path: path.clone(), reason };
                let file = Watched::new(path, FILE_BYTES_MAX).map_err(fault)?;
                let keys = keys_of(file.read().await).map_err(fault)?;
                tracing::info!(callers = keys.entries().len(), "callers are known by {}", path.display());
                (Some(file), keys)
            }
        };
        let issuer = Issuer::of(security).await?;
        let listed = keys.entries().to_vec();
        let tokens = Tokens::new(issuer.is_some().then(|| rules(security)), security.tokens);
        let keyring = Keyring::new(keys, security.plain_keys).with_tokens(tokens);
        let issuer = issuer.map(|(issuer, keys)| {
            keyring.replace_issuer(keys);
            issuer
        });
        Ok(Some(Self { keyring, file, listed, issuer }))
    }

    /// The callers, as they are at any time.
    pub(super) const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Lets those read metrics who may, if not everybody may.
    pub(super) fn metrics_gate(&self, config: &Config) -> Option<MetricsGate> {
        let is_open = config.address(Port::Admin).is_local() || config.anonymous(Port::Admin).allow(Scope::Metrics);
        (!is_open).then(|| MetricsGate::new(self.keyring.clone()))
    }

    /// Follows what says who they are. While that is wrong, what it said before applies.
    pub(super) async fn follow(self) -> Option<()> {
        let Self { keyring, file, listed, issuer } = self;
        let of_file = async {
            match file {
                Some(file) => follow_file(&file, listed, &keyring).await,
                None => None,
            }
        };
        let of_issuer = async {
            match issuer {
                Some(issuer) => issuer.follow(keyring.clone()).await,
                None => None,
            }
        };
        tokio::join!(of_file, of_issuer);
        None
    }
}

async fn follow_file(file: &Watched, mut listed: Vec<Arc<Entry>>, keyring: &Keyring) -> Option<()> {
    loop {
        match keys_of(file.read_next().await) {
            Ok(keys) => {
                let before = std::mem::replace(&mut listed, keys.entries().to_vec());
                let ended = keyring.replace(keys);
                tracing::info!(callers = listed.len(), ended, "{} has changed", file.path().display());
                audit::keys_changed(&changes::between(&before, &listed));
            }
            Err(reason) => {
                let path = file.path().display();
                tracing::error!("{path} (security.keys) cannot be used: {reason}; what it said before still applies");
                audit::keys_unusable(&reason);
            }
        }
    }
}

fn keys_of(read: Result<Vec<u8>, String>) -> Result<Keys, String> {
    let text = String::from_utf8(read?).map_err(|_| "it is not UTF-8".to_owned())?;
    Keys::parse(&text).map_err(|faults| faults.to_string())
}

fn rules(security: &SecurityConfig) -> TokenRules {
    TokenRules {
        issuer: security.jwt_issuer.clone(),
        audience: security.jwt_audience.clone(),
        leeway_s: security.jwt_leeway_s,
        tenant_claim: security.jwt_tenant_claim.clone(),
        scopes_claim: security.jwt_scopes_claim.clone(),
    }
}
