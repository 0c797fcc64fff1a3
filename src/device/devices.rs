//! The devices of a server, and which of them runs a given model.

use std::{sync::Arc, time::Duration};

use super::{
    hosted::QueueStatus,
    state::{Device, LanesInUse},
    stream::StreamHandle,
    trace::Trace,
};
use crate::scheduler::{ModelKey, StreamOptions};

/// All devices. There is one, the CPU; code that needs a model's device asks here. Clones share the devices.
#[derive(Clone)]
pub struct Devices {
    cpu: Arc<Device>,
}

impl Devices {
    /// A server with only this device.
    #[must_use]
    pub const fn new(cpu: Arc<Device>) -> Self {
        Self { cpu }
    }

    /// The device to put a new model on.
    #[must_use]
    pub const fn for_new_model(&self) -> &Arc<Device> {
        &self.cpu
    }

    /// The device that a model runs on.
    #[must_use]
    pub const fn of_model(&self, _model: ModelKey) -> &Arc<Device> {
        &self.cpu
    }

    /// Opens a stream; dropping the handle closes it. `None` if there is no such model, or it is retired.
    #[must_use]
    pub fn open(&self, options: StreamOptions) -> Option<StreamHandle> {
        self.of_model(options.model).open(options)
    }

    /// What can be asked about a model's queue; `None` if there is no such model.
    #[must_use]
    pub fn status(&self, model: ModelKey) -> Option<QueueStatus> {
        self.of_model(model).status(model)
    }

    /// Number of lanes, without the long ones.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.all().map(|device| device.lanes()).sum()
    }

    /// Lanes, long ones included, and how many of them are running a call.
    #[must_use]
    pub fn lanes_in_use(&self) -> LanesInUse {
        let each = self.all().map(|device| device.lanes_in_use());
        each.fold(LanesInUse::default(), |sum, one| LanesInUse { lanes: sum.lanes + one.lanes, busy: sum.busy + one.busy })
    }

    /// Streams that are open or still have items running.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.all().map(|device| device.streams()).sum()
    }

    /// Models present, including retired ones that still have streams.
    #[must_use]
    pub fn models(&self) -> usize {
        self.all().map(|device| device.models()).sum()
    }

    /// The longest call any model may take, as far as is known; `None` if finding out would mean waiting.
    #[must_use]
    pub fn longest_call(&self) -> Option<Duration> {
        self.all().map(|device| device.longest_call()).try_fold(Duration::ZERO, |longest, call| Some(longest.max(call?)))
    }

    /// Brings counters and gauges up to date. Called when metrics are read, so that the hot path need not count twice.
    pub fn publish_metrics(&self) {
        self.all().for_each(|device| device.publish_metrics());
    }

    /// Records everything from now on; call it before adding any model. `None` ends a recording.
    pub fn record(&self, trace: Option<Trace>) {
        self.cpu.record(trace);
    }

    /// From now on, no batch waits for more items.
    pub fn drain(&self) {
        self.all().for_each(|device| device.drain());
    }

    /// Makes every session look again, without an answer.
    pub fn nudge_all(&self) {
        self.all().for_each(|device| device.nudge_all());
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Device>> {
        std::iter::once(&self.cpu)
    }
}
