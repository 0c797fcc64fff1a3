//! How many connections one address may have, and how fast it may make more.
//!
//! Pure, apart from its lock: it is given the time. Addresses that do not distinguish clients, of this machine and of proxies, are
//! not limited.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    domain::{Address, Timestamp},
    shares::Rate,
    telemetry::ConnectionClose,
};

/// How many addresses are remembered for what they have done lately. One that is forgotten may begin afresh, so whoever has more
/// addresses than this gains what they could have had anyway.
const REMEMBERED_MAX: usize = 16_384;

/// The limits of each address, and what each has.
#[derive(Debug)]
pub(super) struct Peers {
    /// Connections at once; 0 for no limit.
    open_max: usize,
    /// New ones a second; 0 for no limit.
    new_per_s: u32,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// Only addresses that have a connection.
    open: HashMap<Address, usize>,
    rates: LruCache<Address, Rate>,
}

/// A connection that counts towards its address, until this is dropped.
#[derive(Debug)]
pub(super) struct PeerPlace {
    address: Address,
    peers: Arc<Peers>,
}

impl Peers {
    /// `None` if neither is limited.
    pub(super) fn new(open_max: usize, new_per_s: u32) -> Option<Arc<Self>> {
        if open_max == 0 && new_per_s == 0 {
            return None;
        }
        let rates = LruCache::new(NonZeroUsize::MIN.saturating_add(REMEMBERED_MAX - 1));
        Some(Arc::new(Self { open_max, new_per_s, book: Mutex::new(Book { open: HashMap::new(), rates }) }))
    }

    /// Counts one more connection; `None` for an address that is not limited.
    pub(super) fn admit(self: &Arc<Self>, address: Address, now: Timestamp) -> Result<Option<PeerPlace>, ConnectionClose> {
        if matches!(address, Address::Local | Address::Proxy) {
            return Ok(None);
        }
        let mut book = self.book.lock();
        let open = book.open.get(&address).copied().unwrap_or_default();
        if self.open_max > 0 && open >= self.open_max {
            return Err(ConnectionClose::Peer);
        }
        let new_per_s = u64::from(self.new_per_s);
        if new_per_s > 0 && book.rates.get_or_insert_mut(address, Rate::default).take(new_per_s, 1, now).is_err() {
            return Err(ConnectionClose::Rate);
        }
        book.open.insert(address, open + 1);
        drop(book);
        Ok(Some(PeerPlace { address, peers: Arc::clone(self) }))
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut book = self.peers.book.lock();
        match book.open.get_mut(&self.address) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                book.open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(5_000_000_000);

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_others_have_theirs() {
        let peers = Peers::new(2, 0).expect("a limit");
        let admit = |address| peers.admit(address, START);
        let first = admit(Address::V4(1)).expect("room");
        let _second = admit(Address::V4(1)).expect("room");
        assert_eq!(admit(Address::V4(1)).err(), Some(ConnectionClose::Peer));
        let _other = admit(Address::V6(1)).expect("room");
        drop(first);
        let _third = admit(Address::V4(1)).expect("room again");
        for unlimited in [Address::Local, Address::Proxy] {
            let places: Vec<_> = (0..5).map(|_| admit(unlimited).expect("no limit")).collect();
            assert!(places.iter().all(Option::is_none));
        }
        assert_eq!(peers.book.lock().open.len(), 2);
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_one_at_a_time() {
        let peers = Peers::new(0, 4).expect("a limit");
        let admit = |address, after_ms| peers.admit(address, START + Duration::from_millis(after_ms)).map(drop);
        for _ in 0..4 {
            assert_eq!(admit(Address::V4(1), 0), Ok(()));
        }
        assert_eq!(admit(Address::V4(1), 249), Err(ConnectionClose::Rate));
        assert_eq!(admit(Address::V4(2), 249), Ok(()), "another address has its own");
        assert_eq!((admit(Address::V4(1), 250), admit(Address::V4(1), 251)), (Ok(()), Err(ConnectionClose::Rate)));
        for _ in 0..4 {
            assert_eq!(admit(Address::V4(1), 10_000), Ok(()));
        }
        assert_eq!(admit(Address::V4(1), 10_000), Err(ConnectionClose::Rate));
        assert_eq!(peers.book.lock().open.len(), 0, "all have closed");
    }

    #[test]
    fn no_more_addresses_are_remembered_than_is_said() {
        let peers = Peers::new(0, 1).expect("a limit");
        for address in 0..2 * REMEMBERED_MAX as u64 {
            assert!(peers.admit(Address::V6(address), START).is_ok());
        }
        assert_eq!(peers.book.lock().rates.len(), REMEMBERED_MAX);
        assert!(Peers::new(0, 0).is_none());
    }
}
