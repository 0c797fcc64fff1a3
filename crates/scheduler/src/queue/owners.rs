//! Whose the queued items are. Nobody can have used up a share until more than half of a limit is taken, so owners are counted
//! only from then until less than a quarter is taken.

use super::Queue;
use crate::keys::ModelKey;

impl<H: Clone, P> Queue<H, P> {
    /// Starts or stops counting what each owner has in the queue.
    #[cold]
    pub(super) fn count_all_owners(&mut self) {
        if self.held.change() {
            for stream in self.streams.values_mut().filter(|stream| !stream.closed) {
                stream.holders[0] = self.held.enter(&stream.options.path());
                self.held.count(stream.holders[0], stream.items.len(), stream.queued_bytes());
            }
        }
    }

    /// Starts or stops counting what each owner has in a model's queue.
    #[cold]
    pub(super) fn count_owners_of(&mut self, model: ModelKey) {
        let held = &mut self.models[model].held;
        if held.change() {
            for stream in self.streams.values_mut().filter(|stream| !stream.closed && stream.options.model == model) {
                stream.holders[1] = held.enter(&stream.options.path());
                held.count(stream.holders[1], stream.items.len(), stream.queued_bytes());
            }
        }
    }
}
