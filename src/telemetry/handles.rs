//! The metrics of one model, method, lane or server, looked up once and kept, so that counting needs no lookup.

use metrics::{Counter, Gauge};

use super::Histogram;
use crate::domain::{CloseReason, DropReason, FaultKind, Outcome, Priority, Verdict};

/// Why a stream or call ended, whatever the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The client sent everything it had and got all its answers.
    Finished,
    /// The client went away or cancelled.
    Cancelled,
    /// The deadline of the whole call passed.
    Expired,
    /// Nothing arrived for the idle timeout.
    Idle,
    /// The client did not read, and its stream was reset.
    Unread,
    /// The server shut down.
    Drained,
    /// The client broke the contract or a limit, and got an error saying so.
    Refused,
    /// The server was at fault.
    Failed,
}

impl StreamEnd {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 8] =
        [Self::Finished, Self::Cancelled, Self::Expired, Self::Idle, Self::Unread, Self::Drained, Self::Refused, Self::Failed];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Unread => "unread",
            Self::Drained => "drained",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// What is counted for one version of a model.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    /// Items that arrived, including refused ones.
    pub received: Counter,
    /// Seconds of each model call.
    pub compute: Histogram,
    /// Seconds from an item's arrival until its result was handed to the connection.
    pub item_time: Histogram,
    /// Items in each model call.
    pub batch_size: Histogram,
    /// The same as a fraction of the largest batch in use.
    pub batch_occupancy: Histogram,
    /// Seconds from the end of a stream until everything it held was freed.
    pub cancel_release: Histogram,
    /// Elements of padded inputs in model calls, including padding.
    pub input_elements: Counter,
    /// How many of them are padding.
    pub padding_elements: Counter,
    /// Items waiting for a lane. Set from the queue's length by whichever thread holds the queue.
    pub queued_items: Gauge,
    /// Items in running model calls.
    pub in_flight_items: Gauge,
    /// Seconds that loading and warming up took.
    pub load_seconds: Gauge,
    /// 1 if the model takes items, else 0.
    pub ready: Gauge,
    pub(super) verdicts: [Gauge; Verdict::ALL.len()],
    /// Largest batch in use, in items.
    pub batch_cap: Gauge,
    /// Engine instances rebuilt after a panic.
    pub rebuilds: Counter,
    /// Times that the model's queue contradicted itself and was repaired.
    pub queue_repairs: Counter,
    /// Items that were answered by an answer that was kept.
    pub cache_hits: Counter,
    /// Items for which none was kept.
    pub cache_misses: Counter,
    pub(super) queue_waits: [Histogram; Priority::ALL.len()],
    pub(super) outcomes: [Counter; Outcome::ALL.len()],
    pub(super) drops: [Counter; DropReason::ALL.len()],
    pub(super) batches: [Counter; CloseReason::ALL.len()],
}

impl ModelMetrics {
    /// Items that ended this way.
    pub fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[outcome as usize]
    }

    /// Items that were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// Sets the metric to what was found out about sharing calls.
    pub fn tell_batching(&self, found: Verdict) {
        for (verdict, gauge) in Verdict::ALL.into_iter().zip(&self.verdicts) {
            gauge.set(f64::from(u8::from(verdict == found)));
        }
    }

    /// Seconds from arrival to the start of the first model call, for each item of this priority.
    pub fn queue_wait(&self, priority: Priority) -> &Histogram {
        &self.queue_waits[priority as usize]
    }

    /// Batches that were closed for this reason.
    pub fn batch(&self, reason: CloseReason) -> &Counter {
        &self.batches[reason as usize]
    }
}

/// What is counted for whatever is loaded: for one model, over all its versions, or for the server's certificates.
#[derive(Debug, Clone)]
pub struct LoadMetrics {
    /// Those that were loaded.
    pub ok: Counter,
    /// Those that could not be loaded.
    pub failed: Counter,
}

/// What is counted for one method, over all protocols.
#[derive(Debug, Clone)]
pub struct MethodMetrics {
    /// Streams and calls that were opened.
    pub streams_opened: Counter,
    /// Streams and calls that are open; hold a [`GaugeGuard`] for each.
    pub streams_open: Gauge,
    /// Times that a stream stopped reading because its window was full.
    pub window_stalls: Counter,
    /// Streams that are not reading because their window is full; hold a [`GaugeGuard`] while it lasts.
    pub windows_stalled: Gauge,
    /// Streams and calls whose client takes nothing; hold a [`GaugeGuard`] for as long as that lasts.
    pub streams_unread: Gauge,
    /// Results that were given up because the client did not read.
    pub results_skipped: Counter,
    /// Payload bytes from clients.
    pub bytes_in: Counter,
    /// Payload bytes to clients.
    pub bytes_out: Counter,
    pub(super) faults: [Counter; FaultKind::ALL.len()],
    pub(super) ends: [Counter; StreamEnd::ALL.len()],
}

impl MethodMetrics {
    /// Errors of this kind sent to clients.
    pub fn fault(&self, kind: FaultKind) -> &Counter {
        &self.faults[kind as usize]
    }

    /// Streams and calls that ended this way.
    pub fn ended(&self, end: StreamEnd) -> &Counter {
        &self.ends[end as usize]
    }
}

/// What is counted for one lane.
#[derive(Debug, Clone)]
pub struct LaneMetrics {
    /// Seconds spent on each batch. The sum is the busy time and the count is the number of calls, so neither needs a counter.
    pub busy: Histogram,
}

/// gRPC calls, by what they may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// One request, one response.
    Unary,
    /// A stream that runs models.
    Stream,
    /// A client that follows health.
    Watch,
    /// Questions about the server's methods.
    Reflection,
}

impl CallKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Unary, Self::Stream, Self::Watch, Self::Reflection];
    /// Those that cost only memory, and so may stay open for as long as their clients like.
    pub const WATCHES: [Self; 2] = [Self::Watch, Self::Reflection];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Stream => "stream",
            Self::Watch => "watch",
            Self::Reflection => "reflection",
        }
    }

    /// Whether it is one of [`CallKind::WATCHES`].
    #[must_use]
    pub const fn is_watch(self) -> bool {
        matches!(self, Self::Watch | Self::Reflection)
    }
}

/// What is counted for the server as a whole.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    /// Connections that clients made.
    pub connections: Counter,
    /// Connections that are open; hold a [`GaugeGuard`] for each.
    pub connections_open: Gauge,
    /// Those of them that are WebSockets; hold a [`GaugeGuard`] for each.
    pub websockets_open: Gauge,
    /// Memory the process may use.
    pub memory_limit: Gauge,
    /// Calls that were refused because memory was short.
    pub memory_refusals: Counter,
    /// Log lines that were lost. Set from the process's own count.
    pub log_lines_lost: Counter,
    /// Open gRPC calls, by [`CallKind`].
    pub calls_open: [Gauge; CallKind::ALL.len()],
    /// Bytes arriving, and bytes of answers not yet taken.
    pub transfer_bytes: Gauge,
    /// Bytes of answers that are kept.
    pub cache_bytes: Gauge,
    /// Answers that were given up for room.
    pub cache_evictions: Counter,
    pub(super) closed: [Counter; ConnectionClose::ALL.len()],
}

impl ServerMetrics {
    /// Connections that the server closed for this reason.
    pub fn closed(&self, reason: ConnectionClose) -> &Counter {
        &self.closed[reason as usize]
    }
}

/// Why the server closed a connection before its client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionClose {
    /// It had no call for too long.
    Idle,
    /// Another one needed its place.
    Room,
    /// Its address had used up its share.
    Share,
    /// It was old.
    Age,
    /// Its address had as many as it may have.
    Peer,
    /// Its address made new ones too fast.
    Rate,
    /// It came from a proxy, and did not begin as it should.
    Header,
}

impl ConnectionClose {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] = [Self::Idle, Self::Room, Self::Share, Self::Age, Self::Peer, Self::Rate, Self::Header];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Room => "room",
            Self::Share => "share",
            Self::Age => "age",
            Self::Peer => "peer",
            Self::Rate => "rate",
            Self::Header => "header",
        }
    }
}

/// What is counted for encrypted connections.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    pub(super) handshakes: [Counter; HandshakeEnd::ALL.len()],
    /// Handshakes that have begun or wait; hold a [`GaugeGuard`] for each.
    pub handshakes_open: Gauge,
    /// Times that certificates were read again.
    pub reloads: LoadMetrics,
    /// Seconds until the first certificate expires.
    pub expires_in: Gauge,
}

impl TlsMetrics {
    /// Handshakes that ended this way.
    pub fn handshakes(&self, end: HandshakeEnd) -> &Counter {
        &self.handshakes[end as usize]
    }
}

/// What is counted for one tenant.
#[derive(Debug, Clone)]
pub struct TenantMetrics {
    /// Items that were let in.
    pub items: Counter,
    /// Streams and calls that are open; hold a [`GaugeGuard`] for each.
    pub streams_open: Gauge,
    pub(super) refused: [Counter; Quota::ALL.len()],
}

impl TenantMetrics {
    /// What was refused because of this quota.
    pub fn refused(&self, quota: Quota) -> &Counter {
        &self.refused[quota as usize]
    }
}

/// What a key or a tenant has a quota of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Streams and calls open at once.
    Streams,
    /// Connections in use at once.
    Connections,
    /// Items a second.
    ItemsPerS,
    /// Input bytes a second.
    BytesPerS,
    /// The highest priority.
    PriorityMax,
}

impl Quota {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Streams, Self::Connections, Self::ItemsPerS, Self::BytesPerS, Self::PriorityMax];

    /// Metric label: its key in the keys file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Connections => "connections",
            Self::ItemsPerS => "items_per_s",
            Self::BytesPerS => "bytes_per_s",
            Self::PriorityMax => "priority_max",
        }
    }

    /// The same as the name of a limit.
    #[must_use]
    pub const fn limit_name(self) -> &'static str {
        match self {
            Self::Streams => "quota.streams",
            Self::Connections => "quota.connections",
            Self::ItemsPerS => "quota.items_per_s",
            Self::BytesPerS => "quota.bytes_per_s",
            Self::PriorityMax => "quota.priority_max",
        }
    }
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeEnd {
    /// The connection is encrypted.
    Done,
    /// The two did not agree, or the client broke off.
    Failed,
    /// It took too long.
    Late,
    /// There were too many.
    Refused,
    /// Its connection had to end, or its port.
    Left,
}

impl HandshakeEnd {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Late, Self::Refused, Self::Left];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Left => "left",
        }
    }
}

/// Adds one to a gauge for as long as it lives: the only place that pairs an increment with a decrement.
#[derive(Debug)]
#[must_use = "the gauge goes down again when the guard is dropped"]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Adds one to `gauge`.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_tables() {
        for (index, end) in StreamEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, index);
        }
        for (index, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
        for (index, kind) in CallKind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, kind.is_watch()), (index, CallKind::WATCHES.contains(&kind)));
        }
        for (index, reason) in ConnectionClose::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, end) in HandshakeEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, index);
        }
        for (index, quota) in Quota::ALL.into_iter().enumerate() {
            assert_eq!(quota as usize, index);
            assert_eq!(quota.limit_name().strip_prefix("quota."), Some(quota.label()));
        }
    }
}
