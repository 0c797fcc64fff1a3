//! Shares of one thing behind a lock, with guards for what is held.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidemill_domain::{Fault, FaultKind};

use super::{HolderKey, Path, Shares};

/// When a refused client should try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A limited amount of something, for everyone. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: &'static str,
    shares: Mutex<Shares<1>>,
}

/// A part of a pool; dropping it gives the part back.
#[derive(Debug)]
#[must_use = "what is held is given back when the claim is dropped"]
pub struct Claim {
    pool: Arc<Inner>,
    holder: HolderKey,
    amount: usize,
}

/// Something that keeps taking from a pool and giving back, such as a connection; it is looked up once. Clones are the same
/// member. What it has taken and not given back stays taken.
#[derive(Debug, Clone)]
pub struct Member {
    inner: Arc<Membership>,
}

#[derive(Debug)]
struct Membership {
    pool: Arc<Inner>,
    holder: HolderKey,
}

/// Why a pool has no more to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Configuration key of the limit.
    pub limit: &'static str,
    /// Its value.
    pub value: usize,
    /// Whether there is some left, but only for others: the one asking has used up its share.
    pub by_share: bool,
}

impl Pool {
    /// As much as the setting `limit` allows.
    #[must_use]
    pub fn new(limit: &'static str, value: usize) -> Self {
        Self { inner: Arc::new(Inner { limit, shares: Mutex::new(Shares::new([value])) }) }
    }

    /// Takes `amount` on behalf of `path`.
    ///
    /// # Errors
    /// [`Full`] if too little is left, or this owner may not take it.
    #[inline]
    pub fn claim(&self, path: &Path, amount: usize) -> Result<Claim, Full> {
        let mut shares = self.inner.shares.lock();
        let holder = shares.enter(path);
        if let Err(full) = self.inner.take(&mut shares, holder, amount) {
            shares.leave(holder);
            return Err(full);
        }
        drop(shares);
        Ok(Claim { pool: Arc::clone(&self.inner), holder, amount })
    }

    /// The member of the pool that `path` names.
    #[must_use]
    #[inline]
    pub fn member(&self, path: &Path) -> Member {
        let holder = self.inner.shares.lock().enter(path);
        Member { inner: Arc::new(Membership { pool: Arc::clone(&self.inner), holder }) }
    }

    /// What everyone holds together.
    #[must_use]
    pub fn held(&self) -> usize {
        let [held] = self.inner.shares.lock().held();
        held
    }

    /// The whole amount.
    #[must_use]
    pub fn limit(&self) -> usize {
        let [limit] = self.inner.shares.lock().limits();
        limit
    }
}

impl Inner {
    #[inline]
    fn take(&self, shares: &mut Shares<1>, holder: HolderKey, amount: usize) -> Result<(), Full> {
        let ([held], [value]) = (shares.held(), shares.limits());
        let by_share = shares.over_share(holder).is_some();
        if by_share || held.saturating_add(amount) > value {
            // If nothing is left for anyone, that is the reason.
            return Err(Full { limit: self.limit, value, by_share: by_share && held < value });
        }
        shares.add(holder, [amount]);
        Ok(())
    }
}

impl Claim {
    /// Takes `more`.
    ///
    /// # Errors
    /// [`Full`]; what is already held stays.
    #[inline]
    pub fn grow(&mut self, more: usize) -> Result<(), Full> {
        self.pool.take(&mut self.pool.shares.lock(), self.holder, more)?;
        self.amount += more;
        Ok(())
    }
}

impl Member {
    /// Takes `amount`.
    ///
    /// # Errors
    /// [`Full`] if too little is left, or this member may not take it.
    #[inline]
    pub fn take(&self, amount: usize) -> Result<(), Full> {
        let Membership { pool, holder } = &*self.inner;
        pool.take(&mut pool.shares.lock(), *holder, amount)
    }

    /// Gives back some of what it took.
    #[inline]
    pub fn give_back(&self, amount: usize) {
        let Membership { pool, holder } = &*self.inner;
        pool.shares.lock().remove(*holder, [amount]);
    }
}

impl Drop for Membership {
    #[inline]
    fn drop(&mut self) {
        self.pool.shares.lock().leave(self.holder);
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        let mut shares = self.pool.shares.lock();
        shares.remove(self.holder, [self.amount]);
        shares.leave(self.holder);
    }
}

impl Full {
    /// The refusal for a client; `things` says what is counted, such as "streams are open".
    #[must_use]
    pub fn fault(self, things: &str) -> Fault {
        let Self { limit, value, by_share } = self;
        let message = if by_share {
            format!(
                "this client has used up its share of the {value} that {limit} allows, counted by connection, address and tenant; the rest is kept for others"
            )
        } else {
            format!("{value} {things}, as many as {limit} allows")
        };
        Fault::new(FaultKind::Overloaded, message).with_limit(limit, value as u64).with_retry_after(RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_domain::{Address, Peer};

    fn from(connection: u64) -> Path {
        Path::of(Peer { connection, address: Address::Local }, 0)
    }

    fn taken(pool: &Pool, connection: u64) -> Vec<Claim> {
        std::iter::from_fn(|| pool.claim(&from(connection), 1).ok()).collect()
    }

    #[test]
    fn a_greedy_owner_leaves_an_eighth_and_what_is_dropped_comes_back() {
        let pool = Pool::new("a.limit", 80);
        let greedy = taken(&pool, 1);
        assert_eq!(greedy.len(), 70);
        let refused = pool.claim(&from(1), 1).expect_err("its share is used up");
        assert_eq!(refused, Full { limit: "a.limit", value: 80, by_share: true });
        let fault = refused.fault("things are open");
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("a.limit", 80)));
        assert!(fault.message().contains("its share of the 80 that a.limit allows"), "{}", fault.message());
        let modest = taken(&pool, 2);
        assert!(modest.len() >= 8, "{}", modest.len());
        assert_eq!(pool.held(), 70 + modest.len());
        drop((greedy, modest));
        assert_eq!((pool.held(), pool.inner.shares.lock().holders()), (0, 0));
    }

    #[test]
    fn a_small_pool_can_be_used_up_by_one() {
        for limit in 1..=7 {
            let pool = Pool::new("a.limit", limit);
            let held = taken(&pool, 1);
            assert_eq!(held.len(), limit);
            let refused = pool.claim(&from(1), 1).expect_err("nothing is left");
            assert_eq!(refused.fault("things are open").message(), format!("{limit} things are open, as many as a.limit allows"));
        }
    }

    #[test]
    fn members_have_their_shares_and_are_forgotten_when_they_are_gone() {
        let pool = Pool::new("a.limit", 80);
        let (greedy, modest) = (pool.member(&from(1)), pool.member(&from(2)));
        while greedy.take(1).is_ok() {}
        assert_eq!(pool.held(), 70);
        modest.take(8).expect("an eighth is left");
        assert_eq!(greedy.take(1).map_err(|full| full.by_share), Err(true));
        greedy.clone().give_back(70);
        modest.give_back(8);
        assert_eq!((pool.held(), pool.inner.shares.lock().holders()), (0, 2));
        drop((greedy, modest));
        assert_eq!(pool.inner.shares.lock().holders(), 0);
    }

    #[test]
    fn a_claim_grows_and_keeps_what_it_has_when_it_may_not_grow() {
        let pool = Pool::new("a.limit", 100);
        let mut claim = pool.claim(&from(1), 60).expect("there is room");
        claim.grow(20).expect("there is room");
        assert!(claim.grow(21).is_err(), "more than there is");
        assert_eq!((pool.held(), pool.limit()), (80, 100));
        drop(claim);
        assert_eq!(pool.held(), 0);
    }
}
