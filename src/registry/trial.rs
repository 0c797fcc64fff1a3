//! `[trial]` of a manifest: how a model is tried before it serves, and with which items.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Value;

use super::{faults::KeyFault, shared_value::shared_tensor, source::read_limited};
use crate::{
    domain::{BatchingRule, ItemInputs, PaddingRule, Shape, Signature, Tensor, TensorSpec, element_count},
    proof::BUDGET_DEFAULT,
};

/// Longest time for the trial calls of one model, in seconds.
const SECONDS_MAX: f64 = 600.0;
/// Most items that a manifest, or the file that it names, may give.
const ITEMS_MAX: usize = 64;
/// Largest file that a manifest may name.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How a model is tried.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrialEntry {
    /// Time for the trial calls, in seconds.
    pub seconds: f64,
    /// Items to try, each a value for every input that clients send, by the input's name.
    pub items: Vec<TrialItemEntry>,
    /// A file next to the manifest with more of them, in JSON.
    pub file: Option<String>,
}

/// The values of an item, by input.
pub(super) type TrialItemEntry = BTreeMap<String, Value>;

impl Default for TrialEntry {
    fn default() -> Self {
        Self { seconds: BUDGET_DEFAULT.as_secs_f64(), items: Vec::new(), file: None }
    }
}

impl TrialEntry {
    pub(super) fn check(&self, fault: &mut impl FnMut(String, String)) {
        if !(self.seconds > 0.0 && self.seconds <= SECONDS_MAX) {
            fault("trial.seconds".to_owned(), format!("is {}; accepted are more than 0 to {SECONDS_MAX} seconds", self.seconds));
        }
        if self.items.len() > ITEMS_MAX {
            fault("trial.items".to_owned(), format!("has {} items; at most {ITEMS_MAX} are accepted", self.items.len()));
        }
        if let Some(file) = &self.file
            && (file.is_empty() || file.contains('/') || file.starts_with('.'))
        {
            fault("trial.file".to_owned(), format!("is '{file}'; it names a file in the folder of model.toml, without a path"));
        }
    }

    /// [`TrialEntry::seconds`] as a duration.
    pub(super) fn budget(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or(BUDGET_DEFAULT)
    }

    /// The text of the file that it names, if it does; `folder` is that of the manifest.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn text(&self, folder: &Path) -> Result<Option<String>, KeyFault> {
        let Some(file) = &self.file else { return Ok(None) };
        let refuse = |reason: String| KeyFault::new("trial.file", format!("'{file}' {reason}"));
        let bytes = read_limited(&folder.join(file), FILE_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
        String::from_utf8(bytes).map(Some).map_err(|_| refuse("is not UTF-8 text".to_owned()))
    }

    /// All items, as those of a model of this signature.
    ///
    /// # Errors
    /// Every value that does not fit the model.
    pub(super) fn examples(&self, signature: &Signature, file: Option<&str>) -> Result<Vec<ItemInputs>, Vec<KeyFault>> {
        let more = match file.map(serde_json::from_str::<Vec<TrialItemEntry>>) {
            None => Vec::new(),
            Some(Ok(items)) if items.len() <= ITEMS_MAX => items,
            Some(Ok(items)) => {
                let reason = format!("has {} items; at most {ITEMS_MAX} are accepted", items.len());
                return Err(vec![KeyFault::new("trial.file", reason)]);
            }
            Some(Err(error)) => {
                let reason = format!("is not a JSON list of objects with a value for each input: {error}");
                return Err(vec![KeyFault::new("trial.file", reason)]);
            }
        };
        let mut faults = Vec::new();
        let named = |key: &'static str, items: &[TrialItemEntry]| {
            items.iter().cloned().enumerate().map(move |(at, item)| (format!("{key}[{at}]"), item)).collect::<Vec<_>>()
        };
        let items = named("trial.items", &self.items).into_iter().chain(named("trial.file", &more));
        let examples: Vec<ItemInputs> = items.filter_map(|(key, item)| example(&key, &item, signature, &mut faults)).collect();
        if faults.is_empty() { Ok(examples) } else { Err(faults) }
    }
}

fn example(key: &str, item: &TrialItemEntry, signature: &Signature, faults: &mut Vec<KeyFault>) -> Option<ItemInputs> {
    let before = faults.len();
    for name in item.keys().filter(|name| signature.inputs.iter().all(|input| *input.name != ***name)) {
        faults.push(KeyFault::new(format!("{key}.{name}"), format!("the model takes no input '{name}' from clients")));
    }
    let mask = signature.padding.as_ref().and_then(|rule| rule.mask);
    let mut inputs: Vec<Option<Tensor>> = Vec::new();
    for (position, input) in signature.inputs.iter().enumerate() {
        let tensor = match item.get(&*input.name) {
            Some(value) => shared_tensor(value, input.datatype, Some(&input.dims)).map(Some),
            None if mask == Some(position) => Ok(None),
            None => Err(format!("has no value for input '{}'", input.name)),
        };
        inputs.push(tensor.unwrap_or_else(|reason| {
            faults.push(KeyFault::new(format!("{key}.{}", input.name), reason));
            None
        }));
    }
    if faults.len() > before {
        return None;
    }
    if let (Some(mask), Some(rule)) = (mask, &signature.padding)
        && inputs[mask].is_none()
    {
        inputs[mask] = ones(&signature.inputs[mask], rule, mask, &inputs);
    }
    inputs.into_iter().collect()
}

/// A mask of ones that is as long as the other padded inputs.
fn ones(spec: &TensorSpec, rule: &PaddingRule, mask: usize, inputs: &[Option<Tensor>]) -> Option<Tensor> {
    let other = rule.inputs.iter().find(|input| input.position != mask)?;
    let length = *inputs[other.position].as_ref()?.shape().get(other.axis)?;
    let shape: Shape = spec.dims.iter().map(|dim| dim.unwrap_or(length)).collect();
    let data = spec.datatype.one()?.repeat(element_count(&shape)?);
    Tensor::new(spec.datatype, shape, data.into()).ok()
}

/// `batching = "proven" | "assumed" | "off"`.
pub(super) fn rule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BatchingRule, D::Error> {
    match &*String::deserialize(deserializer)? {
        "proven" => Ok(BatchingRule::Proven),
        "assumed" => Ok(BatchingRule::Assumed),
        "off" => Ok(BatchingRule::Off),
        other => Err(D::Error::custom(format!("is '{other}'; accepted are \"proven\", \"assumed\" and \"off\""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Datatype, ElementBytes, PaddedInput};

    fn signature() -> Signature {
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, dims: vec![None], batch_axis: Some(0) };
        let padded = |position| PaddedInput { position, axis: 0, value: ElementBytes::from_elem(0, 8) };
        let padding = PaddingRule { inputs: vec![padded(0), padded(1)], mask: Some(1), buckets: vec![], pad_to_bucket: false };
        Signature {
            inputs: vec![spec("ids", Datatype::Int64), spec("mask", Datatype::Int64)],
            padding: Some(padding),
            ..Signature::default()
        }
    }

    fn examples(text: &str, file: Option<&str>) -> Result<Vec<ItemInputs>, Vec<String>> {
        let trial: TrialEntry = toml::from_str(text).expect("a sound table");
        let told = |faults: Vec<KeyFault>| faults.into_iter().map(|fault| format!("{}: {}", fault.key, fault.reason)).collect();
        trial.examples(&signature(), file).map_err(told)
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        bytemuck::pod_collect_to_vec(tensor.data())
    }

    #[test]
    fn items_come_from_the_manifest_and_from_the_file_that_it_names() {
        let file = r#"[{"ids": [7], "mask": [0]}]"#;
        let items = examples("items = [{ ids = [1, 2, 3] }]", Some(file)).expect("both are the model's");
        let read: Vec<_> = items.iter().map(|item| (numbers(&item[0]), numbers(&item[1]))).collect();
        assert_eq!(read, [(vec![1, 2, 3], vec![1, 1, 1]), (vec![7], vec![0])]);
    }

    #[test]
    fn values_that_are_none_of_the_models_are_all_named() {
        let faults = examples("items = [{ ids = [1.5], extra = 1 }, {}]", None).expect_err("three faults");
        assert_eq!(
            faults,
            [
                "trial.items[0].extra: the model takes no input 'extra' from clients",
                "trial.items[0].ids: 1.5 is no INT64",
                "trial.items[1].ids: has no value for input 'ids'",
            ]
        );
        let faults = examples("", Some("{}")).expect_err("no list");
        assert!(faults[0].starts_with("trial.file: is not a JSON list of objects"), "{faults:?}");
    }

    #[test]
    fn a_file_is_one_beside_the_manifest() {
        for path in ["../trial.json", "/etc/passwd", ".hidden", ""] {
            let mut faults = Vec::new();
            let trial = TrialEntry { file: Some(path.to_owned()), ..TrialEntry::default() };
            trial.check(&mut |key, reason| faults.push(format!("{key}: {reason}")));
            assert_eq!(faults.len(), 1, "{path}");
        }
    }
}
