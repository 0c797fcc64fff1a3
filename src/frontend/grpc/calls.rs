//! The calls that are open, all of them, and how many there may be.
//!
//! Streams and calls that run models are counted by the service as well. This counts from the headers on, whatever the method, and
//! whether or not anything else ever comes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    config::GrpcConfig,
    domain::{Fault, FaultKind},
    telemetry::{CallKind, Gauge, ServerMetrics},
};

/// The calls of one server. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: [AtomicUsize; CallKind::ALL.len()],
    calls_max: usize,
    watches_max: usize,
    gauges: [Gauge; CallKind::ALL.len()],
}

impl Calls {
    pub(super) fn new(config: &GrpcConfig, metrics: &ServerMetrics) -> Self {
        let open = CallKind::ALL.map(|_| AtomicUsize::new(0));
        let shared =
            Shared { open, calls_max: config.max_calls, watches_max: config.max_watches, gauges: metrics.calls_open.clone() };
        Self { shared: Arc::new(shared) }
    }

    /// Counts one more, for as long as the guard lives.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if as many are open as `grpc.max_calls` or `grpc.max_watches` allow.
    pub(super) fn begin(&self, kind: CallKind) -> Result<CallGuard, Fault> {
        let guard = CallGuard::new(Arc::clone(&self.shared), kind);
        let Shared { calls_max, watches_max, .. } = &*self.shared;
        if self.sum(&CallKind::ALL) > *calls_max {
            return Err(full("calls", "grpc.max_calls", *calls_max));
        }
        if kind.is_watch() && self.sum(&CallKind::WATCHES) > *watches_max {
            return Err(full("streams of health and reflection", "grpc.max_watches", *watches_max));
        }
        Ok(guard)
    }

    fn sum(&self, kinds: &[CallKind]) -> usize {
        kinds.iter().map(|kind| self.shared.open[*kind as usize].load(Ordering::Relaxed)).sum()
    }
}

/// One call that is open.
#[derive(Debug)]
pub(super) struct CallGuard {
    shared: Arc<Shared>,
    kind: CallKind,
}

impl CallGuard {
    fn new(shared: Arc<Shared>, kind: CallKind) -> Self {
        shared.open[kind as usize].fetch_add(1, Ordering::Relaxed);
        shared.gauges[kind as usize].increment(1.0);
        Self { shared, kind }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.shared.open[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
        self.shared.gauges[self.kind as usize].decrement(1.0);
    }
}

fn full(what: &str, key: &'static str, limit: usize) -> Fault {
    let message = format!("{limit} {what} are open, as many as {key} allows; end some, or come back later");
    Fault::new(FaultKind::Overloaded, message).with_limit(key, limit as u64).with_retry_after(std::time::Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    fn calls(max_calls: usize, max_watches: usize) -> Calls {
        let config = GrpcConfig { max_calls, max_watches, ..GrpcConfig::default() };
        Calls::new(&config, &Telemetry::off().server())
    }

    fn limit(found: Result<CallGuard, Fault>) -> Option<&'static str> {
        Some(found.err()?.limit().expect("a limit").name)
    }

    #[test]
    fn all_calls_have_one_limit_and_watches_one_of_their_own() {
        let calls = calls(4, 2);
        let watches = [CallKind::Watch, CallKind::Reflection].map(|kind| calls.begin(kind).expect("room"));
        for kind in CallKind::WATCHES {
            assert_eq!(limit(calls.begin(kind)), Some("grpc.max_watches"));
        }
        let others = [CallKind::Unary, CallKind::Stream].map(|kind| calls.begin(kind).expect("room"));
        assert_eq!(limit(calls.begin(CallKind::Unary)), Some("grpc.max_calls"));
        drop(watches);
        assert_eq!(limit(calls.begin(CallKind::Watch)), None);
        drop(others);
        assert_eq!(calls.sum(&CallKind::ALL), 0);
    }
}
