//! The connections that use a sequence over unary calls, and sequences whose connections are gone.
//!
//! A sequence outlives its calls, so that its steps may come over any connection, and connections may be closed between them. It does not
//! outlive its client: when no connection that has used it is open, it waits for the next one for a grace period.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    connections::Connections,
    domain::{Address, Peer},
};

/// The users of one sequence.
#[derive(Debug, Default)]
pub(super) struct Users {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By number, when it ends. Some may have ended.
    connections: HashMap<u64, CancellationToken>,
    /// Where the last of them came from.
    address: Address,
    /// A user without a connection has it.
    is_own: bool,
}

impl Users {
    /// Notes that a request came from `peer`.
    pub(super) fn join(&self, peer: Peer, connections: &Connections) {
        let mut state = self.state.lock();
        if peer.connection == 0 {
            state.is_own = true;
        } else if !state.connections.contains_key(&peer.connection)
            && let Some(end) = connections.end_of(peer.connection)
        {
            state.connections.retain(|_, end| !end.is_cancelled());
            state.connections.insert(peer.connection, end);
            state.address = peer.address;
        } else {
            return;
        }
        drop(state);
        self.came.notify_one();
    }

    /// Waits until no connection that used the sequence has been open for `grace`, or too many others have been abandoned since.
    pub(super) async fn deserted(&self, grace: Duration, orphans: &Orphans) {
        loop {
            if let Some(end) = self.any_open() {
                end.cancelled().await;
                continue;
            }
            let orphan = orphans.enter(self.state.lock().address);
            tokio::select! {
                () = sleep(grace) => return,
                () = orphan.end.cancelled() => return,
                () = self.came.notified() => {}
            }
        }
    }

    /// The end of one of the open connections; one that never comes, if there is a user without a connection.
    fn any_open(&self) -> Option<CancellationToken> {
        let mut state = self.state.lock();
        if state.is_own {
            return Some(CancellationToken::new());
        }
        state.connections.retain(|_, end| !end.is_cancelled());
        state.connections.values().next().cloned()
    }
}

/// The sequences whose connections are gone. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Orphans {
    max: usize,
    left: Arc<Mutex<Left>>,
}

#[derive(Debug, Default)]
struct Left {
    /// By address, in the order in which they were abandoned. No address has an empty list.
    ends: HashMap<Address, BTreeMap<u64, CancellationToken>>,
    count: usize,
    came: u64,
}

/// A sequence among them, for as long as it is one.
#[derive(Debug)]
struct Orphan {
    end: CancellationToken,
    address: Address,
    number: u64,
    left: Arc<Mutex<Left>>,
}

impl Orphans {
    /// At most this many at once; beyond that, the address with the most loses the one that was abandoned first.
    pub(super) fn at_most(max: usize) -> Self {
        Self { max, left: Arc::default() }
    }

    fn enter(&self, address: Address) -> Orphan {
        let mut left = self.left.lock();
        left.came += 1;
        left.count += 1;
        let (number, end) = (left.came, CancellationToken::new());
        left.ends.entry(address).or_default().insert(number, end.clone());
        let surplus = if left.count > self.max { left.first_of_most() } else { None };
        let ended = surplus.and_then(|(address, number)| left.remove(address, number));
        drop(left);
        if let Some(end) = ended {
            end.cancel();
        }
        Orphan { end, address, number, left: Arc::clone(&self.left) }
    }
}

impl Left {
    fn first_of_most(&self) -> Option<(Address, u64)> {
        let firsts =
            self.ends.iter().filter_map(|(address, ends)| Some((ends.len(), Reverse(*ends.first_key_value()?.0), *address)));
        firsts.max().map(|(_, Reverse(number), address)| (address, number))
    }

    fn remove(&mut self, address: Address, number: u64) -> Option<CancellationToken> {
        let ends = self.ends.get_mut(&address)?;
        let end = ends.remove(&number)?;
        if ends.is_empty() {
            self.ends.remove(&address);
        }
        self.count -= 1;
        Some(end)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.left.lock().remove(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::{
        connections::{Connection, Port},
        telemetry::Telemetry,
    };

    const GRACE: Duration = Duration::from_secs(10);

    fn port(connections: &Connections) -> Port {
        connections.port(100, Telemetry::new().server())
    }

    fn connect(port: &Port) -> Connection {
        let admitted = port.admit(Some([127, 0, 0, 1].into())).now_or_never();
        admitted.expect("without waiting").expect("a place")
    }

    async fn lasts(users: &Users, orphans: &Orphans, time: Duration) -> bool {
        tokio::time::timeout(time, users.deserted(GRACE, orphans)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_sequence_outlives_its_last_connection_by_its_grace_and_no_more() {
        let (connections, orphans, users) = (Connections::default(), Orphans::at_most(9), Users::default());
        let port = port(&connections);
        let (first, second) = (connect(&port), connect(&port));
        for connection in [&first, &second] {
            users.join(connection.peer(), &connections);
        }
        assert!(lasts(&users, &orphans, 100 * GRACE).await);
        drop(first);
        assert!(lasts(&users, &orphans, 100 * GRACE).await, "the second is open");
        drop(second);
        let begun = tokio::time::Instant::now();
        users.deserted(GRACE, &orphans).await;
        assert_eq!(begun.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_within_the_grace_keeps_it() {
        let (connections, orphans, users) = (Connections::default(), Orphans::at_most(9), Users::default());
        let port = port(&connections);
        let first = connect(&port);
        users.join(first.peer(), &connections);
        let mut deserted = std::pin::pin!(users.deserted(GRACE, &orphans));
        drop(first);
        for _ in 0..3 {
            assert!(tokio::time::timeout(GRACE - Duration::from_secs(1), deserted.as_mut()).await.is_err());
            let next = connect(&port);
            users.join(next.peer(), &connections);
            assert!(tokio::time::timeout(2 * GRACE, deserted.as_mut()).await.is_err(), "it is open");
        }
        let begun = tokio::time::Instant::now();
        deserted.await;
        assert_eq!(begun.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn work_of_the_servers_own_is_never_deserted() {
        let (connections, users) = (Connections::default(), Users::default());
        users.join(Peer::default(), &connections);
        assert!(lasts(&users, &Orphans::at_most(0), 1_000 * GRACE).await);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_one_that_was_left_first_ends_at_once() {
        let orphans = Orphans::at_most(2);
        let users: [Users; 3] = Default::default();
        let mut waits = users.each_ref().map(|users| Box::pin(users.deserted(GRACE, &orphans)));
        let over = waits.each_mut().map(|wait| wait.as_mut().now_or_never().is_some());
        assert_eq!(over, [false; 3]);
        let over = waits.each_mut().map(|wait| wait.as_mut().now_or_never().is_some());
        assert_eq!(over, [true, false, false]);
        drop(waits);
        assert!(orphans.left.lock().ends.is_empty());
    }

    #[test]
    fn of_too_many_an_address_that_has_most_loses_one() {
        let (orphans, modest, greedy) = (Orphans::at_most(4), Address::V4(1), Address::V4(2));
        let kept = orphans.enter(modest);
        let crowd: Vec<Orphan> = (0..9).map(|_| orphans.enter(greedy)).collect();
        assert!(!kept.end.is_cancelled());
        let ended: Vec<bool> = crowd.iter().map(|orphan| orphan.end.is_cancelled()).collect();
        assert_eq!(ended, [true, true, true, true, true, true, false, false, false]);
        drop(crowd);
        assert_eq!(orphans.left.lock().count, 1);
        drop(kept);
        let left = orphans.left.lock();
        assert_eq!((left.count, left.ends.len()), (0, 0));
    }
}
