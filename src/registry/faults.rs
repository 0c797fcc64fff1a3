//! The reasons why models cannot be loaded, in words meant for their owners.

use std::{fmt, io, sync::Arc};

use crate::domain::Fault;

/// One thing that is wrong with a manifest, or with it and its model file together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFault {
    /// Where, such as `states[0].output`; empty for the whole file.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl KeyFault {
    pub(super) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

/// One thing that keeps a model from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFault {
    /// File or folder at fault.
    pub file: String,
    /// Key in it; empty if it is at fault as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for LoadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, key, reason } = self;
        if key.is_empty() { write!(f, "{file}: {reason}") } else { write!(f, "{file}: {key}: {reason}") }
    }
}

/// Everything that keeps the models from being loaded, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFaults(Vec<LoadFault>);

impl LoadFaults {
    /// At least one.
    pub(super) const fn of(faults: Vec<LoadFault>) -> Self {
        Self(faults)
    }

    /// The faults; at least one.
    #[must_use]
    pub fn faults(&self) -> &[LoadFault] {
        &self.0
    }
}

impl fmt::Display for LoadFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the models have {} fault(s):", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for LoadFaults {}

pub(super) fn no_threads(error: io::Error) -> LoadFaults {
    let reason = format!("the system refuses a thread for each lane (ulimit -u, or pids.max of the cgroup): {error}");
    LoadFaults(vec![LoadFault { file: "models".to_owned(), key: String::new(), reason }])
}

/// The reason why a loaded model cannot be installed.
pub(super) fn not_installed(folder: String, fault: &Fault) -> LoadFault {
    LoadFault { file: folder, key: String::new(), reason: fault.message().to_owned() }
}

/// Faults in one line.
pub(super) fn reason_of(faults: &[LoadFault]) -> Arc<str> {
    let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
    reasons.join("; ").into()
}

/// A file or folder that is at fault as a whole.
pub(super) fn whole(file: String, reason: String) -> LoadFault {
    LoadFault { file, key: String::new(), reason }
}

/// The faults of this manifest.
pub(super) fn in_file(file: &str, faults: Vec<KeyFault>) -> Vec<LoadFault> {
    faults.into_iter().map(|KeyFault { key, reason }| LoadFault { file: file.to_owned(), key, reason }).collect()
}
