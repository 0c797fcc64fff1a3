//! What callers and tenants use of their quotas.
//!
//! A known caller's calls count in two accounts, an [`Allowance`]: its key's, and that of the tenant on whose behalf it calls, which
//! all keys of the tenant share. Limits are replaced in place: what is open goes on, and the new limits apply to what comes next.
//!
//! Knows no protocol, and reads no clock: the caller gives the moment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    auth::{Entry, Proof, Quotas},
    domain::{Fault, FaultKind, Priority, Timestamp},
    shares::Rate,
    telemetry::{GaugeGuard, Quota, Telemetry, TenantMetrics},
};

/// Tenants that are remembered. Beyond that, the one that was idle for longest is forgotten, with what it owes.
const TENANTS_MAX: usize = 10_000;
/// Tenants that one search for an idle one looks at. Bounds its time.
const TENANTS_LOOKED_AT: usize = 64;
/// When to try again what must wait until something else ends, about which nothing is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whose an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Key,
    Tenant,
}

/// What a key, or a tenant, uses.
#[derive(Debug)]
pub struct Account {
    number: u64,
    of: Holds,
    name: Box<str>,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    quotas: Quotas,
    streams: u64,
    connections: u64,
    items: Rate,
    bytes: Rate,
    /// Of a tenant that is counted by name.
    metrics: Option<Arc<TenantMetrics>>,
}

/// A place for a stream or a connection; dropping it gives it back.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Claimed {
    account: Arc<Account>,
    quota: Quota,
    _shown: Option<GaugeGuard>,
}

impl Account {
    fn new(of: Holds, name: &str, quotas: Quotas, metrics: Option<Arc<TenantMetrics>>) -> Arc<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let used = Used { quotas, streams: 0, connections: 0, items: Rate::default(), bytes: Rate::default(), metrics };
        Arc::new(Self { number: MADE.fetch_add(1, Ordering::Relaxed), of, name: name.into(), used: Mutex::new(used) })
    }

    /// No other account has this number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The name of the key or tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts these limits in place of those so far.
    pub fn set_quotas(&self, quotas: &Quotas) {
        self.used.lock().quotas = quotas.clone();
    }

    /// A place for a stream, or a call.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if as many are open as may be.
    pub fn claim_stream(self: &Arc<Self>) -> Result<Claimed, Fault> {
        let mut used = self.used.lock();
        let shown = used.metrics.as_ref().map(|metrics| GaugeGuard::new(&metrics.streams_open));
        let Used { quotas: Quotas { streams: limit, .. }, streams, .. } = &mut *used;
        match *limit {
            Some(limit) if *streams >= limit => Err(self.full(Quota::Streams, limit, "streams and calls are open")),
            _ => {
                *streams += 1;
                Ok(Claimed { account: Arc::clone(self), quota: Quota::Streams, _shown: shown })
            }
        }
    }

    /// A place for a connection.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if as many are open as may be.
    pub fn claim_connection(self: &Arc<Self>) -> Result<Claimed, Fault> {
        let mut used = self.used.lock();
        let Used { quotas: Quotas { connections: limit, .. }, connections, .. } = &mut *used;
        match *limit {
            Some(limit) if *connections >= limit => Err(self.full(Quota::Connections, limit, "connections are in use")),
            _ => {
                *connections += 1;
                Ok(Claimed { account: Arc::clone(self), quota: Quota::Connections, _shown: None })
            }
        }
    }

    /// Takes items with this many bytes between them.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`], naming the rate that is reached; nothing is taken.
    pub fn spend(&self, items: u64, bytes: u64, now: Timestamp) -> Result<(), Fault> {
        let mut used = self.used.lock();
        let Used { quotas: Quotas { items_per_s, bytes_per_s, .. }, items: item_rate, bytes: byte_rate, .. } = &mut *used;
        if let Some(limit) = *items_per_s {
            item_rate.take(limit, items, now).map_err(|wait| self.too_fast(Quota::ItemsPerS, limit, "items", wait))?;
        }
        if let Some(limit) = *bytes_per_s {
            byte_rate.take(limit, bytes, now).map_err(|wait| {
                if let Some(limit) = *items_per_s {
                    item_rate.give_back(limit, items);
                }
                self.too_fast(Quota::BytesPerS, limit, "input bytes", wait)
            })?;
        }
        Ok(())
    }

    /// Takes them whether or not they are there; what is not runs as debt.
    fn force(&self, items: u64, bytes: u64, now: Timestamp) {
        let mut used = self.used.lock();
        let Used { quotas: Quotas { items_per_s, bytes_per_s, .. }, items: item_rate, bytes: byte_rate, .. } = &mut *used;
        if let Some(limit) = *items_per_s {
            item_rate.force(limit, items, now);
        }
        if let Some(limit) = *bytes_per_s {
            byte_rate.force(limit, bytes, now);
        }
    }

    /// Gives back what was taken a moment ago.
    fn give_back(&self, items: u64, bytes: u64) {
        let mut used = self.used.lock();
        let Used { quotas: Quotas { items_per_s, bytes_per_s, .. }, items: item_rate, bytes: byte_rate, .. } = &mut *used;
        if let Some(limit) = *items_per_s {
            item_rate.give_back(limit, items);
        }
        if let Some(limit) = *bytes_per_s {
            byte_rate.give_back(limit, bytes);
        }
    }

    /// When the debt is paid off; `None` if there is none.
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        let mut used = self.used.lock();
        let Used { quotas: Quotas { items_per_s, bytes_per_s, .. }, items: item_rate, bytes: byte_rate, .. } = &mut *used;
        let of_items = items_per_s.and_then(|limit| item_rate.ready_in(limit, now));
        let of_bytes = bytes_per_s.and_then(|limit| byte_rate.ready_in(limit, now));
        of_items.max(of_bytes)
    }

    fn weight(&self) -> Option<u64> {
        self.used.lock().quotas.weight
    }

    fn priority_max(&self) -> Option<Priority> {
        self.used.lock().quotas.priority_max
    }

    fn metrics(&self) -> Option<Arc<TenantMetrics>> {
        self.used.lock().metrics.clone()
    }

    fn owner(&self) -> String {
        let of = match self.of {
            Holds::Key => "key",
            Holds::Tenant => "tenant",
        };
        format!("{of} '{}'", self.name)
    }

    fn full(&self, quota: Quota, limit: u64, what: &str) -> Fault {
        let message = format!(
            "{} may have {limit} ({}), and that many {what}; end some of them, or try again later",
            self.owner(),
            quota.limit_name()
        );
        Fault::new(FaultKind::Overloaded, message).with_limit(quota.limit_name(), limit).with_retry_after(RETRY_AFTER)
    }

    fn too_fast(&self, quota: Quota, limit: u64, what: &str, wait: Duration) -> Fault {
        let message = format!(
            "{} may send {limit} {what} a second ({}), and has sent more; send the item again in {wait:.1?}",
            self.owner(),
            quota.limit_name()
        );
        Fault::new(FaultKind::Overloaded, message).with_limit(quota.limit_name(), limit).with_retry_after(wait)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut used = self.account.used.lock();
        let count = if self.quota == Quota::Streams { &mut used.streams } else { &mut used.connections };
        *count = count.saturating_sub(1);
    }
}

/// The places that a stream has in both accounts.
#[derive(Debug)]
pub struct Claims {
    _key: Option<Claimed>,
    _tenant: Claimed,
}

/// What a caller may use: its own account, unless nothing but its tenant's says anything about it, and its tenant's.
#[derive(Debug, Clone)]
pub struct Allowance {
    key: Option<Arc<Account>>,
    tenant: Arc<Account>,
}

impl Allowance {
    /// That of a caller on behalf of a tenant. One that shows a token has no account of its own, as it is another with each token.
    #[must_use]
    pub fn of(entry: &Entry, tenant: Arc<Account>) -> Self {
        let key = (entry.proof != Proof::Token).then(|| Account::new(Holds::Key, &entry.name, entry.quotas.clone(), None));
        Self { key, tenant }
    }

    /// The same caller's, on behalf of another tenant.
    #[must_use]
    pub fn for_tenant(&self, tenant: Arc<Account>) -> Self {
        Self { key: self.key.clone(), tenant }
    }

    /// The account of the tenant.
    #[must_use]
    pub const fn tenant(&self) -> &Arc<Account> {
        &self.tenant
    }

    /// Both accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.key.iter().chain([&self.tenant])
    }

    /// Puts these limits in place of the caller's own.
    pub fn set_quotas(&self, quotas: &Quotas) {
        if let Some(key) = &self.key {
            key.set_quotas(quotas);
        }
    }

    /// Places for a stream, or a call.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if as many are open as may be.
    pub fn claim_stream(&self) -> Result<Claims, Fault> {
        let claim = || -> Result<Claims, Fault> {
            let key = self.key.as_ref().map(Account::claim_stream).transpose()?;
            Ok(Claims { _key: key, _tenant: self.tenant.claim_stream()? })
        };
        claim().inspect_err(|_| self.count_refused(Quota::Streams))
    }

    /// Takes items with this many bytes between them.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`], naming the rate that is reached; nothing is taken.
    pub fn spend(&self, items: u64, bytes: u64, now: Timestamp) -> Result<(), Fault> {
        if let Some(key) = &self.key {
            key.spend(items, bytes, now).inspect_err(|fault| self.count_refused(rate_of(fault)))?;
        }
        self.tenant.spend(items, bytes, now).inspect_err(|fault| {
            if let Some(key) = &self.key {
                key.give_back(items, bytes);
            }
            self.count_refused(rate_of(fault));
        })?;
        self.count_items(items);
        Ok(())
    }

    /// Takes them whether or not they are there; the caller then waits until nothing is owed.
    pub fn force(&self, items: u64, bytes: u64, now: Timestamp) {
        self.accounts().for_each(|account| account.force(items, bytes, now));
        self.count_items(items);
    }

    /// When the debt is paid off; `None` if there is none.
    #[must_use]
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.accounts().filter_map(|account| account.wait(now)).max()
    }

    /// The tenant's share of lane time, relative to others.
    #[must_use]
    pub fn weight(&self) -> u32 {
        let own = || self.key.as_ref().and_then(|key| key.weight());
        self.tenant.weight().or_else(own).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1)
    }

    /// Whether streams may ask for this priority.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] if it is higher than the highest that they may ask for.
    pub fn permit_priority(&self, priority: Priority) -> Result<(), Fault> {
        for account in self.accounts() {
            // The most urgent one is the least.
            if let Some(highest) = account.priority_max().filter(|highest| priority < *highest) {
                self.count_refused(Quota::PriorityMax);
                let (owner, name) = (account.owner(), Quota::PriorityMax.limit_name());
                let message = format!(
                    "{owner} may not ask for priority {} ({name}); ask for {}",
                    priority.label().to_uppercase(),
                    highest.label().to_uppercase()
                );
                return Err(Fault::new(FaultKind::Denied, message).with_field("priority"));
            }
        }
        Ok(())
    }

    /// Counts a refusal.
    pub fn count_refused(&self, quota: Quota) {
        if let Some(metrics) = self.tenant.metrics() {
            metrics.refused(quota).increment(1);
        }
    }

    fn count_items(&self, items: u64) {
        if let Some(metrics) = self.tenant.metrics() {
            metrics.items.increment(items);
        }
    }
}

/// The rate that a refusal names.
fn rate_of(fault: &Fault) -> Quota {
    let is_bytes = fault.limit().is_some_and(|limit| limit.name == Quota::BytesPerS.limit_name());
    if is_bytes { Quota::BytesPerS } else { Quota::ItemsPerS }
}

/// The accounts of tenants.
#[derive(Debug, Default)]
pub struct Tenants {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    accounts: HashMap<Box<str>, (u64, Arc<Account>)>,
    /// The names, by when each was last asked for.
    by_use: BTreeMap<u64, Box<str>>,
    uses: u64,
    counted: HashMap<Box<str>, Arc<TenantMetrics>>,
}

impl Tenants {
    /// The account of a tenant; `quotas` are its limits if it has no account yet.
    pub fn account(&self, name: &str, quotas: &Quotas) -> Arc<Account> {
        let mut book = self.book.lock();
        let found = book.accounts.get(name).map(|(used, account)| (*used, Arc::clone(account)));
        if let Some((used, account)) = found {
            book.by_use.remove(&used);
            book.keep(name.into(), Arc::clone(&account));
            return account;
        }
        book.make_room();
        let account = Account::new(Holds::Tenant, name, quotas.clone(), book.counted.get(name).cloned());
        book.keep(name.into(), Arc::clone(&account));
        account
    }

    /// Puts these limits in place of those so far, for each tenant by its name.
    pub fn set_quotas<'a>(&self, quotas_of: impl Fn(&str) -> &'a Quotas) {
        for (name, (_, account)) in &self.book.lock().accounts {
            account.set_quotas(quotas_of(name));
        }
    }

    /// From now on, these tenants are counted by name.
    pub fn count(&self, telemetry: &Telemetry, names: &[String]) {
        let mut book = self.book.lock();
        for name in names {
            let metrics = Arc::new(telemetry.tenant(name));
            if let Some((_, account)) = book.accounts.get(name.as_str()) {
                account.used.lock().metrics = Some(Arc::clone(&metrics));
            }
            book.counted.insert(name.as_str().into(), metrics);
        }
    }
}

impl Book {
    /// Notes that an account has been asked for.
    fn keep(&mut self, name: Box<str>, account: Arc<Account>) {
        self.uses += 1;
        self.by_use.insert(self.uses, name.clone());
        self.accounts.insert(name, (self.uses, account));
    }

    /// Forgets the tenant that was idle for longest, if there are too many. One that has anything open is kept.
    fn make_room(&mut self) {
        for _ in 0..TENANTS_LOOKED_AT {
            if self.accounts.len() < TENANTS_MAX {
                return;
            }
            let Some((_, name)) = self.by_use.pop_first() else { return };
            let Some((_, account)) = self.accounts.remove(&name) else { continue };
            if Arc::strong_count(&account) > 1 {
                self.keep(name, account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(items_per_s: u64, bytes_per_s: u64) -> Quotas {
        Quotas { items_per_s: Some(items_per_s), bytes_per_s: Some(bytes_per_s), ..Quotas::default() }
    }

    fn account(quotas: Quotas) -> Arc<Account> {
        Account::new(Holds::Tenant, "acme", quotas, None)
    }

    fn allowance(key: Quotas, tenant: Quotas) -> Allowance {
        Allowance { key: Some(Account::new(Holds::Key, "a", key, None)), tenant: account(tenant) }
    }

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    #[test]
    fn a_refusal_names_the_quota_its_owner_its_value_and_when_to_come_back() {
        let account = account(quotas(1, 100));
        assert_eq!(account.spend(1, 10, NOW), Ok(()));
        let fault = account.spend(1, 10, NOW).expect_err("one a second");
        assert_eq!(fault.kind(), FaultKind::Overloaded);
        assert!(fault.message().contains("tenant 'acme' may send 1 items a second (quota.items_per_s)"), "{fault}");
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("quota.items_per_s", 1)));
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn what_one_account_refuses_is_taken_from_neither() {
        let allowance = allowance(quotas(10, 100), quotas(10, 50));
        assert_eq!(allowance.spend(1, 50, NOW), Ok(()));
        let fault = allowance.spend(5, 50, NOW).expect_err("the tenant's bytes are used up");
        assert_eq!(fault.limit().map(|limit| limit.name), Some("quota.bytes_per_s"));
        assert_eq!(allowance.tenant.spend(9, 0, NOW), Ok(()));
        let key = allowance.key.as_ref().expect("a key");
        assert_eq!(key.spend(9, 50, NOW), Ok(()));
    }

    #[test]
    fn limits_are_replaced_in_place_and_places_come_back() {
        let account = account(Quotas { streams: Some(1), ..Quotas::default() });
        let first = account.claim_stream().expect("a place");
        let fault = account.claim_stream().expect_err("one place");
        assert!(fault.message().contains("quota.streams") && fault.retry_after().is_some(), "{fault}");
        account.set_quotas(&Quotas { streams: Some(2), connections: Some(1), ..Quotas::default() });
        let second = account.claim_stream().expect("another place");
        let connection = account.claim_connection().expect("a place");
        assert!(account.claim_connection().is_err());
        account.set_quotas(&Quotas { streams: Some(1), connections: Some(1), ..Quotas::default() });
        drop((first, connection));
        assert!(account.claim_stream().is_err(), "the second is open still");
        drop(second);
        assert!(account.claim_stream().is_ok() && account.claim_connection().is_ok());
    }

    #[test]
    fn what_is_forced_is_waited_for_in_whichever_account_owes_more() {
        let allowance = allowance(quotas(10, 1_000), quotas(1, 1_000));
        allowance.force(3, 10, NOW);
        assert_eq!(allowance.wait(NOW), Some(Duration::from_secs(2)));
        assert_eq!(allowance.wait(NOW + Duration::from_secs(2)), None);
    }

    #[test]
    fn the_tenants_weight_goes_before_the_keys_and_both_bound_the_priority() {
        let weight = |weight| Quotas { weight, ..Quotas::default() };
        for (key, tenant, found) in [(None, None, 1), (Some(2), None, 2), (Some(2), Some(3), 3)] {
            assert_eq!(allowance(weight(key), weight(tenant)).weight(), found);
        }
        let at_most = |priority_max| Quotas { priority_max, ..Quotas::default() };
        let both = allowance(at_most(Some(Priority::Normal)), at_most(Some(Priority::Low)));
        assert_eq!(both.permit_priority(Priority::Low), Ok(()));
        let fault = both.permit_priority(Priority::High).expect_err("too high for its key");
        assert!(
            fault.message().contains("key 'a' may not ask for priority HIGH (quota.priority_max); ask for NORMAL"),
            "{fault}"
        );
        let fault = both.permit_priority(Priority::Normal).expect_err("too high for its tenant");
        assert_eq!(fault.kind(), FaultKind::Denied);
    }

    #[test]
    fn a_tenant_keeps_its_account_and_one_in_use_is_never_forgotten() {
        let (tenants, limits) = (Tenants::default(), quotas(5, 5));
        let used = tenants.account("used", &limits);
        let number = tenants.account("idle", &limits).number();
        assert_eq!(tenants.account("idle", &limits).number(), number);
        for other in 0..TENANTS_MAX {
            drop(tenants.account(&other.to_string(), &limits));
        }
        assert_eq!(tenants.book.lock().accounts.len(), TENANTS_MAX);
        assert_eq!(tenants.account("used", &limits).number(), used.number());
        assert_ne!(tenants.account("idle", &limits).number(), number);
        tenants.set_quotas(|_| &limits);
    }
}
