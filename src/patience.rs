//! The one timer for waits that are put off again and again: for a client that is silent, does not read, or makes no progress.
//!
//! It uses the runtime's clock, which tests may pause; no other file reads that clock. What to wait for, and until when, is up to
//! the caller: a function of the current moment, called whenever the caller is polled.

use std::{
    ops::Add,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A moment on the runtime's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    /// The current moment.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// When a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due<T> {
    /// Now, with this outcome.
    Now(T),
    /// At that moment, unless it is put off by then. It lies in the future.
    At(Moment),
    /// There is nothing to wait for.
    Never,
}

impl<T> Due<T> {
    /// At this moment, with `outcome`, seen from `now`.
    pub fn at(moment: Moment, now: Moment, outcome: impl FnOnce() -> T) -> Self {
        if moment <= now { Self::Now(outcome()) } else { Self::At(moment) }
    }
}

/// The timer of one such wait. It takes only a pointer's room until there is something to wait for.
#[derive(Debug, Default)]
pub struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// With no timer yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { timer: None }
    }

    /// `Ready` when the wait is over; `due` says when that is, given the current moment.
    pub fn poll<T>(&mut self, cx: &mut Context<'_>, mut due: impl FnMut(Moment) -> Due<T>) -> Poll<T> {
        loop {
            let Moment(until) = match due(Moment::now()) {
                Due::Now(outcome) => return Poll::Ready(outcome),
                Due::At(moment) => moment,
                Due::Never => {
                    self.rest();
                    return Poll::Pending;
                }
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            // An earlier timer stays: when it fires, the loop sets it again. So putting off a wait costs no timer operation.
            if timer.is_elapsed() || timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// There is nothing to wait for. A timer still running is left alone: usually it will be needed again.
    pub fn rest(&mut self) {
        self.timer.take_if(|timer| timer.is_elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// How long the wait until `end` takes.
    async fn waits(patience: &mut Patience, end: &Cell<Moment>) -> Duration {
        let begun = Moment::now();
        poll_fn(|cx| patience.poll(cx, |now| Due::at(end.get(), now, || ()))).await;
        Moment::now().since(begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_it_is_due_and_not_before() {
        let end = Cell::new(Moment::now() + LIMIT);
        assert_eq!(waits(&mut Patience::new(), &end).await, LIMIT);
        assert_eq!(waits(&mut Patience::new(), &end).await, Duration::ZERO, "it is over already");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_put_off_leaves_the_timer_alone_until_it_fires() {
        let (mut patience, end) = (Patience::new(), Cell::new(Moment::now() + LIMIT));
        for _ in 0..5 {
            assert!(timeout(LIMIT / 2, waits(&mut patience, &end)).await.is_err());
            end.set(Moment::now() + LIMIT);
        }
        let set_for = patience.timer.as_ref().expect("it runs").deadline();
        assert!(set_for < end.get().0);
        assert_eq!(waits(&mut patience, &end).await, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_ends_earlier_than_it_seemed_sets_the_timer_back() {
        let (mut patience, end) = (Patience::new(), Cell::new(Moment::now() + LIMIT));
        assert!(timeout(LIMIT / 10, waits(&mut patience, &end)).await.is_err());
        end.set(Moment::now() + LIMIT / 10);
        assert_eq!(waits(&mut patience, &end).await, LIMIT / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_to_wait_for_only_a_running_timer_is_kept() {
        let (mut patience, end) = (Patience::new(), Cell::new(Moment::now() + LIMIT));
        assert!(timeout(LIMIT / 2, waits(&mut patience, &end)).await.is_err());
        let never = |patience: &mut Patience| {
            assert!(patience.poll(&mut Context::from_waker(std::task::Waker::noop()), |_| Due::<()>::Never).is_pending());
            patience.timer.is_some()
        };
        assert!(never(&mut patience));
        advance(LIMIT).await;
        assert!(!never(&mut patience));
    }

    #[test]
    fn a_patience_without_a_timer_is_a_pointer() {
        assert_eq!(size_of::<Patience>(), size_of::<usize>());
    }
}
