//! Settings of the answers that are kept.

use serde::{Deserialize, Serialize};

/// Limits of the answers that are kept for models whose manifests ask for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Bytes of all of them; 0 keeps none.
    pub bytes: usize,
    /// Bytes of one.
    pub max_entry_bytes: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { bytes: 64 << 20, max_entry_bytes: 1 << 20 }
    }
}
