//! What the caller of the current call may do.

use std::sync::Arc;

use super::{
    Keyring, Service,
    holder::{self, Holder},
    tokens::{LentToken, TokenRequest},
};
use crate::{
    audit::Change,
    auth::{Presented, Scope, Scopes},
    domain::{Fault, FaultKind},
};

impl Service {
    /// The same door, for a port on which callers without a credential may do this much.
    #[must_use]
    pub fn with_anonymous(&self, anonymous: Scopes) -> Self {
        Self { anonymous, ..self.clone() }
    }

    /// The same door, which knows these callers.
    #[must_use]
    pub fn with_keyring(self, keyring: Keyring) -> Self {
        Self { keyring: Some(keyring), ..self }
    }

    /// Whether callers may have credentials.
    #[must_use]
    pub const fn knows_callers(&self) -> bool {
        self.keyring.is_some()
    }

    /// The caller that presents this; `None` if it may be made by anybody.
    ///
    /// # Errors
    /// [`FaultKind::Unauthenticated`] for a credential that is not good, and without one where anonymous callers may do nothing.
    pub fn recognise(&self, presented: &Presented<'_>) -> Result<Option<Arc<Holder>>, Fault> {
        let Some(keyring) = &self.keyring else { return Ok(None) };
        let holder = keyring.recognise(presented)?;
        if holder.is_none() && self.anonymous.is_empty() {
            return Err(missing());
        }
        Ok(holder)
    }

    /// A call of the current caller that changes something of this name, for the audit log.
    pub(crate) fn change(&self, call: &'static str, name: &str) -> Change {
        let caller = self.caller();
        Change::begin(call, caller.as_ref().map(|holder| &*holder.entry().name), name)
    }

    /// Lends a token to the current call's caller.
    ///
    /// # Errors
    /// As [`Keyring::lend_token`].
    pub fn lend_token(&self, request: TokenRequest) -> Result<LentToken, Fault> {
        let change = self.change("lend_token", "");
        let off = || Fault::new(FaultKind::Unsupported, "this server knows no callers, and so lends no tokens (security.keys)");
        change.ended(self.keyring.as_ref().ok_or_else(off).and_then(|keyring| keyring.lend_token(request)))
    }

    /// The caller on behalf of the tenant that the call's metadata name, if they name one; `metadata` looks them up.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if it may not call for that tenant.
    pub fn on_behalf<'a>(
        &self,
        holder: Arc<Holder>,
        metadata: impl FnOnce(&str) -> Option<&'a [u8]>,
    ) -> Result<Arc<Holder>, Fault> {
        let name = self.inner.tenants.metadata();
        let tenant = if name.is_empty() { None } else { metadata(name) };
        match (&self.keyring, tenant) {
            (Some(keyring), Some(tenant)) => keyring.on_behalf(holder, &String::from_utf8_lossy(tenant)),
            _ => Ok(holder),
        }
    }

    /// The current call's caller; `None` if it is anonymous.
    pub(crate) fn caller(&self) -> Option<Arc<Holder>> {
        self.keyring.as_ref().and_then(|_| holder::current())
    }

    /// Whether the current call's caller may do this, with this model if there is one.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if not; [`FaultKind::Unauthenticated`] if it is anonymous, and a credential would help.
    #[inline]
    pub(crate) fn permit(&self, scope: Scope, model: Option<&str>) -> Result<(), Fault> {
        if self.keyring.is_none() && self.anonymous.allow(scope) {
            return Ok(());
        }
        self.permit_known(scope, model)
    }

    #[cold]
    fn permit_known(&self, scope: Scope, model: Option<&str>) -> Result<(), Fault> {
        match holder::current() {
            Some(holder) => holder.entry().permit(scope, model),
            None if self.anonymous.allow(scope) => Ok(()),
            None if self.keyring.is_some() => Err(missing()),
            None => {
                let message = format!("anonymous callers may not do this on this port: it needs the scope {}", scope.name());
                Err(Fault::new(FaultKind::Denied, message))
            }
        }
    }

    /// Whether the current call's caller may run this model or read about it.
    ///
    /// # Errors
    /// As [`Service::permit`].
    #[inline]
    pub(super) fn permit_either(&self, model: &str) -> Result<(), Fault> {
        self.permit(Scope::Infer, Some(model)).or_else(|fault| match self.permit(Scope::ModelsRead, Some(model)) {
            Ok(()) => Ok(()),
            Err(_) => Err(fault),
        })
    }

    /// Whether the current call's caller gets to know of this model.
    #[must_use]
    pub(crate) fn shows(&self, model: &str) -> bool {
        self.keyring.is_none() || holder::current().is_none_or(|holder| holder.entry().includes(model))
    }
}

fn missing() -> Fault {
    let message = "this needs a credential: send `authorization: Bearer KEY` or `x-api-key: KEY`";
    Fault::new(FaultKind::Unauthenticated, message)
}
