//! Where a model version is in its life. Pure: loading, and where from, is the repository's business.

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
    /// Taken out of service, until it is loaded again.
    Unloaded,
}

impl ModelState {
    /// In lower case, for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Unloaded => "unloaded",
        }
    }
}

/// A state and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle<T> {
    /// Being loaded, while nothing of it serves.
    Loading,
    /// Serving.
    Ready {
        /// What serves.
        serving: T,
        /// Why a newer copy could not take its place, if one was tried since.
        reload_failed: Option<Arc<str>>,
    },
    /// Given up, and why.
    Failed(Arc<str>),
    /// Taken out of service, and why.
    Unloaded(Arc<str>),
}

impl<T> Lifecycle<T> {
    /// The state alone.
    #[must_use]
    pub const fn state(&self) -> ModelState {
        match self {
            Self::Loading => ModelState::Loading,
            Self::Ready { .. } => ModelState::Ready,
            Self::Failed(_) => ModelState::Failed,
            Self::Unloaded(_) => ModelState::Unloaded,
        }
    }

    /// What serves, if it does.
    #[must_use]
    pub const fn ready(&self) -> Option<&T> {
        if let Self::Ready { serving, .. } = self { Some(serving) } else { None }
    }

    /// Why it does not serve, or why its last reload failed.
    #[must_use]
    pub const fn reason(&self) -> Option<&Arc<str>> {
        match self {
            Self::Loading => None,
            Self::Ready { reload_failed, .. } => reload_failed.as_ref(),
            Self::Failed(reason) | Self::Unloaded(reason) => Some(reason),
        }
    }

    /// The beginning of loading. What serves goes on serving.
    #[must_use]
    pub fn begin(self) -> Self {
        match self {
            serving @ Self::Ready { .. } => serving,
            Self::Loading | Self::Failed(_) | Self::Unloaded(_) => Self::Loading,
        }
    }

    /// The end of loading, and what does not serve because of it: the old copy, or one that comes too late.
    #[must_use]
    pub fn finish(self, outcome: Result<T, Arc<str>>) -> (Self, Option<T>) {
        let serves = |serving| Self::Ready { serving, reload_failed: None };
        match (self, outcome) {
            (Self::Loading, Ok(new)) => (serves(new), None),
            (Self::Loading, Err(reason)) => (Self::Failed(reason), None),
            (Self::Ready { serving: old, .. }, Ok(new)) => (serves(new), Some(old)),
            (Self::Ready { serving, .. }, Err(reason)) => (Self::Ready { serving, reload_failed: Some(reason) }, None),
            (settled @ (Self::Failed(_) | Self::Unloaded(_)), outcome) => (settled, outcome.ok()),
        }
    }

    /// The end of service, and what served until then.
    #[must_use]
    pub fn unload(self, reason: Arc<str>) -> (Self, Option<T>) {
        let served = if let Self::Ready { serving, .. } = self { Some(serving) } else { None };
        (Self::Unloaded(reason), served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Life = Lifecycle<u8>;

    fn ready(serving: u8) -> Life {
        Lifecycle::Ready { serving, reload_failed: None }
    }

    #[test]
    fn loading_ends_well_or_badly() {
        assert_eq!(Life::Loading.finish(Ok(1)), (ready(1), None));
        let (failed, left) = Life::Loading.finish(Err("broken".into()));
        assert_eq!((failed.state(), failed.ready(), left), (ModelState::Failed, None, None));
        assert_eq!(failed.reason().map(|reason| &**reason), Some("broken"));
        assert_eq!(failed.begin(), Life::Loading);
    }

    #[test]
    fn what_serves_goes_on_until_another_takes_its_place() {
        assert_eq!(ready(1).begin(), ready(1));
        let (kept, left) = ready(1).finish(Err("broken".into()));
        assert_eq!((kept.ready(), kept.state(), left), (Some(&1), ModelState::Ready, None));
        assert_eq!(kept.reason().map(|reason| &**reason), Some("broken"));
        assert_eq!(kept.finish(Ok(2)), (ready(2), Some(1)));
    }

    #[test]
    fn what_is_unloaded_stays_so_until_it_is_loaded_again() {
        let (unloaded, left) = ready(1).unload("by hand".into());
        assert_eq!((&unloaded, left), (&Life::Unloaded("by hand".into()), Some(1)));
        assert_eq!(unloaded.clone().finish(Ok(2)), (unloaded.clone(), Some(2)), "nothing was loading");
        assert_eq!(unloaded.begin().finish(Ok(3)), (ready(3), None));
        assert_eq!(Life::Loading.unload("by hand".into()).1, None);
    }
}
