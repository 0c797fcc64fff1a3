//! The callers that the keys file lists, each with the means to end what it has open.
//!
//! A front end asks once for each call, from its headers, and runs the call [`Holder::acting`]; the door then finds the holder by
//! itself, so that nothing between the two has to pass it on. What runs outside of that has no holder, and may do what anonymous
//! callers may.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Allowance, Tenants},
    auth::{Entry, Keys, Presented, Refused, is_name},
    clock, connections,
    domain::{Fault, FaultKind},
    telemetry::{Quota, Telemetry},
};

/// How much of a tenant's name is quoted if it is none.
const TENANT_SHOWN: usize = 64;

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
}

impl Holder {
    fn of(entry: &Arc<Entry>, allowance: Allowance) -> Arc<Self> {
        Arc::new(Self { entry: Arc::clone(entry), allowance, revoked: CancellationToken::new() })
    }

    /// What the keys file says about it.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
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

/// The known callers. Clones share them.
#[derive(Debug, Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    takes_plain_keys: bool,
    tenants: Tenants,
    ring: RwLock<Ring>,
}

#[derive(Debug)]
struct Ring {
    keys: Keys,
    /// Of each of them.
    holders: Vec<Arc<Holder>>,
}

impl Keyring {
    /// These callers; `takes_plain_keys` lets keys come over connections that others can read.
    #[must_use]
    pub fn new(keys: Keys, takes_plain_keys: bool) -> Self {
        let tenants = Tenants::default();
        let holders = keys.entries().iter().map(|entry| Holder::of(entry, allowance(entry, &keys, &tenants))).collect();
        Self { inner: Arc::new(Inner { takes_plain_keys, tenants, ring: RwLock::new(Ring { keys, holders }) }) }
    }

    /// From now on, these tenants are counted by name.
    pub fn count(&self, telemetry: &Telemetry, tenants: &[String]) {
        self.inner.tenants.count(telemetry, tenants);
    }

    /// The same caller on behalf of another tenant, for which it may call.
    ///
    /// # Errors
    /// [`FaultKind::Denied`], naming the tenant.
    pub fn on_behalf(&self, holder: Arc<Holder>, tenant: &str) -> Result<Arc<Holder>, Fault> {
        if tenant == holder.tenant() {
            return Ok(holder);
        }
        // What is not a name may be long, and anything else.
        if !is_name(tenant) || !holder.entry.may_act_for(tenant) {
            let (name, shown) = (&holder.entry.name, tenant.chars().take(TENANT_SHOWN).flat_map(char::escape_default));
            let message = format!(
                "'{name}' may not call for tenant '{}'; the operator says for which it may (acts_for); leave the tenant out to call for '{}'",
                shown.collect::<String>(),
                holder.tenant()
            );
            return Err(Fault::new(FaultKind::Denied, message));
        }
        let account = self.inner.tenants.account(tenant, self.inner.ring.read().keys.quotas_of_tenant(tenant));
        let (entry, allowance) = (Arc::clone(&holder.entry), holder.allowance.for_tenant(account));
        Ok(Arc::new(Holder { entry, allowance, revoked: holder.revoked.clone() }))
    }

    /// Puts these callers in place of those known so far, and ends what those have open that are not among them with the same
    /// rights. Returns how many those are.
    pub fn replace(&self, keys: Keys) -> usize {
        let tenants = &self.inner.tenants;
        let mut ring = self.inner.ring.write();
        tenants.set_quotas(|tenant| keys.quotas_of_tenant(tenant));
        let mut known: std::collections::HashMap<_, _> =
            ring.holders.iter().map(|holder| (holder.entry.name.clone(), Arc::clone(holder))).collect();
        let keep = |entry: &Arc<Entry>| match known.remove(&entry.name) {
            Some(holder) if *holder.entry == **entry => Kept::Same(holder),
            // Quotas alone differ: its streams go on, with the means to end them.
            Some(holder) if holder.entry.same_rights(entry) => {
                holder.allowance.set_quotas(&entry.quotas);
                let (entry, allowance) = (Arc::clone(entry), holder.allowance.clone());
                Kept::Same(Arc::new(Holder { entry, allowance, revoked: holder.revoked.clone() }))
            }
            Some(holder) => Kept::Other(holder),
            None => Kept::New,
        };
        let kept: Vec<_> = keys.entries().iter().map(keep).collect();
        let mut ended: Vec<_> = known.into_values().collect();
        let mut holders = Vec::with_capacity(kept.len());
        for (entry, kept) in keys.entries().iter().zip(kept) {
            holders.push(match kept {
                Kept::Same(holder) => holder,
                Kept::Other(holder) => {
                    ended.push(holder);
                    Holder::of(entry, allowance(entry, &keys, tenants))
                }
                Kept::New => Holder::of(entry, allowance(entry, &keys, tenants)),
            });
        }
        *ring = Ring { keys, holders };
        // From here on, nobody is recognised as one of them.
        drop(ring);
        ended.iter().for_each(|holder| holder.revoked.cancel());
        ended.len()
    }

    /// The caller that a call presents; `None` if it presents no credential.
    ///
    /// # Errors
    /// [`FaultKind::Unauthenticated`] for a credential that is not good.
    pub fn recognise(&self, presented: &Presented<'_>) -> Result<Option<Arc<Holder>>, Fault> {
        let now_s = clock::since_epoch(clock::now()).as_secs();
        let ring = self.inner.ring.read();
        let found = presented.find(&ring.keys, self.inner.takes_plain_keys, now_s);
        let position = found.map_err(Refused::fault)?;
        Ok(position.map(|position| Arc::clone(&ring.holders[position])))
    }
}

/// What a caller may use, newly counted.
fn allowance(entry: &Entry, keys: &Keys, tenants: &Tenants) -> Allowance {
    Allowance::of(entry, tenants.account(entry.tenant(), keys.quotas_of_tenant(entry.tenant())))
}

/// What becomes of a caller that is listed again.
enum Kept {
    Same(Arc<Holder>),
    Other(Arc<Holder>),
    New,
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::auth::{Key, Secret};

    /// A file of callers with these names, whose keys are of these bytes, and these scopes.
    fn keys(callers: &[(&str, u8, &str)]) -> Keys {
        let blocks = callers.iter().map(|(name, byte, rest)| {
            format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n{rest}\n", Key::from_random([*byte; 32]).digest().to_hex())
        });
        Keys::parse(&blocks.collect::<String>()).expect("sound")
    }

    fn recognise(keyring: &Keyring, byte: u8) -> Result<Option<Arc<Holder>>, Fault> {
        let key = Key::from_random([byte; 32]).reveal();
        keyring.recognise(&Presented { api_key: Secret(Some(key.as_bytes())), is_private: true, ..Presented::default() })
    }

    fn holder(keyring: &Keyring, byte: u8) -> Arc<Holder> {
        recognise(keyring, byte).expect("a good key").expect("a caller")
    }

    const INFER: &str = "scopes = ['infer']";

    #[tokio::test]
    async fn what_a_caller_has_open_ends_when_it_is_revoked_or_its_rights_change_and_not_for_new_quotas() {
        let keyring = Keyring::new(keys(&[("a", 1, INFER), ("b", 2, INFER), ("c", 3, INFER), ("d", 4, INFER)]), false);
        let [a, b, c, d] = [1, 2, 3, 4].map(|byte| holder(&keyring, byte));
        let new_quota = "scopes = ['infer']\nquotas.streams = 5";
        let next = keys(&[("b", 2, "scopes = ['admin']"), ("c", 3, new_quota), ("d", 5, INFER), ("e", 1, INFER)]);
        assert_eq!(keyring.replace(next), 3);
        for ended in [a, b, Arc::clone(&d)] {
            let fault = ended.ended().now_or_never().expect("ended at once");
            assert_eq!(fault.kind(), FaultKind::Unauthenticated);
        }
        assert!(Arc::clone(&c).ended().now_or_never().is_none());
        assert_eq!(holder(&keyring, 3).entry().quotas.streams, Some(5));
        assert_eq!(&*holder(&keyring, 1).entry().name, "e");
        assert_eq!(recognise(&keyring, 4).expect_err("its key was changed").kind(), FaultKind::Unauthenticated);
        // The stream that went on ends with its caller all the same.
        assert_eq!(keyring.replace(Keys::default()), 4);
        assert!(c.ended().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_has_open_ends_at_its_time() {
        let expires = crate::auth::format_utc(clock::since_epoch(clock::now()).as_secs() + 3_600);
        let keyring = Keyring::new(keys(&[("a", 1, &format!("{INFER}\nexpires = {expires}"))]), false);
        let fault = holder(&keyring, 1).ended().await;
        assert!(fault.message().contains("'a' has expired"), "{fault}");
    }

    #[test]
    fn a_caller_acts_for_the_tenants_that_it_may_and_new_quotas_reach_what_it_holds() {
        let keyring = Keyring::new(keys(&[("a", 1, &format!("{INFER}\nacts_for = ['acme-*']"))]), false);
        let a = holder(&keyring, 1);
        assert!(Arc::ptr_eq(&keyring.on_behalf(Arc::clone(&a), "a").expect("its own"), &a));
        let web = keyring.on_behalf(Arc::clone(&a), "acme-web").expect("it fits");
        assert_eq!((web.tenant(), &*web.entry().name), ("acme-web", "a"));
        for other in ["umbrella", "acme-web/../x", ""] {
            let fault = keyring.on_behalf(Arc::clone(&a), other).expect_err(other);
            assert!(fault.kind() == FaultKind::Denied && fault.message().contains(&format!("tenant '{other}'")), "{fault}");
        }
        let _first = web.allowance().claim_stream().expect("no limit yet");
        let mut text = keys(&[("a", 1, &format!("{INFER}\nacts_for = ['acme-*']"))]).to_toml();
        text.push_str("\n[[tenant]]\nname = 'acme-web'\nquotas.streams = 1\n");
        assert_eq!(keyring.replace(Keys::parse(&text).expect("sound")), 0);
        let fault = web.allowance().claim_stream().expect_err("one is open");
        assert!(fault.message().contains("tenant 'acme-web'"), "{fault}");
        assert!(a.allowance().claim_stream().is_ok(), "its own tenant has no quota");
    }

    #[test]
    fn only_work_on_its_behalf_is_a_callers() {
        let keyring = Keyring::new(keys(&[("a", 1, INFER)]), false);
        let inside = holder(&keyring, 1).acting(current);
        assert_eq!(&*inside.expect("a caller").entry().name, "a");
        assert!(current().is_none());
    }
}
