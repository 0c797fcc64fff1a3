//! The results of a run, in the form in which they are written to files and read back.
//!
//! Knows nothing about how it was measured. Times are in the unit that their name ends with; counts are of scheduled sends, each of which
//! is one item of a stream, or one call with any number of items.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the layout of [`RunResult`]; readers refuse others.
pub(crate) const FORMAT: u32 = 2;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunResult {
    /// [`FORMAT`].
    pub(crate) format: u32,
    pub(crate) tool_version: String,
    /// When the run began, in RFC 3339.
    pub(crate) started: String,
    pub(crate) scenario: ScenarioFacts,
    pub(crate) machine: Machine,
    pub(crate) server: ServerFacts,
    /// One for a plain run, one for each factor of a ramp, one for each probe of a search, in the order in which they were run.
    pub(crate) steps: Vec<StepResult>,
    pub(crate) search: Option<SearchResult>,
    pub(crate) chaos: Option<ChaosResult>,
    /// What the file expects, and whether it was met.
    pub(crate) expectations: Vec<Expectation>,
}

/// The scenario file's settings for the run as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScenarioFacts {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The file's `version`.
    pub(crate) version: u32,
    pub(crate) seed: u64,
    pub(crate) connections: u32,
    pub(crate) warm_up_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) drain_s: f64,
    /// An output counts as good within this time of its scheduled moment.
    pub(crate) slo_ms: f64,
}

/// Where the load was generated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu_model: String,
    pub(crate) cores: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
}

/// Where the load went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerFacts {
    pub(crate) addr: String,
    /// Given if a load speaks HTTP.
    pub(crate) http_addr: Option<String>,
    /// Given if the server's use of the machine was measured.
    pub(crate) pid: Option<u32>,
    /// Name and version as the server states them over gRPC, such as `tidemill 0.1.0`.
    pub(crate) version: Option<String>,
}

/// One load on the server for one length of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepResult {
    /// The factor for `streams` or the rate of the file.
    pub(crate) factor: f64,
    /// Streams and callers of all loads together.
    pub(crate) streams: u64,
    pub(crate) offered_hz: f64,
    pub(crate) duration_s: f64,
    pub(crate) loads: Vec<LoadResult>,
    pub(crate) total: LoadResult,
    pub(crate) series: Vec<Second>,
    pub(crate) client_cpu_cores: f64,
    pub(crate) server_cpu_cores: Option<f64>,
    /// By items of ok answers.
    pub(crate) server_cpu_us_per_item: Option<f64>,
    /// The most that was seen.
    pub(crate) server_rss_bytes: Option<u64>,
}

/// One load of a step, or all of them.
///
/// Items that were due within the counted time are followed to their end: `offered` = `answered` + `unanswered`, and `answered` =
/// `ok` + the sum of `errors`. Only `throughput_hz` goes by when answers came, so that it is the server's pace even if the server
/// falls behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) model: String,
    pub(crate) streams: u64,
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) ok: u64,
    /// Items that the ok answers are for; more than `ok` if a call carries several.
    pub(crate) ok_items: u64,
    /// By name of the gRPC code, such as `RESOURCE_EXHAUSTED`, or by HTTP status, such as `HTTP 503`.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) unanswered: u64,
    /// Sends more than a millisecond behind their schedule.
    pub(crate) late_sends: u64,
    pub(crate) late_p99_us: u64,
    /// Ok answers per second that came within the counted time.
    pub(crate) throughput_hz: f64,
    /// Ok answers within the SLO, per second.
    pub(crate) goodput_hz: f64,
    /// Ok answers within the SLO as a share of what was offered, 0 to 1.
    pub(crate) goodput_share: f64,
    /// From the scheduled moment to the ok answer; none if no answer was ok.
    pub(crate) latency_us: Option<Percentiles>,
    /// As reported by the server: from an item's arrival until its answer was passed to the connection.
    pub(crate) age_us: Option<Percentiles>,
    /// As reported by the server: from an item's arrival to the start of its model call.
    pub(crate) queue_us: Option<Percentiles>,
    /// As reported by the server: duration of an item's model call.
    pub(crate) compute_us: Option<Percentiles>,
    /// As reported by the server, over items rather than over batches.
    pub(crate) batch_size_mean: Option<f64>,
}

impl LoadResult {
    /// All answers that were errors.
    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// A distribution, to three digits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    pub(crate) mean: f64,
    /// Percentiles, 0 to 100 and rising, with their values; as many as the count can distinguish.
    pub(crate) curve: Vec<(f64, u64)>,
}

/// One second of a step, by when things happened: warm-up items that are answered in it are included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Where it begins, from the start of the counted time.
    pub(crate) t_s: u64,
    /// How much of it was counted: 1, or less for the last one.
    pub(crate) span_s: f64,
    pub(crate) offered: u64,
    pub(crate) ok: u64,
    /// Ok answers within the SLO.
    pub(crate) good: u64,
    pub(crate) errors: u64,
    /// None if no answer was ok.
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
    pub(crate) batch_size_mean: Option<f64>,
    /// In cores.
    pub(crate) server_cpu: Option<f64>,
    /// In cores.
    pub(crate) client_cpu: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
    /// Sent but not answered when it ended.
    pub(crate) in_flight: u64,
}

/// The largest load that kept its bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SearchResult {
    /// `streams` or `rate`.
    pub(crate) of: String,
    pub(crate) p99_ms_max: Option<f64>,
    pub(crate) goodput_min: Option<f64>,
    /// None if not even the smallest load held.
    pub(crate) factor: Option<f64>,
    /// Whether the largest allowed load held too, so that the true limit is higher.
    pub(crate) at_limit: bool,
    /// In the order of `steps`.
    pub(crate) probes: Vec<Probe>,
}

/// One step of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) factor: f64,
    pub(crate) held: bool,
    /// Which bound was broken and by what; empty if it held.
    pub(crate) why: String,
}

/// The trouble that was caused alongside the load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChaosResult {
    /// How often each kind of trouble was caused, by its name.
    pub(crate) made: BTreeMap<String, u64>,
    /// What it led to, in sentences.
    pub(crate) findings: Vec<String>,
}

/// A bound of the file's `[expect]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expectation {
    /// The key in the file.
    pub(crate) name: String,
    pub(crate) bound: f64,
    /// None if there was nothing to measure; then the bound is not met.
    pub(crate) found: Option<f64>,
    pub(crate) met: bool,
}
