//! What the keys file says about one caller.

use tidemill_domain::{ClientCertificate, Fault, FaultKind, Priority};

use crate::{Digest, Glob, Scope, Scopes};

/// By what a caller is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A key with this digest.
    Key(Digest),
    /// A client certificate, one of whose subject alternative names fits.
    AlternativeName(Glob),
    /// A client certificate whose common name fits.
    CommonName(Glob),
    /// A token that was checked. No file lists who shows one.
    Token,
}

impl Proof {
    /// Whether a certificate is one of the caller's.
    #[must_use]
    pub fn fits(&self, certificate: &ClientCertificate) -> bool {
        match self {
            Self::Key(_) | Self::Token => false,
            Self::AlternativeName(glob) => certificate.names.iter().any(|name| glob.matches(name.as_str())),
            Self::CommonName(glob) => certificate.common_name.as_deref().is_some_and(|name| glob.matches(name)),
        }
    }
}

/// Largest weight of a tenant.
pub const WEIGHT_MAX: u64 = 100;

/// How much a caller, or a tenant, may use; what is not set has no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Streams open at once.
    pub streams: Option<u64>,
    /// Connections open at once.
    pub connections: Option<u64>,
    /// Items a second.
    pub items_per_s: Option<u64>,
    /// Input bytes a second.
    pub bytes_per_s: Option<u64>,
    /// Share of lane time among tenants, 1 if nothing says otherwise; at most [`WEIGHT_MAX`]. A tenant's goes before its keys'.
    pub weight: Option<u64>,
    /// The highest priority that its streams may ask for.
    pub priority_max: Option<Priority>,
}

/// A caller: by what it is recognised, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, for the log and for `tidemill keys`.
    pub name: Box<str>,
    /// By what it is recognised.
    pub proof: Proof,
    /// On whose behalf it calls; its own if absent.
    pub tenant: Option<Box<str>>,
    /// For which other tenants it may call, if its calls name one; for those that fit one pattern.
    pub acts_for: Vec<Glob>,
    /// What it may do.
    pub scopes: Scopes,
    /// With which models; with any of them if it fits one pattern.
    pub models: Vec<Glob>,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// How much it may use.
    pub quotas: Quotas,
}

impl Entry {
    /// On whose behalf it calls.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or(&self.name)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_expired(&self, now_s: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now_s)
    }

    /// Whether it may call on behalf of this tenant.
    #[must_use]
    pub fn may_act_for(&self, tenant: &str) -> bool {
        tenant == self.tenant() || self.acts_for.iter().any(|glob| glob.matches(tenant))
    }

    /// Whether it may have to do with a model.
    #[must_use]
    pub fn includes(&self, model: &str) -> bool {
        self.models.iter().any(|glob| glob.matches(model))
    }

    /// Whether it may let another have to do with the models that fit a pattern: they must be among its own.
    #[must_use]
    pub fn may_lend(&self, glob: &Glob) -> bool {
        self.models.contains(glob) || (!glob.as_str().contains('*') && self.includes(glob.as_str()))
    }

    /// Whether it may do this, with this model if there is one.
    ///
    /// # Errors
    /// [`FaultKind::Denied`], naming the scope or the model.
    pub fn permit(&self, scope: Scope, model: Option<&str>) -> Result<(), Fault> {
        let (name, scope_name) = (&self.name, scope.name());
        if !self.scopes.allow(scope) {
            let message = format!("'{name}' may not do this: it needs the scope {scope_name}, which the operator gives");
            return Err(Fault::new(FaultKind::Denied, message));
        }
        match model {
            Some(model) if !self.includes(model) => {
                let message = format!("'{name}' may not use model '{model}'; the operator says which models it may use");
                Err(Fault::new(FaultKind::Denied, message).with_field("model"))
            }
            _ => Ok(()),
        }
    }

    /// Whether both let the same caller do the same; how much of it does not matter.
    #[must_use]
    pub fn same_rights(&self, other: &Self) -> bool {
        let Self { name, proof, tenant, acts_for, scopes, models, expires, quotas: _ } = self;
        (name, proof, tenant, acts_for) == (&other.name, &other.proof, &other.tenant, &other.acts_for)
            && (scopes, models, expires) == (&other.scopes, &other.models, &other.expires)
    }
}

/// Longest name of a caller or tenant.
const NAME_BYTES_MAX: usize = 128;

/// Whether this can be the name of a caller or tenant: 1 to 128 letters of ASCII, digits, `-`, `_`, `.` and `@`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.@".contains(&letter);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_letter)
}
