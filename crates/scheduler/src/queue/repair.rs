//! What is done about a model that gets a turn and has nothing to run or to end.
//!
//! It is a bug in the queue, and no reason to lose items or to keep a lane busy for nothing: the record of which streams are
//! ready is rebuilt from what the streams hold, and the bug is reported.

use tidemill_domain::Priority;

use super::{Queue, Repair, stream::claim_of};
use crate::{
    keys::ModelKey,
    ready::{ReadyStreams, Standing},
};

impl<H: Clone, P> Queue<H, P> {
    /// Rebuilds a model's ready streams and its turns. Lane time within the model is counted from zero again.
    pub(super) fn repair(&mut self, key: ModelKey) {
        let model = &mut self.models[key];
        model.repairs += 1;
        self.repaired = Some(key);
        model.ready = ReadyStreams::default();
        for (stream_key, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.options.model == key) {
            stream.flow = Standing::new(stream.options.path(), stream.options.weight);
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

    /// The last repair, if it has not been taken yet and should be reported: a model's first, then ever fewer, so that a bug that
    /// recurs with every decision does not fill the log.
    pub fn take_repair(&mut self) -> Option<Repair> {
        let model = self.repaired.take()?;
        let times = self.repairs(model);
        times.is_power_of_two().then_some(Repair { model, times })
    }

    /// Breaks the invariant on purpose: the model keeps its turn but forgets which of its streams are ready.
    #[cfg(any(test, feature = "test-support"))]
    pub fn forget_ready_streams(&mut self, model: ModelKey) {
        self.models[model].ready = ReadyStreams::default();
    }
}
