//! Limits of Realtime sessions.

use serde::{Deserialize, Serialize};

/// Limits of Realtime sessions, which are WebSockets; those of streams apply to them too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealtimeConfig {
    /// Seconds that a session may last.
    pub session_max_s: u64,
    /// Largest audio of one event, after decoding.
    pub max_append_bytes: usize,
}

impl Default for RealtimeConfig {
    fn default() -> Self {
        Self { session_max_s: 3_600, max_append_bytes: 15 << 20 }
    }
}
