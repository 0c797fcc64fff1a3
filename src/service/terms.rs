//! What methods allow and do.

use std::sync::Arc;

use crate::{
    domain::Fault,
    session::{OnDrain, WhenFull},
    telemetry::MethodMetrics,
};

/// What a method allows and does: a constant of the front end that has the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The method's value of the metrics' label `method`.
    pub label: &'static str,
    /// Whether clients may have items dropped that come faster than they are run.
    pub may_drop: bool,
    /// Whether clients may have results skipped that they do not read.
    pub may_skip: bool,
    /// What becomes of an item for which the model's queue has no room.
    pub when_full: WhenFull,
    /// What becomes of a stream's input when the server drains.
    pub on_drain: OnDrain,
    /// Whether a stream ends once nothing has arrived for `session.idle_timeout_s`.
    pub ends_when_idle: bool,
    /// Whether no stream opens while memory is short. Methods without it ask for the memory of each request.
    pub opens_within_memory: bool,
}

impl Terms {
    /// Of a call whose input is all there when it opens, and whose caller waits for the one answer: nothing is gained by waiting for room,
    /// and no silence means anything.
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

    /// Of a stream on which every item is run, and every result kept until it is read.
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

    /// Of a stream of something that happens now, so that what is late may be of no use.
    #[must_use]
    pub const fn live(label: &'static str) -> Self {
        Self { may_drop: true, may_skip: true, ..Self::stream(label) }
    }
}

/// A method that the door knows: [`Terms`], and what is counted for it. Clones share the counts.
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

    /// The same, and hands the error on.
    #[must_use]
    pub fn refuse(&self, fault: Fault) -> Fault {
        self.count_fault(&fault);
        fault
    }
}
