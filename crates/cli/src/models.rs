//! `tidemill models`: what the server serves, and what the binary holds.
//!
//! Knows how to present a model to a reader; does not know how models are run.

use std::{fmt, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ModelFile,
    connection::{ConnectionArgs, unless_interrupted},
    export::{self, ExportArgs},
    output::{Printer, table},
    printed::{Place, Record},
    status::{Ending, Failure},
    tensors::datatype_name,
};
use tidemill_wire::{
    duration_from_wire,
    v1::{
        BatchCost, Batching, BatchingVerdict, Framing, ModelDetail, ModelState, ModelSummary, Padding, PayloadKind, SegmentRules,
        ShapeCost, StateSpec, StreamLimits, TensorSpec,
    },
};

const HELP: &str = help!(
    "\
Examples:
  tidemill models                                  all models, ready or not
  tidemill models silero-vad                       one in full: inputs, outputs, limits, measured cost
  tidemill models prove my-model                   repeat the test of whether its items may share calls
  tidemill models export silero-vad vad.onnx       the file of a model inside the binary, for other programs
  tidemill models --json | jq -r .model.name       their names"
);

/// List the server's models, or show one in full
#[derive(Debug, Args)]
#[command(after_long_help = HELP, args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    action: Option<ModelsAction>,

    /// Model to show in full
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Version of the model [default: the newest that is ready]
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true, requires = "name")]
    model_version: String,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum ModelsAction {
    /// Load a model again and repeat its trial calls, which find out whether its items may share calls and what calls cost
    Prove(ProveArgs),
    /// Write the file of a model inside this binary; needs no server
    Export(ExportArgs),
}

#[derive(Debug, Args)]
struct ProveArgs {
    /// Model to prove; open streams stay on the copy that they have
    #[arg(value_name = "NAME")]
    name: String,

    /// Seed for the items of the trial calls [default: the one that every start uses]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    seed: u64,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl ModelsArgs {
    /// The server to ask, if there is one.
    pub(super) const fn connection(&self) -> Option<&ConnectionArgs> {
        match &self.action {
            Some(ModelsAction::Prove(args)) => Some(&args.connection),
            Some(ModelsAction::Export(_)) => None,
            None => Some(&self.connection),
        }
    }

    pub(super) const fn wants_json(&self) -> bool {
        match (&self.action, self.connection()) {
            (Some(ModelsAction::Export(args)), _) => args.json,
            (_, Some(connection)) => connection.json,
            (_, None) => false,
        }
    }
}

pub(super) async fn run(
    args: &ModelsArgs,
    files: &[ModelFile],
    printer: &mut Printer,
    interrupt: &CancellationToken,
) -> Result<Ending, Failure> {
    let connection = match &args.action {
        Some(ModelsAction::Export(args)) => return export::run(args, files, printer).map(|()| Ending::Ok),
        Some(ModelsAction::Prove(args)) => &args.connection,
        None => &args.connection,
    };
    unless_interrupted(interrupt, async {
        let client = connection.connect().await?;
        if let Some(ModelsAction::Prove(ProveArgs { name, seed, .. })) = &args.action {
            return print_list(&client.prove_model(name, *seed).await?, printer);
        }
        match &args.name {
            Some(name) => {
                let detail = client.model(name, &args.model_version).await?;
                printer.print(&DetailRecord::from(&detail))
            }
            None => print_list(&client.list_models().await?, printer),
        }
    })
    .await?;
    Ok(Ending::Ok)
}

/// People get one table, pipes one line per model.
fn print_list(models: &[ModelSummary], printer: &mut Printer) -> Result<(), Failure> {
    let records: Vec<ModelRecord> = models.iter().map(ModelRecord::from).collect();
    let header = ["NAME", "VERSION", "STATE", "ENGINE", "STATE KEPT", "BATCHING", "DESCRIPTION"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(records.iter().map(ModelRecord::cells)).collect();
    printer.print_text(&table(&rows))?;
    records.iter().try_for_each(|record| printer.print(record))
}

/// A model version in brief: `{"model":{..}}`.
#[derive(Debug, Serialize)]
struct ModelRecord {
    name: String,
    version: String,
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    engine: String,
    description: String,
    stateful: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    batching: Option<BatchingRecord>,
}

#[derive(Debug, Serialize)]
struct BatchingRecord {
    verdict: &'static str,
    shares_calls: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    proven_batch: u32,
    seed: u64,
}

impl ModelRecord {
    fn cells(&self) -> Vec<String> {
        let kept = if self.stateful { "per stream" } else { "none" };
        let text = if self.reason.is_empty() { &self.description } else { &self.reason };
        let batching = self.batching.as_ref().map_or("", |batching| batching.verdict);
        [&self.name, &self.version, self.state, &self.engine, kept, batching, text].map(str::to_owned).to_vec()
    }
}

impl From<&ModelSummary> for ModelRecord {
    fn from(summary: &ModelSummary) -> Self {
        let state = match summary.state() {
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Failed => "failed",
            ModelState::Unloaded => "unloaded",
            ModelState::Unspecified => "unknown",
        };
        Self {
            name: summary.name.clone(),
            version: summary.version.clone(),
            state,
            reason: summary.reason.clone(),
            engine: summary.engine.clone(),
            description: summary.description.clone(),
            stateful: summary.stateful,
            batching: summary.batching.as_ref().map(BatchingRecord::from),
        }
    }
}

impl From<&Batching> for BatchingRecord {
    fn from(batching: &Batching) -> Self {
        let verdict = match batching.verdict() {
            BatchingVerdict::Independent => "independent",
            BatchingVerdict::Dependent => "dependent",
            BatchingVerdict::NotABatch => "not_a_batch",
            BatchingVerdict::PaddingLeaks => "padding_leaks",
            BatchingVerdict::Random => "random",
            BatchingVerdict::Unproven => "unproven",
            BatchingVerdict::Off => "off",
            BatchingVerdict::Unspecified => "unknown",
        };
        let Batching { shares_calls, detail, proven_batch, seed, .. } = batching.clone();
        Self { verdict, shares_calls, detail, proven_batch, seed }
    }
}

impl fmt::Display for BatchingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, shares_calls, detail, .. } = self;
        f.write_str(if *shares_calls { "items share calls" } else { "one item a call" })?;
        write!(f, ", {}", verdict.replace('_', " "))?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

impl fmt::Display for ModelRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cells().join("  "))
    }
}

impl Record for ModelRecord {
    const KIND: &'static str = "model";

    fn place(&self) -> Place {
        Place::Nowhere
    }
}

/// A model version in full: `{"model":{..,"inputs":[..],"batch_costs":[..]}}`.
#[derive(Debug, Serialize)]
struct DetailRecord {
    #[serde(flatten)]
    summary: ModelRecord,
    inputs: Vec<SpecRecord>,
    outputs: Vec<SpecRecord>,
    states: Vec<StateRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    framing: Option<FramingRecord>,
    payloads: Vec<&'static str>,
    batch_costs: Vec<CostRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shape_costs: Vec<ShapeCostRecord>,
    batch_cap: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_batch: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    padding: Option<PaddingRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_rules: Option<RulesRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_limits: Option<LimitsRecord>,
}

#[derive(Debug, Serialize)]
struct SpecRecord {
    name: String,
    datatype: &'static str,
    shape: Vec<i64>,
}

#[derive(Debug, Serialize)]
struct StateRecord {
    input: String,
    output: String,
    datatype: &'static str,
    shape: Vec<i64>,
    batch_axis: u32,
}

#[derive(Debug, Serialize)]
struct FramingRecord {
    sample_rate_hz: u32,
    window_samples: u32,
    context_samples: u32,
}

#[derive(Debug, Serialize)]
struct CostRecord {
    batch_size: u32,
    duration_ns: u64,
}

#[derive(Debug, Serialize)]
struct ShapeCostRecord {
    item_bytes: u64,
    batch_costs: Vec<CostRecord>,
}

#[derive(Debug, Serialize)]
struct PaddingRecord {
    buckets: Vec<u64>,
    waste_max: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    mask: String,
}

#[derive(Debug, Serialize)]
struct RulesRecord {
    threshold: f32,
    negative_threshold: f32,
    min_speech_ms: u32,
    min_silence_ms: u32,
    pad_ms: u32,
}

#[derive(Debug, Serialize)]
struct LimitsRecord {
    window_items: u32,
    window_bytes: u64,
    max_item_bytes: u64,
    max_message_bytes: u64,
    idle_timeout_ms: u64,
}

impl From<&ModelDetail> for DetailRecord {
    fn from(detail: &ModelDetail) -> Self {
        let summary = detail.summary.clone().unwrap_or_default();
        let payloads = detail.payloads().filter_map(|payload| match payload {
            PayloadKind::Tensors => Some("tensors"),
            PayloadKind::PcmS16le => Some("pcm_s16le"),
            PayloadKind::Unspecified => None,
        });
        Self {
            summary: ModelRecord::from(&summary),
            inputs: detail.inputs.iter().map(SpecRecord::from).collect(),
            outputs: detail.outputs.iter().map(SpecRecord::from).collect(),
            states: detail.states.iter().map(StateRecord::from).collect(),
            framing: detail.framing.map(FramingRecord::from),
            payloads: payloads.collect(),
            batch_costs: detail.batch_costs.iter().map(CostRecord::from).collect(),
            shape_costs: detail.shape_costs.iter().map(ShapeCostRecord::from).collect(),
            batch_cap: detail.batch_cap,
            no_batch: detail.no_batch,
            segment_rules: detail.segment_rules.map(RulesRecord::from),
            default_limits: detail.default_limits.map(LimitsRecord::from),
            padding: detail.padding.as_ref().map(PaddingRecord::from),
        }
    }
}

impl From<&TensorSpec> for SpecRecord {
    fn from(spec: &TensorSpec) -> Self {
        Self { name: spec.name.clone(), datatype: datatype_name(spec.datatype), shape: spec.shape.clone() }
    }
}

impl From<&StateSpec> for StateRecord {
    fn from(spec: &StateSpec) -> Self {
        Self {
            input: spec.input.clone(),
            output: spec.output.clone(),
            datatype: datatype_name(spec.datatype),
            shape: spec.shape.clone(),
            batch_axis: spec.batch_axis,
        }
    }
}

impl From<&BatchCost> for CostRecord {
    fn from(cost: &BatchCost) -> Self {
        let duration_ns = u64::try_from(duration(cost.duration).as_nanos()).unwrap_or(u64::MAX);
        Self { batch_size: cost.batch_size, duration_ns }
    }
}

impl From<&ShapeCost> for ShapeCostRecord {
    fn from(cost: &ShapeCost) -> Self {
        Self { item_bytes: cost.item_bytes, batch_costs: cost.batch_costs.iter().map(CostRecord::from).collect() }
    }
}

impl From<&Padding> for PaddingRecord {
    fn from(padding: &Padding) -> Self {
        let Padding { buckets, waste_max, mask } = padding.clone();
        Self { buckets, waste_max, mask }
    }
}

impl From<Framing> for FramingRecord {
    fn from(framing: Framing) -> Self {
        let Framing { sample_rate_hz, window_samples, context_samples } = framing;
        Self { sample_rate_hz, window_samples, context_samples }
    }
}

impl From<SegmentRules> for RulesRecord {
    fn from(rules: SegmentRules) -> Self {
        let SegmentRules { threshold, negative_threshold, min_speech_ms, min_silence_ms, pad_ms } = rules;
        Self { threshold, negative_threshold, min_speech_ms, min_silence_ms, pad_ms }
    }
}

impl From<StreamLimits> for LimitsRecord {
    fn from(limits: StreamLimits) -> Self {
        let StreamLimits { window_items, window_bytes, max_item_bytes, max_message_bytes, idle_timeout } = limits;
        let idle_timeout_ms = u64::try_from(duration(idle_timeout).as_millis()).unwrap_or(u64::MAX);
        Self { window_items, window_bytes, max_item_bytes, max_message_bytes, idle_timeout_ms }
    }
}

/// A duration of the wire; zero where there is none, or it is negative.
fn duration(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(duration_from_wire).unwrap_or_default()
}

impl fmt::Display for DetailRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ModelRecord { name, version, state, reason, engine, description, .. } = &self.summary;
        writeln!(f, "{name} version {version}: {state}, engine {engine}")?;
        [reason, description].into_iter().filter(|text| !text.is_empty()).try_for_each(|text| writeln!(f, "{text}"))?;
        let mut rows = Vec::new();
        let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
        self.inputs.iter().for_each(|spec| row("input", spec.to_string()));
        self.outputs.iter().for_each(|spec| row("output", spec.to_string()));
        for StateRecord { input, output, datatype, shape, .. } in &self.states {
            row("state", format!("{input} from {output}, {datatype} {shape:?}, kept per stream"));
        }
        row("payloads", self.payloads.join(", "));
        if let Some(FramingRecord { sample_rate_hz, window_samples, context_samples }) = self.framing {
            let window = format!("windows of {window_samples} samples after {context_samples} of context");
            row("framing", format!("{sample_rate_hz} Hz, {window}"));
        }
        if let Some(rules) = &self.segment_rules {
            row("segments", rules.to_string());
        }
        if let Some(limits) = &self.default_limits {
            row("limits", limits.to_string());
        }
        if let Some(padding) = &self.padding {
            row("padding", padding.to_string());
        }
        for cost in &self.batch_costs {
            row("cost", cost.to_string());
        }
        for ShapeCostRecord { item_bytes, batch_costs } in &self.shape_costs {
            batch_costs.iter().for_each(|cost| row("cost", format!("{cost}, items of {item_bytes} bytes")));
        }
        let note = if self.no_batch { ", as the model has no batch dimension" } else { "" };
        row("batch cap", format!("{}{note}", self.batch_cap));
        if let Some(batching) = &self.summary.batching {
            row("batching", batching.to_string());
        }
        f.write_str(&table(&rows))
    }
}

impl Record for DetailRecord {
    const KIND: &'static str = "model";
}

impl fmt::Display for SpecRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.datatype, self.shape)
    }
}

impl fmt::Display for RulesRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threshold, negative_threshold, min_speech_ms, min_silence_ms, pad_ms } = self;
        write!(f, "from {threshold}, until below {negative_threshold} for {min_silence_ms} ms; ")?;
        write!(f, "at least {min_speech_ms} ms, {pad_ms} ms of padding")
    }
}

impl fmt::Display for PaddingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { buckets, waste_max, mask } = self;
        write!(f, "at most {:.0} % of a batch", waste_max * 100.0)?;
        if !buckets.is_empty() {
            write!(f, "; items up to {buckets:?} meet")?;
        }
        if !mask.is_empty() { write!(f, "; {mask} may be left out") } else { Ok(()) }
    }
}

impl fmt::Display for LimitsRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { window_items, window_bytes, max_item_bytes, max_message_bytes, idle_timeout_ms } = self;
        write!(f, "{window_items} items or {window_bytes} bytes in flight; ")?;
        write!(f, "items of {max_item_bytes} bytes, messages of {max_message_bytes} bytes; idle for {idle_timeout_ms} ms")
    }
}

impl fmt::Display for CostRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, size) = (Duration::from_nanos(self.duration_ns), self.batch_size.max(1));
        write!(f, "batch of {:>3}: {call:>10.1?} a call, {:>10.1?} an item", self.batch_size, call / size)
    }
}
