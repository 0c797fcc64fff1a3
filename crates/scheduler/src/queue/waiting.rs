//! Owners of streams waiting for room in the queue: by priority, and within a priority in turn, however many streams a connection
//! has waiting. An owner that has used up its share goes on waiting even if there is room: that room is kept for others.

use tidemill_domain::{Priority, Timestamp};
use tidemill_shares::Turns;

use super::Queue;
use crate::keys::StreamKey;

/// Owners that one pass looks at beyond those that may try again. Those it does not reach come first in the next pass, and there
/// is always a next one: once nothing is queued, nobody has used up a share.
const LOOKS_MAX: usize = 64;

impl<H: Clone, P> Queue<H, P> {
    /// Remembers that the owner of a stream is waiting for room, and wants to be woken at `until` at the latest.
    pub fn wait_for_room(&mut self, key: StreamKey, until: Timestamp) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.waits_until = Some(until);
        if stream.waits_as.is_none() {
            let line = &mut self.waiting[stream.options.priority as usize];
            stream.waits_as = Some(line.push(stream.options.path(), key));
        }
        if until < self.streams[key].alarm {
            self.set_alarm(key, until);
        }
    }

    /// Forgets that the owner of a stream is waiting.
    pub(super) fn wait_no_longer(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.waits_until = None;
        if let Some(number) = stream.waits_as.take() {
            self.waiting[stream.options.priority as usize].remove(stream.options.path(), number);
        }
    }

    /// Owners that were waiting for room and may try again, as many as there is room for items.
    pub fn take_unblocked(&mut self, handles: &mut Vec<H>) {
        if self.waiting.iter().all(Turns::is_empty) {
            return;
        }
        let mut room = self.admission.room(&self.held);
        for priority in Priority::ALL {
            while room > 0
                && let Some(key) = self.pop_waiting(priority)
            {
                let Some(stream) = self.streams.get_mut(key) else { continue };
                stream.waits_as = None;
                if stream.waits_until.take().is_some() {
                    room -= 1;
                    handles.push(stream.handle.clone());
                }
            }
        }
    }

    /// The next one waiting that may try again, or has stopped waiting.
    fn pop_waiting(&mut self, priority: Priority) -> Option<StreamKey> {
        let Self { waiting, streams, models, admission, held, .. } = self;
        waiting[priority as usize].pop(LOOKS_MAX, |key| {
            let Some(stream) = streams.get(*key).filter(|stream| stream.waits_until.is_some()) else { return true };
            let Some(model) = models.get(stream.options.model) else { return true };
            admission.refuses(held, &model.held, stream.holders, 0).is_none()
        })
    }
}
