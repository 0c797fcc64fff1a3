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
//! # Age
//! Where [`ConnectionRules::age_max`] is set, a connection is asked to leave at about that age. Its calls have
//! [`ConnectionRules::grace`] from then on, and learn about it through [`Ageing`].
//!
//! # Whose work it is
//! The task of a connection knows its [`peer`], so that no front end has to pass it on, how its connection is protected
//! ([`protection`]), and how it ages ([`ageing()`]). What its callers claim for as long as it is open, it [`keep`]s.

mod ageing;
mod peers;
mod task;

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
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

use self::peers::{PeerPlace, Peers};
pub use self::{
    ageing::Ageing,
    task::{ageing, is_encrypted, keep, note_ageing, note_peer, note_protection, peer, protection, with_peer},
};
use crate::{
    clock,
    domain::{Address, Peer, Timestamp},
    shares::{HolderKey, Path, Shares},
    telemetry::{ConnectionClose, ServerMetrics},
};

/// One in this many places may be reassigned while its previous owner is still leaving.
const PLACES_PER_LEAVING: usize = 8;

/// In place of a moment: there is a call.
const BUSY: u64 = u64::MAX;

/// Time for the last answers of a connection whose calls have used up their grace.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What applies to the connections of all ports. By default nothing is limited, and nobody is a proxy.
#[derive(Debug, Clone, Default)]
pub struct ConnectionRules {
    /// Their connections are those of many clients.
    pub proxies: Vec<IpAddr>,
    /// Time for the header with which connections from proxies begin; `None` if they begin with none.
    pub header_timeout: Option<Duration>,
    /// Age at which a connection is asked to leave, give or take a tenth; `None` for never.
    pub age_max: Option<Duration>,
    /// What its calls have from then on.
    pub grace: Duration,
    /// Connections of one address; 0 for as many as its share allows.
    pub per_peer_max: usize,
    /// New ones a second of one address; 0 for any number.
    pub new_per_peer_per_s: u32,
}

/// The connections of all ports. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    all: Arc<All>,
}

#[derive(Debug, Default)]
struct All {
    settled: OnceLock<Settled>,
    made: AtomicU64,
    /// Spreads the ages of connections that were made together.
    spread: RandomState,
    /// Cancelled when the connection with this number ends.
    ends: Mutex<HashMap<u64, CancellationToken>>,
}

#[derive(Debug)]
struct Settled {
    rules: ConnectionRules,
    /// `None` if no address is limited.
    peers: Option<Arc<Peers>>,
}

impl All {
    fn address_of(&self, ip: IpAddr) -> Address {
        let proxies = self.settled.get().map_or(&[][..], |settled| settled.rules.proxies.as_slice());
        Address::of(ip, proxies)
    }

    /// Counts a connection towards its address, if addresses are limited.
    fn limit(&self, address: Address) -> Result<Option<PeerPlace>, ConnectionClose> {
        match self.settled.get().and_then(|settled| settled.peers.as_ref()) {
            Some(peers) => peers.admit(address, clock::now()),
            None => Ok(None),
        }
    }

    /// How this connection ages, from now on.
    fn ageing(&self, connection: u64) -> Option<Ageing> {
        let rules = &self.settled.get()?.rules;
        // Between nine and eleven tenths.
        let share = 9_000 + (self.spread.hash_one(connection) % 2_001) as u32;
        let begins_at = clock::now() + rules.age_max? * share / 10_000;
        let (begun, over) = (CancellationToken::new(), CancellationToken::new());
        Some(Ageing { begins_at, ends_at: begins_at + rules.grace, begun, over })
    }
}

impl Connections {
    /// Sets what applies to all connections. Call it once, before there are any.
    pub fn govern(&self, mut rules: ConnectionRules) {
        rules.proxies.iter_mut().for_each(|proxy| *proxy = proxy.to_canonical());
        let peers = Peers::new(rules.per_peer_max, rules.new_per_peer_per_s);
        self.all.settled.get_or_init(|| Settled { rules, peers });
    }

    /// What an address says about the client that has it.
    #[must_use]
    pub fn address_of(&self, ip: IpAddr) -> Address {
        self.all.address_of(ip)
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
    /// It is old enough.
    Age,
}

/// The port has no place for a connection: its address has used up its share, or has as many as it may have.
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
    /// [`NoPlace`] if the address has used up its share, or is at a limit of its own.
    pub async fn admit(&self, ip: Option<IpAddr>) -> Result<Connection, NoPlace> {
        let address = ip.map_or(Address::Local, |ip| self.all.address_of(ip));
        let limited = self.all.limit(address).map_err(|why| self.places.refuse(why))?;
        let peer = Peer { connection: self.all.made.fetch_add(1, Ordering::Relaxed) + 1, address };
        // Stored before looking for idle connections, in an order all threads agree on, so that one becoming idle later sees it.
        self.places.awaited.store(true, Ordering::SeqCst);
        let mut admitted = loop {
            match self.try_admit(peer) {
                Verdict::In(connection) => break Ok(connection),
                Verdict::No => break Err(self.places.refuse(ConnectionClose::Share)),
                // A change since then is remembered.
                Verdict::Wait => self.places.changed.notified().await,
            }
        };
        self.places.awaited.store(false, Ordering::Release);
        if let Ok(connection) = &mut admitted {
            connection.limited = limited;
        }
        admitted
    }

    fn try_admit(&self, peer: Peer) -> Verdict {
        let mut book = self.places.book.lock();
        let holder = book.shares.enter(&Path::of(peer, 0));
        let over_share = book.shares.over_share(holder).is_some();
        let is_full = book.shares.held() >= book.shares.limits();
        if (over_share || is_full) && !book.make_room(holder, &self.places.metrics) {
            book.shares.leave(holder);
            return if over_share { Verdict::No } else { Verdict::Wait };
        }
        let presence = book.seat(holder, peer, &self.places);
        drop(book);
        self.all.ends.lock().insert(peer.connection, CancellationToken::new());
        let ageing = self.all.ageing(peer.connection);
        Verdict::In(Connection { presence, all: Arc::clone(&self.all), ageing, limited: None })
    }
}

impl Places {
    /// Counts a connection that gets no place.
    fn refuse(&self, why: ConnectionClose) -> NoPlace {
        self.metrics.closed(why).increment(1);
        NoPlace
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

    /// Takes a place away from another connection for one of `newcomer`. Returns whether there was one to take.
    fn make_room(&mut self, newcomer: HolderKey, metrics: &ServerMetrics) -> bool {
        let Some(number) = self.replaceable(newcomer) else { return false };
        if let Some(presence) = self.forget(number) {
            presence.wanted.cancel();
            self.leaving += 1;
            metrics.closed(ConnectionClose::Room).increment(1);
        }
        true
    }

    /// Gives a place to `holder`, which has been entered for it.
    fn seat(&mut self, holder: HolderKey, peer: Peer, places: &Arc<Places>) -> Arc<Presence> {
        self.shares.add(holder, [1]);
        let presence = Arc::new(Presence {
            peer,
            holder,
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(clock::now().as_nanos()),
            wanted: CancellationToken::new(),
            places: Arc::clone(places),
        });
        self.open.insert(peer.connection, Arc::clone(&presence));
        presence
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
    /// `None` where connections do not age.
    ageing: Option<Ageing>,
    /// Its place among those of its address, where these are limited.
    limited: Option<PeerPlace>,
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

    /// Time for the header with which it begins; `None` if it begins with none.
    #[must_use]
    pub fn header_timeout(&self) -> Option<Duration> {
        let is_proxied = self.peer().address == Address::Proxy;
        self.all.settled.get().filter(|_| is_proxied)?.rules.header_timeout
    }

    /// Counts that it is closed because its header is missing, wrong or late.
    pub fn note_bad_header(&self) {
        self.presence.places.metrics.closed(ConnectionClose::Header).increment(1);
    }

    /// Counts it from now on as the connection of the client with this address, for which a proxy has made it. It has no call yet.
    ///
    /// # Errors
    /// [`NoPlace`] as for [`Port::admit`], or if its place was given away.
    pub fn come_from(&mut self, ip: IpAddr) -> Result<Peer, NoPlace> {
        let address = self.all.address_of(ip);
        // A client on the proxy's own machine, or another proxy, is nobody in particular.
        if matches!(address, Address::Local | Address::Proxy) {
            return Ok(self.peer());
        }
        let (peer, places) = (Peer { address, ..self.peer() }, Arc::clone(&self.presence.places));
        let limited = self.all.limit(address).map_err(|why| places.refuse(why))?;
        let mut book = places.book.lock();
        if book.forget(peer.connection).is_none() {
            return Err(NoPlace);
        }
        let holder = book.shares.enter(&Path::of(peer, 0));
        if book.shares.over_share(holder).is_some() && !book.make_room(holder, &places.metrics) {
            book.shares.leave(holder);
            // It has lost its place, and is counted as leaving until it is dropped.
            book.leaving += 1;
            drop(book);
            return Err(places.refuse(ConnectionClose::Share));
        }
        self.presence = book.seat(holder, peer, &places);
        drop(book);
        self.limited = limited;
        Ok(peer)
    }

    /// Waits until the connection should close: its place is wanted, it has had no call for `idle_timeout`, or it is old enough.
    /// There may be a call by then; it must be answered.
    pub async fn asked_to_leave(&self, idle_timeout: Option<Duration>) -> Leave {
        tokio::select! {
            () = self.presence.wanted.cancelled() => Leave::Room,
            leave = self.time_is_up(idle_timeout) => leave,
        }
    }

    async fn time_is_up(&self, idle_timeout: Option<Duration>) -> Leave {
        loop {
            let idle = idle_timeout.map(|timeout| self.left(timeout));
            let age = self.ageing.as_ref().map(|ageing| ageing.begins_at.since(clock::now()));
            if idle.is_some_and(|left| left.is_zero()) {
                self.presence.places.metrics.closed(ConnectionClose::Idle).increment(1);
                return Leave::Idle;
            }
            if age.is_some_and(|left| left.is_zero()) {
                self.begin_to_age();
                return Leave::Age;
            }
            match idle.into_iter().chain(age).min() {
                Some(left) => sleep(left).await,
                None => return std::future::pending().await,
            }
        }
    }

    /// Waits until the connection should end, even if it has calls: for ever where connections do not age.
    pub async fn outlived(&self) {
        let Some(ageing) = &self.ageing else { return std::future::pending().await };
        sleep(ageing.begins_at.since(clock::now())).await;
        self.begin_to_age();
        sleep(ageing.ends_at.since(clock::now())).await;
        ageing.over.cancel();
        sleep(LAST_WORDS).await;
    }

    fn begin_to_age(&self) {
        if let Some(ageing) = &self.ageing
            && !ageing.begun.is_cancelled()
        {
            self.presence.places.metrics.closed(ConnectionClose::Age).increment(1);
            ageing.begun.cancel();
        }
    }

    /// How it ages, if it does.
    #[must_use]
    pub const fn ageing(&self) -> Option<&Ageing> {
        self.ageing.as_ref()
    }

    /// How much longer it may go on without a call; zero if that time is up.
    fn left(&self, timeout: Duration) -> Duration {
        let since = self.presence.idle_since.load(Ordering::Acquire);
        if since == BUSY {
            return timeout;
        }
        let passed = clock::now().since(Timestamp::from_nanos(since));
        timeout.saturating_sub(passed)
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
    use crate::{
        domain::{Fault, Protection},
        telemetry::Telemetry,
    };

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

    #[test]
    fn a_client_behind_a_proxy_counts_as_if_it_had_connected_itself() {
        let rules = ConnectionRules {
            proxies: vec!["10.0.0.9".parse().expect("an address")],
            header_timeout: Some(Duration::from_secs(10)),
            per_peer_max: 2,
            ..ConnectionRules::default()
        };
        let (connections, port) = port(80);
        connections.govern(rules);
        let behind = |ip: &str| {
            let mut connection = admitted(&port, "10.0.0.9");
            assert_eq!(connection.header_timeout(), Some(Duration::from_secs(10)));
            connection.come_from(ip.parse().expect("an address")).map(|peer| (peer, connection))
        };
        let (peer, first) = behind("192.0.2.1").expect("a place");
        assert_eq!((peer.address, first.peer()), (Address::V4(0xc000_0201), peer));
        assert_eq!(first.header_timeout(), None, "it has had its header");
        let direct = admitted(&port, "192.0.2.1");
        assert_eq!(behind("192.0.2.1").err(), Some(NoPlace));
        for nobody in ["127.0.0.1", "10.0.0.9"] {
            let (peer, _) = behind(nobody).expect("a place");
            assert_eq!(peer.address, Address::Proxy, "{nobody}");
        }
        drop(direct);
        let second = behind("192.0.2.1").expect("room again");
        assert_eq!(port.places.book.lock().shares.held(), [2]);
        drop((first, second));
        let book = port.places.book.lock();
        assert_eq!((book.shares.held(), book.shares.holders(), book.open.len(), book.leaving), ([0], 0, 0, 0));
    }

    #[tokio::test]
    async fn an_old_connection_is_asked_to_leave_and_its_calls_have_their_grace() {
        let (connections, port) = port(8);
        let (age_max, grace) = (Some(Duration::from_nanos(10)), Duration::from_secs(3_600));
        connections.govern(ConnectionRules { age_max, grace, ..ConnectionRules::default() });
        let connection = admitted(&port, HERE);
        let ageing = connection.ageing().expect("it ages").clone();
        assert!(ageing.begun().now_or_never().is_none());
        assert_eq!(connection.asked_to_leave(Some(grace)).await, Leave::Age);
        let left = ageing.begun().now_or_never().expect("it has begun");
        assert!(left <= grace && left > grace / 2, "{left:?}");
        assert!(connection.outlived().now_or_never().is_none() && ageing.over().now_or_never().is_none());
    }

    #[test]
    fn ages_are_spread_by_a_tenth_either_way() {
        let connections = Connections::default();
        let age_max = Some(Duration::from_secs(10_000));
        connections.govern(ConnectionRules { age_max, ..ConnectionRules::default() });
        let begun = clock::now();
        let ages: Vec<u64> =
            (0..1_000).map(|number| connections.all.ageing(number).expect("it ages").begins_at.since(begun).as_secs()).collect();
        assert!(ages.iter().all(|age| (9_000..=11_010).contains(age)), "{ages:?}");
        assert!(ages.iter().any(|age| *age < 9_500) && ages.iter().any(|age| *age > 10_500), "{ages:?}");
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
