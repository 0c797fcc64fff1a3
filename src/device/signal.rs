//! Two flags: one that a task waits for, and one that a thread waits for.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use futures::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};

use crate::{clock, domain::Timestamp};

/// Set by anyone, awaited by one task. Setting it twice before it is seen counts once.
#[derive(Debug, Default)]
pub(super) struct Signal {
    set: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    pub(super) fn set(&self) {
        if !self.set.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Waits until the flag is set, and clears it.
    pub(super) async fn wait(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.set.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Rung by anyone; one thread sleeps until then. Ringing it twice before it is heard counts once.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        let rang_before = std::mem::replace(&mut *self.rung.lock(), true);
        if !rang_before {
            self.wake.notify_one();
        }
    }

    /// Whether it has rung since it was last heard.
    #[cfg(test)]
    pub(super) fn heard(&self) -> bool {
        std::mem::take(&mut *self.rung.lock())
    }

    /// Sleeps until it rings, or until `until` at the latest.
    pub(super) fn sleep_until(&self, until: Timestamp) {
        let mut rung = self.rung.lock();
        while !*rung {
            let left = until.since(clock::now());
            if until == Timestamp::NEVER {
                self.wake.wait(&mut rung);
            } else if left.is_zero() {
                return;
            } else {
                self.wake.wait_for(&mut rung, left);
            }
        }
        *rung = false;
    }
}

/// Lets the other ready tasks run first, once.
pub(super) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_sleeper_wakes_when_the_time_has_come_and_not_before() {
        let bell = Bell::default();
        for micros in [0, 250, 700, 1_500] {
            let until = clock::now() + Duration::from_micros(micros);
            bell.sleep_until(until);
            assert!(clock::now() >= until);
        }
    }

    #[test]
    fn a_sleeper_wakes_whether_the_bell_rings_before_or_during_its_sleep() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        bell.sleep_until(Timestamp::NEVER);
        assert!(!bell.heard(), "ringing twice counts once");
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| bell.sleep_until(Timestamp::NEVER));
            bell.ring();
            sleeper.join().expect("no panic");
        });
    }
}
