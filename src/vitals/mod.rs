//! Which permanent parts of the server are alive: the threads and tasks that must not end before it does.
//!
//! Knows the parts by name, and nothing about what they do.
//!
//! # A part that ends
//! A thread holds a [`Vital`]. If that is dropped by a panic, or by a return that nobody asked for, it is a [`Loss`]: from that
//! moment on the server is not ready, drains, and exits with the reason, for a supervisor to restart it. A lane that panicked may
//! have left the queue in any state, so nothing here restarts it.
//!
//! A task whose state cannot be half changed is restarted by [`Vitals::keep`] or [`Restarts`], and the restart is counted. A task
//! that keeps panicking is a loss too.
//!
//! # A part that hangs
//! A part that works in steps marks them in a [`Pulse`]; [`Liveness`] says, when asked, which step is taking too long.

mod liveness;

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, poll_fn},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{clock, domain::Timestamp, telemetry::Telemetry};

pub use liveness::{Liveness, Stall};

/// A part that panics more often than this within [`RESTARTS_WINDOW`] is not restarted.
const RESTARTS_MAX: u32 = 5;
const RESTARTS_WINDOW: Duration = Duration::from_secs(60);

/// A thread or task that lasts as long as the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The lane of this index.
    Lane(usize),
    /// The timer of the queue.
    Timekeeper,
    /// The server of metrics and probes.
    Admin,
    /// The task that wakes lanes.
    Kicker,
    /// The task that keeps the health service in step.
    Health,
    /// The task that follows changes in the models' folder.
    Watcher,
    /// The task that follows changes of certificates.
    Certificates,
    /// The accept loop of the gRPC port.
    GrpcPort,
    /// The accept loop of the HTTP port.
    HttpPort,
}

impl Part {
    /// Those that are restarted after a panic.
    pub const RESTARTED: [Self; 7] =
        [Self::Admin, Self::Kicker, Self::Health, Self::Watcher, Self::Certificates, Self::GrpcPort, Self::HttpPort];

    /// Metric label, and the name of the fail point where tests make the part fail.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lane(_) => "lane",
            Self::Timekeeper => "timekeeper",
            Self::Admin => "admin",
            Self::Kicker => "kicker",
            Self::Health => "health",
            Self::Watcher => "watcher",
            Self::Certificates => "certificates",
            Self::GrpcPort => "grpc_port",
            Self::HttpPort => "http_port",
        }
    }

    /// Where a test may make the part panic; does nothing in a build without fail points.
    pub fn may_fail(self) {
        fail::fail_point!(self.label());
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lane(index) => write!(f, "lane-cpu-{index}"),
            part => f.write_str(part.label()),
        }
    }
}

/// A part that ended before the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} {how}")]
pub struct Loss {
    /// Which one.
    pub part: Part,
    /// What happened to it.
    pub how: &'static str,
}

/// The parts of one server. Clones share them.
#[derive(Debug, Clone)]
pub struct Vitals {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    telemetry: Telemetry,
    loss: OnceLock<Loss>,
    lost: CancellationToken,
    pulses: Mutex<Vec<(Part, Arc<Pulse>)>>,
}

impl Vitals {
    /// No parts yet.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        // So that all series exist before anything happens.
        for part in Part::RESTARTED {
            let _ = telemetry.part_restarts(part.label());
        }
        let inner = Inner {
            telemetry: telemetry.clone(),
            loss: OnceLock::new(),
            lost: CancellationToken::new(),
            pulses: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Watches a part that starts now.
    pub fn watch(&self, part: Part) -> Vital {
        Vital { vitals: self.clone(), part, in_order: false }
    }

    /// Watches a part that starts now and works in steps.
    pub fn watch_steps(&self, part: Part, pulse: &Arc<Pulse>) -> Vital {
        self.inner.pulses.lock().push((part, Arc::clone(pulse)));
        self.watch(part)
    }

    /// The first part that was lost.
    #[must_use]
    pub fn loss(&self) -> Option<&Loss> {
        self.inner.loss.get()
    }

    /// Waits until a part is lost.
    pub async fn lost(&self) {
        self.inner.lost.cancelled().await;
    }

    /// Runs a task, and runs it again whenever it panics, on the state it left. `None` if it panicked too often.
    pub async fn keep<S, T>(self, part: Part, mut state: S, work: impl for<'a> Fn(&'a mut S) -> BoxFuture<'a, T>) -> Option<T> {
        let mut restarts = self.restarts(part);
        loop {
            let mut working = work(&mut state);
            let working = poll_fn(|cx| {
                part.may_fail();
                working.poll_unpin(cx)
            });
            match AssertUnwindSafe(working).catch_unwind().await {
                Ok(result) => return Some(result),
                Err(_) if restarts.again(clock::now()) => {}
                Err(_) => return None,
            }
        }
    }

    /// For a task that catches its own panics.
    #[must_use]
    pub fn restarts(&self, part: Part) -> Restarts {
        Restarts { vitals: self.clone(), part, recent: 0, since: Timestamp::ZERO }
    }

    fn lose(&self, part: Part, how: &'static str) {
        let loss = self.inner.loss.get_or_init(|| Loss { part, how });
        tracing::error!(
            "{part} {how}: the server cannot go on without it; it drains, exits with 3 and should be started again (lost first: {loss})"
        );
        self.inner.lost.cancel();
    }
}

/// A part, for as long as it runs.
#[must_use = "a part is lost when this is dropped"]
pub struct Vital {
    vitals: Vitals,
    part: Part,
    in_order: bool,
}

impl Vital {
    /// The part was asked to end.
    pub fn end(mut self) {
        self.in_order = true;
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        // Its last step has ended, one way or the other.
        self.vitals.inner.pulses.lock().retain(|(part, _)| *part != self.part);
        if !self.in_order {
            self.vitals.lose(self.part, if thread::panicking() { "panicked" } else { "ended" });
        }
    }
}

/// How often a part has been restarted.
#[derive(Debug)]
pub struct Restarts {
    vitals: Vitals,
    part: Part,
    recent: u32,
    since: Timestamp,
}

impl Restarts {
    /// Notes that the part panicked, and returns whether to restart it. If not, it is lost.
    pub fn again(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) > RESTARTS_WINDOW {
            (self.since, self.recent) = (now, 0);
        }
        self.recent += 1;
        if self.recent > RESTARTS_MAX {
            self.vitals.lose(self.part, "panicked again and again");
            return false;
        }
        self.vitals.inner.telemetry.part_restarts(self.part.label()).increment(1);
        tracing::error!(part = %self.part, "a part of the server panicked and is restarted");
        true
    }
}

/// The steps of a part: since when one has been running or due. Each step costs one store.
#[derive(Debug, Default)]
pub struct Pulse {
    /// In nanoseconds; 0 while there is nothing to do.
    since: AtomicU64,
}

impl Pulse {
    /// A step begins.
    pub fn begin(&self, now: Timestamp) {
        self.since.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// There is nothing to do.
    pub fn rest(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// There is nothing to do until `due`, or ever again if that is [`Timestamp::NEVER`].
    pub fn rest_until(&self, due: Timestamp) {
        if due == Timestamp::NEVER { self.rest() } else { self.begin(due) }
    }

    /// How long the step that is running or due has taken so far.
    fn lasts(&self, now: Timestamp) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Timestamp::from_nanos(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn vitals() -> Vitals {
        Vitals::new(&Telemetry::new())
    }

    #[test]
    fn a_part_that_was_asked_to_end_is_not_a_loss() {
        let vitals = vitals();
        vitals.watch(Part::Timekeeper).end();
        assert_eq!(vitals.loss(), None);
    }

    #[tokio::test]
    async fn a_part_that_ends_unasked_is_lost_and_the_first_one_is_the_reason() {
        let vitals = vitals();
        let waiting = vitals.lost();
        drop(vitals.watch(Part::Lane(1)));
        drop(vitals.watch(Part::Timekeeper));
        waiting.await;
        assert_eq!(vitals.loss().map(ToString::to_string).as_deref(), Some("lane-cpu-1 ended"));
    }

    #[test]
    fn a_thread_that_panics_is_lost() {
        let vitals = vitals();
        let vital = vitals.watch(Part::Admin);
        let thread = thread::spawn(move || {
            let _vital = vital;
            panic!("as the test wants");
        });
        assert!(thread.join().is_err());
        assert_eq!(vitals.loss(), Some(&Loss { part: Part::Admin, how: "panicked" }));
    }

    #[tokio::test]
    async fn a_task_that_panics_goes_on_with_its_state_and_is_counted() {
        let telemetry = Telemetry::new();
        let vitals = Vitals::new(&telemetry);
        let kept = vitals.clone().keep(Part::Health, 0, |rounds: &mut u32| {
            *rounds += 1;
            let rounds = *rounds;
            async move { if rounds < 3 { panic!("as the test wants") } else { rounds } }.boxed()
        });
        assert_eq!(kept.await, Some(3));
        assert_eq!(vitals.loss(), None);
        assert!(telemetry.render().contains("tidemill_part_restarts_total{part=\"health\"} 2\n"));
    }

    #[tokio::test]
    async fn a_task_that_keeps_panicking_is_lost() {
        let (vitals, rounds) = (vitals(), Arc::<AtomicU32>::default());
        let kept = vitals.clone().keep(Part::Watcher, Arc::clone(&rounds), |rounds: &mut Arc<AtomicU32>| {
            rounds.fetch_add(1, Ordering::Relaxed);
            let ends: BoxFuture<'_, ()> = async { panic!("as the test wants") }.boxed();
            ends
        });
        assert_eq!(kept.await, None);
        assert_eq!(rounds.load(Ordering::Relaxed), RESTARTS_MAX + 1);
        assert_eq!(vitals.loss().map(|loss| loss.part), Some(Part::Watcher));
    }

    #[test]
    fn panics_that_are_far_apart_do_not_add_up() {
        let vitals = vitals();
        let mut restarts = vitals.restarts(Part::Kicker);
        for round in 1..100 {
            assert!(restarts.again(Timestamp::ZERO + 13 * round * Duration::from_secs(1)), "at most 5 within a minute");
        }
        assert_eq!(vitals.loss(), None);
    }

    #[test]
    fn a_pulse_shows_how_long_a_step_has_lasted_or_been_overdue() {
        let (pulse, second) = (Pulse::default(), Duration::from_secs(1));
        let at = |seconds: u32| Timestamp::ZERO + seconds * second;
        assert_eq!(pulse.lasts(at(9)), Duration::ZERO);
        pulse.begin(at(3));
        assert_eq!(pulse.lasts(at(9)), 6 * second);
        pulse.rest_until(at(10));
        assert_eq!(pulse.lasts(at(9)), Duration::ZERO);
        assert_eq!(pulse.lasts(at(12)), 2 * second);
        pulse.rest_until(Timestamp::NEVER);
        assert_eq!(pulse.lasts(at(12)), Duration::ZERO);
    }
}
