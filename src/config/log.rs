//! The settings of what the server writes about itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::forms::path_or_empty;

/// The log on standard error, and the one for auditors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Form of a line.
    pub format: LogFormat,
    /// Directives of `tracing`'s `EnvFilter`.
    pub filter: String,
    /// File of the audit log; none if absent.
    #[serde(with = "path_or_empty")]
    pub audit: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned(), audit: None }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
