//! The running calls, each by its number.

use std::time::Duration;

use tidemill_domain::Timestamp;

use super::{
    batch::{CallNumber, LaneKind},
    keys::{ModelKey, ShapeKey},
};

/// A running call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: CallNumber,
    pub(super) model: ModelKey,
    pub(super) shape: ShapeKey,
    pub(super) items: usize,
    /// Whether nothing else was running or waiting when it began.
    pub(super) lone: bool,
    /// Whether it may use all cores.
    pub(super) wide: bool,
    /// Whether it is long compared with other calls in demand.
    pub(super) long: bool,
    pub(super) lane: LaneKind,
    /// When it should end.
    pub(super) ends_at: Timestamp,
    /// How long it should take.
    pub(super) takes: Duration,
}

impl Call {
    /// When it has taken twice as long as it should.
    pub(super) fn late_at(&self) -> Timestamp {
        self.ends_at + self.takes
    }

    /// When it has taken ten times as long as it should.
    #[inline]
    pub(super) fn overdue_at(&self) -> Timestamp {
        self.ends_at + 9 * self.takes
    }
}

/// All running calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    on_lanes: Vec<Call>,
    on_long_lanes: Vec<Call>,
    /// How many have begun, which is also the last one's number.
    begun: u64,
}

impl Calls {
    /// The number of a call that is about to begin.
    pub(super) const fn next_number(&mut self) -> CallNumber {
        self.begun += 1;
        CallNumber(self.begun)
    }

    #[inline]
    pub(super) fn begin(&mut self, call: Call) {
        match call.lane {
            LaneKind::Ordinary => self.on_lanes.push(call),
            LaneKind::Long => self.on_long_lanes.push(call),
        }
    }

    /// Takes out a call that has ended. `None` if no such call is running.
    #[inline]
    pub(super) fn end(&mut self, number: CallNumber) -> Option<Call> {
        [&mut self.on_lanes, &mut self.on_long_lanes].into_iter().find_map(|calls| {
            let at = calls.iter().position(|call| call.number == number)?;
            Some(calls.swap_remove(at))
        })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.on_lanes.is_empty() && self.on_long_lanes.is_empty()
    }

    /// Those on ordinary lanes.
    pub(super) fn on_lanes(&self) -> &[Call] {
        &self.on_lanes
    }

    /// Those on long lanes, which leave the cores to the others.
    pub(super) fn on_long_lanes(&self) -> &[Call] {
        &self.on_long_lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_ends_is_taken_out_but_not_another_due_to_end_at_the_same_moment() {
        let mut calls = Calls::default();
        let call = |number, items, lane| Call {
            number,
            model: ModelKey::default(),
            shape: ShapeKey::default(),
            items,
            lone: false,
            wide: false,
            long: false,
            lane,
            ends_at: Timestamp::ZERO,
            takes: Duration::ZERO,
        };
        let numbers = [(); 4].map(|()| calls.next_number());
        for (items, number) in (1..).zip(numbers) {
            calls.begin(call(number, items, if items % 2 == 0 { LaneKind::Long } else { LaneKind::Ordinary }));
        }
        assert_eq!((calls.on_lanes().len(), calls.on_long_lanes().len()), (2, 2));
        for (items, number) in (1..).zip(numbers) {
            assert_eq!(calls.end(number).map(|call| call.items), Some(items));
            assert!(calls.end(number).is_none(), "it ends once");
        }
        assert!(calls.is_empty());
    }
}
