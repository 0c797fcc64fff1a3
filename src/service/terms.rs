//! What methods allow and do.

use std::sync::Arc;

use crate::{
    domain::Fault,
    session::{OnDrain, WhenFull},
    telemetry::MethodMetrics,
};

/// What a method allows and does: a constant in the front end that offers the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The method's value for the metric label `method`.
    pub label: &'static str,
    /// Whether clients may ask for items to be dropped when they arrive faster than they are run.
    pub may_drop: bool,
    /// Whether clients may ask for unread results to be skipped.
    pub may_skip: bool,
    /// What happens to an item when the model's queue has no room.
    pub when_full: WhenFull,
    /// What happens to a stream's input when the server drains.
    pub on_drain: OnDrain,
    /// Whether a stream ends once nothing has arrived for `session.idle_timeout_s`.
    pub ends_when_idle: bool,
    /// Whether streams are refused while memory is short. Methods without it ask for the memory of each request.
    pub opens_within_memory: bool,
}

impl Terms {
    /// For a call whose input is complete when it opens, and whose caller waits for the one answer: nothing is gained by waiting
    /// for room, and silence means nothing.
    #[must_use]
    pub const fn unary(label: &'static str) -> Self {
        Self {
            label,
            may_drop: false,
            may_skip: false,
            when_full: WhenFull::Refuse,
            on_drain: OnDrain::ReadToEnd,
            ends_when_idle: false,
            opens_within_memory: false,
        }
    }

    /// For a stream on which every item is run, and every result is kept until it is read.
    #[must_use]
    pub const fn stream(label: &'static str) -> Self {
        Self {
            label,
            may_drop: false,
            may_skip: false,
            when_full: WhenFull::Wait,
            on_drain: OnDrain::Stop,
            ends_when_idle: true,
            opens_within_memory: true,
        }
    }

    /// For a stream of live data, where late results may be of no use.
    #[must_use]
    pub const fn live(label: &'static str) -> Self {
        Self { may_drop: true, may_skip: true, ..Self::stream(label) }
    }
}

/// A method known to the door: its [`Terms`], and what is counted for it. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Method {
    terms: Terms,
    metrics: Arc<MethodMetrics>,
}

impl Method {
    pub(super) fn new(terms: Terms, metrics: MethodMetrics) -> Self {
        Self { terms, metrics: Arc::new(metrics) }
    }

    /// What it allows and does.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What is counted for it.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<MethodMetrics> {
        &self.metrics
    }

    /// Counts an error that ends a call and that no session has counted.
    pub fn count_fault(&self, fault: &Fault) {
        self.metrics.fault(fault.kind()).increment(1);
    }

    /// The same, and returns the error.
    #[must_use]
    pub fn refuse(&self, fault: Fault) -> Fault {
        self.count_fault(&fault);
        fault
    }
}
