//! What is done about a model that has its turn and nothing to run or to end.
//!
//! That is a defect of the queue, and no reason to lose items or to keep a lane busy for nothing: what says which streams are ready
//! is made again from what the streams hold, and the defect is reported.

use tidemill_domain::Priority;

use super::{Queue, Repair, stream::claim_of};
use crate::{
    keys::ModelKey,
    ready::{ReadyStreams, Standing},
};

impl<H: Clone, P> Queue<H, P> {
    /// Makes a model's ready streams and its turns again. Accounts of lane time within the model begin at nothing.
    pub(super) fn repair(&mut self, key: ModelKey) {
        let model = &mut self.models[key];
        model.repairs += 1;
        self.repaired = Some(key);
        model.ready = ReadyStreams::default();
        for (stream_key, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.options.model == key) {
            stream.flow = Standing::new(stream.options.path());
            if let Some(claim) = claim_of(stream, model.options.stateful) {
                let seat = stream.seat(stream_key);
                model.ready.enter(&mut stream.flow, seat, claim, model.slack);
            }
        }
        for priority in Priority::ALL {
            let class = priority as usize;
            self.turns[class].expel(&mut self.models[key].flows[class], key);
            self.follow(key, priority, false);
        }
    }

    /// How often a model's queue was repaired.
    #[must_use]
    pub fn repairs(&self, model: ModelKey) -> u64 {
        self.models.get(model).map_or(0, |model| model.repairs)
    }

    /// The last repair, if it has not been taken yet and is to be reported: the first of a model, and then ever more seldom, so that
    /// a defect that comes back with each decision does not fill the log.
    pub fn take_repair(&mut self) -> Option<Repair> {
        let model = self.repaired.take()?;
        let times = self.repairs(model);
        times.is_power_of_two().then_some(Repair { model, times })
    }

    /// Breaks the invariant on purpose: the model keeps its turn and forgets which of its streams are ready.
    #[cfg(any(test, feature = "test-support"))]
    pub fn forget_ready_streams(&mut self, model: ModelKey) {
        self.models[model].ready = ReadyStreams::default();
    }
}
