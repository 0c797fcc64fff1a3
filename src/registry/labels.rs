//! `labels` of an output in a manifest: names of its elements, for answers by class.
//!
//! Knows no model file and no protocol.

use std::{fmt, path::Path, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::{faults::KeyFault, source::read_limited};
use crate::domain::{TensorSpec, element_count};

/// Most labels of an output.
const LABELS_MAX: usize = 65_536;
/// Longest label.
const LABEL_BYTES_MAX: usize = 256;
/// Largest file of labels: as many as there may be, each as long as it may be, with the ends of their lines.
const FILE_BYTES_MAX: u64 = (LABELS_MAX * (LABEL_BYTES_MAX + 2)) as u64;

/// Where an output's labels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelsEntry {
    /// In a file next to the manifest, one a line.
    File(String),
    /// In the manifest.
    List(Vec<String>),
}

/// Names of an output's elements, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    file: String,
    names: Box<[Box<str>]>,
}

impl Labels {
    /// The name of the element at this index; `None` if it has none.
    #[must_use]
    pub fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(|name| &**name).filter(|name| !name.is_empty())
    }

    /// The file that they are in; empty if that is the manifest.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

impl LabelsEntry {
    /// The file next to the manifest that it names.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::File(file) => Some(file),
            Self::List(_) => None,
        }
    }

    /// Finds what can be wrong with it without reading a file.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::File(file) if file.is_empty() || file.contains('/') || file.starts_with('.') => {
                Err(format!("is '{file}'; it names a file in the folder of model.toml, without a path"))
            }
            Self::File(_) => Ok(()),
            Self::List(names) => check_names(names.iter().map(String::as_str)),
        }
    }

    /// The labels of an output; `folder` is that of the manifest.
    ///
    /// # Errors
    /// The reason why they cannot be read, or do not fit the output.
    fn read(&self, folder: &Path, output: &TensorSpec) -> Result<Labels, String> {
        let labels = match self {
            Self::List(names) => Labels { file: String::new(), names: names.iter().map(|name| name.as_str().into()).collect() },
            Self::File(file) => {
                let refuse = |reason: String| format!("'{file}' {reason}");
                let bytes = read_limited(&folder.join(file), FILE_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
                let text = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))?;
                let names = lines(&text);
                check_names(names.iter().copied()).map_err(refuse)?;
                Labels { file: file.clone(), names: names.into_iter().map(Into::into).collect() }
            }
        };
        let elements = output.fixed_shape().and_then(|shape| element_count(&shape));
        match elements.filter(|elements| *elements != labels.names.len()) {
            Some(elements) => {
                Err(format!("has {} labels, but output '{}' has {elements} elements an item", labels.names.len(), output.name))
            }
            None => Ok(labels),
        }
    }
}

/// The labels of each output in `outputs`, in their order. `entries` are those of the manifest that have some: the entry's index, the
/// output's name, and its labels.
///
/// # Errors
/// Each entry whose labels cannot be read or do not fit, with its key.
pub(super) fn labels_of<'a>(
    entries: impl Iterator<Item = (usize, &'a str, &'a LabelsEntry)>,
    outputs: &[TensorSpec],
    folder: &Path,
) -> Result<Vec<Option<Arc<Labels>>>, Vec<KeyFault>> {
    let mut labels: Vec<Option<Arc<Labels>>> = vec![None; outputs.len()];
    let mut faults = Vec::new();
    for (index, name, entry) in entries {
        let Some(position) = outputs.iter().position(|output| *output.name == *name) else {
            let reason = format!("output '{name}' is not given to clients, so nobody could see its labels");
            faults.push(KeyFault::new(format!("outputs[{index}].labels"), reason));
            continue;
        };
        match entry.read(folder, &outputs[position]) {
            Ok(read) => labels[position] = Some(Arc::new(read)),
            Err(reason) => faults.push(KeyFault::new(format!("outputs[{index}].labels"), reason)),
        }
    }
    if faults.is_empty() { Ok(labels) } else { Err(faults) }
}

/// The lines of a file without their ends; empty ones at its end are not labels.
fn lines(text: &str) -> Vec<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.trim_end_matches(['\n', '\r']).lines().collect()
}

fn check_names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Result<(), String> {
    let count = names.len();
    if count == 0 {
        return Err("has no labels".to_owned());
    }
    if count > LABELS_MAX {
        return Err(format!("has {count} labels; at most {LABELS_MAX} are accepted"));
    }
    for (index, name) in names.enumerate() {
        if name.len() > LABEL_BYTES_MAX {
            return Err(format!("has a label of {} bytes at index {index}; at most {LABEL_BYTES_MAX} are accepted", name.len()));
        }
        if name.contains(char::is_control) {
            return Err(format!("has a control character in the label at index {index}"));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for LabelsEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = LabelsEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of labels, or the name of a file with one a line")
    }

    fn visit_str<E: serde::de::Error>(self, file: &str) -> Result<LabelsEntry, E> {
        Ok(LabelsEntry::File(file.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<LabelsEntry, A::Error> {
        let mut list = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(LabelsEntry::List(list))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Datatype;

    fn output(name: &str, elements: Option<usize>) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![elements], batch_axis: Some(0) }
    }

    fn read(text: &[u8], elements: Option<usize>) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("labels.txt"), text).expect("a file");
        let entry = LabelsEntry::File("labels.txt".to_owned());
        let labels = entry.read(folder.path(), &output("y", elements))?;
        assert_eq!(labels.file(), "labels.txt");
        Ok(labels.names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_label_is_a_line() {
        assert_eq!(read(b"cat\ndog\n", Some(2)), Ok(vec!["cat".to_owned(), "dog".to_owned()]));
        assert_eq!(
            read("\u{feff}a b\r\n\r\nd\r\n\n\n".as_bytes(), None),
            Ok(vec!["a b".to_owned(), String::new(), "d".to_owned()])
        );
    }

    #[test]
    fn labels_that_are_not_the_outputs_are_refused_with_both_numbers() {
        let told = |text: &[u8], elements| read(text, elements).expect_err("must be refused");
        assert_eq!(told(b"cat\n", Some(2)), "has 1 labels, but output 'y' has 2 elements an item");
        assert_eq!(told(b"\n", None), "'labels.txt' has no labels");
        assert_eq!(told(b"\xff", None), "'labels.txt' is not UTF-8 text");
        assert!(told("x".repeat(257).as_bytes(), None).contains("a label of 257 bytes at index 0; at most 256"));
        assert!(told(b"a\nb\tc", None).contains("a control character in the label at index 1"));
        assert!(told("a\n".repeat(LABELS_MAX + 1).as_bytes(), None).contains("65537 labels; at most 65536"));
    }

    #[test]
    fn each_fault_names_its_entry() {
        let entries = [LabelsEntry::List(vec!["a".to_owned()]), LabelsEntry::File("none.txt".to_owned())];
        let found = labels_of(
            [(1, "gone", &entries[0]), (2, "y", &entries[1])].into_iter(),
            &[output("y", Some(1))],
            Path::new("/nowhere"),
        );
        let keys: Vec<_> = found.expect_err("two faults").into_iter().map(|fault| fault.key).collect();
        assert_eq!(keys, ["outputs[1].labels", "outputs[2].labels"]);
        let sound = labels_of([(0, "y", &entries[0])].into_iter(), &[output("x", None), output("y", Some(1))], Path::new("/"));
        let sound = sound.expect("it fits");
        assert_eq!(sound[0], None);
        assert_eq!(sound[1].as_ref().and_then(|labels| labels.name(0)), Some("a"));
        assert_eq!(sound[1].as_ref().and_then(|labels| labels.name(1)), None);
    }

    #[test]
    fn a_file_is_one_beside_the_manifest() {
        for path in ["../labels.txt", "/etc/passwd", ".hidden", ""] {
            assert!(LabelsEntry::File(path.to_owned()).check().is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, None);
        }
    }
}
