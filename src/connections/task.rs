//! What the task of a connection knows about its client, so that nothing between the two has to pass it on.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
};

use super::ageing::Ageing;
use crate::domain::{Fault, Peer, Protection};

/// Accounts that one connection keeps places in. One that serves more of them is a proxy's.
const KEPT_MAX: usize = 1_024;

tokio::task_local! {
    static CLIENT: Known;
}

/// What the task of a connection knows about its client.
struct Known {
    peer: Cell<Peer>,
    /// Empty until it is known, and for good if the connection is not protected.
    protection: OnceCell<Protection>,
    /// Empty where connections do not age.
    ageing: OnceCell<Ageing>,
    /// What is kept until the connection ends, by number.
    kept: RefCell<BTreeMap<u64, Box<dyn Any + Send>>>,
}

/// The connection whose task this is; none outside such a task.
#[must_use]
pub fn peer() -> Peer {
    CLIENT.try_with(|known| known.peer.get()).unwrap_or_default()
}

/// How this task's connection is protected; not at all if nothing says otherwise.
#[must_use]
pub fn protection() -> Protection {
    CLIENT.try_with(|known| known.protection.get().cloned()).ok().flatten().unwrap_or_default()
}

/// Whether this task's connection is encrypted.
#[must_use]
pub fn is_encrypted() -> bool {
    CLIENT.try_with(|known| known.protection.get().is_some_and(|protection| protection.is_encrypted)).unwrap_or_default()
}

/// Notes how this task's connection is protected. Only the first time counts, and only in a task of [`with_peer`].
pub fn note_protection(protection: Protection) {
    // Neither failure can lead to a client with more rights.
    let _ = CLIENT.try_with(|known| known.protection.set(protection));
}

/// Notes who is behind the proxy that has made this task's connection.
pub fn note_peer(peer: Peer) {
    // Outside such a task there is nobody to know it.
    let _ = CLIENT.try_with(|known| known.peer.set(peer));
}

/// How this task's connection ages; `None` if it does not.
#[must_use]
pub fn ageing() -> Option<Ageing> {
    CLIENT.try_with(|known| known.ageing.get().cloned()).ok().flatten()
}

/// Notes how this task's connection ages. Only the first time counts.
pub fn note_ageing(ageing: Ageing) {
    // Outside such a task there is nobody to know it.
    let _ = CLIENT.try_with(|known| known.ageing.set(ageing));
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
    let known = Known { peer: Cell::new(peer), protection: OnceCell::new(), ageing: OnceCell::new(), kept: RefCell::default() };
    CLIENT.scope(known, future)
}
