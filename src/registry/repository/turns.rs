//! Clients that wait for their turn to change the models: how many may.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::domain::{Fault, FaultKind};

/// How many may wait if nothing is said.
const WAITING_MAX_DEFAULT: usize = 16;

/// When to come back: a load takes seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The turns that are taken: of whoever makes a change, and of those that wait for it.
#[derive(Debug)]
pub(super) struct Turns {
    waiting_max: AtomicUsize,
    taken: AtomicUsize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting_max: AtomicUsize::new(WAITING_MAX_DEFAULT), taken: AtomicUsize::new(0) }
    }
}

impl Turns {
    /// Lets so many wait from now on.
    pub(super) fn bound(&self, waiting_max: usize) {
        self.waiting_max.store(waiting_max, Ordering::Relaxed);
    }

    /// A place among those that wait.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if there is none.
    pub(super) fn take(&self) -> Result<Turn<'_>, Fault> {
        let waiting_max = self.waiting_max.load(Ordering::Relaxed);
        // One more than may wait, because one of them does not.
        let next = |taken: usize| (taken <= waiting_max).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok() {
            return Ok(Turn(&self.taken));
        }
        let message =
            format!("{waiting_max} calls to change the models wait already, as many as models.max_waiting_loads allows");
        let fault = Fault::new(FaultKind::Overloaded, message).with_limit("models.max_waiting_loads", waiting_max as u64);
        Err(fault.with_retry_after(RETRY_AFTER))
    }
}

/// A place, for as long as it lives.
#[derive(Debug)]
#[must_use = "the place is free again when the turn is dropped"]
pub(super) struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_wait_as_may_beside_the_one_whose_turn_it_is() {
        let turns = Turns::default();
        turns.bound(2);
        let mut taken: Vec<_> = (0..3).map(|_| turns.take().expect("there is room")).collect();
        let fault = turns.take().expect_err("no room");
        assert_eq!(fault.kind(), FaultKind::Overloaded);
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("models.max_waiting_loads", 2)));
        taken.pop();
        let again = turns.take().expect("there is room again");
        assert!(turns.take().is_err());
        drop((again, taken));
        turns.bound(0);
        let _alone = turns.take().expect("nobody has to wait");
        assert!(turns.take().is_err());
    }
}
