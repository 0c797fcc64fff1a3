//! The numbers of one refresh: the server, its models, lanes and methods. `--json` prints them unchanged.
//!
//! The only file of this command that names metrics. A metric that the server does not have, or a rate without an earlier scrape, is `None`
//! and never zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    change::{Change, Scrape, Wanted},
    distribution::{Distribution, Grain},
};

/// Numbers by a label's values.
pub(super) type ByLabel<T> = BTreeMap<String, T>;

/// One refresh.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// HOST:PORT of the admin port.
    pub(super) admin: String,
    /// Time between the two scrapes that rates and quantiles refer to.
    pub(super) interval_s: Option<f64>,
    pub(super) server: ServerFigures,
    /// By name and version.
    pub(super) models: Vec<ModelFigures>,
    pub(super) lanes: Vec<LaneFigures>,
    pub(super) methods: Vec<MethodFigures>,
}

/// The server as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ServerFigures {
    pub(super) version: Option<String>,
    pub(super) uptime_s: Option<u64>,
    /// Cores that it kept busy.
    pub(super) cpu_cores: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) connections_open: Option<u64>,
    pub(super) streams_open: Option<u64>,
    pub(super) streams_stalled: Option<u64>,
    pub(super) streams_unread: Option<u64>,
    /// Mean over all lanes but the long ones, 0 to 1.
    pub(super) lanes_busy_share: Option<f64>,
}

/// One version of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ModelFigures {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) ready: Option<bool>,
    /// Items since the server started.
    pub(super) received_total: Option<u64>,
    /// The same by outcome.
    pub(super) ended_total: ByLabel<u64>,
    pub(super) received_per_s: Option<f64>,
    /// By outcome.
    pub(super) ended_per_s: ByLabel<f64>,
    /// By reason.
    pub(super) dropped_per_s: ByLabel<f64>,
    pub(super) queued_items: Option<u64>,
    pub(super) running_items: Option<u64>,
    pub(super) batch_cap: Option<u64>,
    pub(super) batch_size: BatchFigures,
    /// How much of the largest batch calls filled, on average.
    pub(super) occupancy_share: Option<f64>,
    /// Share of the elements of padded inputs that were padding.
    pub(super) padding_share: Option<f64>,
    /// Share of calls by the reason why their batch was closed; only reasons that occurred.
    pub(super) closed_share: ByLabel<f64>,
    pub(super) queue_s: Quantiles,
    pub(super) queue_by_priority_s: ByLabel<Quantiles>,
    pub(super) call_s: Quantiles,
    pub(super) cancel_release_s: Quantiles,
    /// Measured cost of a call, by rising batch size.
    pub(super) costs: Vec<CostFigures>,
}

/// Sizes of the batches of an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct BatchFigures {
    pub(super) p50: Option<f64>,
    pub(super) mean: Option<f64>,
    /// Bound of the highest bucket that was counted in: no batch was larger.
    pub(super) at_most: Option<f64>,
}

/// Quantiles of the samples of an interval, interpolated within their bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// A point of the cost curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct CostFigures {
    pub(super) batch_size: u64,
    pub(super) call_s: f64,
    /// The rate of one lane at this batch size.
    pub(super) items_per_s: f64,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LaneFigures {
    pub(super) lane: String,
    /// 0 to 1. A call counts when it ends.
    pub(super) busy_share: Option<f64>,
    pub(super) calls_per_s: Option<f64>,
}

/// One method.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct MethodFigures {
    pub(super) method: String,
    pub(super) streams_open: Option<u64>,
    pub(super) streams_stalled: Option<u64>,
    pub(super) streams_unread: Option<u64>,
    /// By kind.
    pub(super) faults_per_s: ByLabel<f64>,
}

impl Report {
    /// The state in `after`, and the changes since `before`.
    pub(super) fn new(admin: String, before: Option<&Scrape>, after: &Scrape) -> Self {
        let change = Change::new(before, after);
        let lanes = lanes(&change);
        let mut models: BTreeSet<(&str, (u64, &str))> = BTreeSet::new();
        for name in change.values("tidemill_items_received_total", &[], "model") {
            let versions = change.values("tidemill_items_received_total", &[("model", name)], "version");
            models.extend(versions.into_iter().map(|version| (name, by_number(version))));
        }
        Self {
            admin,
            interval_s: change.elapsed_s(),
            server: server(&change, after, &lanes),
            models: models.into_iter().map(|(name, (_, version))| model(&change, name, version)).collect(),
            lanes,
            methods: methods(&change),
        }
    }
}

/// Numbers before words, and 9 before 10.
fn by_number(text: &str) -> (u64, &str) {
    (text.parse().unwrap_or(u64::MAX), text)
}

fn server(change: &Change<'_>, after: &Scrape, lanes: &[LaneFigures]) -> ServerFigures {
    let versions = change.values("tidemill_build_info", &[], "version");
    // Long lanes only get what the others leave.
    let busy = lanes.iter().filter(|lane| lane.lane.parse::<u64>().is_ok());
    let busy: Vec<f64> = busy.filter_map(|lane| lane.busy_share).collect();
    ServerFigures {
        version: versions.first().map(|version| (*version).to_owned()),
        uptime_s: after.uptime().map(|uptime| uptime.as_secs()),
        cpu_cores: change.rate("process_cpu_seconds_total", &[]),
        resident_bytes: whole(change.sum("process_resident_memory_bytes", &[])),
        connections_open: whole(change.sum("tidemill_connections_open", &[])),
        streams_open: whole(change.sum("tidemill_streams_open", &[])),
        streams_stalled: whole(change.sum("tidemill_streams_stalled", &[])),
        streams_unread: whole(change.sum("tidemill_streams_unread", &[])),
        lanes_busy_share: (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64),
    }
}

fn model(change: &Change<'_>, name: &str, version: &str) -> ModelFigures {
    let own = [("model", name), ("version", version)];
    let with = |label, value| [own[0], own[1], (label, value)];
    let rates = |metric, label| by_label(change, metric, &own, label, |wanted| change.rate(metric, wanted));
    let batches = change.distribution("tidemill_batch_size", &own);
    let queue = "tidemill_item_queue_seconds";
    ModelFigures {
        name: name.to_owned(),
        version: version.to_owned(),
        ready: change.sum("tidemill_model_ready", &own).map(|ready| ready > 0.0),
        received_total: whole(change.sum("tidemill_items_received_total", &own)),
        ended_total: change
            .values("tidemill_items_ended_total", &own, "outcome")
            .into_iter()
            .filter_map(|outcome| {
                Some((outcome.to_owned(), whole(change.sum("tidemill_items_ended_total", &with("outcome", outcome)))?))
            })
            .collect(),
        received_per_s: change.rate("tidemill_items_received_total", &own),
        ended_per_s: rates("tidemill_items_ended_total", "outcome"),
        dropped_per_s: rates("tidemill_items_dropped_total", "reason"),
        queued_items: whole(change.sum("tidemill_items_queued", &own)),
        running_items: whole(change.sum("tidemill_items_in_flight", &own)),
        batch_cap: whole(change.sum("tidemill_model_batch_cap", &own)),
        batch_size: batches.map_or_else(BatchFigures::default, |batches| BatchFigures {
            p50: batches.quantile(0.5, Grain::Whole),
            mean: batches.mean(),
            at_most: batches.largest(),
        }),
        occupancy_share: change.distribution("tidemill_batch_occupancy_ratio", &own).and_then(|ratios| ratios.mean()),
        padding_share: ratio(
            change.growth("tidemill_padding_elements_total", &own),
            change.growth("tidemill_input_elements_total", &own),
        ),
        closed_share: closed_share(change, &own),
        queue_s: quantiles(change, queue, &own),
        queue_by_priority_s: by_label(change, &format!("{queue}_bucket"), &own, "priority", |wanted| {
            Some(quantiles(change, queue, wanted))
        }),
        call_s: quantiles(change, "tidemill_model_call_seconds", &own),
        cancel_release_s: quantiles(change, "tidemill_cancel_release_seconds", &own),
        costs: costs(change, &own),
    }
}

fn closed_share(change: &Change<'_>, own: Wanted<'_>) -> ByLabel<f64> {
    let metric = "tidemill_batches_total";
    let all = change.growth(metric, own);
    let mut shares = by_label(change, metric, own, "reason", |wanted| ratio(change.growth(metric, wanted), all));
    shares.retain(|_, share| *share > 0.0);
    shares
}

fn costs(change: &Change<'_>, own: Wanted<'_>) -> Vec<CostFigures> {
    let metric = "tidemill_model_cost_seconds";
    let mut costs: Vec<_> = by_label(change, metric, own, "batch_size", |wanted| change.sum(metric, wanted))
        .into_iter()
        .filter(|(_, call_s)| *call_s > 0.0)
        .filter_map(|(size, call_s)| {
            let batch_size: u64 = size.parse().ok()?;
            Some(CostFigures { batch_size, call_s, items_per_s: batch_size as f64 / call_s })
        })
        .collect();
    costs.sort_unstable_by_key(|cost| cost.batch_size);
    costs
}

fn lanes(change: &Change<'_>) -> Vec<LaneFigures> {
    let metric = "tidemill_lane_busy_seconds";
    let names = change.values(&format!("{metric}_bucket"), &[], "lane").into_iter();
    let mut names: Vec<_> = names.map(by_number).collect();
    names.sort_unstable();
    let lane = |(_, name): (u64, &str)| {
        let calls = change.distribution(metric, &[("lane", name)]);
        // A call that began before the interval counts in full.
        let busy_share = ratio(calls.as_ref().map(Distribution::sum), change.elapsed_s()).map(|share| share.min(1.0));
        let calls_per_s = ratio(calls.as_ref().map(Distribution::count), change.elapsed_s());
        LaneFigures { lane: name.to_owned(), busy_share, calls_per_s }
    };
    names.into_iter().map(lane).collect()
}

fn methods(change: &Change<'_>) -> Vec<MethodFigures> {
    let faults = "tidemill_faults_total";
    let figures = |method: &str| {
        let own = [("method", method)];
        MethodFigures {
            method: method.to_owned(),
            streams_open: whole(change.sum("tidemill_streams_open", &own)),
            streams_stalled: whole(change.sum("tidemill_streams_stalled", &own)),
            streams_unread: whole(change.sum("tidemill_streams_unread", &own)),
            faults_per_s: by_label(change, faults, &own, "reason", |wanted| change.rate(faults, wanted)),
        }
    };
    change.values("tidemill_streams_open", &[], "method").into_iter().map(figures).collect()
}

/// A figure for each value of a metric's label.
fn by_label<T>(
    change: &Change<'_>,
    metric: &str,
    own: Wanted<'_>,
    label: &str,
    figure: impl Fn(Wanted<'_>) -> Option<T>,
) -> ByLabel<T> {
    let with = |value| [own, &[(label, value)]].concat();
    let values = change.values(metric, own, label).into_iter();
    values.filter_map(|value| Some((value.to_owned(), figure(&with(value))?))).collect()
}

fn quantiles(change: &Change<'_>, metric: &str, wanted: Wanted<'_>) -> Quantiles {
    let quantile =
        |samples: &Distribution| Quantiles { p50: samples.quantile(0.5, Grain::Fine), p99: samples.quantile(0.99, Grain::Fine) };
    change.distribution(metric, wanted).as_ref().map_or_else(Quantiles::default, quantile)
}

fn ratio(part: Option<f64>, of: Option<f64>) -> Option<f64> {
    part.zip(of).filter(|(_, of)| *of > 0.0).map(|(part, of)| part / of)
}

/// A gauge or a total, all of which count whole things.
fn whole(value: Option<f64>) -> Option<u64> {
    value.map(|value| value.round() as u64)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use tokio::time::Instant;

    use super::{super::exposition::Exposition, *};

    /// A server with two models, one of them busy, as seen by two scrapes, one after another.
    const BEFORE: &str = "\
# HELP tidemill_build_info The server's version and the compiler that built it.
# TYPE tidemill_build_info gauge
tidemill_build_info{version=\"0.1.0\",rustc=\"1.95.0\"} 1
process_start_time_seconds 1000
process_cpu_seconds_total 10
tidemill_items_received_total{model=\"vad\",version=\"6\"} 1000
tidemill_items_ended_total{model=\"vad\",version=\"6\",outcome=\"ok\"} 900
tidemill_items_ended_total{model=\"vad\",version=\"6\",outcome=\"dropped\"} 100
tidemill_batches_total{model=\"vad\",version=\"6\",reason=\"knee\"} 50
tidemill_batches_total{model=\"vad\",version=\"6\",reason=\"drain\"} 5
tidemill_lane_busy_seconds_bucket{lane=\"0\",le=\"+Inf\"} 10
tidemill_lane_busy_seconds_sum{lane=\"0\"} 1.5
tidemill_input_elements_total{model=\"vad\",version=\"6\"} 100
tidemill_padding_elements_total{model=\"vad\",version=\"6\"} 50
";
    const AFTER: &str = "\
tidemill_build_info{version=\"0.1.0\",rustc=\"1.95.0\"} 1
process_start_time_seconds 1000
process_cpu_seconds_total 12.6
process_resident_memory_bytes 104857600
tidemill_connections_open 3
tidemill_items_received_total{model=\"vad\",version=\"6\"} 2000
tidemill_items_received_total{model=\"vad\",version=\"10\"} 0
tidemill_items_received_total{model=\"magika\",version=\"1\"} 7
tidemill_items_ended_total{model=\"vad\",version=\"6\",outcome=\"ok\"} 1800
tidemill_items_ended_total{model=\"vad\",version=\"6\",outcome=\"dropped\"} 150
tidemill_items_ended_total{model=\"vad\",version=\"6\",outcome=\"expired\"} 20
tidemill_items_dropped_total{model=\"vad\",version=\"6\",reason=\"oldest\"} 50
tidemill_items_queued{model=\"vad\",version=\"6\"} 40
tidemill_items_in_flight{model=\"vad\",version=\"6\"} 16
tidemill_model_ready{model=\"vad\",version=\"6\"} 1
tidemill_model_batch_cap{model=\"vad\",version=\"6\"} 32
tidemill_model_cost_seconds{model=\"vad\",version=\"6\",batch_size=\"16\"} 0.002
tidemill_model_cost_seconds{model=\"vad\",version=\"6\",batch_size=\"2\"} 0.0005
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"high\",le=\"0.01\"} 100
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"high\",le=\"0.02\"} 100
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"high\",le=\"+Inf\"} 100
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"low\",le=\"0.01\"} 0
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"low\",le=\"0.02\"} 100
tidemill_item_queue_seconds_bucket{model=\"vad\",version=\"6\",priority=\"low\",le=\"+Inf\"} 100
tidemill_model_call_seconds_bucket{model=\"vad\",version=\"6\",le=\"0.004\"} 90
tidemill_model_call_seconds_bucket{model=\"vad\",version=\"6\",le=\"+Inf\"} 90
tidemill_batch_size_bucket{model=\"vad\",version=\"6\",le=\"8\"} 0
tidemill_batch_size_bucket{model=\"vad\",version=\"6\",le=\"16\"} 90
tidemill_batch_size_bucket{model=\"vad\",version=\"6\",le=\"+Inf\"} 90
tidemill_batch_size_sum{model=\"vad\",version=\"6\"} 990
tidemill_batch_occupancy_ratio_bucket{model=\"vad\",version=\"6\",le=\"+Inf\"} 90
tidemill_batch_occupancy_ratio_sum{model=\"vad\",version=\"6\"} 45
tidemill_batches_total{model=\"vad\",version=\"6\",reason=\"knee\"} 122
tidemill_batches_total{model=\"vad\",version=\"6\",reason=\"lane_free\"} 18
tidemill_batches_total{model=\"vad\",version=\"6\",reason=\"drain\"} 5
tidemill_input_elements_total{model=\"vad\",version=\"6\"} 300
tidemill_padding_elements_total{model=\"vad\",version=\"6\"} 100
tidemill_lane_busy_seconds_bucket{lane=\"0\",le=\"+Inf\"} 110
tidemill_lane_busy_seconds_sum{lane=\"0\"} 2.5
tidemill_lane_busy_seconds_bucket{lane=\"10\",le=\"+Inf\"} 4
tidemill_lane_busy_seconds_sum{lane=\"10\"} 9
tidemill_lane_busy_seconds_bucket{lane=\"9\",le=\"+Inf\"} 0
tidemill_lane_busy_seconds_sum{lane=\"9\"} 0
tidemill_streams_open{method=\"feed\"} 12
tidemill_streams_open{method=\"predict\"} 1
tidemill_streams_stalled{method=\"feed\"} 3
tidemill_faults_total{method=\"feed\",reason=\"expired\"} 20
tidemill_faults_total{method=\"feed\",reason=\"invalid\"} 0
";

    /// That server's report; without an earlier scrape if `first`.
    pub(in super::super) fn report(first: bool) -> Report {
        let taken = Instant::now();
        let [before, after] = [(BEFORE, 0), (AFTER, 2)].map(|(text, seconds)| Scrape {
            exposition: Exposition::parse(text).expect("it is well-formed"),
            taken: taken + Duration::from_secs(seconds),
            server_time: Some(UNIX_EPOCH + Duration::from_secs(4_730 + seconds)),
        });
        Report::new("127.0.0.1:9464".to_owned(), (!first).then_some(&before), &after)
    }

    fn assert_close(found: Option<f64>, wanted: f64) {
        assert!(found.is_some_and(|found| (found - wanted).abs() < 1e-9), "{found:?} is not {wanted}");
    }

    #[test]
    fn the_server_is_summed_up() {
        let ServerFigures { cpu_cores, lanes_busy_share, version, .. } = report(false).server;
        assert_eq!(version.as_deref(), Some("0.1.0"));
        assert_close(cpu_cores, 1.3);
        assert_close(lanes_busy_share, 0.5);
        let server = report(false).server;
        assert_eq!((server.uptime_s, server.resident_bytes, server.connections_open), (Some(3_732), Some(100 << 20), Some(3)));
        assert_eq!((server.streams_open, server.streams_stalled, server.streams_unread), (Some(13), Some(3), None));
    }

    #[test]
    fn models_are_in_order_and_each_has_its_own_numbers() {
        let report = report(false);
        let names: Vec<_> = report.models.iter().map(|model| (model.name.as_str(), model.version.as_str())).collect();
        assert_eq!(names, [("magika", "1"), ("vad", "6"), ("vad", "10")]);
        let busy = &report.models[1];
        assert_eq!((busy.received_total, busy.received_per_s), (Some(2_000), Some(500.0)));
        assert_eq!((busy.ended_total["ok"], busy.ended_per_s["ok"]), (1_800, 450.0));
        assert_eq!((busy.ended_per_s["dropped"], busy.ended_per_s["expired"]), (25.0, 10.0));
        assert_eq!(busy.dropped_per_s["oldest"], 25.0);
        assert_eq!((busy.queued_items, busy.running_items, busy.batch_cap), (Some(40), Some(16), Some(32)));
        assert_eq!((busy.ready, report.models[0].ready), (Some(true), None));
        assert_eq!(busy.batch_size, BatchFigures { p50: Some(12.5), mean: Some(11.0), at_most: Some(16.0) });
        assert_eq!((busy.occupancy_share, busy.padding_share), (Some(0.5), Some(0.25)));
        assert_eq!(report.models[0].received_per_s, Some(3.5));
    }

    #[test]
    fn waits_are_over_all_priorities_and_for_each() {
        let busy = &report(false).models[1];
        assert_close(busy.queue_s.p50, 0.01);
        assert_close(busy.queue_s.p99, 0.0198);
        assert_close(busy.queue_by_priority_s["high"].p50, 0.005);
        assert_close(busy.queue_by_priority_s["low"].p50, 0.015);
        assert_close(busy.call_s.p50, 0.002);
        assert_eq!(busy.cancel_release_s, Quantiles::default());
    }

    #[test]
    fn reasons_that_closed_no_batch_are_left_out() {
        let busy = &report(false).models[1];
        assert_eq!(
            busy.closed_share.iter().map(|(reason, share)| (reason.as_str(), *share)).collect::<Vec<_>>(),
            [("knee", 0.8), ("lane_free", 0.2)]
        );
    }

    #[test]
    fn the_cost_curve_rises_by_batch_size() {
        let costs = &report(false).models[1].costs;
        assert_eq!(
            costs.iter().map(|cost| (cost.batch_size, cost.items_per_s)).collect::<Vec<_>>(),
            [(2, 4_000.0), (16, 8_000.0)]
        );
    }

    #[test]
    fn lanes_are_in_order_and_none_is_busier_than_always() {
        let lanes = report(false).lanes;
        let figures: Vec<_> = lanes.iter().map(|lane| (lane.lane.as_str(), lane.busy_share, lane.calls_per_s)).collect();
        assert_eq!(figures, [("0", Some(0.5), Some(50.0)), ("9", Some(0.0), Some(0.0)), ("10", Some(1.0), Some(2.0))]);
    }

    #[test]
    fn methods_have_their_streams_and_faults() {
        let methods = report(false).methods;
        assert_eq!(methods.len(), 2);
        assert_eq!(
            (methods[0].method.as_str(), methods[0].streams_open, methods[0].streams_stalled),
            ("feed", Some(12), Some(3))
        );
        assert_eq!(methods[0].faults_per_s, ByLabel::from([("expired".to_owned(), 10.0), ("invalid".to_owned(), 0.0)]));
        assert_eq!((methods[1].streams_stalled, methods[1].faults_per_s.len()), (None, 0));
    }

    #[test]
    fn a_first_scrape_shows_what_is_and_no_rate() {
        let report = report(true);
        let busy = &report.models[1];
        assert_eq!((report.interval_s, report.server.cpu_cores, report.server.lanes_busy_share), (None, None, None));
        assert_eq!((busy.received_per_s, busy.received_total, busy.queued_items), (None, Some(2_000), Some(40)));
        assert_eq!((busy.ended_per_s.len(), busy.queue_s, busy.batch_size), (0, Quantiles::default(), BatchFigures::default()));
        assert_eq!((busy.costs.len(), report.lanes.len()), (2, 3));
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let json = serde_json::to_value(report(false)).expect("serializes");
        assert_eq!(json["models"][1]["ended_per_s"]["ok"], 450.0);
        assert_eq!(json["models"][1]["batch_size"]["at_most"], 16.0);
        assert!(json["models"][1]["cancel_release_s"]["p50"].is_null());
        assert!(json["server"]["streams_unread"].is_null());
    }
}
