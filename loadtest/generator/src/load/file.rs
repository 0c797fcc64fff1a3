//! Scenario files: what a run does, as TOML.
//!
//! A file is checked as a whole before anything is sent. Each fault names the key, its value and what is allowed. Knows nothing about how
//! the load is made.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tidemill::domain::Datatype;

use super::{arrivals::Arrivals, chaos::ChaosPlan, overrides, pcm::Pcm};

/// The version of the format that this tool reads.
const VERSION: u32 = 1;

const CONNECTIONS_MAX: u16 = 4_096;
const STREAMS_MAX: usize = 1_000_000;
const IN_FLIGHT_MAX: u32 = 65_536;
const BATCH_MAX: usize = 65_536;
const LOADS_MAX: usize = 64;
const INPUTS_MAX: usize = 64;
const ITEM_BYTES_MAX: usize = 64 << 20;
const SECONDS_MAX: f64 = 7.0 * 86_400.0;
const MILLIS_MAX: f64 = 3_600_000.0;
const FACTOR_MAX: f64 = 1e6;
const STEPS_MAX: usize = 1_000;
const CONFIRMATIONS_MAX: u32 = 100;

/// A scenario, as it is in its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) version: u32,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    /// Everything random follows from it.
    #[serde(default = "default_seed")]
    pub(crate) seed: u64,
    /// Where the gRPC protocols go, `HOST:PORT`.
    #[serde(default = "default_addr")]
    pub(crate) addr: String,
    /// Where the HTTP protocols go, `HOST:PORT`.
    #[serde(default = "default_http_addr")]
    pub(crate) http_addr: String,
    /// gRPC connections over which all streams are spread.
    #[serde(default = "default_connections")]
    pub(crate) connections: u16,
    #[serde(default = "default_warm_up_s")]
    warm_up_s: f64,
    duration_s: f64,
    #[serde(default = "default_drain_s")]
    drain_s: f64,
    #[serde(default = "default_slo_ms")]
    pub(crate) slo_ms: f64,
    pub(crate) loads: Vec<Load>,
    pub(crate) ramp: Option<Ramp>,
    pub(crate) search: Option<Search>,
    pub(crate) chaos: Option<ChaosPlan>,
    pub(crate) expect: Option<Expect>,
}

/// One kind of client, many times.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    /// Unique in the file.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Empty only for `http_post`.
    #[serde(default)]
    pub(crate) model: String,
    /// Streams, or independent callers.
    pub(crate) streams: usize,
    /// Items of a stream, or calls of a caller, that wait for an answer at once.
    #[serde(default = "default_in_flight")]
    pub(crate) in_flight: u32,
    /// 0 is none; `http_post` has no way to state one.
    #[serde(default)]
    pub(crate) deadline_ms: f64,
    pub(crate) arrivals: Arrivals,
    #[serde(default)]
    pub(crate) inputs: Vec<Input>,
    /// Raw audio instead of `inputs`.
    pub(crate) pcm: Option<Pcm>,
    /// Items, or chunks of audio, in one call of `scan`, `upload`, `infer`, `infer_stream` and `http_infer`.
    #[serde(default = "default_batch")]
    pub(crate) batch: usize,
    /// Each stream or caller is one sequence, whose state the server keeps.
    #[serde(default)]
    pub(crate) sequence: bool,
    pub(crate) http: Option<HttpPost>,
}

/// How a load talks to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// A stream of the native API.
    Feed,
    /// The native unary call.
    Predict,
    /// A native call with `batch` items: one item of the schedule, which is answered when the last result is here.
    Scan,
    /// A native upload of `batch` items, one message each: one item of the schedule, which is answered as a whole.
    Upload,
    /// `ModelInfer` of the Open Inference Protocol.
    Infer,
    /// `ModelStreamInfer` of the Open Inference Protocol.
    InferStream,
    /// `infer` of the REST form of the Open Inference Protocol.
    HttpInfer,
    /// Any HTTP server.
    HttpPost,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Predict => "predict",
            Self::Scan => "scan",
            Self::Upload => "upload",
            Self::Infer => "infer",
            Self::InferStream => "infer_stream",
            Self::HttpInfer => "http_infer",
            Self::HttpPost => "http_post",
        }
    }

    /// Whether it goes to `http_addr`.
    pub(crate) const fn is_http(self) -> bool {
        matches!(self, Self::HttpInfer | Self::HttpPost)
    }

    /// Whether it belongs to this project's own API.
    pub(crate) const fn is_native(self) -> bool {
        matches!(self, Self::Feed | Self::Predict | Self::Scan | Self::Upload)
    }

    const fn has_batches(self) -> bool {
        matches!(self, Self::Scan | Self::Upload | Self::Infer | Self::InferStream | Self::HttpInfer)
    }
}

/// One input tensor of each item.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) name: String,
    #[serde(deserialize_with = "datatype")]
    pub(crate) datatype: Datatype,
    /// Without the batch axis.
    pub(crate) shape: Vec<usize>,
    #[serde(default)]
    pub(crate) fill: Fill,
}

impl Input {
    /// Elements of one item.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The contents of a tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fill {
    /// Random: floating-point numbers are between -0.1 and 0.1, like faint noise; others may be any.
    #[default]
    Noise,
    Zeros,
    Ones,
    /// 0, 1, 2 and so on over the elements, starting over where the datatype ends.
    Counter,
}

/// The request of `http_post`, and its path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpPost {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) body: HttpBody,
    /// By default `application/octet-stream` or `application/json`, depending on the body.
    pub(crate) content_type: Option<String>,
}

/// The body of `http_post`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HttpBody {
    /// The bytes of all tensors, one after another.
    #[default]
    Binary,
    /// `{"inputs": {"NAME": …}}`, with lists as deep as a tensor has dimensions.
    Json,
}

/// The quantity that a ramp or a search multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dimension {
    /// The streams of each load.
    Streams,
    /// The rate of each stream.
    Rate,
}

/// The run in steps.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ramp {
    pub(crate) of: Dimension,
    pub(crate) factors: Vec<f64>,
}

/// Which bounds to keep, and between which factors to search.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Search {
    pub(crate) of: Dimension,
    pub(crate) p99_ms_max: f64,
    /// Share of the offered items that must be answered with outputs within `slo_ms`.
    #[serde(default = "default_goodput_min")]
    pub(crate) goodput_min: f64,
    #[serde(default = "default_from")]
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Width of the answer, relative to it.
    #[serde(default = "default_precision")]
    pub(crate) precision: f64,
    /// How often the factor that was found must hold again.
    #[serde(default)]
    pub(crate) confirmations: u32,
}

/// The bounds that must hold at the end, for each step on its own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) errors_max: Option<u64>,
    pub(crate) goodput_min: Option<f64>,
    pub(crate) p99_ms_max: Option<f64>,
    pub(crate) unanswered_max: Option<u64>,
}

const fn default_seed() -> u64 {
    1
}
fn default_addr() -> String {
    "127.0.0.1:50051".to_owned()
}
fn default_http_addr() -> String {
    "127.0.0.1:8080".to_owned()
}
const fn default_connections() -> u16 {
    8
}
const fn default_warm_up_s() -> f64 {
    1.0
}
const fn default_drain_s() -> f64 {
    10.0
}
const fn default_slo_ms() -> f64 {
    50.0
}
const fn default_in_flight() -> u32 {
    8
}
const fn default_batch() -> usize {
    1
}
const fn default_goodput_min() -> f64 {
    0.99
}
const fn default_from() -> f64 {
    1.0
}
const fn default_precision() -> f64 {
    0.05
}

fn datatype<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Datatype, D::Error> {
    let name = String::deserialize(deserializer)?;
    Datatype::ALL.into_iter().find(|datatype| datatype.name() == name).ok_or_else(|| {
        let known: Vec<_> = Datatype::ALL.iter().map(|datatype| datatype.name()).collect();
        serde::de::Error::custom(format!("inputs.datatype = \"{name}\": one of {} is allowed", known.join(", ")))
    })
}

impl Scenario {
    /// Reads a file, makes the `changes` (each `key=value`), and checks it as a whole.
    ///
    /// # Errors
    /// All faults of the file at once, as far as it can be read.
    pub(crate) fn read(path: &Path, changes: &[String]) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the scenario {}", path.display()))?;
        Self::parse(&text, changes).with_context(|| format!("scenario {}", path.display()))
    }

    /// The same from the text of a file.
    pub(crate) fn parse(text: &str, changes: &[String]) -> anyhow::Result<Self> {
        // Straight from the text if nothing is changed: then faults come with their line.
        let scenario: Self = if changes.is_empty() {
            toml::from_str(text)?
        } else {
            let mut table = text.parse()?;
            for change in changes {
                overrides::apply(&mut table, change)?;
            }
            table.try_into()?
        };
        let faults = scenario.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(scenario)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up_s)
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_s)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs_f64(self.drain_s)
    }

    pub(crate) fn slo(&self) -> Duration {
        Duration::from_secs_f64(self.slo_ms / 1e3)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Faults::default();
        if self.version != VERSION {
            faults.add(format!("version = {}: this tool reads version {VERSION}", self.version));
        }
        faults.text("name", &self.name);
        faults.within("connections", self.connections, 1, CONNECTIONS_MAX);
        faults.within("warm_up_s", self.warm_up_s, 0.0, SECONDS_MAX);
        faults.within("duration_s", self.duration_s, 0.01, SECONDS_MAX);
        faults.within("drain_s", self.drain_s, 0.0, SECONDS_MAX);
        faults.within("slo_ms", self.slo_ms, 0.001, MILLIS_MAX);
        faults.within("the number of loads", self.loads.len(), 1, LOADS_MAX);
        let mut names = BTreeSet::new();
        for (number, load) in self.loads.iter().enumerate() {
            load.check(&format!("loads.{number}"), &mut faults);
            if !names.insert(&load.name) {
                faults.add(format!("loads.{number}.name = \"{}\": an earlier load has this name", load.name));
            }
        }
        let closed = self.loads.iter().any(|load| load.arrivals.is_closed());
        if self.ramp.is_some() && self.search.is_some() {
            faults.add("ramp and search: a file has only one of them".to_owned());
        }
        if let Some(ramp) = &self.ramp {
            ramp.check(closed, &mut faults);
        }
        if let Some(search) = &self.search {
            search.check(closed, &mut faults);
        }
        if let Some(chaos) = &self.chaos {
            faults.0.extend(chaos.faults());
            if !self.loads.iter().any(Load::has_native_items) {
                faults.add(
                    "chaos: it sends the items of the first load of the native API with inputs, but there is none".to_owned(),
                );
            }
        }
        if let Some(expect) = &self.expect {
            if let Some(share) = expect.goodput_min {
                faults.within("expect.goodput_min", share, 0.0, 1.0);
            }
            if let Some(p99_ms) = expect.p99_ms_max {
                faults.within("expect.p99_ms_max", p99_ms, 0.001, MILLIS_MAX);
            }
        }
        faults.0
    }
}

impl Load {
    /// `None` if there is none.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        (self.deadline_ms > 0.0).then(|| Duration::from_secs_f64(self.deadline_ms / 1e3))
    }

    /// Whether it sends items of this project's own API, rather than raw audio.
    pub(crate) fn has_native_items(&self) -> bool {
        self.protocol.is_native() && self.pcm.is_none()
    }

    fn check_pcm(&self, pcm: &Pcm, key: &str, faults: &mut Faults) {
        faults.0.extend(pcm.faults().into_iter().map(|fault| format!("{key}.{fault}")));
        if !self.inputs.is_empty() {
            faults.add(format!("{key}.pcm and {key}.inputs: a load has only one of them"));
        }
        if !matches!(self.protocol, Protocol::Feed | Protocol::Scan | Protocol::Upload) {
            faults.add(format!("{key}.pcm: {} takes no chunks; feed, scan and upload do", self.protocol.name()));
        }
        if pcm.chunk_bytes().checked_mul(self.batch).is_none_or(|bytes| bytes > ITEM_BYTES_MAX) {
            faults.add(format!("{key}.pcm: with the batch, at most {ITEM_BYTES_MAX} bytes are allowed"));
        }
    }

    fn check(&self, key: &str, faults: &mut Faults) {
        faults.text(&format!("{key}.name"), &self.name);
        faults.within(&format!("{key}.streams"), self.streams, 1, STREAMS_MAX);
        faults.within(&format!("{key}.in_flight"), self.in_flight, 1, IN_FLIGHT_MAX);
        faults.within(&format!("{key}.deadline_ms"), self.deadline_ms, 0.0, MILLIS_MAX);
        faults.within(&format!("{key}.batch"), self.batch, 1, BATCH_MAX);
        match &self.pcm {
            Some(pcm) => self.check_pcm(pcm, key, faults),
            None => faults.within(&format!("the number of {key}.inputs"), self.inputs.len(), 1, INPUTS_MAX),
        }
        if self.protocol != Protocol::HttpPost {
            faults.text(&format!("{key}.model"), &self.model);
        }
        if self.batch > 1 && !self.protocol.has_batches() {
            faults.add(format!("{key}.batch = {}: {} sends one item at a time", self.batch, self.protocol.name()));
        }
        if self.deadline_ms > 0.0 && self.protocol == Protocol::HttpPost {
            faults.add(format!(
                "{key}.deadline_ms = {}: http_post has no way to pass it to a server; leave it out",
                self.deadline_ms
            ));
        }
        if self.http.is_some() != (self.protocol == Protocol::HttpPost) {
            faults.add(format!("{key}.http: it belongs to the protocol \"http_post\", which needs it"));
        }
        if let Some(http) = &self.http
            && !http.path.starts_with('/')
        {
            faults.add(format!("{key}.http.path = \"{}\": it must begin with /", http.path));
        }
        match (self.sequence, self.protocol) {
            (false, _) | (true, Protocol::InferStream) => {}
            (true, Protocol::Infer) if self.in_flight == 1 => {}
            // Two calls of a sequence at once would reach the server in any order.
            (true, Protocol::Infer) => faults.add(format!("{key}.in_flight = {}: a sequence over calls needs 1", self.in_flight)),
            (true, other) => {
                faults.add(format!("{key}.sequence: {} has no sequences; infer and infer_stream do", other.name()));
            }
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let elements = input.shape.iter().try_fold(1_usize, |product, axis| product.checked_mul(*axis));
            let bytes = elements
                .and_then(|elements| elements.checked_mul(input.datatype.fixed_size().unwrap_or(12)))
                .and_then(|bytes| bytes.checked_mul(self.batch.max(1)));
            if bytes.is_none_or(|bytes| bytes > ITEM_BYTES_MAX) {
                faults.add(format!(
                    "{key}.inputs.{number}.shape = {:?}: with the batch, at most {ITEM_BYTES_MAX} bytes are allowed",
                    input.shape
                ));
            }
        }
    }
}

impl Ramp {
    fn check(&self, closed: bool, faults: &mut Faults) {
        faults.within("the number of ramp.factors", self.factors.len(), 1, STEPS_MAX);
        for factor in &self.factors {
            faults.within("ramp.factors", *factor, 1e-6, FACTOR_MAX);
        }
        faults.dimension("ramp.of", self.of, closed);
    }
}

impl Search {
    fn check(&self, closed: bool, faults: &mut Faults) {
        faults.within("search.p99_ms_max", self.p99_ms_max, 0.001, MILLIS_MAX);
        faults.within("search.goodput_min", self.goodput_min, 0.0, 1.0);
        faults.within("search.from", self.from, 1e-6, FACTOR_MAX);
        faults.within("search.to", self.to, self.from, FACTOR_MAX);
        faults.within("search.precision", self.precision, 0.001, 1.0);
        faults.within("search.confirmations", self.confirmations, 0, CONFIRMATIONS_MAX);
        faults.dimension("search.of", self.of, closed);
    }
}

/// The faults in a file.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    fn within<T: PartialOrd + std::fmt::Display>(&mut self, key: &str, value: T, least: T, most: T) {
        // Written so that NaN is a fault.
        if !(value >= least && value <= most) {
            self.add(format!("{key} = {value}: {least} to {most} is allowed"));
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.add(format!("{key}: it must not be empty"));
        }
    }

    fn dimension(&mut self, key: &str, of: Dimension, closed: bool) {
        if of == Dimension::Rate && closed {
            self.add(format!("{key} = \"rate\": a load with closed arrivals has no rate; \"streams\" is allowed"));
        }
    }
}

#[cfg(test)]
mod tests;
