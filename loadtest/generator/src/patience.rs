//! Waiting with a limit that counts only the time in which this process ran.
//!
//! When a machine stands still for a minute, as virtual ones do when they are saved or moved, every timer has expired afterwards; that says
//! nothing about the peer that was to answer.

use std::{pin::pin, time::Duration};

use tokio::time::sleep;

/// The most that one standstill counts.
const TICK: Duration = Duration::from_secs(1);

/// The future's result, unless it takes longer than `limit`, to the nearest second.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = limit;
    while !left.is_zero() {
        let tick = left.min(TICK);
        tokio::select! {
            biased;
            output = &mut future => return Some(output),
            () = sleep(tick) => left -= tick,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_given_and_nothing_else_is_waited_for() {
        let limit = Duration::from_millis(2_500);
        assert_eq!(within(limit, async { 7 }).await, Some(7));
        assert_eq!(within(limit, sleep(Duration::from_secs(2))).await, Some(()));
        assert_eq!(within(limit, sleep(Duration::from_secs(3))).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_counts_one_tick() {
        let (told, hear) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(within(Duration::from_secs(3), hear));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the clock says that the time is up, but it is not");
        told.send(7).expect("somebody listens");
        assert_eq!(waiting.await.expect("no panic"), Some(Ok(7)));
    }
}
