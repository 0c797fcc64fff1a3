//! The results of the misbehaving clients, by kind.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tidemill_client::wire::code_name;
use tonic::Code;

/// A way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    SlowReader,
    NeverReader,
    Reset,
    Cut,
    Churn,
    Giant,
    Garbage,
    Idle,
}

impl Kind {
    #[cfg(test)]
    const ALL: [Self; 8] =
        [Self::SlowReader, Self::NeverReader, Self::Reset, Self::Cut, Self::Churn, Self::Giant, Self::Garbage, Self::Idle];

    /// The name in results.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::NeverReader => "never_reader",
            Self::Reset => "reset",
            Self::Cut => "cut",
            Self::Churn => "churn",
            Self::Giant => "giant",
            Self::Garbage => "garbage",
            Self::Idle => "idle",
        }
    }
}

/// The results of clients of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KindResult {
    /// Completed acts: streams held to the end, streams and connections broken off, calls answered, rubbish sent.
    pub(crate) done: u64,
    /// Acts that the server turned away as it should: items too large, connections of rubbish closed, streams beyond a limit.
    pub(crate) refused: u64,
    /// Errors that clients got, by gRPC code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Events that must not happen, by kind. Ideally this is empty.
    pub(crate) unexpected: BTreeMap<String, u64>,
}

/// The results of all of them; kinds that the plan does not use are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChaosResult {
    pub(crate) kinds: BTreeMap<Kind, KindResult>,
}

impl ChaosResult {
    /// How often something happened that must not.
    pub(crate) fn unexpected(&self) -> u64 {
        self.kinds.values().flat_map(|kind| kind.unexpected.values()).sum()
    }

    /// The same in words, one line for each.
    pub(crate) fn surprises(&self) -> Vec<String> {
        let of_kind = |(kind, result): (&Kind, &KindResult)| {
            let label = kind.label();
            result.unexpected.iter().map(|(what, times)| format!("{label}: {what}: {times} times")).collect::<Vec<_>>()
        };
        self.kinds.iter().flat_map(of_kind).collect()
    }
}

/// Where the clients of one kind record what they met. There are only a few acts a second, so a lock costs nothing here.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    result: Arc<Mutex<ChaosResult>>,
    kind: Kind,
}

impl Notes {
    pub(super) fn new(result: &Arc<Mutex<ChaosResult>>, kind: Kind) -> Self {
        let notes = Self { result: Arc::clone(result), kind };
        notes.with(|_| ());
        notes
    }

    pub(super) fn done(&self) {
        self.with(|result| result.done += 1);
    }

    pub(super) fn refused(&self) {
        self.with(|result| result.refused += 1);
    }

    pub(super) fn error(&self, code: Code) {
        self.with(|result| *result.errors.entry(code_name(code).to_owned()).or_default() += 1);
    }

    /// Records something that must not happen; there are only a few names for such things.
    pub(super) fn unexpected(&self, what: impl Into<String>) {
        self.with(|result| *result.unexpected.entry(what.into()).or_default() += 1);
    }

    /// Records an error although all is well on the client's side: it is a surprise, unless the server is full.
    pub(super) fn failed(&self, at: &str, code: Code) {
        self.error(code);
        match code {
            Code::ResourceExhausted => self.refused(),
            _ => self.unexpected(format!("{at}: {}", code_name(code))),
        }
    }

    fn with(&self, change: impl FnOnce(&mut KindResult)) {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        change(result.kinds.entry(self.kind).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_full_is_no_surprise_and_another_error_is() {
        let result = Arc::default();
        let notes = Notes::new(&result, Kind::Churn);
        notes.failed("a call", Code::ResourceExhausted);
        notes.failed("a call", Code::Internal);
        let result = result.lock().expect("nobody panicked").clone();
        assert_eq!((result.kinds[&Kind::Churn].refused, result.unexpected()), (1, 1));
        assert_eq!(result.surprises(), ["churn: a call: INTERNAL: 1 times"]);
    }

    #[test]
    fn results_survive_being_written_and_read() {
        let result = Arc::default();
        for kind in Kind::ALL {
            Notes::new(&result, kind).error(Code::DeadlineExceeded);
        }
        let result = result.lock().expect("nobody panicked").clone();
        let text = serde_json::to_string(&result).expect("it can be written");
        assert!(Kind::ALL.iter().all(|kind| text.contains(&format!("\"{}\"", kind.label()))), "{text}");
        assert!(text.contains("DEADLINE_EXCEEDED"), "{text}");
        assert_eq!(serde_json::from_str::<ChaosResult>(&text).expect("it can be read"), result);
    }
}
