//! The connections of the client ports: whose they are, which of them have a call, and which make room when a port is full.
//!
//! Knows no protocol. A port asks for a place for each connection it accepts; the [`Connection`] is that place. The code that
//! serves it counts its calls, and closes it when asked to.
//!
//! # Room
//! Places are shared by address, as [`crate::shares`] describes. A connection that finds the port full, or whose address has used
//! up its share, takes the place of one without a call: the one that has been without for longest, from the owner with the most
//! places, but never from an owner with fewer places than the newcomer's. If there is none, it waits for one; but if its address
//! has used up its share, it is closed.
//!
//! # Whose work it is
//! The task of a connection knows its [`peer`], so that no front end has to pass it on, and how its connection is protected
//! ([`protection`]). What its callers claim for as long as it is open, it [`keep`]s.

use std::{
    any::Any,
    cell::{OnceCell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    domain::{Address, Fault, Peer, Protection, Timestamp},
    shares::{HolderKey, Path, Shares},
    telemetry::{ConnectionClose, ServerMetrics},
};

/// One in this many places may be reassigned while its previous owner is still leaving.
const PLACES_PER_LEAVING: usize = 8;

/// Accounts that one connection keeps places in. One that serves more of them is a proxy's.
const KEPT_MAX: usize = 1_024;

/// In place of a moment: there is a call.
const BUSY: u64 = u64::MAX;

tokio::task_local! {
    static CLIENT: Known;
}

/// What the task of a connection knows about its client.
struct Known {
    peer: Peer,
    /// Empty until it is known, and for good if the connection is not protected.
    protection: OnceCell<Protection>,
    /// What is kept until the connection ends, by number.
    kept: RefCell<BTreeMap<u64, Box<dyn Any + Send>>>,
}

/// The connection whose task this is; none outside such a task.
#[must_use]
pub fn peer() -> Peer {
    CLIENT.try_with(|known| known.peer).unwrap_or_default()
}

/// How this task's connection is protected; not at all if nothing says otherwise.
#[must_use]
pub fn protection() -> Protection {
    CLIENT.try_with(|known| known.protection.get().cloned()).ok().flatten().unwrap_or_default()
}

/// Notes how this task's connection is protected. Only the first time counts, and only in a task of [`with_peer`].
pub fn note_protection(protection: Protection) {
    // Neither failure can lead to a client with more rights.
    let _ = CLIENT.try_with(|known| known.protection.set(protection));
}

/// Keeps what `claim` gives until this task's connection ends, unless something is kept under this number already. Outside such a
/// task nothing is.
///
/// # Errors
/// That of `claim`; nothing is kept.
pub fn keep<T: Send + 'static>(number: u64, claim: impl FnOnce() -> Result<T, Fault>) -> Result<(), Fault> {
    let keep_in = |known: &Known| -> Result<(), Fault> {
        let mut kept = known.kept.borrow_mut();
        if kept.contains_key(&number) || kept.len() >= KEPT_MAX {
            return Ok(());
        }
        let claimed: Box<dyn Any + Send> = Box::new(claim()?);
        kept.insert(number, claimed);
        Ok(())
    };
    CLIENT.try_with(keep_in).unwrap_or(Ok(()))
}

/// A future in which [`peer`] returns this one.
pub fn with_peer<F: Future>(peer: Peer, future: F) -> impl Future<Output = F::Output> {
    CLIENT.scope(Known { peer, protection: OnceCell::new(), kept: RefCell::default() }, future)
}

/// The connections of all ports. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    all: Arc<All>,
}

#[derive(Debug, Default)]
struct All {
    proxies: OnceLock<Vec<IpAddr>>,
    made: AtomicU64,
    /// Cancelled when the connection with this number ends.
    ends: Mutex<HashMap<u64, CancellationToken>>,
}

impl Connections {
    /// Treats connections from `proxies` as those of many clients. Call it once, before there are any.
    pub fn trust(&self, proxies: &[IpAddr]) {
        self.all.proxies.get_or_init(|| proxies.iter().map(IpAddr::to_canonical).collect());
    }

    /// A port with `connections_max` places.
    #[must_use]
    pub fn port(&self, connections_max: usize, metrics: ServerMetrics) -> Port {
        let book = Mutex::new(Book { shares: Shares::new([connections_max]), open: HashMap::new(), leaving: 0 });
        let (changed, awaited) = (Notify::new(), AtomicBool::new(false));
        Port { all: Arc::clone(&self.all), places: Arc::new(Places { book, changed, awaited, metrics }) }
    }

    /// Cancelled when this connection ends; `None` if it has ended.
    #[must_use]
    pub fn end_of(&self, connection: u64) -> Option<CancellationToken> {
        self.all.ends.lock().get(&connection).cloned()
    }
}

/// The places of one port. Clones share them.
#[derive(Debug, Clone)]
pub struct Port {
    all: Arc<All>,
    places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    book: Mutex<Book>,
    /// Notified when a place is free, or when a connection has had its last call while another waits for that.
    changed: Notify,
    awaited: AtomicBool,
    metrics: ServerMetrics,
}

#[derive(Debug)]
struct Book {
    shares: Shares<1>,
    open: HashMap<u64, Arc<Presence>>,
    /// Connections that were asked to leave and have not left yet.
    leaving: usize,
}

/// What is known about an open connection.
#[derive(Debug)]
struct Presence {
    peer: Peer,
    holder: HolderKey,
    calls: AtomicUsize,
    /// In nanoseconds; [`BUSY`] while there is a call.
    idle_since: AtomicU64,
    /// Cancelled when its place is wanted.
    wanted: CancellationToken,
    places: Arc<Places>,
}

/// Why a connection should close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It had no call for too long.
    Idle,
    /// Another one needs its place.
    Room,
}

/// The port has no place for a connection: its address has used up its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

enum Verdict {
    In(Connection),
    Wait,
    No,
}

impl Port {
    /// A place for a connection from `ip`, after a wait if all have calls. One without an address comes from this machine.
    ///
    /// # Errors
    /// [`NoPlace`] if the address has used up its share.
    pub async fn admit(&self, ip: Option<IpAddr>) -> Result<Connection, NoPlace> {
        let proxies = self.all.proxies.get().map_or(&[][..], Vec::as_slice);
        let address = ip.map_or(Address::Local, |ip| Address::of(ip, proxies));
        let peer = Peer { connection: self.all.made.fetch_add(1, Ordering::Relaxed) + 1, address };
        // Stored before looking for idle connections, in an order all threads agree on, so that one becoming idle later sees it.
        self.places.awaited.store(true, Ordering::SeqCst);
        let admitted = loop {
            match self.try_admit(peer) {
                Verdict::In(connection) => break Ok(connection),
                Verdict::No => break Err(NoPlace),
                // A change since then is remembered.
                Verdict::Wait => self.places.changed.notified().await,
            }
        };
        self.places.awaited.store(false, Ordering::Release);
        if admitted.is_err() {
            self.places.metrics.closed(ConnectionClose::Share).increment(1);
        }
        admitted
    }

    fn try_admit(&self, peer: Peer) -> Verdict {
        let mut book = self.places.book.lock();
        let holder = book.shares.enter(&Path::of(peer, 0));
        let over_share = book.shares.over_share(holder).is_some();
        if over_share || book.shares.held() >= book.shares.limits() {
            let Some(number) = book.replaceable(holder) else {
                book.shares.leave(holder);
                return if over_share { Verdict::No } else { Verdict::Wait };
            };
            if let Some(presence) = book.forget(number) {
                presence.wanted.cancel();
                book.leaving += 1;
                self.places.metrics.closed(ConnectionClose::Room).increment(1);
            }
        }
        book.shares.add(holder, [1]);
        let presence = Arc::new(Presence {
            peer,
            holder,
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(clock::now().as_nanos()),
            wanted: CancellationToken::new(),
            places: Arc::clone(&self.places),
        });
        book.open.insert(peer.connection, Arc::clone(&presence));
        drop(book);
        self.all.ends.lock().insert(peer.connection, CancellationToken::new());
        Verdict::In(Connection { presence, all: Arc::clone(&self.all) })
    }
}

impl Book {
    /// The connection whose place a newcomer may take.
    fn replaceable(&self, newcomer: HolderKey) -> Option<u64> {
        let [places] = self.shares.limits();
        if self.leaving > places / PLACES_PER_LEAVING {
            return None;
        }
        let whole = |holder| {
            let outermost = self.shares.outermost(holder);
            let [held] = self.shares.held_by(outermost);
            (outermost, held)
        };
        let idle = self.open.values().filter_map(|presence| {
            let since = presence.idle_since.load(Ordering::SeqCst);
            let (outermost, held) = whole(presence.holder);
            (since != BUSY).then_some((held, Reverse(since), outermost, presence.peer.connection))
        });
        let (most, _, owner, connection) = idle.max_by_key(|(held, since, ..)| (*held, *since))?;
        let (own, held) = whole(newcomer);
        (owner == own || most > held).then_some(connection)
    }

    /// Gives a connection's place to others.
    fn forget(&mut self, connection: u64) -> Option<Arc<Presence>> {
        let presence = self.open.remove(&connection)?;
        self.shares.remove(presence.holder, [1]);
        self.shares.leave(presence.holder);
        Some(presence)
    }
}

/// A connection's place on its port; dropping it means that the connection has ended.
#[derive(Debug)]
#[must_use = "the connection counts as ended when this is dropped"]
pub struct Connection {
    presence: Arc<Presence>,
    all: Arc<All>,
}

impl Connection {
    /// Which client it is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.presence.peer
    }

    /// Where its calls are counted.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls(Some(Arc::clone(&self.presence)))
    }

    /// Whether it has no call.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.presence.calls.load(Ordering::Acquire) == 0
    }

    /// Waits until the connection should close: its place is wanted, or it has had no call for `idle_timeout`. There may be a
    /// call by then; it must be answered.
    pub async fn asked_to_leave(&self, idle_timeout: Option<Duration>) -> Leave {
        let idle = async {
            let Some(timeout) = idle_timeout else { return std::future::pending().await };
            while let Some(left) = self.left(timeout) {
                sleep(left).await;
            }
            self.presence.places.metrics.closed(ConnectionClose::Idle).increment(1);
        };
        tokio::select! {
            () = self.presence.wanted.cancelled() => Leave::Room,
            () = idle => Leave::Idle,
        }
    }

    /// How much longer it may go on without a call; `None` if that time is up.
    fn left(&self, timeout: Duration) -> Option<Duration> {
        let since = self.presence.idle_since.load(Ordering::Acquire);
        if since == BUSY {
            return Some(timeout);
        }
        let passed = clock::now().since(Timestamp::from_nanos(since));
        timeout.checked_sub(passed).filter(|left| !left.is_zero())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let connection = self.presence.peer.connection;
        let mut book = self.presence.places.book.lock();
        if book.forget(connection).is_none() {
            book.leaving -= 1;
        }
        drop(book);
        let end = self.all.ends.lock().remove(&connection);
        if let Some(end) = end {
            end.cancel();
        }
        self.presence.places.changed.notify_one();
    }
}

/// Where a connection's calls are counted; by default, nowhere. The calls of a connection begin and end in its one task.
#[derive(Debug, Clone, Default)]
pub struct Calls(Option<Arc<Presence>>);

/// A call; dropping it ends it.
#[derive(Debug)]
#[must_use = "the call counts as ended when this is dropped"]
pub struct Call(Option<Arc<Presence>>);

impl Calls {
    /// Counts a call that is starting.
    pub fn begin(&self) -> Call {
        if let Some(presence) = &self.0
            && presence.calls.fetch_add(1, Ordering::AcqRel) == 0
        {
            presence.idle_since.store(BUSY, Ordering::Release);
        }
        Call(self.0.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(presence) = &self.0 else { return };
        if presence.calls.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        presence.idle_since.store(clock::now().as_nanos(), Ordering::SeqCst);
        if presence.places.awaited.load(Ordering::SeqCst) {
            presence.places.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::telemetry::Telemetry;

    const HERE: &str = "127.0.0.1";

    fn port(connections_max: usize) -> (Connections, Port) {
        let connections = Connections::default();
        let port = connections.port(connections_max, Telemetry::new().server());
        (connections, port)
    }

    /// `None` if it would have to wait.
    fn admit(port: &Port, ip: &str) -> Option<Result<Connection, NoPlace>> {
        port.admit(Some(ip.parse().expect("an address"))).now_or_never()
    }

    fn admitted(port: &Port, ip: &str) -> Connection {
        admit(port, ip).expect("without waiting").expect("a place")
    }

    fn is_wanted(connection: &Connection) -> bool {
        connection.asked_to_leave(None).now_or_never() == Some(Leave::Room)
    }

    #[test]
    fn the_longest_idle_connection_makes_room_and_one_with_a_call_does_not() {
        let (_, port) = port(16);
        let connections: Vec<_> = (0..16).map(|_| admitted(&port, HERE)).collect();
        let wanted = || (0..16).filter(|index: &usize| is_wanted(&connections[*index])).collect::<Vec<_>>();
        let call = connections[0].calls().begin();
        let newcomer = admitted(&port, HERE);
        assert_eq!(wanted(), [1]);
        assert!(!is_wanted(&newcomer));
        drop(call);
        let _next = admitted(&port, HERE);
        assert_eq!(wanted(), [1, 2], "the first had a call until now");
    }

    #[tokio::test]
    async fn if_all_have_calls_a_newcomer_waits_for_the_first_to_have_none() {
        let (_, port) = port(2);
        let connections = [(); 2].map(|()| admitted(&port, HERE));
        let mut calls = connections.each_ref().map(|connection| Some(connection.calls().begin()));
        let waiting = port.admit(Some(HERE.parse().expect("an address")));
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        calls[1] = None;
        let newcomer = waiting.await.expect("a place");
        assert_eq!((is_wanted(&connections[0]), is_wanted(&connections[1])), (false, true));
        drop((newcomer, calls));
    }

    #[test]
    fn an_address_that_takes_all_it_can_leaves_places_and_then_gives_up_its_own() {
        let (_, port) = port(80);
        let mut crowd: Vec<Connection> = Vec::new();
        let busy: Vec<Call> = (0..200)
            .filter_map(|_| {
                let connection = admit(&port, "127.0.0.2").expect("without waiting").ok()?;
                let call = connection.calls().begin();
                crowd.push(connection);
                Some(call)
            })
            .collect();
        assert_eq!(crowd.len(), 70);
        let others: Vec<_> = ["127.0.0.3", "127.0.0.4", HERE, HERE].map(|ip| admitted(&port, ip)).into();
        drop(busy);
        let own = admitted(&port, "127.0.0.2");
        assert_eq!(crowd.iter().filter(|connection| is_wanted(connection)).count(), 1, "one of its own gives way");
        assert!(!others.iter().any(is_wanted) && !is_wanted(&own));
    }

    #[test]
    fn nobody_takes_the_place_of_an_owner_that_has_less() {
        let (_, port) = port(80);
        let modest = admitted(&port, "127.0.0.3");
        let crowd: Vec<_> = (0..70).map_while(|_| admit(&port, "127.0.0.2").expect("without waiting").ok()).collect();
        let calls: Vec<_> = crowd.iter().map(|connection| connection.calls().begin()).collect();
        assert_eq!(admit(&port, "127.0.0.2").expect("without waiting").err(), Some(NoPlace));
        assert!(!is_wanted(&modest));
        drop(calls);
    }

    #[test]
    fn places_come_back_and_ends_are_signalled() {
        let (connections, port) = port(2);
        let connection = admitted(&port, HERE);
        let number = connection.peer().connection;
        let end = connections.end_of(number).expect("it is open");
        drop(connection);
        assert!(end.is_cancelled() && connections.end_of(number).is_none());
        let wanted = [(); 2].map(|()| admitted(&port, HERE));
        let newcomers = [(); 1].map(|()| admitted(&port, HERE));
        drop((wanted, newcomers));
        let book = port.places.book.lock();
        assert_eq!((book.shares.held(), book.shares.holders(), book.open.len(), book.leaving), ([0], 0, 0, 0));
    }

    #[test]
    fn only_some_places_are_reassigned_before_their_owners_have_left() {
        let (_, port) = port(8);
        let idle: Vec<_> = (0..8).map(|_| admitted(&port, HERE)).collect();
        let newcomers: Vec<_> = (0..8).map_while(|_| admit(&port, HERE).map(|admitted| admitted.expect("a place"))).collect();
        assert_eq!((newcomers.len(), idle.iter().filter(|connection| is_wanted(connection)).count()), (2, 2));
    }

    #[tokio::test]
    async fn a_task_knows_its_peer_and_others_have_none() {
        let peer_of_task = Peer { connection: 7, address: Address::Local };
        assert_eq!(with_peer(peer_of_task, async { peer() }).await, peer_of_task);
        let shown = Protection { is_encrypted: true, certificate: None };
        let note = async {
            assert_eq!(protection(), Protection::default());
            note_protection(shown.clone());
            note_protection(Protection::default());
            protection()
        };
        assert_eq!(with_peer(peer_of_task, note).await, shown);
        note_protection(shown);
        assert_eq!(protection(), Protection::default(), "this is no connection's task");
        assert_eq!(peer(), Peer::default());
    }

    #[tokio::test]
    async fn a_connection_keeps_one_thing_for_each_number_until_it_ends() {
        let held = Arc::new(());
        let claim = || -> Result<Arc<()>, Fault> { Ok(Arc::clone(&held)) };
        let use_it = async {
            for number in [1, 1, 2] {
                assert_eq!(keep(number, claim), Ok(()));
            }
            let full = Fault::new(crate::domain::FaultKind::Overloaded, "full");
            assert_eq!(keep(3, || Err::<(), _>(full.clone())), Err(full.clone()));
            assert_eq!(keep(1, || Err::<(), _>(full.clone())), Ok(()), "it is kept already");
            Arc::strong_count(&held)
        };
        assert_eq!(with_peer(Peer::default(), use_it).await, 3);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!((keep(1, claim), Arc::strong_count(&held)), (Ok(()), 1), "this is no connection's task");
    }
}
