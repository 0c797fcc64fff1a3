//! What may be on, off, or left to the server.

use serde::{Deserialize, Serialize};

/// A switch that may be left to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// The server decides.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl From<bool> for Switch {
    fn from(is_on: bool) -> Self {
        if is_on { Self::On } else { Self::Off }
    }
}

impl Switch {
    /// Whether it is on, given the server's choice for `auto`.
    #[must_use]
    pub const fn is_on(self, auto: bool) -> bool {
        match self {
            Self::Auto => auto,
            Self::On => true,
            Self::Off => false,
        }
    }
}
