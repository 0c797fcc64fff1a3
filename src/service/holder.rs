//! A caller that is known, with the means to end what it has open.
//!
//! A front end asks once for each call, from its headers, and runs the call [`Holder::acting`]; the door then finds the holder by
//! itself, so that nothing between the two has to pass it on. What runs outside of that has no holder, and may do what anonymous
//! callers may.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Entry, Proof},
    clock,
    domain::{Fault, FaultKind},
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
    revoked: CancellationToken,
    /// Whether it is known by a token that another caller was lent.
    is_lent: bool,
}

impl Holder {
    pub(super) fn of(entry: &Arc<Entry>) -> Arc<Self> {
        Arc::new(Self { entry: Arc::clone(entry), revoked: CancellationToken::new(), is_lent: false })
    }

    /// The same caller with the quotas of this entry, which says nothing else that is new.
    pub(super) fn with_quotas_of(&self, entry: &Arc<Entry>) -> Arc<Self> {
        Arc::new(Self { entry: Arc::clone(entry), revoked: self.revoked.clone(), is_lent: false })
    }

    /// A caller that may no longer call once this is cancelled.
    pub(super) fn until(entry: Entry, gone: CancellationToken) -> Arc<Self> {
        Arc::new(Self { entry: Arc::new(entry), revoked: gone, is_lent: false })
    }

    /// A caller known by a token that this one was lent; what it has open ends with this one.
    pub(super) fn lend(&self, entry: Entry) -> Arc<Self> {
        Arc::new(Self { entry: Arc::new(entry), revoked: self.revoked.child_token(), is_lent: true })
    }

    /// Whether the keys file lists it.
    pub(super) fn is_listed(&self) -> bool {
        !self.is_lent && self.entry.proof != Proof::Token
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
