//! Where a model version is in its life. Pure: who loads it, and from where, is the loader's business.

use std::sync::Arc;

/// The states, for lists and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelState {
    /// Being read, or its cost being measured.
    Loading,
    /// Serving.
    Ready,
    /// Could not be loaded, or has lost its engine.
    Failed,
}

impl ModelState {
    /// In lower case, for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// A state and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle<T> {
    /// Being loaded.
    Loading,
    /// Serving `T`.
    Ready(T),
    /// Given up, and why.
    Failed(Arc<str>),
}

impl<T> Lifecycle<T> {
    /// The state alone.
    #[must_use]
    pub const fn state(&self) -> ModelState {
        match self {
            Self::Loading => ModelState::Loading,
            Self::Ready(_) => ModelState::Ready,
            Self::Failed(_) => ModelState::Failed,
        }
    }

    /// What serves, if it does.
    #[must_use]
    pub const fn ready(&self) -> Option<&T> {
        if let Self::Ready(serving) = self { Some(serving) } else { None }
    }

    /// The end of loading. What is settled already stays as it is.
    #[must_use]
    pub fn finish(self, outcome: Result<T, Arc<str>>) -> Self {
        match (self, outcome) {
            (Self::Loading, Ok(serving)) => Self::Ready(serving),
            (Self::Loading, Err(reason)) => Self::Failed(reason),
            (settled @ (Self::Ready(_) | Self::Failed(_)), _) => settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_ends_once() {
        let ready = Lifecycle::Loading.finish(Ok(1));
        assert_eq!(ready, Lifecycle::Ready(1));
        assert_eq!(ready.finish(Err("late".into())), Lifecycle::Ready(1));
        let failed = Lifecycle::<u8>::Loading.finish(Err("broken".into()));
        assert_eq!((failed.state(), failed.ready()), (ModelState::Failed, None));
        assert_eq!(failed.clone().finish(Ok(2)), failed);
    }
}
