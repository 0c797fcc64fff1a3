//! Metrics: one table that lists them ([`METRICS`]), handles to count with, and the text that Prometheus scrapes.
//!
//! A leaf: it imports the domain's closed sets for their labels, and none of the parts it measures. There is no global recorder;
//! servers in one process share nothing, except what the operating system says about the process.
//!
//! Metrics may be switched off altogether ([`Telemetry::off`]): the handles then exist but count nothing, so that no caller has
//! to check.

mod handles;
mod histogram;
mod process;
mod seldom;
mod table;

use std::sync::Arc;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::domain::{CloseReason, DropReason, FaultKind, Outcome, Priority, Verdict};
use histogram::Histograms;

pub use handles::{
    CallKind, ConnectionClose, GaugeGuard, HandshakeEnd, LaneMetrics, LoadMetrics, MethodMetrics, ModelMetrics, Quota,
    ServerMetrics, StreamEnd, TenantMetrics, TlsMetrics,
};
pub use histogram::Histogram;
pub use metrics::{Counter, Gauge};
pub use seldom::Seldom;
pub use table::{Kind, METRICS, Metric, markdown};

/// One server's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Telemetry {
    registrar: Arc<Registrar>,
}

impl Telemetry {
    /// Metrics in which nothing has been counted yet.
    #[must_use]
    pub fn new() -> Self {
        let registrar = Registrar::new();
        registrar.gauge(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), env!("TIDEMILL_RUSTC")]).set(1.0);
        Self { registrar: Arc::new(registrar) }
    }

    /// Metrics that count nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { registrar: Arc::new(Registrar { prometheus: None }) }
    }

    /// Whether anything is counted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.registrar.prometheus.is_some()
    }

    /// The state of all metrics in the Prometheus text format, version 0.0.4; empty if they are off.
    #[must_use]
    pub fn render(&self) -> String {
        let Some(prometheus) = &self.registrar.prometheus else { return String::new() };
        let cpu_seconds = process::collect(&self.registrar);
        let mut text = prometheus.handle.render();
        prometheus.histograms.write(&mut text);
        text + &cpu_seconds
    }

    /// The metrics of one version of a model. Both names are the registry's, never a client's: each pair is a permanent series.
    #[must_use]
    pub fn model(&self, name: &str, version: &str) -> ModelMetrics {
        let registrar = &*self.registrar;
        let labels = [name, version];
        ModelMetrics {
            received: registrar.counter(&table::ITEMS_RECEIVED, &labels),
            compute: registrar.histogram(&table::MODEL_CALL, &labels),
            item_time: registrar.histogram(&table::ITEM_TIME, &labels),
            batch_size: registrar.histogram(&table::BATCH_SIZE, &labels),
            batch_occupancy: registrar.histogram(&table::BATCH_OCCUPANCY, &labels),
            cancel_release: registrar.histogram(&table::CANCEL_RELEASE, &labels),
            input_elements: registrar.counter(&table::INPUT_ELEMENTS, &labels),
            padding_elements: registrar.counter(&table::PADDING_ELEMENTS, &labels),
            queued_items: registrar.gauge(&table::ITEMS_QUEUED, &labels),
            in_flight_items: registrar.gauge(&table::ITEMS_IN_FLIGHT, &labels),
            load_seconds: registrar.gauge(&table::MODEL_LOAD, &labels),
            ready: registrar.gauge(&table::MODEL_READY, &labels),
            verdicts: Verdict::ALL.map(|verdict| registrar.gauge(&table::MODEL_BATCHING, &[name, version, verdict.label()])),
            batch_cap: registrar.gauge(&table::BATCH_CAP, &labels),
            rebuilds: registrar.counter(&table::MODEL_REBUILDS, &labels),
            queue_repairs: registrar.counter(&table::QUEUE_REPAIRS, &labels),
            cache_hits: registrar.counter(&table::CACHE_HITS, &labels),
            cache_misses: registrar.counter(&table::CACHE_MISSES, &labels),
            queue_waits: Priority::ALL
                .map(|priority| registrar.histogram(&table::ITEM_QUEUE, &[name, version, priority.label()])),
            outcomes: Outcome::ALL.map(|outcome| registrar.counter(&table::ITEMS_ENDED, &[name, version, outcome.label()])),
            drops: DropReason::ALL.map(|reason| registrar.counter(&table::ITEMS_DROPPED, &[name, version, reason.label()])),
            batches: CloseReason::ALL.map(|reason| registrar.counter(&table::BATCHES, &[name, version, reason.label()])),
        }
    }

    /// How loading the versions of a model went. The name is the registry's, never a client's.
    #[must_use]
    pub fn model_loads(&self, name: &str) -> LoadMetrics {
        let counter = |outcome| self.registrar.counter(&table::MODEL_LOADS, &[name, outcome]);
        LoadMetrics { ok: counter("ok"), failed: counter("failed") }
    }

    /// The learned cost of a model's calls at batch sizes 1, 2, 4, …, `sizes` of them.
    #[must_use]
    pub fn model_costs(&self, name: &str, version: &str, sizes: usize) -> Vec<Gauge> {
        let gauge = |power: usize| {
            let batch_size = (1_usize << power).to_string();
            self.registrar.gauge(&table::MODEL_COST, &[name, version, &batch_size])
        };
        (0..sizes).map(gauge).collect()
    }

    /// The metrics of one method, by its label. Labels are constants of front ends, never a client's words: each is a permanent
    /// series.
    #[must_use]
    pub fn method(&self, method: &'static str) -> MethodMetrics {
        let registrar = &*self.registrar;
        MethodMetrics {
            streams_opened: registrar.counter(&table::STREAMS_OPENED, &[method]),
            streams_open: registrar.gauge(&table::STREAMS_OPEN, &[method]),
            window_stalls: registrar.counter(&table::WINDOW_STALLS, &[method]),
            windows_stalled: registrar.gauge(&table::STREAMS_STALLED, &[method]),
            streams_unread: registrar.gauge(&table::STREAMS_UNREAD, &[method]),
            results_skipped: registrar.counter(&table::RESULTS_SKIPPED, &[method]),
            bytes_in: registrar.counter(&table::RECEIVED_BYTES, &[method]),
            bytes_out: registrar.counter(&table::SENT_BYTES, &[method]),
            faults: FaultKind::ALL.map(|kind| registrar.counter(&table::FAULTS, &[method, kind.label()])),
            ends: StreamEnd::ALL.map(|end| registrar.counter(&table::STREAMS_ENDED, &[method, end.label()])),
        }
    }

    /// The metrics of one lane, by its index.
    #[must_use]
    pub fn lane(&self, lane: usize) -> LaneMetrics {
        self.lane_named(&lane.to_string())
    }

    /// The metrics of one long lane, by its number.
    #[must_use]
    pub fn long_lane(&self, number: usize) -> LaneMetrics {
        self.lane_named(&format!("long-{number}"))
    }

    fn lane_named(&self, name: &str) -> LaneMetrics {
        LaneMetrics { busy: self.registrar.histogram(&table::LANE_BUSY, &[name]) }
    }

    /// The metrics of the server as a whole.
    #[must_use]
    pub fn server(&self) -> ServerMetrics {
        ServerMetrics {
            connections: self.registrar.counter(&table::CONNECTIONS, &[]),
            connections_open: self.registrar.gauge(&table::CONNECTIONS_OPEN, &[]),
            websockets_open: self.registrar.gauge(&table::WEBSOCKETS_OPEN, &[]),
            memory_limit: self.registrar.gauge(&table::MEMORY_LIMIT, &[]),
            memory_refusals: self.registrar.counter(&table::MEMORY_REFUSALS, &[]),
            log_lines_lost: self.registrar.counter(&table::LOG_LINES_LOST, &[]),
            calls_open: CallKind::ALL.map(|kind| self.registrar.gauge(&table::CALLS_OPEN, &[kind.label()])),
            transfer_bytes: self.registrar.gauge(&table::TRANSFER_BYTES, &[]),
            cache_bytes: self.registrar.gauge(&table::CACHE_BYTES, &[]),
            cache_evictions: self.registrar.counter(&table::CACHE_EVICTIONS, &[]),
            closed: ConnectionClose::ALL.map(|reason| self.registrar.counter(&table::CONNECTIONS_CLOSED, &[reason.label()])),
        }
    }

    /// The metrics of encrypted connections.
    #[must_use]
    pub fn tls(&self) -> TlsMetrics {
        let [ok, failed] = ["ok", "failed"].map(|outcome| self.registrar.counter(&table::TLS_RELOADS, &[outcome]));
        TlsMetrics {
            handshakes: HandshakeEnd::ALL.map(|end| self.registrar.counter(&table::TLS_HANDSHAKES, &[end.label()])),
            handshakes_open: self.registrar.gauge(&table::TLS_HANDSHAKES_OPEN, &[]),
            reloads: LoadMetrics { ok, failed },
            expires_in: self.registrar.gauge(&table::TLS_EXPIRY, &[]),
        }
    }

    /// The metrics of one tenant. The name is the operator's, from the settings, never a client's: each is a permanent series.
    #[must_use]
    pub fn tenant(&self, name: &str) -> TenantMetrics {
        TenantMetrics {
            items: self.registrar.counter(&table::TENANT_ITEMS, &[name]),
            streams_open: self.registrar.gauge(&table::TENANT_STREAMS_OPEN, &[name]),
            refused: Quota::ALL.map(|quota| self.registrar.counter(&table::TENANT_REFUSED, &[name, quota.label()])),
        }
    }

    /// How often a part of the server has been restarted.
    pub fn part_restarts(&self, part: &str) -> Counter {
        self.registrar.counter(&table::PART_RESTARTS, &[part])
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes handles for rows of the table. Asking twice for the same labels gives the same series.
#[derive(Debug)]
struct Registrar {
    /// `None` if metrics are off.
    prometheus: Option<Prometheus>,
}

#[derive(Debug)]
struct Prometheus {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Replaces what the recorder would keep sample by sample.
    histograms: Histograms,
}

impl Registrar {
    const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

    fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in METRICS {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                // They describe themselves.
                Kind::Histogram => {}
            }
        }
        Self { prometheus: Some(Prometheus { handle: recorder.handle(), recorder, histograms: Histograms::default() }) }
    }

    fn counter(&self, metric: &Metric, labels: &[&str]) -> Counter {
        let Some(prometheus) = &self.prometheus else { return Counter::noop() };
        prometheus.recorder.register_counter(&Self::key(metric, labels), &Self::METADATA)
    }

    fn gauge(&self, metric: &Metric, labels: &[&str]) -> Gauge {
        let Some(prometheus) = &self.prometheus else { return Gauge::noop() };
        prometheus.recorder.register_gauge(&Self::key(metric, labels), &Self::METADATA)
    }

    fn histogram(&self, metric: &'static Metric, labels: &[&str]) -> Histogram {
        let Some(prometheus) = &self.prometheus else { return Histogram::noop() };
        prometheus.histograms.series(metric, Self::key(metric, labels))
    }

    fn key(metric: &Metric, values: &[&str]) -> Key {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}: one value for each label", metric.name);
        let labels: Vec<_> = metric.labels.iter().zip(values).map(|(&name, &value)| Label::new(name, value.to_owned())).collect();
        Key::from_parts(metric.name, labels)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn with_everything() -> Telemetry {
        let telemetry = Telemetry::new();
        let model = telemetry.model("silero_vad", "1");
        model.queue_wait(Priority::High).record(0.003);
        let _ = (telemetry.model_costs("silero_vad", "1", 3), telemetry.model_loads("silero_vad"));
        model.batch_size.record(3.0);
        let _ = telemetry.tenant("acme");
        let _ =
            (telemetry.method("feed"), telemetry.lane(0), telemetry.server(), telemetry.tls(), telemetry.part_restarts("health"));
        telemetry
    }

    /// Values of the lines that begin with `series`.
    fn values(text: &str, series: &str) -> Vec<f64> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(series));
        lines.map(|value| value.trim().parse().expect("a number")).collect()
    }

    #[test]
    fn renders_help_and_type_of_the_whole_table_and_nothing_else() {
        let text = with_everything().render();
        let comments = |prefix| -> BTreeMap<String, String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(' '));
            lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
        };
        let table = |column: fn(&Metric) -> &str| -> BTreeMap<String, String> {
            METRICS.iter().map(|metric| (metric.name.to_owned(), column(metric).to_owned())).collect()
        };
        assert_eq!(comments("# HELP "), table(|metric| metric.help));
        assert_eq!(comments("# TYPE "), table(|metric| metric.kind.label()));
    }

    #[test]
    fn all_series_of_a_model_exist_before_anything_is_counted() {
        let telemetry = Telemetry::new();
        let model = telemetry.model("silero_vad", "1");
        for outcome in Outcome::ALL {
            let series =
                format!("tidemill_items_ended_total{{model=\"silero_vad\",version=\"1\",outcome=\"{}\"}}", outcome.label());
            assert_eq!(values(&telemetry.render(), &series), [0.0]);
            model.outcome(outcome).increment(2);
            assert_eq!(values(&telemetry.render(), &series), [2.0]);
        }
    }

    #[test]
    fn buckets_of_a_histogram_are_cumulative_and_those_of_its_row() {
        let text = with_everything().render();
        let bucket = |le: &str| format!("tidemill_batch_size_bucket{{model=\"silero_vad\",version=\"1\",le=\"{le}\"}}");
        let counts: Vec<f64> = ["1", "2", "4", "256", "+Inf"].iter().flat_map(|le| values(&text, &bucket(le))).collect();
        assert_eq!(counts, [0.0, 0.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn two_servers_share_nothing() {
        let (one, other) = (Telemetry::new(), Telemetry::new());
        one.server().connections.increment(1);
        let _ = other.server();
        assert_eq!(values(&one.render(), "tidemill_connections_total"), [1.0]);
        assert_eq!(values(&other.render(), "tidemill_connections_total"), [0.0]);
    }

    #[test]
    fn metrics_that_are_off_take_all_calls_and_show_nothing() {
        let telemetry = Telemetry::off();
        let model = telemetry.model("silero_vad", "1");
        model.outcome(Outcome::Ok).increment(1);
        model.batch_size.record(3.0);
        drop(GaugeGuard::new(&telemetry.server().connections_open));
        assert_eq!((telemetry.is_on(), telemetry.render().as_str()), (false, ""));
        assert!(Telemetry::new().is_on());
    }

    #[test]
    fn the_same_labels_give_the_same_series() {
        let telemetry = Telemetry::new();
        telemetry.server().connections.increment(1);
        telemetry.clone().server().connections.increment(1);
        assert_eq!(values(&telemetry.render(), "tidemill_connections_total"), [2.0]);
    }

    #[test]
    fn a_gauge_counts_its_guards() {
        let telemetry = Telemetry::new();
        let open = telemetry.server().connections_open;
        let guard = GaugeGuard::new(&open);
        drop(GaugeGuard::new(&open));
        assert_eq!(values(&telemetry.render(), "tidemill_connections_open"), [1.0]);
        drop(guard);
        assert_eq!(values(&telemetry.render(), "tidemill_connections_open"), [0.0]);
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let telemetry = Telemetry::new();
        telemetry.model("a\"} 1\nb", "1").received.increment(1);
        let text = telemetry.render();
        assert!(text.contains(r#"tidemill_items_received_total{model="a\"} 1\nb",version="1"} 1"#), "{text}");
    }
}
