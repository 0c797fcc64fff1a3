//! Which connections there are, and which one goes when there are too many.
//!
//! A connection is in one of three states: its client has to send a request (it is silent), the server has to answer one, or the
//! client has to take an answer (it is unread). Of those waiting for their client, the one that has waited longest goes first.
//! One being answered stays, unless its answer takes so long that it may never come, or there are twice as many connections as
//! there should be. Each wait for a client also has a limit.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::note::Note;
use crate::{
    domain::{Address, Peer},
    patience::Moment,
    transport::admit::Admit,
};

/// If an answer takes longer than this, its place may go to another connection.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The connections of the port.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    all: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    note: Arc<Note>,
    leave: CancellationToken,
}

/// A connection's place; given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    address: Address,
    note: Arc<Note>,
    leave: CancellationToken,
}

impl Places {
    /// For `max` connections.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, all: Mutex::default() }
    }

    /// Lets a connection in. If it is one too many, the connection that has been silent or unread longest is told to leave.
    fn enter(self: &Arc<Self>, address: Address) -> Place {
        let mut all = self.all.lock();
        while all.open.len() >= self.max && all.close_longest(self.max) {}
        let number = all.next;
        all.next += 1;
        let (note, leave) = (Arc::new(Note::new()), CancellationToken::new());
        all.open.insert(number, Entry { note: Arc::clone(&note), leave: leave.clone() });
        drop(all);
        Place { places: Arc::clone(self), number, address, note, leave }
    }

    /// Tells the connection that has been silent or unread longest to leave.
    pub(crate) fn close_longest(&self) {
        self.all.lock().close_longest(self.max);
    }
}

impl Entries {
    /// Whether there was one to close.
    fn close_longest(&mut self, max: usize) -> bool {
        let (now, crowded) = (Moment::now(), self.open.len() >= 2 * max);
        let closable = self.open.iter().filter_map(|(number, entry)| {
            let (is_answered, since) = entry.note.turn();
            (!is_answered || crowded || now.since(since) > ANSWER_MAX).then_some((is_answered, since, *number))
        });
        let Some((.., number)) = closable.min() else { return false };
        if let Some(entry) = self.open.remove(&number) {
            entry.leave.cancel();
        }
        true
    }
}

impl Place {
    /// What the connection is doing.
    pub(super) fn note(&self) -> Arc<Note> {
        Arc::clone(&self.note)
    }

    /// Waits until another connection needs the place more.
    pub(super) async fn told_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

/// Every connection is accepted.
impl Admit for Arc<Places> {
    type Permit = ();
    type Place = Place;

    /// Lets connections that have to go do so before others are accepted in their place.
    async fn permit(&self) {
        yield_now().await;
    }

    async fn admit(&self, _permit: (), ip: Option<IpAddr>) -> Option<Place> {
        Some(self.enter(ip.map_or(Address::Local, |ip| Address::of(ip, &[]))))
    }

    /// If descriptors have run out, this may give one back.
    fn not_accepted(&self) {
        self.close_longest();
    }

    /// Its number is one of this port's own.
    fn peer(place: &Place) -> Peer {
        Peer { connection: place.number, address: place.address }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.all.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn leaves(place: &Place) -> bool {
        place.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_was_silent_or_unread_longest_goes_and_never_one_that_is_answered() {
        let places = Arc::new(Places::new(3));
        let enter = async || {
            advance(Duration::from_secs(1)).await;
            places.enter(Address::Local)
        };
        let (answered, silent, unread) = (enter().await, enter().await, enter().await);
        answered.note.answers();
        unread.note.answers();
        unread.note.wrote(true);
        let fourth = enter().await;
        assert_eq!([&answered, &silent, &unread, &fourth].map(leaves), [false, true, false, false]);
        let fifth = enter().await;
        assert_eq!([&answered, &unread, &fourth, &fifth].map(leaves), [false, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_never_come_do_not_keep_others_out() {
        let places = Arc::new(Places::new(2));
        let answered: Vec<_> = (0..4).map(|_| places.enter(Address::Local)).inspect(|place| place.note.answers()).collect();
        assert_eq!(answered.iter().filter(|place| leaves(place)).count(), 0, "twice as many as there should be");
        let fifth = places.enter(Address::Local);
        assert!(leaves(&answered[0]) && !leaves(&answered[1]) && !leaves(&fifth));
        fifth.note.answers();
        advance(ANSWER_MAX + Duration::from_millis(1)).await;
        let sixth = places.enter(Address::Local);
        assert!(answered[1..].iter().all(leaves) && !leaves(&fifth) && !leaves(&sixth));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_makes_room() {
        let places = Arc::new(Places::new(1));
        drop(places.enter(Address::Local));
        let one = places.enter(Address::Local);
        assert!(!leaves(&one));
        let other = places.enter(Address::Local);
        assert!(leaves(&one) && !leaves(&other));
    }
}
