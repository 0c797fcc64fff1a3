//! A caller that is known, with the means to end what it has open.
//!
//! A front end asks once for each call, from its headers, and runs the call [`Holder::acting`]; the door then finds the holder by
//! itself, so that nothing between the two has to pass it on. What runs outside of that has no holder, and may do what anonymous
//! callers may.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Account, Allowance},
    auth::{Entry, Proof},
    clock, connections,
    domain::{Fault, FaultKind},
    telemetry::Quota,
};

tokio::task_local! {
    static ACTING: Arc<Holder>;
}

/// The holder of the call that is being polled; none for an anonymous one.
pub(super) fn current() -> Option<Arc<Holder>> {
    ACTING.try_with(Arc::clone).ok()
}

/// A known caller.
#[derive(Debug)]
pub struct Holder {
    entry: Arc<Entry>,
    allowance: Allowance,
    revoked: CancellationToken,
    /// The caller that was lent the token by which it is known, if it is known by such a one.
    lender: Option<Arc<Entry>>,
}

impl Holder {
    pub(super) fn of(entry: &Arc<Entry>, allowance: Allowance) -> Arc<Self> {
        Arc::new(Self { entry: Arc::clone(entry), allowance, revoked: CancellationToken::new(), lender: None })
    }

    /// The same caller with the quotas of this entry, which says nothing else that is new.
    pub(super) fn with_quotas_of(&self, entry: &Arc<Entry>) -> Arc<Self> {
        let (entry, allowance, revoked) = (Arc::clone(entry), self.allowance.clone(), self.revoked.clone());
        Arc::new(Self { entry, allowance, revoked, lender: self.lender.clone() })
    }

    /// A caller that may no longer call once this is cancelled.
    pub(super) fn until(entry: Entry, allowance: Allowance, gone: CancellationToken) -> Arc<Self> {
        Arc::new(Self { entry: Arc::new(entry), allowance, revoked: gone, lender: None })
    }

    /// A caller known by a token that this one was lent; what it has open ends with this one, and what it uses is this one's.
    pub(super) fn lend(&self, entry: Entry) -> Arc<Self> {
        let (allowance, revoked) = (self.allowance.clone(), self.revoked.child_token());
        Arc::new(Self { entry: Arc::new(entry), allowance, revoked, lender: Some(Arc::clone(&self.entry)) })
    }

    /// The same caller on behalf of another tenant.
    pub(super) fn for_tenant(&self, tenant: Arc<Account>) -> Arc<Self> {
        let (entry, allowance) = (Arc::clone(&self.entry), self.allowance.for_tenant(tenant));
        Arc::new(Self { entry, allowance, revoked: self.revoked.clone(), lender: self.lender.clone() })
    }

    /// The same caller, which may go on after the token that it was lent has ended, for as long as its lender may.
    #[must_use]
    pub fn outliving_token(self: &Arc<Self>) -> Arc<Self> {
        let Some(lender) = &self.lender else { return Arc::clone(self) };
        let entry = Entry { expires: lender.expires, ..(*self.entry).clone() };
        let (allowance, revoked) = (self.allowance.clone(), self.revoked.clone());
        Arc::new(Self { entry: Arc::new(entry), allowance, revoked, lender: self.lender.clone() })
    }

    /// What it and its tenant may use.
    #[must_use]
    pub const fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// On whose behalf it calls.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.allowance.tenant().name()
    }

    /// Counts this task's connection, until it ends, as one that it and its tenant use.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if they use as many as they may.
    pub fn claim_connection(&self) -> Result<(), Fault> {
        let claim = || self.allowance.accounts().try_for_each(|one| connections::keep(one.number(), || one.claim_connection()));
        claim().inspect_err(|_| self.allowance.count_refused(Quota::Connections))
    }

    /// Whether the keys file lists it.
    pub(super) fn is_listed(&self) -> bool {
        self.lender.is_none() && self.entry.proof != Proof::Token
    }

    /// Whether it may still call.
    pub(super) fn may_call(&self, now_s: u64) -> bool {
        !self.revoked.is_cancelled() && !self.entry.has_expired(now_s)
    }

    /// From now on, it may not call, and what it has open ends.
    pub(super) fn revoke(&self) {
        self.revoked.cancel();
    }

    /// What the keys file says about it.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Does a piece of work on its behalf.
    pub fn acting<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        ACTING.sync_scope(Arc::clone(self), work)
    }

    /// Waits until it may no longer call: it has been revoked, what it may do has been changed, or its time is over. Then whatever
    /// it has open ends with the fault.
    pub async fn ended(self: Arc<Self>) -> Fault {
        let expired = async {
            let Some(at) = self.entry.expires else { return std::future::pending().await };
            let left = Duration::from_secs(at).saturating_sub(clock::since_epoch(clock::now()));
            tokio::time::sleep(left).await;
        };
        let name = &self.entry.name;
        let message = tokio::select! {
            () = self.revoked.cancelled() => format!("the credential of '{name}' has been revoked or changed; call again with a good one"),
            () = expired => format!("the credential of '{name}' has expired"),
        };
        Fault::new(FaultKind::Unauthenticated, message)
    }
}
