//! One budget, in bytes, for everything that is arriving, and for all answers that clients have yet to take.
//!
//! Knows neither protocols nor sockets: whatever holds bytes of a message charges them to its connection as they appear.
//!
//! # SHARES
//! - A message of at most [`SMALL_BYTES_MAX`] may use all of the budget. Larger ones leave [`SMALL_SHARE`] of it to small ones.
//! - Both are shared out as [`crate::shares`] describes: one address or connection alone leaves an eighth to whoever comes next,
//!   and all that want more than there is get the same amount.

use std::sync::Arc;

use crate::{
    domain::{Fault, Peer},
    shares::{Full, Member, Path, Pool},
    telemetry::Gauge,
};

/// Largest message that counts as small.
pub(crate) const SMALL_BYTES_MAX: usize = 64 << 10;

/// The part of the budget kept for small messages: an eighth.
const SMALL_SHARE: usize = 8;

/// The key that sets the budget.
const KEY: &str = "memory.transfer_bytes";

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    all: Pool,
    large: Pool,
    gauge: Gauge,
}

impl Transfer {
    /// A budget from which nothing has been taken; the gauge shows how much has.
    #[must_use]
    pub(crate) fn new(bytes_max: usize, gauge: Gauge) -> Self {
        let large = Pool::new(KEY, bytes_max - bytes_max / SMALL_SHARE);
        Self { all: Pool::new(KEY, bytes_max), large, gauge }
    }

    /// The account of a connection.
    #[must_use]
    pub(crate) fn connection(&self, peer: Peer) -> Account {
        let path = Path::of(peer, 0);
        let inner = Inner { all: self.all.member(&path), large: self.large.member(&path), gauge: self.gauge.clone() };
        Account { inner: Arc::new(inner) }
    }

    /// Bytes charged.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.all.held()
    }

    /// Those that belong to messages that are not small.
    #[cfg(test)]
    fn large_bytes(&self) -> usize {
        self.large.held()
    }
}

/// What one connection has in transfer. Clones belong to the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    all: Member,
    /// For its messages that are not small.
    large: Member,
    gauge: Gauge,
}

impl Account {
    /// The charge for a message that is about to arrive or leave.
    pub(crate) fn charge(&self) -> Charge {
        Charge { account: self.clone(), bytes: 0 }
    }

    fn take(&self, bytes: usize, large: usize) -> Result<(), Full> {
        let Inner { all, large: large_ones, gauge } = &*self.inner;
        if large > 0 {
            large_ones.take(large)?;
        }
        all.take(bytes).inspect_err(|_| large_ones.give_back(large))?;
        gauge.increment(bytes as f64);
        Ok(())
    }

    fn give_back(&self, bytes: usize, large: usize) {
        let Inner { all, large: large_ones, gauge } = &*self.inner;
        if large > 0 {
            large_ones.give_back(large);
        }
        all.give_back(bytes);
        gauge.decrement(bytes as f64);
    }
}

/// The bytes of one message, for as long as it lives.
#[derive(Debug)]
#[must_use = "what is charged is free again when this is dropped"]
pub(crate) struct Charge {
    account: Account,
    bytes: usize,
}

impl Charge {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`](crate::domain::FaultKind::Overloaded) if not enough is left, or this connection or its address
    /// has used up its share; in that case nothing is taken.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes == 0 {
            return Ok(());
        }
        let sum = self.bytes.saturating_add(bytes);
        // What was small counts as large from the moment it becomes large.
        let large = large_part(sum) - large_part(self.bytes);
        self.account.take(bytes, large).map_err(exhausted)?;
        self.bytes = sum;
        Ok(())
    }

    /// Frees everything above `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        self.account.give_back(self.bytes - bytes, large_part(self.bytes) - large_part(bytes));
        self.bytes = bytes;
    }

    /// The bytes it stands for.
    #[must_use]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// What a message of `bytes` bytes takes from the part for large ones.
const fn large_part(bytes: usize) -> usize {
    if bytes > SMALL_BYTES_MAX { bytes } else { 0 }
}

fn exhausted(full: Full) -> Fault {
    full.fault("bytes of arriving messages and of answers not yet taken are held")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Address, FaultKind};

    const MIB: usize = 1 << 20;

    fn budget(bytes: usize) -> Transfer {
        Transfer::new(bytes, Gauge::noop())
    }

    fn peer(connection: u64) -> Peer {
        Peer { connection, address: Address::Local }
    }

    fn charged(account: &Account, bytes: usize) -> Result<Charge, Fault> {
        let mut charge = account.charge();
        charge.grow(bytes).map(|()| charge)
    }

    #[test]
    fn a_charge_is_free_again_when_it_is_dropped() {
        let transfer = budget(16 * MIB);
        let account = transfer.connection(peer(1));
        let mut charge = charged(&account, 3 * MIB).expect("room");
        assert_eq!(transfer.bytes(), 3 * MIB);
        charge.shrink_to(MIB);
        assert_eq!((transfer.bytes(), charge.bytes()), (MIB, MIB));
        charge.shrink_to(2 * MIB);
        assert_eq!(charge.bytes(), MIB, "it never grows by shrinking");
        drop(charge);
        assert_eq!((transfer.bytes(), transfer.large_bytes()), (0, 0));
    }

    #[test]
    fn one_connection_leaves_an_eighth_to_whoever_comes_next() {
        let transfer = budget(16 * MIB);
        let one = transfer.connection(peer(1));
        // 14 MiB are available for large messages.
        let held: Vec<_> = std::iter::from_fn(|| charged(&one, MIB / 8).ok()).collect();
        assert_eq!(held.len(), 98);
        let fault = charged(&one, MIB / 8).expect_err("more than its share");
        assert_eq!((fault.kind(), fault.limit().map(|limit| limit.name)), (FaultKind::Overloaded, Some(KEY)));
        assert!(fault.retry_after().is_some());
        let two = transfer.connection(peer(2));
        let others: Vec<_> = (0..12).map(|_| charged(&two, MIB / 8).expect("room for another")).collect();
        drop((held, others));
        assert_eq!(transfer.bytes(), 0);
    }

    #[test]
    fn more_connections_from_one_address_gain_nothing() {
        let transfer = budget(16 * MIB);
        let far = |connection| transfer.connection(Peer { connection, address: Address::V4(9) });
        let held: Vec<_> = (1..200).filter_map(|connection| charged(&far(connection), MIB / 8).ok()).collect();
        assert_eq!(held.len(), 98);
        assert!(charged(&transfer.connection(peer(1_000)), MIB).is_ok());
    }

    #[test]
    fn large_messages_leave_room_for_small_ones() {
        let transfer = budget(16 * MIB);
        let connections: Vec<_> = (1..21).map(|number| transfer.connection(peer(number))).collect();
        let mut held = Vec::new();
        for account in connections.iter().cycle().take(1_000) {
            held.extend(charged(account, SMALL_BYTES_MAX + 1));
        }
        assert!(transfer.bytes() <= 14 * MIB);
        let newcomer = transfer.connection(peer(100));
        let small: Vec<_> = (0..24).map(|_| charged(&newcomer, SMALL_BYTES_MAX).expect("kept for such")).collect();
        drop((held, small));
        assert_eq!(transfer.bytes(), 0);
    }

    #[test]
    fn a_message_that_outgrows_its_room_keeps_what_it_has() {
        let transfer = budget(4 * MIB);
        let account = transfer.connection(peer(1));
        let mut charge = charged(&account, SMALL_BYTES_MAX).expect("small");
        assert!(charge.grow(8 * MIB).is_err());
        assert_eq!((charge.bytes(), transfer.bytes()), (SMALL_BYTES_MAX, SMALL_BYTES_MAX));
        charge.grow(1).expect("large now");
        assert_eq!(transfer.large_bytes(), SMALL_BYTES_MAX + 1);
    }

    proptest! {
        #[test]
        fn accounts_are_even_whatever_happens(steps in proptest::collection::vec((0_usize..4, any::<bool>(), 0_usize..3 * MIB), 1..60)) {
            let transfer = budget(8 * MIB);
            let accounts = [1, 2].map(|number| transfer.connection(peer(number)));
            let mut charges: Vec<_> = (0..4).map(|index| accounts[index % 2].charge()).collect();
            for (index, grows, bytes) in steps {
                if grows {
                    let _ = charges[index].grow(bytes);
                } else {
                    charges[index].shrink_to(bytes);
                }
                prop_assert_eq!(transfer.bytes(), charges.iter().map(Charge::bytes).sum::<usize>());
                prop_assert!(transfer.bytes() <= 8 * MIB);
                let large = charges.iter().map(Charge::bytes).filter(|bytes| *bytes > SMALL_BYTES_MAX);
                prop_assert_eq!(transfer.large_bytes(), large.sum::<usize>());
            }
            drop(charges);
            prop_assert_eq!(transfer.bytes(), 0);
        }
    }
}
