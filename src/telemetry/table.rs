//! Every metric there is: name, kind, unit, help, labels, buckets. Nothing else in the server names one.
//!
//! Labels are bounded: models and versions come from the registry, tenants from the settings, all other values from closed sets. Never
//! a stream, a peer or anything else that a client chooses.

use std::fmt::Write as _;

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples, counted in buckets.
    Histogram,
}

impl Kind {
    /// The name in the exposition format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Name, with the base unit where it has one.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// The unit its value counts.
    pub unit: &'static str,
    /// What it shows, in one sentence.
    pub help: &'static str,
    /// Names of its labels, in the order their values are given.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets, ascending; empty otherwise.
    pub buckets: &'static [f64],
}

const MODEL: &[&str] = &["model", "version"];
const MODEL_OUTCOME: &[&str] = &["model", "version", "outcome"];
const LOAD_OUTCOME: &[&str] = &["model", "outcome"];
const MODEL_REASON: &[&str] = &["model", "version", "reason"];
const MODEL_PRIORITY: &[&str] = &["model", "version", "priority"];
const MODEL_VERDICT: &[&str] = &["model", "version", "verdict"];
const METHOD: &[&str] = &["method"];
const REASON: &[&str] = &["reason"];
const METHOD_REASON: &[&str] = &["method", "reason"];

/// From below the cost of a hand-off to far above the deadline of any live feed.
const SECONDS: &[f64] = &[
    50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0,
];
const OCCUPANCIES: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const fn counter(name: &'static str, unit: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help, labels, buckets: &[] }
}

const fn gauge(name: &'static str, unit: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help, labels, buckets: &[] }
}

const fn seconds(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit: "seconds", help, labels, buckets: SECONDS }
}

pub(super) static ITEMS_RECEIVED: Metric =
    counter("tidemill_items_received_total", "items", MODEL, "Items that arrived for the model, including refused ones.");
pub(super) static ITEMS_ENDED: Metric = counter(
    "tidemill_items_ended_total",
    "items",
    MODEL_OUTCOME,
    "Items by how each ended; the sum over outcomes is everything received that is no longer in the server.",
);
pub(super) static ITEMS_QUEUED: Metric = gauge("tidemill_items_queued", "items", MODEL, "Items waiting for a lane.");
pub(super) static ITEMS_IN_FLIGHT: Metric = gauge("tidemill_items_in_flight", "items", MODEL, "Items in running model calls.");
pub(super) static ITEMS_DROPPED: Metric = counter(
    "tidemill_items_dropped_total",
    "items",
    MODEL_REASON,
    "Items that were given up in favour of others of their stream, by reason; their sum is the outcome `dropped`.",
);
pub(super) static ITEM_QUEUE: Metric = seconds(
    "tidemill_item_queue_seconds",
    MODEL_PRIORITY,
    "Time from an item's arrival to the start of its first model call, by the priority of its stream.",
);
pub(super) static CANCEL_RELEASE: Metric = seconds(
    "tidemill_cancel_release_seconds",
    MODEL,
    "Time from the end of a stream until its queued items, its window and its state were freed.",
);
pub(super) static ITEM_TIME: Metric =
    seconds("tidemill_item_seconds", MODEL, "Time from an item's arrival until its result was handed to the connection.");
pub(super) static MODEL_CALL: Metric =
    seconds("tidemill_model_call_seconds", MODEL, "Time of one model call, whatever its batch.");
pub(super) static BATCH_SIZE: Metric = Metric {
    name: "tidemill_batch_size",
    kind: Kind::Histogram,
    unit: "items",
    help: "Items in one model call.",
    labels: MODEL,
    buckets: BATCH_SIZES,
};
pub(super) static BATCH_OCCUPANCY: Metric = Metric {
    name: "tidemill_batch_occupancy_ratio",
    kind: Kind::Histogram,
    unit: "share",
    help: "Items in one model call as a share of the largest batch in use.",
    labels: MODEL,
    buckets: OCCUPANCIES,
};
pub(super) static MODEL_COST: Metric = gauge(
    "tidemill_model_cost_seconds",
    "seconds",
    &["model", "version", "batch_size"],
    "Running estimate of the time of a model call at a batch size, on one lane of a busy machine.",
);
pub(super) static BATCHES: Metric =
    counter("tidemill_batches_total", "calls", MODEL_REASON, "Model calls by the reason the batch was closed at its size.");
pub(super) static INPUT_ELEMENTS: Metric =
    counter("tidemill_input_elements_total", "elements", MODEL, "Elements of padded inputs in model calls, including padding.");
pub(super) static PADDING_ELEMENTS: Metric =
    counter("tidemill_padding_elements_total", "elements", MODEL, "Elements of padded inputs in model calls that are padding.");
pub(super) static BATCH_CAP: Metric = gauge(
    "tidemill_model_batch_cap",
    "items",
    MODEL,
    "Largest batch in use: learned from the model's cost, or set lower by hand.",
);
pub(super) static MODEL_READY: Metric = gauge("tidemill_model_ready", "1 or 0", MODEL, "Whether the model takes items.");
pub(super) static MODEL_LOAD: Metric =
    gauge("tidemill_model_load_seconds", "seconds", MODEL, "Time that loading and warming up the model took.");
pub(super) static MODEL_BATCHING: Metric = gauge(
    "tidemill_model_batching",
    "1 or 0",
    MODEL_VERDICT,
    "What trial calls found out about sharing calls between the model's items: 1 for that verdict, 0 for all others.",
);
pub(super) static MODEL_LOADS: Metric = counter(
    "tidemill_model_loads_total",
    "loads",
    LOAD_OUTCOME,
    "Attempts to load a version of the model, at the start or since, by outcome: `ok` or `failed`.",
);
pub(super) static MODEL_REBUILDS: Metric =
    counter("tidemill_model_rebuilds_total", "instances", MODEL, "Engine instances rebuilt because a model call panicked.");
pub(super) static QUEUE_REPAIRS: Metric = counter(
    "tidemill_queue_repairs_total",
    "times",
    MODEL,
    "Times that the model's queue contradicted itself and was repaired; above 0, please report it as a bug in the server.",
);
pub(super) static CACHE_HITS: Metric = counter(
    "tidemill_cache_hits_total",
    "items",
    MODEL,
    "Items that were answered from the cache. They are neither received nor ended: no queue has seen them.",
);
pub(super) static CACHE_MISSES: Metric = counter(
    "tidemill_cache_misses_total",
    "items",
    MODEL,
    "Items of requests that were looked up in the cache and not found; they are received like all others.",
);

pub(super) static LANE_BUSY: Metric = seconds(
    "tidemill_lane_busy_seconds",
    &["lane"],
    "Time that a lane spent on one batch; the rate of its sum is the fraction of time for which the lane is busy. Long lanes are `long-0` and so on.",
);

pub(super) static STREAMS_OPENED: Metric =
    counter("tidemill_streams_opened_total", "streams", METHOD, "Streams and calls that clients opened.");
pub(super) static STREAMS_OPEN: Metric = gauge("tidemill_streams_open", "streams", METHOD, "Streams and calls that are open.");
pub(super) static STREAMS_ENDED: Metric =
    counter("tidemill_streams_ended_total", "streams", METHOD_REASON, "Streams and calls by the reason they ended.");
pub(super) static WINDOW_STALLS: Metric = counter(
    "tidemill_stream_stalls_total",
    "times",
    METHOD,
    "Times that a stream stopped reading from its client because its window was full.",
);
pub(super) static STREAMS_STALLED: Metric =
    gauge("tidemill_streams_stalled", "streams", METHOD, "Streams that are not reading because their window is full.");
pub(super) static STREAMS_UNREAD: Metric = gauge(
    "tidemill_streams_unread",
    "streams",
    METHOD,
    "Streams and calls whose client does not take what waits to be sent to it, over HTTP/1.1 as well.",
);
pub(super) static RESULTS_SKIPPED: Metric = counter(
    "tidemill_results_skipped_total",
    "results",
    METHOD,
    "Results that were given up because the client did not read, as its stream's unread policy asks.",
);
pub(super) static RECEIVED_BYTES: Metric =
    counter("tidemill_received_bytes_total", "bytes", METHOD, "Payload that arrived from clients, without framing.");
pub(super) static SENT_BYTES: Metric =
    counter("tidemill_sent_bytes_total", "bytes", METHOD, "Payload that was sent to clients, without framing.");
pub(super) static FAULTS: Metric = counter(
    "tidemill_faults_total",
    "errors",
    METHOD_REASON,
    "Errors that clients were sent, for an item or for a whole stream, by kind.",
);

pub(super) static CONNECTIONS: Metric =
    counter("tidemill_connections_total", "connections", &[], "Connections that clients made.");
pub(super) static CONNECTIONS_OPEN: Metric = gauge("tidemill_connections_open", "connections", &[], "Connections that are open.");
pub(super) static WEBSOCKETS_OPEN: Metric =
    gauge("tidemill_websockets_open", "sockets", &[], "Connections of the HTTP port that have become WebSockets, and are open.");
pub(super) static PART_RESTARTS: Metric = counter(
    "tidemill_part_restarts_total",
    "restarts",
    &["part"],
    "Times that a long-lived task of the server panicked and was restarted; each is a bug in the server.",
);
pub(super) static LOG_LINES_LOST: Metric = counter(
    "tidemill_log_lines_lost_total",
    "lines",
    &[],
    "Log lines that could not be written, or found no room among those waiting to be written.",
);
pub(super) static MEMORY_LIMIT: Metric = gauge(
    "tidemill_memory_limit_bytes",
    "bytes",
    &[],
    "Memory that the process may use, by `memory.limit_bytes` or the system's own limit; 0 if unlimited.",
);
pub(super) static MEMORY_REFUSALS: Metric = counter(
    "tidemill_memory_refusals_total",
    "calls",
    &[],
    "Streams and large calls that were refused because memory was short.",
);
pub(super) static CALLS_OPEN: Metric = gauge(
    "tidemill_calls_open",
    "calls",
    &["kind"],
    "gRPC calls that are open, counted from their headers on, whether or not anything else has arrived.",
);
pub(super) static TRANSFER_BYTES: Metric = gauge(
    "tidemill_transfer_bytes",
    "bytes",
    &[],
    "Bytes of arriving messages and bodies, and of large answers that clients have yet to take.",
);
pub(super) static CACHE_BYTES: Metric =
    gauge("tidemill_cache_bytes", "bytes", &[], "Answers that are kept, with what it takes to find them; at most `cache.bytes`.");
pub(super) static CACHE_EVICTIONS: Metric = counter(
    "tidemill_cache_evictions_total",
    "answers",
    &[],
    "Answers that were given up to make room for others, or because memory was short.",
);
pub(super) static CONNECTIONS_CLOSED: Metric = counter(
    "tidemill_connections_closed_total",
    "connections",
    REASON,
    "Connections that the server closed: without a call for `grpc.idle_timeout_s` (`idle`), to make room for another (`room`), because their address had used up its share (`share`), had `server.max_connections_per_peer` (`peer`) or made more than `server.new_connections_per_peer_per_s` (`rate`), at `server.connection_max_age_s` (`age`), or because a proxy did not begin them with the header of `server.proxy_protocol` (`header`).",
);
pub(super) static TLS_HANDSHAKES: Metric = counter(
    "tidemill_tls_handshakes_total",
    "handshakes",
    &["outcome"],
    "Handshakes of TLS by how they ended: `ok`, `failed`, `late` (`tls.handshake_timeout_s`), `refused` (`tls.max_handshakes`), or `left` (the client or the port went away).",
);
pub(super) static TLS_HANDSHAKES_OPEN: Metric =
    gauge("tidemill_tls_handshakes_open", "handshakes", &[], "Handshakes of TLS that have begun, or wait for their turn.");
pub(super) static TLS_RELOADS: Metric = counter(
    "tidemill_tls_reloads_total",
    "reloads",
    &["outcome"],
    "Times that certificates were read again because a file had changed, or on SIGHUP, by outcome: `ok` or `failed`; after `failed`, the previous ones stay.",
);
pub(super) static TLS_EXPIRY: Metric = gauge(
    "tidemill_tls_certificate_expires_in_seconds",
    "seconds",
    &[],
    "Seconds until the first of the server's certificates expires, 86,400 of them to a day; negative once it has, 0 without TLS.",
);
pub(super) static TENANT_ITEMS: Metric = counter(
    "tidemill_tenant_items_total",
    "items",
    &["tenant"],
    "Items of a tenant that were let in; for the tenants in `metrics.tenants`.",
);
pub(super) static TENANT_REFUSED: Metric = counter(
    "tidemill_tenant_refused_total",
    "refusals",
    &["tenant", "quota"],
    "Calls and items of a tenant that were refused because a quota of its own or of its key was used up: `streams`, `connections`, `items_per_s`, `bytes_per_s` or `priority_max`.",
);
pub(super) static TENANT_STREAMS_OPEN: Metric =
    gauge("tidemill_tenant_streams_open", "streams", &["tenant"], "Streams and calls of a tenant that are open.");
pub(super) static BUILD_INFO: Metric =
    gauge("tidemill_build_info", "always 1", &["version", "rustc"], "The server's version and the compiler that built it.");

pub(super) static PROCESS_CPU: Metric =
    counter("process_cpu_seconds_total", "seconds", &[], "User and system CPU time of the process.");
pub(super) static PROCESS_OPEN_FDS: Metric = gauge("process_open_fds", "descriptors", &[], "File descriptors that are open.");
pub(super) static PROCESS_MAX_FDS: Metric =
    gauge("process_max_fds", "descriptors", &[], "Most file descriptors that may be open; 0 if unlimited.");
pub(super) static PROCESS_RESIDENT: Metric = gauge("process_resident_memory_bytes", "bytes", &[], "Resident memory.");
pub(super) static PROCESS_VIRTUAL: Metric = gauge("process_virtual_memory_bytes", "bytes", &[], "Virtual memory.");
pub(super) static PROCESS_THREADS: Metric = gauge("process_threads", "threads", &[], "OS threads.");
pub(super) static PROCESS_START: Metric =
    gauge("process_start_time_seconds", "seconds", &[], "When the process started, since the Unix epoch.");

/// All of them, in the order docs/metrics.md lists them.
pub static METRICS: &[&Metric] = &[
    &ITEMS_RECEIVED,
    &ITEMS_ENDED,
    &ITEMS_DROPPED,
    &ITEMS_QUEUED,
    &ITEMS_IN_FLIGHT,
    &ITEM_QUEUE,
    &ITEM_TIME,
    &CANCEL_RELEASE,
    &MODEL_CALL,
    &BATCH_SIZE,
    &BATCH_OCCUPANCY,
    &BATCHES,
    &INPUT_ELEMENTS,
    &PADDING_ELEMENTS,
    &BATCH_CAP,
    &MODEL_COST,
    &MODEL_READY,
    &MODEL_LOAD,
    &MODEL_BATCHING,
    &MODEL_LOADS,
    &MODEL_REBUILDS,
    &QUEUE_REPAIRS,
    &CACHE_HITS,
    &CACHE_MISSES,
    &LANE_BUSY,
    &STREAMS_OPENED,
    &STREAMS_OPEN,
    &STREAMS_ENDED,
    &WINDOW_STALLS,
    &STREAMS_STALLED,
    &STREAMS_UNREAD,
    &RESULTS_SKIPPED,
    &RECEIVED_BYTES,
    &SENT_BYTES,
    &FAULTS,
    &CONNECTIONS,
    &CONNECTIONS_OPEN,
    &WEBSOCKETS_OPEN,
    &MEMORY_LIMIT,
    &MEMORY_REFUSALS,
    &LOG_LINES_LOST,
    &PART_RESTARTS,
    &CALLS_OPEN,
    &TRANSFER_BYTES,
    &CACHE_BYTES,
    &CACHE_EVICTIONS,
    &CONNECTIONS_CLOSED,
    &TLS_HANDSHAKES,
    &TLS_HANDSHAKES_OPEN,
    &TLS_RELOADS,
    &TLS_EXPIRY,
    &TENANT_ITEMS,
    &TENANT_REFUSED,
    &TENANT_STREAMS_OPEN,
    &BUILD_INFO,
    &PROCESS_CPU,
    &PROCESS_OPEN_FDS,
    &PROCESS_MAX_FDS,
    &PROCESS_RESIDENT,
    &PROCESS_VIRTUAL,
    &PROCESS_THREADS,
    &PROCESS_START,
];

/// The table of docs/metrics.md, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| name | kind | unit | labels | what it shows |\n|---|---|---|---|---|\n");
    for metric in METRICS {
        let Metric { name, unit, help, .. } = metric;
        let kind = metric.kind.label();
        let labels = metric.labels.join(", ");
        // Writing to a string cannot fail.
        let _ = write!(text, "| `{name}` | {kind} | {unit} | {labels} | {help}");
        if let [first, .., last] = metric.buckets {
            let _ = write!(text, " {} buckets from {first} to {last}.", metric.buckets.len());
        }
        text.push_str(" |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_whose_they_are() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert!(names.iter().all(|name| name.starts_with("tidemill_") || name.starts_with("process_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn names_end_with_their_base_unit_and_counters_with_total() {
        for metric in METRICS {
            let stem = metric.name.strip_suffix("_total");
            assert_eq!(stem.is_some(), metric.kind == Kind::Counter, "{}", metric.name);
            for unit in ["seconds", "bytes"] {
                assert_eq!(stem.unwrap_or(metric.name).ends_with(&format!("_{unit}")), metric.unit == unit, "{}", metric.name);
            }
        }
    }

    #[test]
    fn histograms_alone_have_buckets_and_they_rise() {
        for metric in METRICS {
            assert_eq!(!metric.buckets.is_empty(), metric.kind == Kind::Histogram, "{}", metric.name);
            assert!(metric.buckets.is_sorted_by(|below, above| below < above), "{}", metric.name);
        }
    }

    #[test]
    fn labels_are_of_the_few_that_are_bounded() {
        const BOUNDED: [&str; 14] = [
            "model",
            "version",
            "method",
            "reason",
            "outcome",
            "priority",
            "batch_size",
            "lane",
            "part",
            "rustc",
            "verdict",
            "kind",
            "tenant",
            "quota",
        ];
        assert!(METRICS.iter().flat_map(|metric| metric.labels).all(|label| BOUNDED.contains(label)));
    }
}
