//! From a manifest and what the model file declares to a signature, or to everything that does not fit.
//!
//! Pure: knows no file and no engine, only what they declare.

use std::sync::Arc;

use super::{
    SegmentPost,
    faults::KeyFault,
    manifest::{DimEntry, FramingEntry, Manifest, SegmentsEntry, StateEntry, TensorEntry},
    padding::fit_padding,
    shared_value::shared_tensor,
};
use crate::{
    codec::{FramingRule, SegmentRules},
    domain::{Datatype, SharedInput, Signature, StateSpec, TensorSpec, element_count},
    engine::{Contract, DeclaredTensor},
};

/// Largest state of one stream, in bytes.
const STATE_BYTES_MAX: usize = 64 << 20;

type Dims = Vec<Option<usize>>;

/// A model as its clients and its lanes see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Inputs, outputs, states and shared inputs.
    pub signature: Arc<Signature>,
    /// How raw payloads become items.
    pub framing: Option<FramingRule>,
    /// How results become segments.
    pub segments: Option<SegmentPost>,
    /// Share of padding that a batch may have at most; `None` if items are not padded.
    pub padding_waste_max: Option<f64>,
}

/// What a manifest with no model file declares: all of it must be in the manifest.
///
/// # Errors
/// Each missing name, datatype or shape.
pub fn declared_contract(manifest: &Manifest) -> Result<Contract, Vec<KeyFault>> {
    let (mut faults, engine) = (Vec::new(), manifest.engine.name());
    let mut declare = |list: &str, entries: &[TensorEntry]| {
        let mut missing =
            |key: String| faults.push(KeyFault::new(key, format!("is missing; a {engine} model has no file to read it from")));
        if entries.is_empty() {
            missing(list.to_owned());
        }
        for (index, entry) in entries.iter().enumerate() {
            if entry.datatype.is_none() {
                missing(format!("{list}[{index}].datatype"));
            }
            if entry.dims.is_none() {
                missing(format!("{list}[{index}].dims"));
            }
        }
        if let Some(index) = entries.iter().position(|entry| entry.omit) {
            let reason = format!("a {engine} model has the outputs that are listed: leave this one out of the list");
            faults.push(KeyFault::new(format!("{list}[{index}].omit"), reason));
        }
        let tensor = |entry: &TensorEntry| DeclaredTensor {
            name: entry.name.clone(),
            datatype: entry.datatype,
            dims: entry.dims.as_deref().map(sizes),
            has_default: false,
        };
        entries.iter().map(tensor).collect()
    };
    let contract = Contract { inputs: declare("inputs", &manifest.inputs), outputs: declare("outputs", &manifest.outputs) };
    if faults.is_empty() { Ok(contract) } else { Err(faults) }
}

/// Fits `manifest` to what the model file declares.
///
/// # Errors
/// Everything that does not fit, each with its key in the manifest.
pub fn fit(manifest: &Manifest, contract: &Contract) -> Result<Interface, Vec<KeyFault>> {
    let mut fitting = Fitting { has_batch: manifest.batch, max_batch: manifest.max_batch(), faults: Vec::new() };
    let mut inputs = fitting.merge("input", &contract.inputs, &manifest.inputs);
    let mut outputs = fitting.merge("output", &contract.outputs, &manifest.outputs);
    let mut signature = Signature::default();
    for (index, entry) in manifest.states.iter().enumerate() {
        signature.states.extend(fitting.state(index, entry, &mut inputs, &mut outputs));
    }
    for input in inputs.iter().filter(|input| !input.is_state) {
        match input.entry.and_then(|(_, entry)| entry.shared.as_ref()) {
            Some(value) => signature.shared.extend(fitting.shared(input, value)),
            None if input.keeps_default() => signature.defaults.push(input.name.into()),
            None => signature.inputs.extend(fitting.spec(input)),
        }
    }
    for output in outputs.iter().filter(|output| output.is_for_items()) {
        signature.outputs.extend(fitting.spec(output));
    }
    if !inputs.iter().any(Merged::is_for_items) {
        fitting.fault("inputs", "all are states or shared or have a default, so clients have nothing to send");
    }
    if !outputs.iter().any(Merged::is_for_items) {
        fitting.fault("outputs", "all are states or left out (omit), so clients have nothing to receive");
    }
    // A tensor with a fault is not in the signature: then framing, segments and padding cannot be judged.
    let is_whole = fitting.faults.is_empty();
    if let (Some(entry), true) = (&manifest.padding, is_whole) {
        match fit_padding(entry, &signature) {
            Ok(rule) => signature.padding = Some(rule),
            Err(faults) => fitting.faults.extend(faults),
        }
    }
    let padding_waste_max = manifest.padding.as_ref().map(|entry| entry.waste_max);
    let framing = manifest.framing.as_ref().and_then(|entry| fitting.framing(entry, is_whole.then_some(&signature)));
    let segments = manifest.segments.as_ref().and_then(|entry| fitting.segments(entry, is_whole.then_some(&signature)));
    if manifest.segments.is_some() && manifest.framing.is_none() {
        fitting.fault("segments", "needs [framing], which says how long a window is");
    }
    if fitting.faults.is_empty() {
        Ok(Interface { signature: Arc::new(signature), framing, segments, padding_waste_max })
    } else {
        Err(fitting.faults)
    }
}

/// A tensor as file and manifest together describe it.
struct Merged<'a> {
    /// `input` or `output`.
    kind: &'static str,
    name: &'a str,
    datatype: Option<Datatype>,
    dims: Option<Dims>,
    /// Where the manifest puts the batch dimension.
    batch_axis: Option<usize>,
    entry: Option<(usize, &'a TensorEntry)>,
    has_default: bool,
    is_state: bool,
}

impl Merged<'_> {
    /// The key at which the manifest gives, or could give, `field` for this tensor.
    fn key(&self, field: &str) -> String {
        self.entry.map_or_else(|| format!("{}s", self.kind), |(index, _)| format!("{}s[{index}].{field}", self.kind))
    }

    fn is_for_items(&self) -> bool {
        !self.is_state && !self.keeps_default() && self.entry.is_none_or(|(_, entry)| entry.shared.is_none() && !entry.omit)
    }

    /// Whether it keeps the file's default, because the manifest does not mention it.
    const fn keeps_default(&self) -> bool {
        self.has_default && self.entry.is_none() && !self.is_state
    }

    fn is_omitted(&self) -> bool {
        self.entry.is_some_and(|(_, entry)| entry.omit)
    }
}

struct Fitting {
    has_batch: bool,
    max_batch: usize,
    faults: Vec<KeyFault>,
}

impl Fitting {
    fn fault(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.faults.push(KeyFault::new(key, reason));
    }

    fn fault_of(&mut self, tensor: &Merged<'_>, field: &str, reason: impl AsRef<str>) {
        self.fault(tensor.key(field), format!("{} '{}' {}", tensor.kind, tensor.name, reason.as_ref()));
    }

    fn merge<'a>(&mut self, kind: &'static str, declared: &'a [DeclaredTensor], entries: &'a [TensorEntry]) -> Vec<Merged<'a>> {
        for (index, entry) in entries.iter().enumerate() {
            if !declared.iter().any(|tensor| tensor.name == entry.name) {
                let known = quoted(declared.iter().map(|tensor| tensor.name.as_str()));
                self.fault(format!("{kind}s[{index}].name"), format!("the model has no {kind} '{}'; it has {known}", entry.name));
            }
        }
        let merge_one = |tensor: &'a DeclaredTensor| {
            let entry = entries.iter().enumerate().find(|(_, entry)| entry.name == tensor.name);
            let marked = entry.and_then(|(_, entry)| entry.dims.as_ref()?.iter().position(|dim| *dim == DimEntry::Batch));
            let mut merged = Merged {
                kind,
                name: &tensor.name,
                datatype: tensor.datatype,
                dims: None,
                batch_axis: marked.or_else(|| entry.and_then(|(_, entry)| entry.batch_axis)),
                entry,
                has_default: tensor.has_default,
                is_state: false,
            };
            if merged.is_omitted() {
                return merged;
            }
            let wanted = entry.and_then(|(_, entry)| entry.datatype);
            if let (Some(real), Some(wanted)) = (tensor.datatype, wanted)
                && real != wanted
            {
                self.fault_of(&merged, "datatype", format!("is {real} in the model file, not {wanted}"));
            }
            let dims = match entry.and_then(|(_, entry)| entry.dims.as_deref()) {
                // Exporters sometimes declare wrong shapes for outputs; the trial calls show which is right.
                Some(dims) if kind == "output" => Ok(Some(sizes(dims))),
                dims => merge_dims(tensor.dims.as_deref(), dims),
            };
            match dims {
                Ok(dims) => merged.dims = dims,
                Err(reason) => {
                    self.fault_of(&merged, "dims", reason);
                    merged.dims.clone_from(&tensor.dims);
                }
            }
            merged
        };
        declared.iter().map(merge_one).collect()
    }

    /// An input or output of each item; a fault and `None` if it cannot be one.
    fn spec(&mut self, tensor: &Merged<'_>) -> Option<TensorSpec> {
        let datatype = self.datatype(tensor)?;
        let batch_axis = self.has_batch.then(|| tensor.batch_axis.unwrap_or(0));
        if let (Datatype::Bytes, Some(axis @ 1..)) = (datatype, batch_axis) {
            self.fault_of(tensor, "batch_axis", format!("is BYTES, whose batch must be on axis 0, not {axis}"));
            return None;
        }
        match self.item_dims(tensor, batch_axis) {
            Ok(dims) => Some(TensorSpec { name: tensor.name.into(), datatype, dims, batch_axis }),
            Err((field, reason)) => {
                self.fault_of(tensor, field, reason);
                None
            }
        }
    }

    /// The datatype of a tensor that is used; a fault and `None` if there is none for its type.
    fn datatype(&mut self, tensor: &Merged<'_>) -> Option<Datatype> {
        if tensor.datatype.is_none() {
            let reason = match (tensor.kind, tensor.is_state, &tensor.dims) {
                // Something that is not a tensor has no shape.
                ("output", false, None) => {
                    "has a type that cannot be served, such as a sequence or a map, which a classifier with ZipMap gives: export the \
                     model with zipmap = False, or leave the output out (omit = true in [[outputs]])"
                }
                ("output", false, Some(_)) => {
                    "has a type that cannot be served, such as INT4: leave the output out (omit = true in [[outputs]])"
                }
                _ => "has a type that cannot be served, such as INT4 or a sequence: export the model with another",
            };
            self.fault_of(tensor, "datatype", reason);
        }
        tensor.datatype
    }

    /// The dimensions without the batch, or the field at fault and why.
    fn item_dims(&self, tensor: &Merged<'_>, batch_axis: Option<usize>) -> Result<Dims, (&'static str, String)> {
        let Some(dims) = &tensor.dims else {
            let example = if self.has_batch { "[\"batch\", 16]" } else { "[16]" };
            return Err(("dims", format!("has no shape in the model file: give its dims, such as {example}")));
        };
        if let (Some(axis), "input") = (dims.iter().position(|dim| *dim == Some(0)), tensor.kind) {
            return Err(("dims", format!("has size 0 in dimension {axis}")));
        }
        let Some(batch_axis) = batch_axis else { return Ok(dims.clone()) };
        match dims.get(batch_axis) {
            Some(None) => {}
            Some(Some(1)) if self.max_batch == 1 => {}
            _ => return Err(no_batch(tensor, dims, batch_axis)),
        }
        Ok(dims.iter().enumerate().filter(|(axis, _)| *axis != batch_axis).map(|(_, dim)| *dim).collect())
    }

    /// Finds what keeps an output from being the next value of a state of this name and shape.
    fn next_state(&mut self, key: &str, output: &Merged<'_>, batch_axis: Option<usize>, (name, dims): (&str, &Dims)) {
        // An output of unknown shape is taken on trust here; the lane checks what each call returns.
        if output.dims.is_none() {
            return;
        }
        match self.item_dims(output, batch_axis) {
            Ok(next) if !may_be_equal(dims, &next) => {
                let (given, wanted) = (shown(&next), shown(dims));
                let reason =
                    format!("'{}' has shape {given} without the batch, but the state '{name}' has {wanted}", output.name);
                self.fault(key, reason);
            }
            Ok(_) => {}
            Err((field, reason)) => self.fault_of(output, field, reason),
        }
    }

    fn state(
        &mut self,
        index: usize,
        entry: &StateEntry,
        inputs: &mut [Merged<'_>],
        outputs: &mut [Merged<'_>],
    ) -> Option<StateSpec> {
        let key = |field: &str| format!("states[{index}].{field}");
        let input = self.claim(index, "input", &entry.input, inputs);
        let output = self.claim(index, "output", &entry.output, outputs);
        let (input, output) = (input?, output?);
        let batch_axis = self.has_batch.then(|| entry.batch_axis.or(input.batch_axis).or(output.batch_axis).unwrap_or(0));
        for tensor in [input, output] {
            if let (Some(axis), Some(wanted)) = (tensor.batch_axis, batch_axis)
                && axis != wanted
            {
                let reason = format!("is {wanted}, but {} '{}' has its batch at axis {axis}", tensor.kind, tensor.name);
                self.fault(key("batch_axis"), reason);
                return None;
            }
        }
        if input.entry.is_some_and(|(_, entry)| entry.shared.is_some()) {
            self.fault(key("input"), format!("'{}' has a shared value; it cannot be a state too", input.name));
        }
        let (datatype, next) = (self.datatype(input), self.datatype(output));
        let (datatype, next) = (datatype?, next?);
        if datatype == Datatype::Bytes {
            self.fault(key("input"), format!("'{}' is BYTES, which a state cannot be: it has no fixed size", input.name));
            return None;
        }
        if datatype != next {
            self.fault(key("output"), format!("'{}' is {next}, but the state '{}' is {datatype}", output.name, input.name));
        }
        let dims = match self.item_dims(input, batch_axis) {
            Ok(dims) => dims,
            Err((field, reason)) => {
                self.fault_of(input, field, reason);
                return None;
            }
        };
        self.next_state(&key("output"), output, batch_axis, (input.name, &dims));
        let Some(dims) = dims.iter().copied().collect() else {
            self.fault(
                key("input"),
                format!(
                    "'{}' has shape {} without the batch; a state's must be fixed: give its dims in [[inputs]]",
                    input.name,
                    shown(&dims)
                ),
            );
            return None;
        };
        let spec = StateSpec { input: input.name.into(), output: output.name.into(), datatype, dims, batch_axis };
        if spec.bytes().is_none_or(|bytes| bytes > STATE_BYTES_MAX) {
            self.fault(key("input"), format!("'{}' takes more than {STATE_BYTES_MAX} bytes a stream", input.name));
        }
        Some(spec)
    }

    /// Finds the tensor that a state names and marks it as one.
    fn claim<'a, 'b>(&mut self, index: usize, kind: &str, name: &str, tensors: &'b mut [Merged<'a>]) -> Option<&'b Merged<'a>> {
        let key = format!("states[{index}].{kind}");
        let Some(position) = tensors.iter().position(|tensor| tensor.name == name) else {
            let known = quoted(tensors.iter().map(|tensor| tensor.name));
            self.fault(key, format!("the model has no {kind} '{name}'; it has {known}"));
            return None;
        };
        let tensor = &mut tensors[position];
        if tensor.is_state {
            self.fault(key, format!("{kind} '{name}' belongs to another state already"));
            return None;
        }
        if tensor.is_omitted() {
            self.fault(key, format!("{kind} '{name}' is left out (omit), but the state needs it"));
            return None;
        }
        tensor.is_state = true;
        Some(tensor)
    }

    fn shared(&mut self, input: &Merged<'_>, value: &toml::Value) -> Option<SharedInput> {
        let datatype = self.datatype(input)?;
        if datatype == Datatype::Bytes {
            self.fault_of(input, "shared", "is BYTES, which cannot be shared: a shared value is made of numbers or booleans");
            return None;
        }
        match shared_tensor(value, datatype, input.dims.as_deref()) {
            Ok(value) => Some(SharedInput { name: input.name.into(), value }),
            Err(reason) => {
                self.fault_of(input, "shared", format!("cannot have this value: it {reason}"));
                None
            }
        }
    }

    fn framing(&mut self, entry: &FramingEntry, signature: Option<&Signature>) -> Option<FramingRule> {
        let (window, context) = (entry.window_samples?, entry.context_samples);
        let rule = match FramingRule::new(entry.sample_rate_hz?, window, context) {
            Ok(rule) => Some(rule),
            Err(reason) => {
                self.fault("framing", reason);
                None
            }
        };
        let inputs = &signature?.inputs;
        let [input] = inputs.as_slice() else {
            let names = quoted(inputs.iter().map(|input| &*input.name));
            self.fault("framing", format!("fills one input, but the model takes {names} from each item"));
            return None;
        };
        if let Some(name) = &entry.input
            && **name != *input.name
        {
            self.fault("framing.input", format!("is '{name}', but the input that items bring is '{}'", input.name));
        }
        let samples = u64::from(window) + u64::from(context);
        if input.datatype != Datatype::Fp32 || !is_window(&input.dims, samples) {
            let reason = format!(
                "makes FP32 of shape [{samples}] (context and window), but input '{}' is {} of shape {}{}{}",
                input.name,
                input.datatype,
                shown(&input.dims),
                if self.has_batch { " without the batch" } else { "" },
                if input.dims.contains(&None) { "; give its dims in [[inputs]]" } else { "" },
            );
            self.fault("framing", reason);
        }
        rule
    }

    fn segments(&mut self, entry: &SegmentsEntry, signature: Option<&Signature>) -> Option<SegmentPost> {
        let default = SegmentRules::default();
        let threshold = entry.threshold.unwrap_or(default.threshold);
        let rules = SegmentRules {
            threshold,
            negative_threshold: entry.negative_threshold.unwrap_or_else(|| SegmentRules::negative_threshold_below(threshold)),
            min_speech_ms: entry.min_speech_ms.unwrap_or(default.min_speech_ms),
            min_silence_ms: entry.min_silence_ms.unwrap_or(default.min_silence_ms),
            pad_ms: entry.pad_ms.unwrap_or(default.pad_ms),
        };
        for reason in rules.validate() {
            self.fault("segments", reason);
        }
        let outputs = &signature?.outputs;
        let position = match &entry.output {
            Some(name) => outputs.iter().position(|output| *output.name == **name),
            None => (outputs.len() == 1).then_some(0),
        };
        let Some((position, output)) = position.and_then(|position| Some((position, outputs.get(position)?))) else {
            let names = quoted(outputs.iter().map(|output| &*output.name));
            let given = entry.output.as_deref().map_or_else(|| "is missing".to_owned(), |name| format!("'{name}' is none"));
            self.fault("segments.output", format!("{given}; the outputs that items get are {names}"));
            return None;
        };
        let is_one = output.fixed_shape().is_some_and(|shape| element_count(&shape) == Some(1));
        if output.datatype != Datatype::Fp32 || !is_one {
            let shape = shown(&output.dims);
            let reason = format!("'{}' must be one FP32 for each item; it is {} of shape {shape}", output.name, output.datatype);
            self.fault("segments.output", reason);
        }
        Some(SegmentPost { rules, output: position })
    }
}

/// Whether these dimensions hold a window of this many samples: one of them does, and the others are 1.
fn is_window(dims: &[Option<usize>], samples: u64) -> bool {
    let long = dims.iter().filter(|dim| **dim != Some(1)).count();
    let elements = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul((*dim)? as u64));
    !dims.is_empty() && long <= 1 && elements == Some(samples)
}

/// Why a tensor has no batch dimension at this axis, and what can be done: the key at fault and the reason.
fn no_batch(tensor: &Merged<'_>, dims: &[Option<usize>], axis: usize) -> (&'static str, String) {
    const OUTPUT_WAYS: &str = "leave the output out (omit = true in [[outputs]]), give its dims if the file is wrong about them, or set \
                               batch = false to serve a model whose outputs have no batch, one item a call";
    let is_named = tensor.batch_axis.is_some() || tensor.is_state;
    let dynamic = dims.iter().position(Option::is_none);
    match dims.get(axis).copied().flatten() {
        None if dims.is_empty() && tensor.kind == "input" && !tensor.is_state => (
            "shared",
            "is a scalar, which has no batch dimension: give it a shared value, or set batch = false to serve a model without one"
                .to_owned(),
        ),
        None if dims.is_empty() && !is_named => ("dims", format!("is a scalar, so it has no batch dimension: {OUTPUT_WAYS}")),
        None => ("batch_axis", format!("has {} dimensions, so none at batch axis {axis}", dims.len())),
        Some(size) if tensor.kind == "output" && !is_named => {
            let advice = match (size, dynamic) {
                (1, None) => "; or set max_batch = 1 if it is a batch of 1",
                (_, Some(_)) => "; or name the batch dimension that it has (batch_axis)",
                _ => "",
            };
            ("dims", format!("has {size} as its first dimension, which is not the batch: {OUTPUT_WAYS}{advice}"))
        }
        Some(size) => {
            let advice = match (size, dynamic) {
                (_, Some(dynamic)) => format!(
                    ", name the axis that it has (batch_axis = {dynamic}), of a recurrent state in [[states]], or set batch = false if \
                     there is none"
                ),
                (1, None) => ", or set max_batch = 1 to run items one by one".to_owned(),
                _ => ", or set batch = false to serve a model without one, one item a call".to_owned(),
            };
            let reason = format!(
                "has its batch dimension (axis {axis}) fixed at {size}, so that items cannot share a call: export the model with a \
                 dynamic one{advice}"
            );
            ("dims", reason)
        }
    }
}

/// What a manifest says about dimensions, as sizes.
fn sizes(dims: &[DimEntry]) -> Dims {
    dims.iter().map(size).collect()
}

const fn size(dim: &DimEntry) -> Option<usize> {
    if let DimEntry::Fixed(size) = dim { Some(*size) } else { None }
}

/// The file's dimensions, made narrower by the manifest's.
fn merge_dims(file: Option<&[Option<usize>]>, manifest: Option<&[DimEntry]>) -> Result<Option<Dims>, String> {
    match (file, manifest) {
        (file, None) => Ok(file.map(<[_]>::to_vec)),
        (None, Some(manifest)) => Ok(Some(sizes(manifest))),
        (Some(file), Some(manifest)) if file.len() != manifest.len() => Err(format!(
            "has shape {} in the model file, which has {} dimensions, not {}",
            shown(file),
            file.len(),
            manifest.len()
        )),
        (Some(file), Some(manifest)) => {
            let merge = |(axis, (real, wanted)): (usize, (&Option<usize>, &DimEntry))| match (real, wanted) {
                (Some(real), DimEntry::Fixed(wanted)) if real != wanted => {
                    Err(format!("has size {real} in dimension {axis} in the model file, not {wanted}"))
                }
                (Some(real), DimEntry::Dynamic) => {
                    Err(format!("has size {real} in dimension {axis} in the model file, which is not dynamic"))
                }
                (real, wanted) => Ok(real.or_else(|| size(wanted))),
            };
            file.iter().zip(manifest).enumerate().map(merge).collect::<Result<_, _>>().map(Some)
        }
    }
}

fn may_be_equal(left: &[Option<usize>], right: &[Option<usize>]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.is_none() || right.is_none() || left == right)
}

/// `[2, -1]`
fn shown(dims: &[Option<usize>]) -> String {
    let sizes: Vec<String> = dims.iter().map(|dim| dim.map_or_else(|| "-1".to_owned(), |size| size.to_string())).collect();
    format!("[{}]", sizes.join(", "))
}

/// `'a', 'b'`
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, datatype: Datatype, dims: &[i64]) -> DeclaredTensor {
        let dims = dims.iter().map(|size| usize::try_from(*size).ok()).collect();
        DeclaredTensor { name: name.to_owned(), datatype: Some(datatype), dims: Some(dims), has_default: false }
    }

    /// The declarations in Silero VAD's file.
    fn silero() -> Contract {
        Contract {
            inputs: vec![
                declared("input", Datatype::Fp32, &[-1, -1]),
                declared("state", Datatype::Fp32, &[2, -1, 128]),
                declared("sr", Datatype::Int64, &[]),
            ],
            outputs: vec![declared("output", Datatype::Fp32, &[-1, 1]), declared("stateN", Datatype::Fp32, &[-1, -1, -1])],
        }
    }

    /// One input and one output, each a row of four for an item.
    fn rows() -> Contract {
        Contract { inputs: vec![declared("x", Datatype::Fp32, &[-1, 4])], outputs: vec![declared("y", Datatype::Fp32, &[-1, 4])] }
    }

    fn fit_text(text: &str, contract: &Contract) -> Result<Interface, Vec<String>> {
        let manifest = Manifest::parse(text).expect("good by itself");
        fit(&manifest, contract)
            .map_err(|faults| faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.reason)).collect())
    }

    const SILERO: &str = include_str!("silero-vad.toml");

    #[test]
    fn the_embedded_manifest_fits_its_model() {
        let Interface { signature, framing, segments, .. } = fit_text(SILERO, &silero()).expect("they are a pair");
        assert_eq!(signature.inputs.len(), 1);
        assert_eq!(signature.inputs[0].shape_with_batch(), [-1, 576]);
        assert_eq!(signature.outputs[0].shape_with_batch(), [-1, 1]);
        let state = &signature.states[0];
        assert_eq!((state.dims.as_slice(), state.batch_axis, state.bytes()), (&[2, 128][..], Some(1), Some(1_024)));
        assert_eq!(signature.shared[0].value.data().as_ref(), 16_000_i64.to_le_bytes());
        assert_eq!(framing.map(|framing| (framing.window_samples, framing.context_samples)), Some((512, 64)));
        assert_eq!(segments.map(|segments| segments.output), Some(0));
    }

    #[test]
    fn with_no_manifest_the_first_dimension_is_the_batch() {
        let interface = fit_text("", &rows()).expect("nothing more is needed");
        assert_eq!(interface.signature.inputs[0].dims, [Some(4)]);
        assert_eq!(interface.signature.inputs[0].batch_axis, Some(0));
        assert_eq!((interface.framing, interface.segments), (None, None));
    }

    #[test]
    fn a_manifest_fills_in_what_the_file_leaves_open() {
        let mut contract = rows();
        contract.inputs[0].dims = None;
        contract.outputs[0].dims = Some(vec![None, None, None]);
        let text = "[[inputs]]\nname='x'\ndims=[-1, 'batch', 3]\n[[outputs]]\nname='y'\ndims=[2, -1, -1]\nbatch_axis=2";
        let signature = fit_text(text, &contract).expect("no contradiction").signature;
        assert_eq!(signature.inputs[0].shape_with_batch(), [-1, -1, 3]);
        assert_eq!((signature.inputs[0].batch_axis, &signature.inputs[0].dims), (Some(1), &vec![None, Some(3)]));
        assert_eq!((signature.outputs[0].batch_axis, &signature.outputs[0].dims), (Some(2), &vec![Some(2), None]));
    }

    #[test]
    fn a_fixed_batch_of_one_is_served_one_by_one() {
        let mut contract = rows();
        contract.inputs[0].dims = Some(vec![Some(1), Some(4)]);
        contract.outputs[0].dims = Some(vec![Some(1), Some(4)]);
        let signature = fit_text("max_batch = 1", &contract).expect("asked for").signature;
        assert_eq!(signature.inputs[0].dims, [Some(4)]);
        let faults = fit_text("", &contract).expect_err("not asked for");
        assert_eq!(faults.len(), 2, "input and output");
        assert!(faults[0].starts_with("inputs: input 'x' has its batch dimension (axis 0) fixed at 1"), "{faults:?}");
        assert!(faults[0].ends_with("or set max_batch = 1 to run items one by one"), "{faults:?}");
    }

    #[test]
    fn what_does_not_fit_a_plain_model_is_named() {
        let pcm = "[framing]\nkind='pcm_s16le'\nsample_rate_hz=8000\nwindow_samples=";
        let cases = [
            ("[[inputs]]\nname='z'".to_owned(), "inputs[0].name: the model has no input 'z'; it has 'x'"),
            ("[[outputs]]\nname='x'".to_owned(), "outputs[0].name: the model has no output 'x'; it has 'y'"),
            (
                "[[inputs]]\nname='x'\ndatatype='INT8'".to_owned(),
                "inputs[0].datatype: input 'x' is FP32 in the model file, not INT8",
            ),
            ("[[outputs]]\nname='y'\nomit=true".to_owned(), "outputs: all are states or left out (omit), so clients have"),
            ("[[outputs]]\nname='z'\nomit=true".to_owned(), "outputs[0].name: the model has no output 'z'; it has 'y'"),
            (
                "[[inputs]]\nname='x'\ndims=[-1, 5]".to_owned(),
                "inputs[0].dims: input 'x' has size 4 in dimension 1 in the model file, not 5",
            ),
            (
                "[[inputs]]\nname='x'\ndims=[-1, -1]".to_owned(),
                "has size 4 in dimension 1 in the model file, which is not dynamic",
            ),
            ("[[inputs]]\nname='x'\ndims=[-1]".to_owned(), "has shape [-1, 4] in the model file, which has 2 dimensions, not 1"),
            (
                "[[inputs]]\nname='x'\nbatch_axis=2".to_owned(),
                "inputs[0].batch_axis: input 'x' has 2 dimensions, so none at batch axis 2",
            ),
            (
                "[[inputs]]\nname='x'\nbatch_axis=1".to_owned(),
                "inputs[0].dims: input 'x' has its batch dimension (axis 1) fixed at 4",
            ),
            (
                "[[inputs]]\nname='x'\ndims=[8, 4]".to_owned(),
                "inputs[0].dims: input 'x' has its batch dimension (axis 0) fixed at 8",
            ),
            ("[[inputs]]\nname='x'\nshared=[[1, 2, 3, 4]]".to_owned(), "inputs: all are states or shared"),
            ("[[states]]\ninput='s'\noutput='y'".to_owned(), "states[0].input: the model has no input 's'; it has 'x'"),
            ("[segments]\noutput='y'".to_owned(), "segments: needs [framing]"),
            (format!("{pcm}5"), "framing: makes FP32 of shape [5] (context and window), but input 'x' is FP32 of shape [4]"),
            (format!("{pcm}4\ninput='y'"), "framing.input: is 'y', but the input that items bring is 'x'"),
            (format!("{pcm}4\n[segments]"), "segments.output: 'y' must be one FP32 for each item; it is FP32 of shape [4]"),
            (format!("{pcm}4\n[segments]\noutput='z'"), "segments.output: 'z' is none; the outputs that items get are 'y'"),
            (format!("{pcm}4294967295\ncontext_samples=4294967295"), "framing: "),
        ];
        for (text, expected) in cases {
            let faults = fit_text(&text, &rows()).expect_err("must be refused");
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{text}: {faults:?} lacks {expected}");
        }
    }

    #[test]
    fn what_does_not_fit_a_stateful_model_is_named() {
        let state = "[[states]]\ninput='state'\noutput='stateN'\nbatch_axis=";
        let shared = "[[inputs]]\nname='sr'\nshared=";
        let cases = [
            (
                format!("{shared}1"),
                "inputs: input 'state' has its batch dimension (axis 0) fixed at 2, so that items cannot share a call: export the \
                 model with a dynamic one, name the axis that it has (batch_axis = 1), of a recurrent state in [[states]], or set \
                 batch = false if there is none",
            ),
            (
                state.to_owned() + "1",
                "inputs: input 'sr' is a scalar, which has no batch dimension: give it a shared value, or set batch = false to serve a \
                 model without one",
            ),
            (format!("{state}0\n{shared}1"), "inputs: input 'state' has its batch dimension (axis 0) fixed at 2"),
            (format!("{state}7\n{shared}1"), "inputs: input 'state' has 3 dimensions, so none at batch axis 7"),
            (
                format!("{state}1\n{shared}[1]"),
                "inputs[0].shared: input 'sr' cannot have this value: it has shape [1], but the model takes []",
            ),
            (format!("{state}1\n{shared}1.5"), "inputs[0].shared: input 'sr' cannot have this value: it 1.5 is no INT64"),
            (format!("{state}1\n{state}1\n{shared}1"), "states[1].input: input 'state' belongs to another state already"),
            (
                format!("{state}1\n[[outputs]]\nname='stateN'\nbatch_axis=2"),
                "states[0].batch_axis: is 1, but output 'stateN' has its batch at axis 2",
            ),
            (
                format!("{state}1\n[[outputs]]\nname='stateN'\ndims=[2, 'batch', 64]"),
                "states[0].output: 'stateN' has shape [2, 64] without the batch, but the state 'state' has [2, 128]",
            ),
            (
                "[[states]]\ninput='state'\noutput='output'\nbatch_axis=1".to_owned(),
                "outputs: output 'output' has its batch dimension (axis 1) fixed at 1, so that items cannot share a call",
            ),
            (
                "[[states]]\ninput='sr'\noutput='stateN'".to_owned(),
                "states[0].output: 'stateN' is FP32, but the state 'sr' is INT64",
            ),
            (
                "[[states]]\ninput='input'\noutput='stateN'".to_owned(),
                "states[0].input: 'input' has shape [-1] without the batch; a state's must be fixed",
            ),
            (
                "[[inputs]]\nname='input'\ndims=[-1, 99000000]\n[[states]]\ninput='input'\noutput='stateN'".to_owned(),
                "states[0].input: 'input' takes more than 67108864 bytes a stream",
            ),
        ];
        for (text, expected) in cases {
            let faults = fit_text(&text, &silero()).expect_err("must be refused");
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{text}: {faults:?} lacks {expected}");
        }
    }

    #[test]
    fn strings_are_served_where_each_item_has_its_own() {
        let strings = || Contract {
            inputs: vec![declared("x", Datatype::Bytes, &[-1, 1]), declared("s", Datatype::Bytes, &[-1, 1])],
            outputs: vec![declared("y", Datatype::Bytes, &[-1, -1])],
        };
        let signature = fit_text("[[inputs]]\nname='x'\ndatatype='BYTES'", &strings()).expect("they can be").signature;
        assert_eq!((signature.inputs[0].datatype, signature.outputs[0].datatype), (Datatype::Bytes, Datatype::Bytes));
        let cases = [
            (
                "[[inputs]]\nname='s'\nbatch_axis=1",
                "inputs[0].batch_axis: input 's' is BYTES, whose batch must be on axis 0, not 1",
            ),
            (
                "[[outputs]]\nname='y'\ndims=[-1, 'batch']",
                "outputs[0].batch_axis: output 'y' is BYTES, whose batch must be on axis 0, not 1",
            ),
            (
                "[[inputs]]\nname='s'\nshared='en'",
                "inputs[0].shared: input 's' is BYTES, which cannot be shared: a shared value is made of numbers or booleans",
            ),
            ("[[states]]\ninput='s'\noutput='y'", "states[0].input: 's' is BYTES, which a state cannot be: it has no fixed size"),
        ];
        for (text, expected) in cases {
            let faults = fit_text(text, &strings()).expect_err("must be refused");
            assert!(faults.iter().any(|fault| fault == expected), "{text}: {faults:?} lacks {expected}");
        }
    }

    #[test]
    fn faults_of_a_model_file_are_named_without_a_manifest() {
        let case = |change: &dyn Fn(&mut Contract)| {
            let mut contract = rows();
            change(&mut contract);
            fit_text("", &contract).expect_err("must be refused").join("\n")
        };
        let cases = [
            (case(&|contract| contract.inputs[0].datatype = None), "inputs: input 'x' has a type that cannot be served"),
            (case(&|contract| contract.outputs[0].dims = None), "outputs: output 'y' has no shape in the model file"),
            (
                case(&|contract| contract.outputs[0].dims = Some(vec![])),
                "outputs: output 'y' is a scalar, so it has no batch dimension: leave the output out (omit = true in [[outputs]]), give \
                 its dims if the file is wrong about them, or set batch = false to serve a model whose outputs have no batch, one item a \
                 call",
            ),
            (
                case(&|contract| contract.outputs[0].dims = Some(vec![Some(3), Some(4)])),
                "outputs: output 'y' has 3 as its first dimension, which is not the batch: leave the output out (omit = true",
            ),
            (
                case(&|contract| contract.outputs[0].dims = Some(vec![Some(3), None])),
                "one item a call; or name the batch dimension that it has (batch_axis)",
            ),
            (
                case(&|contract| contract.inputs[0].dims = Some(vec![Some(1), None, Some(16)])),
                "inputs: input 'x' has its batch dimension (axis 0) fixed at 1, so that items cannot share a call: export the model with \
                 a dynamic one, name the axis that it has (batch_axis = 1), of a recurrent state in [[states]], or set batch = false if \
                 there is none",
            ),
            (
                case(&|contract| contract.inputs[0].dims = Some(vec![Some(480)])),
                "fixed at 480, so that items cannot share a call: export the model with a dynamic one, or set batch = false to serve a \
                 model without one, one item a call",
            ),
            (case(&|contract| contract.inputs[0].dims = Some(vec![None, Some(0)])), "input 'x' has size 0 in dimension 1"),
            (case(&|contract| contract.inputs.clear()), "inputs: all are states or shared or have a default"),
            (case(&|contract| contract.inputs[0].has_default = true), "inputs: all are states or shared or have a default"),
            (case(&|contract| contract.outputs.clear()), "outputs: all are states or left out (omit)"),
        ];
        for (found, expected) in cases {
            assert!(found.contains(expected), "{found} lacks {expected}");
        }
    }

    /// A detector's file: boxes for one image, a table, and a sequence that nothing can serve.
    fn detector() -> Contract {
        let mut contract = rows();
        contract.inputs[0].dims = Some(vec![Some(480)]);
        contract.outputs = vec![
            declared("boxes", Datatype::Fp32, &[-1, 4]),
            declared("count", Datatype::Int64, &[]),
            declared("maps", Datatype::Fp32, &[]),
        ];
        (contract.outputs[2].datatype, contract.outputs[2].dims) = (None, None);
        contract
    }

    #[test]
    fn a_model_without_a_batch_has_its_own_shapes() {
        let text = "batch=false\n[[outputs]]\nname='maps'\nomit=true";
        let signature = fit_text(text, &detector()).expect("the shapes may be any").signature;
        assert!(!signature.has_batch());
        assert_eq!(signature.inputs[0].shape_with_batch(), [480]);
        let outputs: Vec<_> = signature.outputs.iter().map(|output| (&*output.name, output.shape_with_batch())).collect();
        assert_eq!(outputs, [("boxes", vec![-1, 4]), ("count", vec![])]);
        let text = format!("batch=false\n{}\n[[inputs]]\nname='sr'\nshared=16000", "[[states]]\ninput='state'\noutput='stateN'");
        let mut stateful = silero();
        stateful.inputs[1].dims = Some(vec![Some(2), Some(1), Some(128)]);
        let signature = fit_text(&text, &stateful).expect("the state is one stream's").signature;
        assert_eq!((signature.states[0].dims.as_slice(), signature.states[0].batch_axis), (&[2, 1, 128][..], None));
        assert_eq!(signature.outputs[0].shape_with_batch(), [-1, 1]);
    }

    #[test]
    fn a_window_may_stand_among_dimensions_of_one() {
        let framing = "[framing]\nkind='pcm_s16le'\nsample_rate_hz=8000\nwindow_samples=6\ncontext_samples=2";
        let fits = |dims: &[i64], text: &str| {
            let contract = Contract { inputs: vec![declared("x", Datatype::Fp32, dims)], ..rows() };
            fit_text(&format!("{text}{framing}"), &contract).map(|interface| interface.framing.is_some())
        };
        for (dims, text) in
            [(&[8][..], "batch=false\n"), (&[1, 8], "batch=false\n"), (&[-1, 8], ""), (&[-1, 8, 1], ""), (&[-1, 1, 8], "")]
        {
            assert_eq!(fits(dims, text), Ok(true), "{dims:?}");
        }
        for (dims, text) in [(&[2, 4][..], "batch=false\n"), (&[1, 7], "batch=false\n"), (&[-1, -1], ""), (&[-1], "")] {
            let faults = fits(dims, text).expect_err("no window");
            assert!(faults[0].starts_with("framing: makes FP32 of shape [8]"), "{dims:?}: {faults:?}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_one_fault_with_the_ways_on() {
        let mut contract = detector();
        contract.inputs[0].dims = Some(vec![None, Some(4)]);
        contract.outputs[1] = DeclaredTensor { dims: Some(vec![None]), datatype: None, ..contract.outputs[1].clone() };
        let faults = fit_text("", &contract).expect_err("two types that are none");
        assert_eq!(
            faults,
            [
                "outputs: output 'count' has a type that cannot be served, such as INT4: leave the output out (omit = true in [[outputs]])",
                "outputs: output 'maps' has a type that cannot be served, such as a sequence or a map, which a classifier with ZipMap \
                 gives: export the model with zipmap = False, or leave the output out (omit = true in [[outputs]])",
            ]
        );
        let text = "[[outputs]]\nname='count'\nomit=true\n[[outputs]]\nname='maps'\nomit=true";
        assert_eq!(fit_text(text, &contract).expect("the rest can be served").signature.outputs.len(), 1);
    }

    #[test]
    fn the_dims_of_an_output_are_the_manifests_whatever_the_file_declares() {
        let mut contract = rows();
        contract.outputs[0].dims = Some(vec![Some(1)]);
        for (dims, shape) in [("['batch']", vec![-1]), ("['batch', 3]", vec![-1, 3]), ("[-1, -1, 2]", vec![-1, -1, 2])] {
            let signature = fit_text(&format!("[[outputs]]\nname='y'\ndims={dims}"), &contract).expect("corrected").signature;
            assert_eq!(signature.outputs[0].shape_with_batch(), shape);
        }
        let faults = fit_text("[[inputs]]\nname='x'\ndims=['batch', 5]", &rows()).expect_err("inputs are the file's");
        assert_eq!(faults, ["inputs[0].dims: input 'x' has size 4 in dimension 1 in the model file, not 5"]);
    }

    #[test]
    fn an_input_with_a_default_is_hidden_until_the_manifest_names_it() {
        let mut contract = rows();
        contract.inputs.push(DeclaredTensor { has_default: true, ..declared("limit", Datatype::Int64, &[]) });
        let names =
            |signature: &Signature| -> Vec<String> { signature.inputs.iter().map(|input| input.name.to_string()).collect() };
        let hidden = fit_text("", &contract).expect("nobody needs to send it").signature;
        assert_eq!((names(&hidden), &hidden.defaults[..]), (vec!["x".to_owned()], &["limit".into()][..]));
        let set = fit_text("[[inputs]]\nname='limit'\nshared=5", &contract).expect("a scalar").signature;
        assert_eq!((set.shared[0].value.data().as_ref(), set.defaults.len()), (&5_i64.to_le_bytes()[..], 0));
        let faults = fit_text("[[inputs]]\nname='limit'", &contract).expect_err("it has no batch");
        assert!(faults[0].starts_with("inputs[0].shared: input 'limit' is a scalar"), "{faults:?}");
        contract.inputs[1].dims = Some(vec![None, Some(1)]);
        let sent = fit_text("[[inputs]]\nname='limit'", &contract).expect("it has a batch").signature;
        assert_eq!((names(&sent), sent.defaults.len()), (vec!["x".to_owned(), "limit".to_owned()], 0));
        contract.inputs[1] = DeclaredTensor { has_default: true, ..declared("h", Datatype::Fp32, &[-1, 2]) };
        contract.outputs.push(declared("k", Datatype::Fp32, &[-1, 2]));
        let state = fit_text("[[states]]\ninput='h'\noutput='k'", &contract).expect("a state with a default").signature;
        assert_eq!((state.states.len(), state.defaults.len(), names(&state)), (1, 0, vec!["x".to_owned()]));
        let faults = fit_text("[[states]]\ninput='h'\noutput='k'\n[[outputs]]\nname='k'\nomit=true", &contract);
        assert_eq!(
            faults.expect_err("it is needed"),
            ["states[0].output: output 'k' is left out (omit), but the state needs it"]
        );
    }

    #[test]
    fn all_faults_come_at_once() {
        let text = "[[inputs]]\nname='z'\n[[outputs]]\nname='y'\ndatatype='BOOL'\n[[states]]\ninput='a'\noutput='b'\n[segments]";
        assert_eq!(fit_text(text, &rows()).expect_err("must be refused").len(), 5);
    }

    #[test]
    fn a_model_without_a_file_must_declare_everything() {
        let manifest = Manifest::parse("[[inputs]]\nname='x'\ndatatype='FP32'\n[[inputs]]\nname='z'\ndims=[-1]").expect("good");
        let faults = declared_contract(&manifest).expect_err("must be refused");
        let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["inputs[0].dims", "inputs[1].datatype", "outputs"]);
    }
}
