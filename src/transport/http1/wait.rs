//! How long the client of a connection has kept it waiting, and when that is too long.

use std::task::{Context, Poll};

use super::{
    limits::{Awaited, Lapse, Limits},
    progress::Progress,
};
use crate::patience::{Due, Moment, Patience};

/// The wait for the client, whatever it has to do.
pub(super) struct Wait {
    limits: Limits,
    seen: (Awaited, u64),
    since: Moment,
    patience: Patience,
}

impl Wait {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, seen: (Awaited::First, 0), since: Moment::now(), patience: Patience::new() }
    }

    /// `Ready` when the connection should be given up.
    pub(super) fn poll_lapse(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Lapse> {
        if progress.head_is_too_large() {
            return Poll::Ready(Lapse::HeadTooLarge);
        }
        if progress.head_ends_bare() {
            return Poll::Ready(Lapse::BareLineFeed);
        }
        if progress.body_is_endless() {
            return Poll::Ready(Lapse::BodyWithoutContent);
        }
        let seen = progress.look();
        if self.seen != seen {
            self.seen = seen;
            self.since = Moment::now();
        }
        let (awaited, _) = seen;
        let Some(limit) = self.limits.of(awaited) else {
            self.patience.rest();
            return Poll::Pending;
        };
        let ends_at = self.since + limit;
        self.patience.poll(cx, |now| Due::at(ends_at, now, || Lapse::Waited(awaited)))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::{
        connections::Calls,
        transport::http1::limits::{Breach, FRAMING_BYTES_MAX},
    };

    const LIMITS: Limits = Limits {
        header_bytes_max: 1_024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(120),
        unread_timeout: Duration::from_secs(300),
    };

    struct Bench {
        progress: Progress,
        wait: Wait,
    }

    impl Bench {
        fn new() -> Self {
            Self { progress: Progress::new(&LIMITS, Calls::default()), wait: Wait::new(LIMITS) }
        }

        /// Whether nothing lapses within `seconds`.
        async fn lasts(&mut self, seconds: u64) -> bool {
            let lapse = poll_fn(|cx| self.wait.poll_lapse(&self.progress, cx));
            timeout(Duration::from_secs(seconds), lapse).await.is_err()
        }

        /// What lapses, and after how many seconds.
        async fn lapse(&mut self) -> (Lapse, u64) {
            let begun = Moment::now();
            let lapse = poll_fn(|cx| self.wait.poll_lapse(&self.progress, cx)).await;
            (lapse, Moment::now().since(begun).as_secs())
        }

        fn answer(&self) {
            self.progress.note_request(true);
            self.progress.note_response_over();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_closed_without_a_word() {
        let (lapse, seconds) = Bench::new().lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::First), 10));
        assert_eq!(lapse.breach(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_head_has_its_time_only_once() {
        let mut bench = Bench::new();
        bench.progress.note_read(1);
        for _ in 0..3 {
            assert!(bench.lasts(3).await);
            bench.progress.note_read(1);
        }
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Head), 1));
        assert_eq!(lapse.breach(), Some(Breach::HeadTooLate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_as_long_as_it_takes_and_silence_after_it_does_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(100);
        bench.progress.note_request(true);
        assert!(bench.lasts(100_000).await);
        bench.progress.note_response_over();
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Request), 120));
        assert_eq!(lapse.breach(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_its_own_time_and_length() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.progress.note_read(LIMITS.header_bytes_max - 1);
            assert!(bench.lasts(9).await);
            bench.answer();
            assert!(bench.lasts(119).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_too_large_once_it_fills_the_limit_and_goes_on() {
        let mut bench = Bench::new();
        bench.progress.note_read(1_000);
        assert_eq!(bench.progress.head_room(), Some(24));
        assert!(bench.lasts(1).await);
        bench.progress.note_read(24);
        assert_eq!(bench.progress.head_room(), Some(0));
        let (lapse, _) = bench.lapse().await;
        assert_eq!(lapse, Lapse::HeadTooLarge);
        assert_eq!(lapse.breach(), Some(Breach::HeadTooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_is_slow_is_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(10);
        bench.progress.note_request(true);
        for _ in 0..10 {
            bench.progress.note_write(true);
            assert!(bench.lasts(299).await);
            bench.progress.note_write(false);
        }
        bench.progress.note_write(true);
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Reader), 300));
        assert_eq!(lapse.breach(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_content_ends_and_one_in_many_small_chunks_does_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(100);
        bench.progress.note_request(false);
        for _ in 0..100_000 {
            assert!(bench.progress.body_goes_on());
            bench.progress.note_read(6);
            bench.progress.note_content(1);
        }
        bench.progress.note_read(FRAMING_BYTES_MAX);
        assert!(bench.progress.body_goes_on(), "it may all be content on its way");
        bench.progress.note_read(100_000);
        assert!(bench.progress.body_goes_on());
        bench.progress.note_read(1);
        assert!(!bench.progress.body_goes_on());
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::BodyWithoutContent, 0));
        assert_eq!(lapse.breach(), Some(Breach::BodyWithoutContent));

        let mut other = Bench::new();
        other.progress.note_request(false);
        other.progress.note_request_over();
        other.progress.note_read(1 << 20);
        other.progress.note_read(1 << 20);
        assert!(other.progress.body_goes_on() && other.lasts(1).await, "what follows a request is not its body");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_request_answered_early_is_not_taken_for_a_head() {
        let mut bench = Bench::new();
        bench.progress.note_read(10);
        bench.progress.note_request(false);
        bench.progress.note_response_over();
        assert_eq!(bench.progress.head_room(), None);
        bench.progress.note_read(1 << 20);
        assert_eq!(bench.lapse().await, (Lapse::Waited(Awaited::Rest), 120));
    }
}
