//! `model.toml`: what a person says about a model, read and checked on its own.
//!
//! Knows the keys and their types. Whether they fit the model file is [`super::signature`]'s question.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Unexpected, Visitor},
};
use toml::{Table, Value};

use super::{
    faults::KeyFault,
    labels::LabelsEntry,
    policy::VersionPolicy,
    trial::{TrialEntry, rule},
};
use crate::{
    domain::{BatchingRule, Datatype},
    engine::{ENGINES, EngineChoice, Runs, ScriptEngine, engine_named},
};

/// Largest batch of a model whose manifest gives none, and the most that one may give.
pub const MAX_BATCH_DEFAULT: usize = 64;

const MAX_BATCH_RANGE: RangeInclusive<usize> = 1..=MAX_BATCH_DEFAULT;
const MAX_DELAY_US_MAX: u64 = 1_000_000;
const DESCRIPTION_BYTES_MAX: usize = 1_024;
const BUCKETS_MAX: usize = 64;
const WASTE_MAX_RANGE: RangeInclusive<f64> = 0.0..=1.0;
const WASTE_MAX_DEFAULT: f64 = 0.5;

/// The contents of `model.toml`. Every key may be left out; `docs/models.md` describes them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// One sentence about the model.
    pub description: String,
    /// What runs it.
    pub engine: EngineChoice,
    /// Whether a 32-bit engine may compute what the model computes in 64 bits.
    pub allow_narrowing: bool,
    /// Whether an engine that can holds its weights in packed form too; if left out, that is tried.
    pub prepack_weights: Option<bool>,
    /// Which of its versions are served.
    pub versions: VersionPolicy,
    /// Whether the model has a batch dimension; without one, one item is one call.
    pub batch: bool,
    /// Most items in a call; see [`Manifest::max_batch`].
    max_batch: Option<usize>,
    /// Whether items share calls.
    #[serde(deserialize_with = "rule")]
    pub batching: BatchingRule,
    /// How the server finds out whether they may.
    pub trial: TrialEntry,
    /// Time that a lane may wait for a fuller batch.
    pub max_delay_us: u64,
    /// Whether an answer is kept for requests that are the same again.
    pub cache: bool,
    /// Anything that the model file leaves open about its inputs.
    pub inputs: Vec<TensorEntry>,
    /// Anything that the model file leaves open about its outputs.
    pub outputs: Vec<TensorEntry>,
    /// The tensors that each stream keeps from one call to the next.
    pub states: Vec<StateEntry>,
    /// How raw payloads become items.
    pub framing: Option<FramingEntry>,
    /// How results become segments.
    pub segments: Option<SegmentsEntry>,
    /// How items of different lengths meet in a batch.
    pub padding: Option<PaddingEntry>,
    /// The tables of engines that run these in place of a file, by the engines' names.
    #[serde(skip)]
    pub(super) scripts: BTreeMap<&'static str, Value>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            description: String::new(),
            engine: EngineChoice::Auto,
            allow_narrowing: false,
            prepack_weights: None,
            versions: VersionPolicy::All,
            batch: true,
            max_batch: None,
            batching: BatchingRule::Proven,
            trial: TrialEntry::default(),
            max_delay_us: 0,
            cache: false,
            inputs: Vec::new(),
            outputs: Vec::new(),
            states: Vec::new(),
            framing: None,
            segments: None,
            padding: None,
            scripts: BTreeMap::new(),
        }
    }
}

/// A manifest's entry for one input or output.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TensorEntry {
    /// The model's name for it.
    pub name: String,
    /// Element type.
    #[serde(deserialize_with = "datatype")]
    pub datatype: Option<Datatype>,
    /// All dimensions, the batch's included.
    pub dims: Option<Vec<DimEntry>>,
    /// Where the batch dimension stands; an alternative to `"batch"` in `dims`.
    pub batch_axis: Option<usize>,
    /// The one value of all calls: a number, a boolean, or nested lists of them.
    pub shared: Option<Value>,
    /// Whether the output is left out: not asked of the engine, and not given to clients.
    pub omit: bool,
    /// Names of an output's elements.
    pub labels: Option<LabelsEntry>,
}

/// One dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DimEntry {
    /// Where items are put together.
    Batch,
    /// Differs from item to item.
    Dynamic,
    /// Of this size.
    Fixed(usize),
}

/// A state: an input, and the output that gives its next value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateEntry {
    /// The input.
    pub input: String,
    /// The output.
    pub output: String,
    /// Where the batch dimension stands in both.
    pub batch_axis: Option<usize>,
}

/// How raw payloads become items.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FramingEntry {
    /// The kind of payload.
    pub kind: Option<FramingKind>,
    /// The input that takes a window; may be left out, since there can be but one.
    pub input: Option<String>,
    /// Samples per second.
    pub sample_rate_hz: Option<u32>,
    /// New samples of each window.
    pub window_samples: Option<u32>,
    /// Samples of the previous window in front of them.
    pub context_samples: u32,
}

/// The kind of a raw payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FramingKind {
    /// Mono signed 16-bit little-endian audio.
    PcmS16le,
}

/// How results become segments. What is left out is Silero's.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmentsEntry {
    /// The output that holds the probability; may be left out if there is but one.
    pub output: Option<String>,
    /// A segment begins at this probability.
    pub threshold: Option<f32>,
    /// Silence begins below this one.
    pub negative_threshold: Option<f32>,
    /// Shorter segments are dropped.
    pub min_speech_ms: Option<u32>,
    /// Shorter gaps end no segment.
    pub min_silence_ms: Option<u32>,
    /// Added at both ends.
    pub pad_ms: Option<u32>,
}

/// How items of different lengths meet in a batch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaddingEntry {
    /// The dimension that is padded, by input, counted in the model's own shape; may be left out where only one is dynamic.
    pub axes: BTreeMap<String, usize>,
    /// What an input is padded with; 0 if it is left out.
    pub values: BTreeMap<String, Value>,
    /// Inputs that are not padded.
    pub unpadded: Vec<String>,
    /// The input that marks real elements, as opposed to padding.
    pub mask: Option<String>,
    /// Rising lengths; only items of one bucket meet.
    pub buckets: Vec<u32>,
    /// Whether a batch is padded to its bucket's length rather than to its longest item's.
    pub pad_to_bucket: bool,
    /// Share of padding that a batch may have at most.
    pub waste_max: f64,
}

impl Default for PaddingEntry {
    fn default() -> Self {
        Self {
            axes: BTreeMap::new(),
            values: BTreeMap::new(),
            unpadded: Vec::new(),
            mask: None,
            buckets: Vec::new(),
            pad_to_bucket: false,
            waste_max: WASTE_MAX_DEFAULT,
        }
    }
}

impl Manifest {
    /// Reads `model.toml`.
    ///
    /// # Errors
    /// Everything that can be seen without the model file: syntax, unknown keys, wrong types, missing keys, values out of range.
    pub fn parse(text: &str) -> Result<Self, Vec<KeyFault>> {
        let table: Table = text.parse().map_err(|error| vec![syntax_fault(text, &error)])?;
        let mut readable = Value::Table(table);
        let mut faults = Vec::new();
        take_unreadable(&mut readable, "", &|leaf| leaf, &mut faults);
        let scripts = take_scripts(&mut readable);
        match Self::deserialize(readable) {
            Ok(manifest) => {
                let manifest = Self { scripts, ..manifest };
                // A key that was taken out for its fault is not reported as missing too.
                let is_new = |found: &KeyFault| !faults.iter().any(|known| known.key == found.key);
                let more: Vec<KeyFault> = manifest.check().into_iter().filter(is_new).collect();
                faults.extend(more);
                if faults.is_empty() { Ok(manifest) } else { Err(faults) }
            }
            Err(error) => {
                faults.push(KeyFault::new("", error.message().trim()));
                Err(faults)
            }
        }
    }

    /// Whether a text, sound or not, asks for an engine that takes no model file.
    pub(super) fn needs_no_file(text: &str) -> bool {
        let table = text.parse::<Table>().ok();
        let engine = table.and_then(|table| engine_named(table.get("engine")?.as_str()?));
        engine.is_some_and(|engine| matches!(engine.runs(), Runs::Scripts(_)))
    }

    /// The table of this engine's name.
    pub(super) fn script(&self, engine: &str) -> Value {
        self.scripts.get(engine).cloned().unwrap_or_else(|| Value::Table(Table::new()))
    }

    /// Most items in a call.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        if self.batch { self.max_batch.unwrap_or(MAX_BATCH_DEFAULT) } else { 1 }
    }

    /// [`Manifest::max_delay_us`] as a duration.
    #[must_use]
    pub const fn max_delay(&self) -> Duration {
        Duration::from_micros(self.max_delay_us)
    }

    fn check(&self) -> Vec<KeyFault> {
        let mut faults = Vec::new();
        let mut fault = |key: String, reason: String| faults.push(KeyFault { key, reason });
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            let length = self.description.len();
            fault("description".to_owned(), format!("is {length} bytes long; at most {DESCRIPTION_BYTES_MAX} are accepted"));
        }
        if let Some(max_batch) = self.max_batch.filter(|size| !MAX_BATCH_RANGE.contains(size)) {
            fault("max_batch".to_owned(), format!("is {max_batch}; accepted are 1 to {MAX_BATCH_DEFAULT} items"));
        }
        if !self.batch {
            self.check_no_batch(&mut fault);
        }
        self.trial.check(&mut fault);
        if self.max_delay_us > MAX_DELAY_US_MAX {
            fault("max_delay_us".to_owned(), format!("is {}; at most {MAX_DELAY_US_MAX} is accepted", self.max_delay_us));
        }
        for (list, entries) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            for (index, entry) in entries.iter().enumerate() {
                check_tensor_entry(list, index, entry, entries, &mut fault);
            }
        }
        if self.cache && !self.states.is_empty() {
            let reason =
                "keeps answers for equal requests, but those of a model with states depend on what came before: leave it out";
            fault("cache".to_owned(), reason.to_owned());
        }
        for (index, state) in self.states.iter().enumerate() {
            for (name, value) in [("input", &state.input), ("output", &state.output)] {
                if value.is_empty() {
                    fault(format!("states[{index}].{name}"), format!("is missing; it names an {name} of the model"));
                }
            }
        }
        if let Some(framing) = &self.framing {
            let missing = [
                ("kind", framing.kind.is_none()),
                ("sample_rate_hz", framing.sample_rate_hz.is_none()),
                ("window_samples", framing.window_samples.is_none()),
            ];
            for (name, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
                fault(format!("framing.{name}"), "is missing".to_owned());
            }
        }
        if let Some(padding) = &self.padding {
            check_padding_entry(padding, &mut fault);
        }
        self.check_narrowing(&mut fault);
        self.check_scripts(&mut fault);
        faults
    }

    fn check_narrowing(&self, fault: &mut impl FnMut(String, String)) {
        let narrowing = ENGINES.into_iter().filter_map(|engine| match engine.runs() {
            Runs::Files(files) => Some((EngineChoice::Named(engine), files.narrows()?)),
            Runs::Scripts(_) => None,
        });
        if self.allow_narrowing && !narrowing.clone().any(|(engine, _)| engine == self.engine) {
            let engines: Vec<String> =
                narrowing.map(|(engine, lacks)| format!("engine = \"{}\", which {lacks}", engine.name())).collect();
            fault("allow_narrowing".to_owned(), format!("is for {}", engines.join(", and for ")));
        }
    }

    fn check_scripts(&self, fault: &mut impl FnMut(String, String)) {
        for (name, engine) in script_engines() {
            match (self.scripts.get(name), self.engine.name() == name) {
                (None, true) => fault(name.to_owned(), "is missing; it scripts the engine".to_owned()),
                (Some(_), false) => fault(name.to_owned(), format!("is only read with engine = \"{name}\"")),
                (Some(script), true) => {
                    if let Err(error) = engine.check(script) {
                        fault(name.to_owned(), error.to_string());
                    }
                }
                (None, false) => {}
            }
        }
    }

    /// Finds keys about a batch although there is none.
    fn check_no_batch(&self, fault: &mut impl FnMut(String, String)) {
        if let Some(max_batch) = self.max_batch.filter(|size| *size > 1) {
            fault("max_batch".to_owned(), format!("is {max_batch}, but with batch = false a call takes one item: leave it out"));
        }
        if self.padding.is_some() {
            fault("padding".to_owned(), "pads the items of a batch, and batch = false says that there is none".to_owned());
        }
        for (list, entries) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            for (index, entry) in entries.iter().enumerate() {
                if entry.dims.iter().flatten().any(|dim| *dim == DimEntry::Batch) {
                    let reason = "marks a dimension as \"batch\", and batch = false says that there is none";
                    fault(format!("{list}[{index}].dims"), reason.to_owned());
                }
            }
        }
        let tensors = (self.inputs.iter().enumerate().map(|(index, entry)| ("inputs", index, entry.batch_axis)))
            .chain(self.outputs.iter().enumerate().map(|(index, entry)| ("outputs", index, entry.batch_axis)));
        let states = self.states.iter().enumerate().map(|(index, state)| ("states", index, state.batch_axis));
        for (list, index, axis) in tensors.chain(states) {
            if let Some(axis) = axis {
                let reason = format!("is {axis}, but batch = false says that there is no batch dimension");
                fault(format!("{list}[{index}].batch_axis"), reason);
            }
        }
    }
}

fn check_padding_entry(entry: &PaddingEntry, fault: &mut impl FnMut(String, String)) {
    let PaddingEntry { buckets, waste_max, .. } = entry;
    if buckets.len() > BUCKETS_MAX {
        fault("padding.buckets".to_owned(), format!("has {} lengths; at most {BUCKETS_MAX} are accepted", buckets.len()));
    }
    if buckets.first() == Some(&0) || !buckets.is_sorted_by(|shorter, longer| shorter < longer) {
        fault("padding.buckets".to_owned(), format!("is {buckets:?}; lengths must rise, from at least 1"));
    }
    if entry.pad_to_bucket && buckets.is_empty() {
        fault("padding.pad_to_bucket".to_owned(), "needs padding.buckets, whose lengths it pads to".to_owned());
    }
    if !WASTE_MAX_RANGE.contains(waste_max) {
        let (least, most) = (WASTE_MAX_RANGE.start(), WASTE_MAX_RANGE.end());
        fault("padding.waste_max".to_owned(), format!("is {waste_max}; accepted are {least} (equal lengths only) to {most}"));
    }
}

fn check_tensor_entry(
    list: &str,
    index: usize,
    entry: &TensorEntry,
    all: &[TensorEntry],
    fault: &mut impl FnMut(String, String),
) {
    let key = |name: &str| format!("{list}[{index}].{name}");
    if entry.name.is_empty() {
        fault(key("name"), "is missing; it names a tensor of the model".to_owned());
    } else if all.iter().take(index).any(|earlier| earlier.name == entry.name) {
        fault(key("name"), format!("'{}' is described twice", entry.name));
    }
    let markers: Vec<usize> =
        entry.dims.iter().flatten().enumerate().filter(|(_, dim)| **dim == DimEntry::Batch).map(|(axis, _)| axis).collect();
    match (markers.as_slice(), entry.batch_axis) {
        ([_, _, ..], _) => fault(key("dims"), format!("marks {} dimensions as \"batch\"; a tensor has one", markers.len())),
        ([marked], Some(axis)) if *marked != axis => {
            fault(key("batch_axis"), format!("is {axis}, but dims has \"batch\" at {marked}; name one of the two"));
        }
        _ => {}
    }
    if let Some(labels) = &entry.labels {
        if list == "inputs" {
            fault(key("labels"), "is for outputs only".to_owned());
        } else if let Err(reason) = labels.check() {
            fault(key("labels"), reason);
        }
    }
    if entry.omit && list == "inputs" {
        fault(key("omit"), "is for outputs only: a call needs a value for each input".to_owned());
    }
    if entry.shared.is_some() {
        if list == "outputs" {
            fault(key("shared"), "is for inputs only".to_owned());
        }
        if !markers.is_empty() || entry.batch_axis.is_some() {
            fault(key("shared"), "the whole batch has one value, so that there is no batch dimension to name".to_owned());
        }
    }
}

/// The engines that run a table of the manifest, which has their name.
fn script_engines() -> impl Iterator<Item = (&'static str, &'static dyn ScriptEngine)> {
    ENGINES.into_iter().filter_map(|engine| match engine.runs() {
        Runs::Scripts(scripts) => Some((engine.name(), scripts)),
        Runs::Files(_) => None,
    })
}

/// Takes the tables of those engines out of a manifest.
fn take_scripts(manifest: &mut Value) -> BTreeMap<&'static str, Value> {
    let Value::Table(table) = manifest else { return BTreeMap::new() };
    script_engines().filter_map(|(name, _)| Some((name, table.remove(name)?))).collect()
}

/// Whether a manifest that holds nothing but one leaf can be read; else why not.
fn read_leaf(mut manifest: Value) -> Result<(), String> {
    let scripts = take_scripts(&mut manifest);
    for (name, engine) in script_engines() {
        if let Some(script) = scripts.get(name) {
            engine.read(script)?;
        }
    }
    let read = Manifest::deserialize(manifest).map(|_| ());
    read.map_err(|error| {
        let reason = error.message().trim();
        // The tables of engines are keys as well.
        let is_unknown = reason.starts_with("unknown field") && reason.contains("`description`");
        let tables = script_engines().filter(|_| is_unknown).map(|(name, _)| format!(", `{name}`"));
        reason.to_owned() + &tables.collect::<String>()
    })
}

/// Reads each leaf as if it stood alone, so that all faults are found rather than the first, and takes out those that have one.
///
/// `rebuild` puts a leaf back into its place in an otherwise empty manifest. Says whether `value` stays.
fn take_unreadable(value: &mut Value, path: &str, rebuild: &dyn Fn(Value) -> Value, faults: &mut Vec<KeyFault>) -> bool {
    match value {
        Value::Table(table) if !table.is_empty() => {
            table.retain(|name, inner| {
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                let rebuild = |leaf| rebuild(Value::Table(Table::from_iter([(name.to_owned(), leaf)])));
                take_unreadable(inner, &path, &rebuild, faults)
            });
            true
        }
        Value::Array(list) if list.iter().all(Value::is_table) && !list.is_empty() => {
            for (index, inner) in list.iter_mut().enumerate() {
                take_unreadable(inner, &format!("{path}[{index}]"), &|leaf| rebuild(Value::Array(vec![leaf])), faults);
            }
            true
        }
        leaf => {
            let outcome = read_leaf(rebuild(leaf.clone()));
            outcome.map_err(|reason| faults.push(KeyFault::new(path, reason.trim()))).is_ok()
        }
    }
}

fn syntax_fault(text: &str, error: &toml::de::Error) -> KeyFault {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    KeyFault::new(format!("line {line}"), error.message().trim())
}

fn datatype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Datatype>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for DimEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DimVisitor)
    }
}

struct DimVisitor;

impl Visitor<'_> for DimVisitor {
    type Value = DimEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"batch\", -1 for a dynamic dimension, or a size of at least 1")
    }

    fn visit_i64<E: serde::de::Error>(self, size: i64) -> Result<DimEntry, E> {
        match usize::try_from(size) {
            Ok(size) if size > 0 => Ok(DimEntry::Fixed(size)),
            _ if size == -1 => Ok(DimEntry::Dynamic),
            _ => Err(E::invalid_value(Unexpected::Signed(size), &self)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<DimEntry, E> {
        if word == "batch" { Ok(DimEntry::Batch) } else { Err(E::invalid_value(Unexpected::Str(word), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let faults = Manifest::parse(text).expect_err("must be refused");
        faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.reason)).collect()
    }

    #[test]
    fn an_empty_manifest_leaves_everything_to_the_model_file() {
        assert_eq!(Manifest::parse("").expect("nothing is needed"), Manifest::default());
    }

    #[test]
    fn every_key_is_read() {
        let manifest = Manifest::parse(
            r#"
            description = "doubles"
            engine = "synthetic"
            batch = true
            max_batch = 8
            max_delay_us = 500
            cache = false
            [[inputs]]
            name = "x"
            datatype = "FP32"
            dims = [-1, "batch", 4]
            [[inputs]]
            name = "rate"
            shared = 16000
            [[outputs]]
            name = "y"
            batch_axis = 1
            labels = ["no", "yes"]
            [[outputs]]
            name = "z"
            omit = true
            [[states]]
            input = "s"
            output = "t"
            batch_axis = 1
            [framing]
            kind = "pcm_s16le"
            input = "x"
            sample_rate_hz = 16000
            window_samples = 512
            context_samples = 64
            [segments]
            output = "y"
            threshold = 0.5
            pad_ms = 10
            [padding]
            axes = { x = 0 }
            values = { x = -1.5 }
            unpadded = ['z']
            mask = 'm'
            buckets = [16, 32]
            pad_to_bucket = true
            waste_max = 0.25
            [synthetic]
            cost_per_call_us = 100
            cost_per_item_us = 10
            "#,
        )
        .expect("all keys are good");
        assert_eq!(manifest.inputs[0].dims, Some(vec![DimEntry::Dynamic, DimEntry::Batch, DimEntry::Fixed(4)]));
        assert_eq!(manifest.inputs[0].datatype, Some(Datatype::Fp32));
        assert_eq!(manifest.inputs[1].shared, Some(Value::Integer(16_000)));
        assert_eq!(manifest.outputs[0].labels, Some(LabelsEntry::List(vec!["no".to_owned(), "yes".to_owned()])));
        assert_eq!(manifest.states[0].batch_axis, Some(1));
        assert_eq!((manifest.batch, manifest.max_batch()), (true, 8));
        assert_eq!([manifest.outputs[0].omit, manifest.outputs[1].omit], [false, true]);
        assert_eq!(manifest.framing.map(|framing| framing.context_samples), Some(64));
        assert_eq!(manifest.segments.and_then(|segments| segments.pad_ms), Some(10));
        let padding = PaddingEntry {
            axes: BTreeMap::from([("x".to_owned(), 0)]),
            values: BTreeMap::from([("x".to_owned(), Value::Float(-1.5))]),
            unpadded: vec!["z".to_owned()],
            mask: Some("m".to_owned()),
            buckets: vec![16, 32],
            pad_to_bucket: true,
            waste_max: 0.25,
        };
        assert_eq!(manifest.padding, Some(padding));
        assert_eq!(manifest.max_delay_us, 500);
    }

    #[test]
    fn without_a_batch_a_call_takes_one_item() {
        for text in ["batch = false", "batch = false\nmax_batch = 1"] {
            assert_eq!(Manifest::parse(text).expect("nothing contradicts it").max_batch(), 1);
        }
        assert_eq!(Manifest::parse("").expect("nothing is needed").max_batch(), MAX_BATCH_DEFAULT);
    }

    #[test]
    fn padding_needs_no_key() {
        assert_eq!(Manifest::parse("[padding]").expect("nothing is needed").padding, Some(PaddingEntry::default()));
    }

    #[test]
    fn each_fault_names_its_key() {
        let cases = [
            ("[[inputs", "line 1: "),
            ("\n\nx = ", "line 3: "),
            ("max_bach = 8", "max_bach: unknown field `max_bach`, expected one of `description`, `engine`"),
            ("max_bach = 8", "`padding`, `synthetic`"),
            ("engine = 'tract'", "engine: unknown variant `tract`, expected one of `auto`, `rten`, `onnxruntime`, `synthetic`"),
            ("max_batch = 0", "max_batch: is 0; accepted are 1 to 64 items"),
            ("max_batch = 65", "max_batch: is 65"),
            ("max_batch = -1", "max_batch: invalid value: integer `-1`"),
            ("max_delay_us = 2000000", "max_delay_us: is 2000000; at most 1000000"),
            ("description = 5", "description: invalid type: integer `5`, expected a string"),
            ("[[inputs]]\ndims = [1]", "inputs[0].name: is missing"),
            ("[[inputs]]\nname = 'x'\n[[inputs]]\nname = 'x'", "inputs[1].name: 'x' is described twice"),
            ("[[inputs]]\nname = 'x'\ndatatype = 'float'", "inputs[0].datatype: unknown datatype 'float'"),
            ("[[inputs]]\nname = 'x'\ndims = [0]", "inputs[0].dims: invalid value: integer `0`, expected \"batch\", -1"),
            ("[[inputs]]\nname = 'x'\ndims = ['time']", "inputs[0].dims: invalid value: string \"time\", expected \"batch\""),
            ("[[inputs]]\nname = 'x'\ndims = ['batch', 'batch']", "inputs[0].dims: marks 2 dimensions"),
            (
                "[[inputs]]\nname = 'x'\ndims = ['batch', 1]\nbatch_axis = 1",
                "inputs[0].batch_axis: is 1, but dims has \"batch\" at 0",
            ),
            ("[[inputs]]\nname = 'x'\nbatch_axis = 0\nshared = 1", "inputs[0].shared: the whole batch has one value"),
            ("[[outputs]]\nname = 'x'\nshared = 1", "outputs[0].shared: is for inputs only"),
            ("[[inputs]]\nname = 'x'\nomit = true", "inputs[0].omit: is for outputs only"),
            ("[[inputs]]\nname = 'x'\nlabels = ['a']", "inputs[0].labels: is for outputs only"),
            ("[[outputs]]\nname = 'x'\nlabels = []", "outputs[0].labels: has no labels"),
            (
                "[[outputs]]\nname = 'x'\nlabels = 5",
                "outputs[0].labels: invalid type: integer `5`, expected a list of labels, or",
            ),
            (
                "[[outputs]]\nname = 'x'\nlabels = '../x'",
                "outputs[0].labels: is '../x'; it names a file in the folder of model.toml",
            ),
            ("cache = true\n[[states]]\ninput = 'h'\noutput = 'k'", "cache: keeps answers for equal requests"),
            ("cache = 1", "cache: invalid type: integer `1`, expected a boolean"),
            ("batch = 'none'", "batch: invalid type: string \"none\", expected a boolean"),
            ("batch = false\nmax_batch = 8", "max_batch: is 8, but with batch = false a call takes one item"),
            ("batch = false\n[padding]", "padding: pads the items of a batch, and batch = false says that there is none"),
            ("batch = false\n[[inputs]]\nname = 'x'\ndims = ['batch', 4]", "inputs[0].dims: marks a dimension as \"batch\", and"),
            ("batch = false\n[[outputs]]\nname = 'y'\nbatch_axis = 0", "outputs[0].batch_axis: is 0, but batch = false says"),
            (
                "batch = false\n[[states]]\ninput = 'h'\noutput = 'k'\nbatch_axis = 1",
                "states[0].batch_axis: is 1, but batch = false",
            ),
            ("inputs = 5", "inputs: invalid type: integer `5`, expected a sequence"),
            ("[[states]]\ninput = 'x'", "states[0].output: is missing"),
            ("[framing]\nkind = 'pcm_s16le'\nsample_rate_hz = 8000", "framing.window_samples: is missing"),
            ("[framing]\nkind = 'mp3'\nsample_rate_hz = 8000\nwindow_samples = 1", "framing.kind: unknown variant `mp3`"),
            ("[segments]\nthreshold = 'high'", "segments.threshold: invalid type: string \"high\", expected f32"),
            ("[padding]\nbuckets = [32, 16]", "padding.buckets: is [32, 16]; lengths must rise, from at least 1"),
            ("[padding]\nbuckets = [0, 16]", "padding.buckets: is [0, 16]"),
            ("[padding]\nbuckets = [-1]", "padding.buckets: invalid value: integer `-1`, expected u32"),
            ("[padding]\npad_to_bucket = true", "padding.pad_to_bucket: needs padding.buckets"),
            ("[padding]\nwaste_max = 1.5", "padding.waste_max: is 1.5; accepted are 0 (equal lengths only) to 1"),
            ("[padding]\nwaste_max = nan", "padding.waste_max: is NaN"),
            ("[padding]\naxes = { x = 'last' }", "padding.axes.x: invalid type: string \"last\", expected usize"),
            ("[padding]\naxis = 1", "padding.axis: unknown field `axis`, expected one of `axes`"),
            ("engine = 'synthetic'", "synthetic: is missing"),
            ("[synthetic]", "synthetic: is only read with engine = \"synthetic\""),
            ("engine = 'synthetic'\n[synthetic]\ncost = 1", "synthetic.cost: unknown field `cost`, expected one of `kind`"),
            ("engine = 'synthetic'\nsynthetic = 5", "synthetic: invalid type: integer `5`"),
            ("allow_narrowing = true", "is for engine = \"rten\", which has only 32-bit integers and FP32"),
            ("engine = 'onnxruntime'\nallow_narrowing = true", "allow_narrowing: is for engine = \"rten\""),
            ("engine = 'rten'\nallow_narrowing = 1", "allow_narrowing: invalid type"),
            ("prepack_weights = 'always'", "prepack_weights: invalid type: string \"always\", expected a boolean"),
            ("engine = 'synthetic'\n[synthetic]\ncost_per_call_us = 99000000", "cost_per_call_us is 99000000; at most 60000000"),
        ];
        for (text, expected) in cases {
            let found = faults(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(expected), "{text}: {found:?} lacks {expected}");
        }
    }

    #[test]
    fn faults_of_reading_come_all_at_once() {
        let text = "engine = 'tract'\nmax_batch = 'many'\n[[states]]\ninput = 's'\n[[states]]\naxis = 1\n[framing]\nrate = 5";
        let found = faults(text);
        let keys: Vec<&str> = found.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(keys[..4], ["engine", "framing.rate", "max_batch", "states[1].axis"]);
    }

    #[test]
    fn faults_of_reading_and_checking_come_together() {
        let found =
            faults("max_bach = 1\nmax_delay_us = 2000000\n[[inputs]]\nname = 5\n[framing]\nkind = 'mp3'\nsample_rate_hz = 1");
        let keys: Vec<&str> = found.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(keys, ["framing.kind", "inputs[0].name", "max_bach", "max_delay_us", "framing.window_samples"]);
    }

    #[test]
    fn faults_of_checking_come_all_at_once() {
        let found = faults("max_batch = 0\nmax_delay_us = 2000000\n[framing]\n[[states]]");
        assert_eq!(found.len(), 7, "{found:?}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-z_]{0,12} ?(= ?(-?[0-9]{0,20}|'[a-z:0-9]*'|\\[\\[1\\]|\\{a=1\\}|true|1e9))?\n|\\[{0,2}(inputs|states|framing|x)\\]{0,2}\n|(name|dims|shared|input|batch_axis) = (1|'x'|\\[-1,'batch'\\])\n|.{0,8}\n){0,9}") {
            let _ = Manifest::parse(&text);
        }
    }
}
