//! How many handshakes there may be at once, over all ports, and which one ends when others wait.
//!
//! Until a handshake is over, its client may make the server hold what it has sent, up to 64 KiB. So only so many run at once, and
//! others wait for their turn, in the order in which they came. One that waits may end another that has had [`TURN`]: of the owner
//! with the most handshakes, the one that began first. An owner is an address, or a single connection where the address says
//! nothing. So clients that never finish cannot keep others out, and a crowd of honest ones only takes turns.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Address, Peer},
    patience::Moment,
};

/// What each handshake may take before it has to make way for one that waits.
const TURN: Duration = Duration::from_secs(1);

/// The handshakes of all ports. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    free: Arc<Semaphore>,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    /// By the order in which they began.
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    owner: (Address, u64),
    since: Moment,
    ends: CancellationToken,
}

/// A handshake's turn; over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    ends: CancellationToken,
    book: Arc<Mutex<Book>>,
    _permit: OwnedSemaphorePermit,
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), book: Arc::default() }
    }

    /// Waits for a turn. `None` never comes: the semaphore is never closed.
    pub(super) async fn turn(&self, peer: Peer) -> Option<Turn> {
        let mut acquired = pin!(Arc::clone(&self.free).acquire_owned());
        let permit = loop {
            tokio::select! {
                biased;
                permit = acquired.as_mut() => break permit.ok()?,
                () = sleep(TURN) => self.book.lock().end_one(Moment::now()),
            }
        };
        let owner = match peer.address {
            Address::Local | Address::Proxy => (peer.address, peer.connection),
            Address::V4(_) | Address::V6(_) => (peer.address, 0),
        };
        let ends = CancellationToken::new();
        let mut book = self.book.lock();
        let number = book.next;
        book.next += 1;
        book.open.insert(number, Entry { owner, since: Moment::now(), ends: ends.clone() });
        drop(book);
        Some(Turn { number, ends, book: Arc::clone(&self.book), _permit: permit })
    }
}

impl Book {
    /// Ends one that has had its time, if there is one.
    fn end_one(&mut self, now: Moment) {
        let mut held: HashMap<(Address, u64), usize> = HashMap::new();
        for entry in self.open.values() {
            *held.entry(entry.owner).or_default() += 1;
        }
        let late = self.open.iter().filter(|(_, entry)| now.since(entry.since) >= TURN);
        // The first of several that are equal, which `max_by_key` would not give.
        let Some(number) = late.rev().max_by_key(|(_, entry)| held.get(&entry.owner).copied()).map(|(number, _)| *number) else {
            return;
        };
        if let Some(entry) = self.open.remove(&number) {
            entry.ends.cancel();
        }
    }
}

impl Turn {
    /// Waits until the handshake has to make way for another.
    pub(super) async fn over(&self) {
        self.ends.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.book.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn peer(connection: u64, address: Address) -> Peer {
        Peer { connection, address }
    }

    fn is_over(turn: &Turn) -> bool {
        turn.over().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_owner_with_most_the_first_makes_way_and_not_before_it_had_its_time() {
        let handshakes = Handshakes::new(4);
        let turn = async |connection, address| handshakes.turn(peer(connection, address)).await.expect("a turn");
        let modest = turn(1, Address::V4(1)).await;
        let crowd = [turn(2, Address::V4(2)).await, turn(3, Address::V4(2)).await, turn(4, Address::V4(2)).await];
        let mut newcomer = pin!(handshakes.turn(peer(5, Address::V4(3))));
        assert!(newcomer.as_mut().now_or_never().is_none());
        advance(TURN / 2).await;
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert!(!crowd.iter().any(is_over), "each has its time");
        advance(TURN).await;
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert_eq!(crowd.each_ref().map(is_over), [true, false, false]);
        assert!(!is_over(&modest));
        let [first, ..] = crowd;
        drop(first);
        newcomer.await.expect("the place of the one that made way");
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_address_says_nothing_each_connection_counts_for_itself() {
        let handshakes = Handshakes::new(2);
        let first = handshakes.turn(peer(1, Address::Local)).await.expect("a turn");
        let second = handshakes.turn(peer(2, Address::Local)).await.expect("a turn");
        let waiting = tokio::spawn({
            let handshakes = handshakes.clone();
            async move { handshakes.turn(peer(3, Address::Local)).await.map(|turn| turn.number) }
        });
        first.over().await;
        assert!(!is_over(&second));
        drop(first);
        assert_eq!(waiting.await.expect("no panic"), Some(2));
        assert_eq!(handshakes.book.lock().open.len(), 1, "only the second is left");
    }
}
