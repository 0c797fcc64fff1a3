//! Fits the manifest's `[padding]` to a model's inputs.
//!
//! Pure, as is [`super::signature`], whose signature it completes. Only a call can show what the outputs do with a length; the
//! trial calls before a model serves do.

use toml::Value;

use super::{faults::KeyFault, manifest::PaddingEntry, shared_value::shared_tensor};
use crate::domain::{Datatype, ElementBytes, PaddedInput, PaddingRule, Signature, TensorSpec};

/// The rule that `entry` asks for, or everything that keeps it from being one.
pub(super) fn fit_padding(entry: &PaddingEntry, signature: &Signature) -> Result<PaddingRule, Vec<KeyFault>> {
    let inputs = &signature.inputs;
    let mut faults = unknown_names(entry, inputs);
    faults.extend(signature.outputs.iter().filter_map(output_fault));
    let mut padded = Vec::new();
    for (position, spec) in inputs.iter().enumerate().filter(|(_, spec)| !entry.leaves_out(spec)) {
        let Some(element_bytes) = spec.datatype.fixed_size() else {
            let reason =
                format!("input '{}' is BYTES, which has nothing to be padded with: name it in padding.unpadded", spec.name);
            faults.push(KeyFault::new("padding", reason));
            continue;
        };
        let axis = axis(entry, spec).map_err(|fault| faults.push(fault));
        let value = value(entry, spec, element_bytes).map_err(|fault| faults.push(fault));
        if let (Ok(axis), Ok(value)) = (axis, value) {
            padded.push(PaddedInput { position, axis, value });
        }
    }
    let mask = entry.mask.as_deref().and_then(|name| inputs.iter().position(|spec| *spec.name == *name));
    if let Some(mask) = mask {
        faults.extend(mask_fault(mask, inputs, &padded));
    }
    if padded.is_empty() && faults.is_empty() {
        faults.push(KeyFault::new("padding.unpadded", "names all inputs, so that there is nothing to pad"));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let buckets = entry.buckets.iter().map(|limit| *limit as usize).collect();
    Ok(PaddingRule { inputs: padded, mask, buckets, pad_to_bucket: entry.pad_to_bucket })
}

impl PaddingEntry {
    fn leaves_out(&self, spec: &TensorSpec) -> bool {
        self.unpadded.iter().any(|name| **name == *spec.name)
    }

    fn is_mask(&self, spec: &TensorSpec) -> bool {
        self.mask.as_deref() == Some(&*spec.name)
    }
}

/// Faults of names that are not inputs of items, or that are named unpadded but described as padded.
fn unknown_names(entry: &PaddingEntry, inputs: &[TensorSpec]) -> Vec<KeyFault> {
    let known: Vec<String> = inputs.iter().map(|spec| format!("'{}'", spec.name)).collect();
    let padded = (entry.axes.keys().map(|name| (format!("padding.axes.{name}"), name)))
        .chain(entry.values.keys().map(|name| (format!("padding.values.{name}"), name)))
        .chain(entry.mask.iter().map(|name| ("padding.mask".to_owned(), name)));
    let unpadded = entry.unpadded.iter().enumerate().map(|(index, name)| (format!("padding.unpadded[{index}]"), name));
    let mut faults = Vec::new();
    for (key, name, is_padded) in
        padded.map(|(key, name)| (key, name, true)).chain(unpadded.map(|(key, name)| (key, name, false)))
    {
        if !inputs.iter().any(|spec| *spec.name == **name) {
            faults.push(KeyFault::new(key, format!("items bring no input '{name}'; they bring {}", known.join(", "))));
        } else if is_padded && entry.unpadded.contains(name) {
            faults.push(KeyFault::new(key, format!("input '{name}' is in padding.unpadded as well; name it in one of the two")));
        }
    }
    faults
}

/// The dimension that is padded, the batch not counted.
fn axis(entry: &PaddingEntry, spec: &TensorSpec) -> Result<usize, KeyFault> {
    let TensorSpec { name, batch_axis, .. } = spec;
    let shape = spec.shape_with_batch();
    // As the manifest counts: in the model's own shape.
    let dynamic = |axis: &usize| Some(*axis) != *batch_axis && shape.get(*axis) == Some(&-1);
    let chosen = match entry.axes.get(&**name) {
        Some(axis) if dynamic(axis) => *axis,
        Some(axis) => {
            let batch = batch_axis.map(|axis| format!(", batch at {axis}")).unwrap_or_default();
            let reason = format!("is {axis}, which is not a dynamic dimension of input '{name}' with shape {shape:?}{batch}");
            return Err(KeyFault::new(format!("padding.axes.{name}"), reason));
        }
        None => match (0..shape.len()).filter(dynamic).collect::<Vec<_>>().as_slice() {
            [only] => *only,
            [] => {
                let reason = format!("input '{name}' with shape {shape:?} has no dynamic dimension: name it in padding.unpadded");
                return Err(KeyFault::new("padding", reason));
            }
            several => {
                let reason = format!(
                    "input '{name}' with shape {shape:?} has the dynamic dimensions {several:?}: say which in padding.axes"
                );
                return Err(KeyFault::new("padding", reason));
            }
        },
    };
    Ok(chosen - usize::from(batch_axis.is_some_and(|axis| chosen > axis)))
}

/// The element that an input is padded with.
fn value(entry: &PaddingEntry, spec: &TensorSpec, element_bytes: usize) -> Result<ElementBytes, KeyFault> {
    let TensorSpec { name, datatype, .. } = spec;
    let key = || format!("padding.values.{name}");
    match entry.values.get(&**name) {
        Some(_) if entry.is_mask(spec) => Err(KeyFault::new(key(), "is not needed: the mask is always padded with 0")),
        Some(list @ (Value::Array(_) | Value::Table(_))) => {
            Err(KeyFault::new(key(), format!("is {list}; it must be one {datatype}")))
        }
        Some(value) => match shared_tensor(value, *datatype, Some(&[])) {
            Ok(tensor) => Ok(ElementBytes::from_slice(tensor.data())),
            Err(reason) => Err(KeyFault::new(key(), format!("cannot pad input '{name}': it {reason}"))),
        },
        None => Ok(ElementBytes::from_elem(0, element_bytes)),
    }
}

/// What keeps an output from being cut back to the items' own lengths.
fn output_fault(TensorSpec { name, datatype, dims, .. }: &TensorSpec) -> Option<KeyFault> {
    (*datatype == Datatype::Bytes && dims.contains(&None)).then(|| {
        let reason = format!(
            "output '{name}' is BYTES and has dynamic dimensions, which cannot follow the padding: give it its sizes in [[outputs]]"
        );
        KeyFault::new("padding", reason)
    })
}

/// What keeps the input at `position` from being made up when a client leaves it out.
fn mask_fault(position: usize, inputs: &[TensorSpec], padded: &[PaddedInput]) -> Option<KeyFault> {
    let TensorSpec { name, dims, .. } = &inputs[position];
    // An input that is itself at fault has already been reported.
    padded.iter().find(|input| input.position == position)?;
    let reason = if padded.len() == 1 {
        format!("is '{name}', the only padded input; its length must follow from another one where it is left out")
    } else if dims.iter().filter(|dim| dim.is_none()).count() > 1 {
        format!("is '{name}', which has more than one dynamic dimension, so that its shape cannot follow from the length")
    } else {
        return None;
    };
    Some(KeyFault::new("padding.mask", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Contract, DeclaredTensor},
        registry::{Interface, Manifest, fit},
    };

    fn declared(name: &str, datatype: Datatype, dims: &[i64]) -> DeclaredTensor {
        let dims = dims.iter().map(|size| usize::try_from(*size).ok()).collect();
        DeclaredTensor { name: name.to_owned(), datatype: Some(datatype), dims: Some(dims), has_default: false }
    }

    /// Tokens with a mask, frames with the batch on axis 1, and a speaker.
    fn contract() -> Contract {
        Contract {
            inputs: vec![
                declared("tokens", Datatype::Int64, &[-1, -1]),
                declared("mask", Datatype::Int64, &[-1, -1]),
                declared("frames", Datatype::Fp32, &[-1, -1, -1]),
                declared("speaker", Datatype::Int64, &[-1, 1]),
            ],
            outputs: vec![declared("y", Datatype::Fp32, &[-1, -1])],
        }
    }

    const GOOD: &str = "[[inputs]]\nname='frames'\nbatch_axis=1\n[padding]\nunpadded=['speaker']\n";

    fn fit_text(text: &str, contract: &Contract) -> Result<Interface, Vec<String>> {
        let manifest = Manifest::parse(text).expect("good by itself");
        fit(&manifest, contract)
            .map_err(|faults| faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.reason)).collect())
    }

    fn rule(text: &str) -> PaddingRule {
        fit_text(text, &contract()).expect("it fits").signature.padding.clone().expect("it was asked for")
    }

    #[test]
    fn each_inputs_only_dynamic_dimension_is_padded_with_zeros() {
        let rule = rule(&format!("{GOOD}axes = {{ frames = 2 }}"));
        let axes: Vec<(usize, usize)> = rule.inputs.iter().map(|input| (input.position, input.axis)).collect();
        assert_eq!(axes, [(0, 0), (1, 0), (2, 1)]);
        assert_eq!(rule.inputs[0].value.as_slice(), [0; 8]);
        assert_eq!((rule.mask, rule.buckets, rule.pad_to_bucket), (None, vec![], false));
    }

    #[test]
    fn what_the_manifest_says_is_taken() {
        let rule = rule(&format!(
            "{GOOD}mask = 'mask'\naxes = {{ frames = 0 }}\nvalues = {{ frames = -1.5, tokens = 7 }}\nbuckets = [8, 16]\npad_to_bucket = true"
        ));
        assert_eq!(rule.inputs[2].axis, 0, "in front of the batch");
        assert_eq!(rule.inputs[2].value.as_slice(), (-1.5_f32).to_le_bytes());
        assert_eq!(rule.inputs[0].value.as_slice(), 7_i64.to_le_bytes());
        assert_eq!((rule.mask, rule.buckets, rule.pad_to_bucket), (Some(1), vec![8, 16], true));
    }

    #[test]
    fn the_waste_bound_is_the_schedulers_and_stands_beside_the_signature() {
        let text = format!("{GOOD}axes = {{ frames = 0 }}");
        assert_eq!(fit_text(&text, &contract()).expect("it fits").padding_waste_max, Some(0.5));
        let text = format!("{text}\nwaste_max = 0");
        assert!(Manifest::parse(&text).is_ok(), "a whole number is a share too");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let axes = "axes = { frames = 0 }\n";
        let cases = [
            (
                GOOD.to_owned(),
                "padding: input 'frames' with shape [-1, -1, -1] has the dynamic dimensions [0, 2]: say which in padding.axes",
            ),
            (
                GOOD.replace("'speaker'", "'mask'") + axes,
                "padding: input 'speaker' with shape [-1, 1] has no dynamic dimension: name it in padding.unpadded",
            ),
            (
                format!("{GOOD}axes = {{ frames = 1 }}"),
                "padding.axes.frames: is 1, which is not a dynamic dimension of input 'frames'",
            ),
            (format!("{GOOD}axes = {{ frames = 3 }}"), "padding.axes.frames: is 3, which is not a dynamic dimension"),
            (
                format!("{GOOD}axes = {{ frames = 0, y = 1 }}"),
                "padding.axes.y: items bring no input 'y'; they bring 'tokens', 'mask'",
            ),
            (format!("{GOOD}{axes}values = {{ z = 1 }}"), "padding.values.z: items bring no input 'z'"),
            (format!("{GOOD}{axes}mask = 'z'"), "padding.mask: items bring no input 'z'"),
            (GOOD.replace("'speaker'", "'speaker', 'z'") + axes, "padding.unpadded[1]: items bring no input 'z'"),
            (format!("{GOOD}{axes}mask = 'speaker'"), "padding.mask: input 'speaker' is in padding.unpadded as well"),
            (
                format!("{GOOD}{axes}values = {{ tokens = 1.5 }}"),
                "padding.values.tokens: cannot pad input 'tokens': it 1.5 is no INT64",
            ),
            (format!("{GOOD}{axes}values = {{ tokens = [1] }}"), "padding.values.tokens: is [1]; it must be one INT64"),
            (format!("{GOOD}{axes}mask = 'mask'\nvalues = {{ mask = 1 }}"), "padding.values.mask: is not needed"),
            (format!("{GOOD}{axes}mask = 'frames'"), "padding.mask: is 'frames', which has more than one dynamic dimension"),
            (
                GOOD.replace("'speaker'", "'speaker', 'tokens', 'frames'") + "mask = 'mask'",
                "padding.mask: is 'mask', the only padded input",
            ),
            (
                GOOD.replace("'speaker'", "'speaker', 'tokens', 'frames', 'mask'"),
                "padding.unpadded: names all inputs, so that there is nothing to pad",
            ),
        ];
        for (text, expected) in cases {
            let faults = fit_text(&text, &contract()).expect_err("must be refused");
            assert_eq!(faults.len(), 1, "{text}: {faults:?}");
            assert!(faults[0].starts_with(expected), "{text}: {faults:?} lacks {expected}");
        }
    }

    #[test]
    fn strings_stand_beside_what_is_padded_and_are_not_padded() {
        let mut contract = contract();
        contract.inputs[3] = declared("speaker", Datatype::Bytes, &[-1, -1]);
        contract.outputs.push(declared("label", Datatype::Bytes, &[-1, 1]));
        let text = format!("{GOOD}axes = {{ frames = 0 }}");
        assert!(fit_text(&text, &contract).is_ok());
        let faults = fit_text(&text.replace("'speaker'", ""), &contract).expect_err("speaker cannot be padded");
        let expected = "padding: input 'speaker' is BYTES, which has nothing to be padded with: name it in padding.unpadded";
        assert_eq!(faults, [expected]);
        contract.outputs[1] = declared("label", Datatype::Bytes, &[-1, -1]);
        let faults = fit_text(&text, &contract).expect_err("label cannot be cut");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("padding: output 'label' is BYTES and has dynamic dimensions"), "{faults:?}");
    }

    #[test]
    fn all_faults_come_at_once() {
        let faults =
            fit_text(&format!("{GOOD}mask = 'z'\nvalues = {{ tokens = 1.5 }}"), &contract()).expect_err("must be refused");
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
