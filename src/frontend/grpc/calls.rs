//! All open calls, and how many there may be.
//!
//! Streams and calls that run models are counted by the service as well. This counts from the headers on, whatever the method, and
//! whether or not anything else ever comes. Both limits are shared out as [`crate::shares`] says.

use std::sync::Arc;

use crate::{
    config::GrpcConfig,
    domain::{Fault, Peer},
    shares::{Full, Member, Path, Pool},
    telemetry::{CallKind, Gauge, ServerMetrics},
};

/// The calls of one server.
#[derive(Debug)]
pub(super) struct Calls {
    all: Pool,
    watches: Pool,
    gauges: [Gauge; CallKind::ALL.len()],
}

/// The calls of one connection. Clones are the same connection's.
#[derive(Debug, Clone)]
pub(super) struct ConnectionCalls {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    all: Member,
    watches: Member,
    gauges: [Gauge; CallKind::ALL.len()],
}

impl Calls {
    pub(super) fn new(config: &GrpcConfig, metrics: &ServerMetrics) -> Self {
        let (all, watches) = (Pool::new("grpc.max_calls", config.max_calls), Pool::new("grpc.max_watches", config.max_watches));
        Self { all, watches, gauges: metrics.calls_open.clone() }
    }

    pub(super) fn connection(&self, peer: Peer) -> ConnectionCalls {
        let path = Path::of(peer, 0);
        let inner = Inner { all: self.all.member(&path), watches: self.watches.member(&path), gauges: self.gauges.clone() };
        ConnectionCalls { inner: Arc::new(inner) }
    }
}

impl ConnectionCalls {
    /// Counts one more call for as long as the guard lives.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`](crate::domain::FaultKind::Overloaded) if as many are open as `grpc.max_calls` or `grpc.max_watches` allow,
    /// or the connection's share of them.
    pub(super) fn begin(&self, kind: CallKind) -> Result<CallGuard, Fault> {
        let Inner { all, watches, gauges } = &*self.inner;
        let full = |what| move |full: Full| full.fault(what);
        all.take(1).map_err(full("calls are open"))?;
        if kind.is_watch() {
            let taken = watches.take(1).map_err(full("streams of health and reflection are open"));
            taken.inspect_err(|_| all.give_back(1))?;
        }
        gauges[kind as usize].increment(1.0);
        Ok(CallGuard { connection: Arc::clone(&self.inner), kind })
    }
}

/// One call that is open.
#[derive(Debug)]
pub(super) struct CallGuard {
    connection: Arc<Inner>,
    kind: CallKind,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let Inner { all, watches, gauges } = &*self.connection;
        all.give_back(1);
        if self.kind.is_watch() {
            watches.give_back(1);
        }
        gauges[self.kind as usize].decrement(1.0);
    }
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
        let all = calls(4, 2);
        let calls = all.connection(Peer::default());
        let watches = [CallKind::Watch, CallKind::Reflection].map(|kind| calls.begin(kind).expect("room"));
        for kind in CallKind::WATCHES {
            assert_eq!(limit(calls.begin(kind)), Some("grpc.max_watches"));
        }
        let others = [CallKind::Unary, CallKind::Stream].map(|kind| calls.begin(kind).expect("room"));
        assert_eq!(limit(calls.begin(CallKind::Unary)), Some("grpc.max_calls"));
        drop(watches);
        assert_eq!(limit(calls.begin(CallKind::Watch)), None);
        drop(others);
        assert_eq!((all.all.held(), all.watches.held()), (0, 0));
    }
}
