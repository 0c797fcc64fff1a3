//! Which streams go first.

/// Which streams go first, strictly, except for the bound on starvation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before all others.
    High,
    /// Unless something else is asked for.
    #[default]
    Normal,
    /// When there is nothing else to do.
    Low,
}

impl Priority {
    /// All of them, most urgent first, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_tables() {
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority as usize, index);
        }
    }
}
