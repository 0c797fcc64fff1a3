//! One budget, in bytes, for all that is in arrival, and for all answers that clients have yet to take.
//!
//! Knows neither protocols nor sockets: whoever holds bytes of a message charges them to its connection as they appear.
//!
//! # SHARES
//! - A message of at most [`SMALL_BYTES_MAX`] may use all of the budget. Larger ones leave [`SMALL_SHARE`] of it to such.
//! - Larger messages of one connection may hold as much as they leave to all others. So one connection has at most half, two have a
//!   third each, and one that comes later always finds as much room as each of those before it has taken.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    domain::{Fault, FaultKind},
    telemetry::Gauge,
};

/// Largest message for which a share is kept.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;

/// Part of the budget that is kept for such: an eighth.
const SMALL_SHARE: usize = 8;

/// The key that sets the budget.
const KEY: &str = "memory.transfer_bytes";

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub struct Transfer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    bytes: AtomicUsize,
    gauge: Gauge,
}

impl Transfer {
    /// A budget that nothing has been taken from; the gauge tells how much is.
    #[must_use]
    pub fn new(bytes_max: usize, gauge: Gauge) -> Self {
        Self { shared: Arc::new(Shared { bytes_max, bytes: AtomicUsize::new(0), gauge }) }
    }

    /// The account of a new connection.
    #[must_use]
    pub fn connection(&self) -> Account {
        Account { shared: Arc::clone(&self.shared), large: Arc::default() }
    }

    /// Bytes that are charged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

/// What one connection has in transfer. Clones are the same connection's.
#[derive(Debug, Clone)]
pub struct Account {
    shared: Arc<Shared>,
    /// Bytes of its messages that are not small.
    large: Arc<AtomicUsize>,
}

impl Account {
    /// The charge of a message that is about to come or to go.
    pub fn charge(&self) -> Charge {
        Charge { account: self.clone(), bytes: 0 }
    }

    fn try_add(&self, bytes: usize, is_large: bool, large: usize) -> Result<(), Fault> {
        let Shared { bytes_max, bytes: total, gauge } = &*self.shared;
        let room = if is_large { bytes_max - bytes_max / SMALL_SHARE } else { *bytes_max };
        let own = if is_large { self.large.fetch_add(large, Ordering::Relaxed) + large } else { 0 };
        let added = total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
            let sum = total.checked_add(bytes).filter(|sum| *sum <= room)?;
            (own <= room - sum).then_some(sum)
        });
        if added.is_err() {
            if is_large {
                self.large.fetch_sub(large, Ordering::Relaxed);
            }
            return Err(exhausted(*bytes_max));
        }
        gauge.increment(bytes as f64);
        Ok(())
    }
}

/// The bytes of one message, for as long as it lives.
#[derive(Debug)]
#[must_use = "what is charged is free again when this is dropped"]
pub struct Charge {
    account: Account,
    bytes: usize,
}

impl Charge {
    /// Takes more.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if there is not as much left, or this connection would have more than its share; nothing is
    /// taken then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        let sum = self.bytes.saturating_add(bytes);
        let is_large = sum > SMALL_BYTES_MAX;
        // What was small counts as large from the moment that it is.
        let large = if self.bytes > SMALL_BYTES_MAX { bytes } else { sum };
        self.account.try_add(bytes, is_large, large)?;
        self.bytes = sum;
        Ok(())
    }

    /// Gives back what is above so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        let was_large = self.bytes > SMALL_BYTES_MAX;
        let freed = self.bytes - bytes;
        if was_large {
            let large = if bytes > SMALL_BYTES_MAX { freed } else { self.bytes };
            self.account.large.fetch_sub(large, Ordering::Relaxed);
        }
        self.account.shared.bytes.fetch_sub(freed, Ordering::Relaxed);
        self.account.shared.gauge.decrement(freed as f64);
        self.bytes = bytes;
    }

    /// What it stands for.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

fn exhausted(bytes_max: usize) -> Fault {
    let message = format!(
        "there is no room for this message: messages in arrival and answers that are not taken may hold {bytes_max} bytes in all \
         ({KEY}), of which one connection has its share; come back later, or send less at once"
    );
    Fault::new(FaultKind::Overloaded, message)
        .with_limit(KEY, bytes_max as u64)
        .with_retry_after(std::time::Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn budget(bytes: usize) -> Transfer {
        Transfer::new(bytes, Gauge::noop())
    }

    fn charged(account: &Account, bytes: usize) -> Result<Charge, Fault> {
        let mut charge = account.charge();
        charge.grow(bytes).map(|()| charge)
    }

    #[test]
    fn a_charge_is_free_again_when_it_is_dropped() {
        let transfer = budget(16 * MIB);
        let account = transfer.connection();
        let mut charge = charged(&account, 3 * MIB).expect("room");
        assert_eq!(transfer.bytes(), 3 * MIB);
        charge.shrink_to(MIB);
        assert_eq!((transfer.bytes(), charge.bytes()), (MIB, MIB));
        charge.shrink_to(2 * MIB);
        assert_eq!(charge.bytes(), MIB, "it never grows by shrinking");
        drop(charge);
        assert_eq!((transfer.bytes(), account.large.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn one_connection_leaves_as_much_as_it_holds() {
        let transfer = budget(16 * MIB);
        let one = transfer.connection();
        // 14 MiB are there for large messages.
        let held: Vec<_> = (0..7).map(|_| charged(&one, MIB).expect("half of them")).collect();
        let fault = charged(&one, MIB).expect_err("more than half");
        assert_eq!((fault.kind(), fault.limit().map(|limit| limit.name)), (FaultKind::Overloaded, Some(KEY)));
        assert!(fault.retry_after().is_some());
        let two = transfer.connection();
        let others: Vec<_> = (0..3).map(|_| charged(&two, MIB).expect("room for another")).collect();
        assert!(charged(&two, MIB).is_err(), "it leaves as much to a third");
        assert!(charged(&transfer.connection(), MIB).is_ok());
        drop((held, others));
        assert_eq!(transfer.bytes(), 0);
    }

    #[test]
    fn large_messages_leave_room_for_small_ones() {
        let transfer = budget(16 * MIB);
        let connections: Vec<_> = (0..20).map(|_| transfer.connection()).collect();
        let mut held = Vec::new();
        for account in connections.iter().cycle().take(1_000) {
            held.extend(charged(account, SMALL_BYTES_MAX + 1));
        }
        assert!(transfer.bytes() <= 14 * MIB);
        let small: Vec<_> = (0..32).map(|_| charged(&connections[0], SMALL_BYTES_MAX).expect("kept for such")).collect();
        drop((held, small));
        assert_eq!(transfer.bytes(), 0);
    }

    #[test]
    fn a_message_that_outgrows_its_room_keeps_what_it_has() {
        let transfer = budget(4 * MIB);
        let account = transfer.connection();
        let mut charge = charged(&account, SMALL_BYTES_MAX).expect("small");
        assert!(charge.grow(8 * MIB).is_err());
        assert_eq!((charge.bytes(), transfer.bytes()), (SMALL_BYTES_MAX, SMALL_BYTES_MAX));
        charge.grow(1).expect("large now");
        assert_eq!(account.large.load(Ordering::Relaxed), SMALL_BYTES_MAX + 1);
    }

    proptest! {
        #[test]
        fn accounts_are_even_whatever_happens(steps in proptest::collection::vec((0_usize..4, any::<bool>(), 0_usize..3 * MIB), 1..60)) {
            let transfer = budget(8 * MIB);
            let accounts = [transfer.connection(), transfer.connection()];
            let mut charges: Vec<_> = (0..4).map(|index| accounts[index % 2].charge()).collect();
            for (index, grows, bytes) in steps {
                if grows {
                    let _ = charges[index].grow(bytes);
                } else {
                    charges[index].shrink_to(bytes);
                }
                prop_assert_eq!(transfer.bytes(), charges.iter().map(Charge::bytes).sum::<usize>());
                prop_assert!(transfer.bytes() <= 8 * MIB);
                for (number, account) in accounts.iter().enumerate() {
                    let own = charges.iter().skip(number).step_by(2).map(Charge::bytes);
                    prop_assert_eq!(account.large.load(Ordering::Relaxed), own.filter(|bytes| *bytes > SMALL_BYTES_MAX).sum::<usize>());
                }
            }
            drop(charges);
            prop_assert_eq!(transfer.bytes(), 0);
        }
    }
}
