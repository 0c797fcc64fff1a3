//! Clients' calls that load and unload models: how many may wait, and whose turn is next. They run one at a time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    domain::{Fault, Peer},
    service::draining,
    shares::{Claim, Owner, Path, Pool, Turns},
};

/// The queue of calls. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Changes {
    places: Pool,
    line: Arc<Mutex<Line>>,
}

#[derive(Debug, Default)]
struct Line {
    busy: bool,
    waiting: Turns<Option<Owner>, oneshot::Sender<Turn>>,
}

/// A call's turn; dropping it passes it to the next.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub(super) struct Turn {
    line: Arc<Mutex<Line>>,
}

/// What happens to a new call.
enum Joined {
    Goes(Turn),
    Waits(Waiter, oneshot::Receiver<Turn>),
}

/// A call in the queue; dropping it takes it out.
struct Waiter {
    line: Arc<Mutex<Line>>,
    owner: Option<Owner>,
    number: u64,
}

impl Changes {
    /// Allows up to this many calls at once, running or waiting.
    pub(super) fn at_most(calls_max: usize) -> Self {
        Self { places: Pool::new("models.max_load_calls", calls_max), line: Arc::default() }
    }

    /// Waits for the turn of a call from `peer`.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`](crate::domain::FaultKind::Overloaded) if too many wait, or the peer's share of them.
    pub(super) async fn turn(&self, peer: Peer) -> Result<(Claim, Turn), Fault> {
        let path = Path::of(peer, 0);
        let place = self.places.claim(&path, 1).map_err(|full| full.fault("calls that load or unload models wait"))?;
        match self.join(path.outermost()) {
            Joined::Goes(turn) => Ok((place, turn)),
            Joined::Waits(waiter, comes) => {
                let turn = comes.await.map_err(|_| draining())?;
                drop(waiter);
                Ok((place, turn))
            }
        }
    }

    fn join(&self, owner: Option<Owner>) -> Joined {
        let mut line = self.line.lock();
        if !std::mem::replace(&mut line.busy, true) {
            return Joined::Goes(Turn { line: Arc::clone(&self.line) });
        }
        let (turn, comes) = oneshot::channel();
        let number = line.waiting.push(owner, turn);
        Joined::Waits(Waiter { line: Arc::clone(&self.line), owner, number }, comes)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.line.lock().waiting.remove(self.owner, self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.line.lock();
        let next = line.waiting.pop(usize::MAX, |_| true);
        line.busy = next.is_some();
        drop(line);
        if let Some(next) = next {
            // A caller that went away at this very moment passes it on in turn.
            drop(next.send(Self { line: Arc::clone(&self.line) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::domain::Address;

    fn peer(connection: u64) -> Peer {
        Peer { connection, address: Address::Local }
    }

    #[tokio::test]
    async fn whoever_sends_many_waits_for_itself() {
        let changes = Changes::at_most(16);
        let running = changes.turn(peer(1)).await.expect("nobody is there");
        let mut crowd: Vec<_> = (0..5).map(|_| Box::pin(changes.turn(peer(1)))).collect();
        assert!(crowd.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let mut single = Box::pin(changes.turn(peer(2)));
        assert!(single.as_mut().now_or_never().is_none());
        drop(running);
        let second = crowd.remove(0).await.expect("its turn");
        assert!(single.as_mut().now_or_never().is_none(), "one at a time");
        drop(second);
        let third = single.await.expect("its turn, before the others of the crowd");
        assert!(crowd[0].as_mut().now_or_never().is_none());
        drop(third);
        for turn in crowd {
            drop(turn.await.expect("its turn"));
        }
        let line = changes.line.lock();
        assert_eq!((line.busy, line.waiting.len(), changes.places.held()), (false, 0, 0));
    }

    #[tokio::test]
    async fn whoever_goes_away_is_passed_over_before_its_turn_and_after_it_was_given() {
        let changes = Changes::at_most(16);
        let running = changes.turn(peer(1)).await.expect("nobody is there");
        let mut waits = [2, 3, 4].map(|connection| Box::pin(changes.turn(peer(connection))));
        assert!(waits.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let [goes_before, goes_after, stays] = waits;
        drop(goes_before);
        drop(running);
        drop(goes_after);
        drop(stays.await.expect("its turn"));
        assert!(!changes.line.lock().busy);
    }

    #[tokio::test]
    async fn one_client_cannot_take_all_places() {
        let changes = Changes::at_most(16);
        let mut waits: Vec<_> = (0..20).map(|_| Box::pin(changes.turn(peer(1)))).collect();
        let answered: Vec<_> = waits.iter_mut().filter_map(|turn| turn.as_mut().now_or_never()).collect();
        let refused = answered.iter().filter(|turn| turn.is_err()).count();
        assert_eq!((answered.len() - refused, refused), (1, 6), "one runs, thirteen wait");
        let fault = answered.into_iter().find_map(Result::err).expect("some are refused");
        assert_eq!(fault.limit().map(|limit| limit.name), Some("models.max_load_calls"));
        assert!(Box::pin(changes.turn(peer(2))).now_or_never().is_none_or(|turn| turn.is_ok()));
    }
}
