//! A session's end of a stream.
//!
//! # Cancellation
//! Dropping a [`StreamHandle`] closes its stream: queued items are cancelled at once, running ones when their call finishes.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    after::After,
    hosted::ModelRuntime,
    mailbox::Mailbox,
    shapes::Shapes,
    staged::Staged,
    state::{Device, Shared},
    trace::Line,
};
use crate::{
    clock,
    domain::{Answer, Fault, ItemInputs, ItemOutputs, Outcome, Timestamp},
    scheduler::{Item, ModelKey, Refusal, ShapeKey, StreamKey, StreamOptions},
    telemetry::ModelMetrics,
};

/// The outcome of a [`StreamHandle::submit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// All items are queued.
    All,
    /// A shared limit is reached; the caller keeps the rest.
    Full(Refusal),
}

impl Device {
    /// Opens a stream; dropping the handle closes it. `None` if there is no such model, or it is retired.
    #[must_use]
    pub fn open(self: &Arc<Self>, options: StreamOptions) -> Option<StreamHandle> {
        let model = options.model;
        let mailbox = Arc::new(Mailbox::default());
        let mut shared = self.shared.lock();
        let hosted = shared.models.get(model)?;
        let (runtime, shapes) = (Arc::clone(&hosted.runtime), Arc::clone(&hosted.shapes));
        let key = shared.queue.open(options, Arc::clone(&mailbox))?;
        if let Some(trace) = &mut shared.trace {
            trace.open(clock::now(), key, &options);
        }
        drop(shared);
        Some(StreamHandle { device: Arc::clone(self), key, model, mailbox, runtime, shapes })
    }
}

impl Shared {
    fn line_of(&self, stream: StreamKey, model: ModelKey, item: &Item<ItemInputs>) -> Option<Line> {
        let trace = self.trace.as_ref()?;
        Some(trace.item(stream, item, self.queue.cost_of(model, item.shape)))
    }
}

/// A session's end of a stream. Dropping it cancels everything in flight.
pub struct StreamHandle {
    device: Arc<Device>,
    pub(super) key: StreamKey,
    pub(super) model: ModelKey,
    mailbox: Arc<Mailbox>,
    runtime: Arc<ModelRuntime>,
    shapes: Arc<Shapes>,
}

impl StreamHandle {
    /// Where the model's items are counted.
    #[must_use]
    pub fn metrics(&self) -> &ModelMetrics {
        &self.runtime.metrics
    }

    /// Which items of the model may share a batch, given as sizes that must be equal.
    #[must_use]
    pub fn shape_key(&self, sizes: &[usize]) -> ShapeKey {
        self.shapes.key(sizes)
    }

    /// Queues items from the front of `staged` until all are queued or a limit is reached. Items of a model with short calls may
    /// already have run when this returns. With `wait`, reaching a limit also asks for a nudge when there is room, or when the
    /// earliest deadline among the rest passes.
    pub fn submit(&self, staged: &mut Staged, wait: bool) -> Submitted {
        // Now is no earlier than this; reading the clock would cost more than setting the timer once too often.
        let now = staged.newest().map_or(Timestamp::ZERO, |newest| newest.arrived);
        self.device.act(|shared, after| {
            let staged_before = staged.len();
            let submitted = self.push_all(shared, staged, after);
            if wait && submitted != Submitted::All {
                shared.queue.wait_for_room(self.key, staged.due());
            }
            after.rearm = shared.wakes_earlier(now);
            if staged.len() < staged_before {
                shared.call_lane(self.model, after);
            }
            submitted
        })
    }

    /// Queues as many items as there is room for.
    fn push_all(&self, shared: &mut Shared, staged: &mut Staged, after: &mut After) -> Submitted {
        while let Some(item) = staged.take_oldest() {
            let line = shared.line_of(self.key, self.model, &item);
            if let Err((item, refusal)) = shared.queue.push(self.key, item, &mut after.ended) {
                staged.put_back(item);
                return Submitted::Full(refusal);
            }
            if let (Some(trace), Some(line)) = (&mut shared.trace, line) {
                trace.put(line);
            }
        }
        Submitted::All
    }

    /// Counts an item that was never queued, having waited `waited`. If it waited for room, the next in line may try.
    pub fn end_unqueued(&self, outcome: Outcome, waited: Duration) {
        self.device.act(|shared, after| {
            shared.queue.end_unqueued(self.model, outcome, waited);
            shared.queue.take_unblocked(&mut after.nudged);
        });
    }

    /// An answer before its item's last has left for the client, or was given up.
    pub fn part_taken(&self, outcome: &Result<ItemOutputs, Fault>) {
        self.mailbox.part_taken(outcome);
    }

    /// Moves the answers that have arrived to the end of `answers`. `Ready` if there were any, or if there is room for what was
    /// held back.
    pub fn poll_answers(&self, cx: &mut Context<'_>, answers: &mut VecDeque<Answer>) -> Poll<()> {
        self.mailbox.poll_take(cx, answers)
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let ended = clock::now();
        self.mailbox.close();
        self.device.act(|shared, after| {
            if let Some(trace) = &mut shared.trace {
                trace.close(ended, self.key);
            }
            after.cancelled = Some(shared.queue.close(self.key));
            shared.queue.take_unblocked(&mut after.nudged);
            after.gone = shared.remove_spent(self.model);
        });
        self.metrics().cancel_release.record(clock::now().since(ended));
    }
}
