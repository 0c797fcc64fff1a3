//! When the items of a paced stream are due.

use std::time::Duration;

use tidemill::domain::Timestamp;

/// One stream's schedule: a phase, a period, and a shift for each item, as with sources that have their own clocks.
///
/// An item's moment depends only on its number, so sender and receiver need not communicate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    first: Timestamp,
    period: Duration,
    jitter: Duration,
    seed: u64,
}

impl Schedule {
    /// Items are due from `start` on, with a phase drawn from `seed`, each up to `jitter` late. If the jitter is below the period, items
    /// stay in order.
    pub(crate) fn new(start: Timestamp, period: Duration, jitter: Duration, seed: u64) -> Self {
        let phase = period.mul_f64(fastrand::Rng::with_seed(seed).f64());
        Self { first: start + phase, period, jitter, seed }
    }

    /// When item `number` is due.
    pub(crate) fn due(&self, number: u64) -> Timestamp {
        let draw = fastrand::Rng::with_seed(self.seed ^ number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).f64();
        let elapsed = Duration::from_nanos(self.period.as_nanos() as u64 * number);
        self.first + elapsed + self.jitter.mul_f64(draw)
    }
}

/// All items of all streams before `end`, in the order in which they are due: when, and which stream.
pub(crate) fn agenda(schedules: &[Schedule], end: Timestamp) -> Vec<(Timestamp, usize)> {
    let items = schedules.iter().enumerate().flat_map(|(stream, schedule)| {
        (0..).map(|number| schedule.due(number)).take_while(|due| *due < end).map(move |due| (due, stream))
    });
    let mut agenda: Vec<_> = items.collect();
    agenda.sort_unstable();
    agenda
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(32);

    fn schedules(count: u64) -> Vec<Schedule> {
        let start = Timestamp::ZERO + Duration::from_secs(5);
        (0..count).map(|seed| Schedule::new(start, PERIOD, Duration::from_millis(8), seed)).collect()
    }

    #[test]
    fn items_keep_their_rate_and_order() {
        for schedule in schedules(20) {
            for number in 0..1000 {
                let (this, next) = (schedule.due(number), schedule.due(number + 1));
                assert!(this < next);
                let drift = this.since(schedule.first + PERIOD * u32::try_from(number).expect("small"));
                assert!(drift <= Duration::from_millis(8), "{drift:?}");
            }
        }
    }

    #[test]
    fn streams_are_out_of_step() {
        let first: std::collections::BTreeSet<_> = schedules(64).iter().map(|schedule| schedule.due(0)).collect();
        assert_eq!(first.len(), 64);
    }

    #[test]
    fn the_agenda_holds_each_item_once_and_in_order() {
        let schedules = schedules(3);
        let end = Timestamp::ZERO + Duration::from_secs(6);
        let agenda = agenda(&schedules, end);
        assert!(agenda.is_sorted());
        for (stream, schedule) in schedules.iter().enumerate() {
            let dues: Vec<_> = agenda.iter().filter(|(_, of)| *of == stream).map(|(due, _)| *due).collect();
            assert_eq!(dues, (0..dues.len() as u64).map(|number| schedule.due(number)).collect::<Vec<_>>());
            assert!(schedule.due(dues.len() as u64) >= end);
        }
    }
}
