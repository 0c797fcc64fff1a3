//! Which batches are held back, and until when.
//!
//! Two things make a free lane wait although there is work: a manifest's `max_delay`, and long calls, which either go to long
//! lanes or leave the last lane to short calls. Whatever is held back has a moment when a lane must look again, since nothing
//! else will wake one.

use std::time::Duration;

use tidemill_domain::Timestamp;

use super::{Queue, model::ModelQueue};
use crate::keys::ShapeKey;

/// Margin before a deadline, on top of the call's own time, within which a batch is not held back: a lane has to wake up, and
/// perhaps wait for a core.
const DEADLINE_MARGIN: Duration = Duration::from_millis(2);

impl<H: Clone, P> Queue<H, P> {
    /// When [`Queue::expire`] next has something to do, or a batch held back at `now` may be formed.
    #[must_use]
    pub fn next_wakeup(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_alarm().into_iter().chain(self.next_hold(now)).min()
    }

    /// When [`Queue::expire`] has something to do next: an item expires, or a producer that waits for room gives up.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// When a batch that is held back at `now` may be formed. Never before `now`: what may be formed already waits for a lane, and would
    /// hide the others.
    #[must_use]
    pub fn next_hold(&self, now: Timestamp) -> Option<Timestamp> {
        self.holds().filter(|until| *until > now).min()
    }

    /// Whether a hold has ended, so that an idle lane has to look again.
    #[must_use]
    pub fn hold_is_over(&self, now: Timestamp) -> bool {
        self.holds().any(|until| until <= now)
    }

    fn holds(&self) -> impl Iterator<Item = Timestamp> {
        self.models.values().filter_map(|model| self.held_until(model)).chain(self.kept_free_until)
    }

    /// When the oldest item of a model has waited as long as the manifest allows, or an item would otherwise miss its deadline.
    /// `None` if no lane waits: there is no delay, nothing is ready, or a full call is. In models with several shapes, as many
    /// items of any shapes are enough, so that they do not pile up.
    pub(super) fn held_until(&self, model: &ModelQueue) -> Option<Timestamp> {
        let delay = model.options.max_delay;
        let fills = |shape: ShapeKey| model.ready_items(shape) >= model.costs.of(shape).cap();
        if delay.is_zero() || self.draining || fills(ShapeKey::default()) {
            return None;
        }
        // Fewer items than a call takes are ready, so looking at all of them costs little.
        let mut until: Option<Timestamp> = None;
        for head in model.ready.iter().filter_map(|stream| self.head(stream)) {
            if fills(head.shape) {
                return None;
            }
            let call = model.costs.of(head.shape).call(model.ready_items(head.shape).max(1));
            let latest = (head.arrived + delay).min(head.due() - (call + DEADLINE_MARGIN));
            until = Some(until.map_or(latest, |until| until.min(latest)));
        }
        until
    }
}
