//! Counts what is offered, sent and answered, and how long it took.
//!
//! One task owns a recorder, so nothing is locked; recorders of many tasks are merged when a step is over. Recording takes some tens of
//! nanoseconds and allocates at most once a second. Knows neither protocols nor sockets, and reads no clock.

use std::{borrow::Cow, collections::BTreeMap, ops::AddAssign, time::Duration};

use hdrhistogram::Histogram;
use tidemill::domain::Timestamp;

use super::results::{LoadResult, Percentiles, Second};
use crate::feed::LATE_AFTER;

/// Longer times all count as this one.
const LONGEST: Duration = Duration::from_secs(600);

/// How many error names are kept apart; a server that makes up names cannot fill the memory.
const ERROR_NAMES_MAX: usize = 64;

/// Where the errors beyond [`ERROR_NAMES_MAX`] names go.
const OTHER_ERRORS: &str = "OTHER";

/// Share of the answers beyond each percentile of a curve: from 1 down to one in a million, evenly spread on a log scale.
const TAILS: [f64; 10] = [1.0, 0.8, 0.65, 0.5, 0.4, 0.32, 0.25, 0.2, 0.16, 0.125];

/// Which part of a step counts, and what is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecorderPlan {
    /// End of the warm-up.
    pub(crate) counts_from: Timestamp,
    /// Items due from here on are not counted.
    pub(crate) ends: Timestamp,
    pub(crate) slo: Duration,
}

impl RecorderPlan {
    fn counts(&self, due: Timestamp) -> bool {
        (self.counts_from..self.ends).contains(&due)
    }

    fn duration(&self) -> Duration {
        self.ends.since(self.counts_from)
    }
}

/// An answer to one send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The send's number in its stream.
    pub(crate) seq: u64,
    pub(crate) end: End,
    /// As the server gives it, if it does.
    pub(crate) timing: Option<Timing>,
    /// How many items it is for: 1, except for calls with a batch; and 0 for a send without its own answer, and so without a
    /// latency.
    pub(crate) items: u32,
}

/// How a send ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Outputs,
    /// Name of the gRPC code, or `HTTP` and the status.
    Error(Cow<'static, str>),
}

/// The server's own times for an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
    pub(crate) age: Duration,
    pub(crate) batch_size: u32,
}

/// How many were offered, and how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    /// Ok and within the objective.
    pub(crate) good: u64,
    pub(crate) errors: u64,
}

impl Counts {
    const fn answered(&self) -> u64 {
        self.ok + self.errors
    }

    fn count_answer(&mut self, is_ok: bool, is_good: bool) {
        self.ok += u64::from(is_ok);
        self.good += u64::from(is_good);
        self.errors += u64::from(!is_ok);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.ok += other.ok;
        self.good += other.good;
        self.errors += other.errors;
    }
}

/// The batches that answered items were part of.
#[derive(Debug, Clone, Copy, Default)]
struct Batches {
    sizes: u64,
    items: u64,
}

impl Batches {
    fn count(&mut self, size: u32) {
        *self += Self { sizes: size.into(), items: 1 };
    }

    fn mean_size(self) -> Option<f64> {
        (self.items > 0).then(|| self.sizes as f64 / self.items as f64)
    }
}

impl AddAssign for Batches {
    fn add_assign(&mut self, other: Self) {
        self.sizes += other.sizes;
        self.items += other.items;
    }
}

/// Counts since the very start of a step, warm-up included, for showing how it is going.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// For the recorder's last whole second; for several recorders, the longest.
    pub(crate) p99_us: u64,
}

impl Tally {
    /// Sent but not answered.
    pub(crate) const fn in_flight(&self) -> u64 {
        self.counts.sent.saturating_sub(self.counts.answered())
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.counts += other.counts;
        self.p99_us = self.p99_us.max(other.p99_us);
    }
}

/// The counts of one second, by when things happened.
#[derive(Debug, Clone, Default)]
struct Cell {
    counts: Counts,
    batches: Batches,
    /// Latencies of ok answers, and how often each occurred: a whole histogram for each second would be most of the memory in use.
    latencies: Vec<(u64, u32)>,
}

/// Times that only some protocols report.
#[derive(Debug, Clone)]
struct ServerTimes {
    age: Histogram<u64>,
    queue: Histogram<u64>,
    compute: Histogram<u64>,
    batches: Batches,
}

impl ServerTimes {
    fn count(&mut self, timing: &Timing) {
        self.age.saturating_record(micros(timing.age));
        self.queue.saturating_record(micros(timing.queue));
        self.compute.saturating_record(micros(timing.compute));
        self.batches.count(timing.batch_size);
    }

    fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.age.add(&other.age)?;
        self.queue.add(&other.queue)?;
        self.compute.add(&other.compute)?;
        self.batches += other.batches;
        Ok(())
    }
}

/// One task's counts of one load.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    plan: RecorderPlan,
    tally: Tally,
    /// For what was due within the counted time.
    counts: Counts,
    ok_items: u64,
    errors: BTreeMap<String, u64>,
    late_sends: u64,
    late: Histogram<u64>,
    latency: Histogram<u64>,
    server: Box<ServerTimes>,
    /// Sent minus answered before the counted time.
    in_flight_before: i64,
    cells: Vec<Cell>,
    /// The cell that `current` belongs to.
    current_cell: usize,
    /// Latencies of the current second, to two digits.
    current: Histogram<u32>,
}

impl Recorder {
    /// # Errors
    /// None with the bounds of this module; the histograms check theirs when they are made.
    pub(crate) fn new(plan: &RecorderPlan) -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_max(micros(LONGEST), 3);
        let server = ServerTimes { age: histogram()?, queue: histogram()?, compute: histogram()?, batches: Batches::default() };
        Ok(Self {
            plan: *plan,
            tally: Tally::default(),
            counts: Counts::default(),
            ok_items: 0,
            errors: BTreeMap::new(),
            late_sends: 0,
            late: histogram()?,
            latency: histogram()?,
            server: Box::new(server),
            in_flight_before: 0,
            cells: vec![Cell::default(); plan.duration().as_millis().div_ceil(1000) as usize],
            current_cell: 0,
            current: Histogram::new_with_max(micros(LONGEST), 2)?,
        })
    }

    /// A send is due, whether or not there is room for it.
    pub(crate) fn offered(&mut self, due: Timestamp) {
        self.tally.counts.offered += 1;
        self.counts.offered += u64::from(self.plan.counts(due));
        if let Some(cell) = self.cell(due) {
            cell.counts.offered += 1;
        }
    }

    /// The item due at `due` is sent at `at`.
    pub(crate) fn sent(&mut self, due: Timestamp, at: Timestamp) {
        self.tally.counts.sent += 1;
        if self.plan.counts(due) {
            self.counts.sent += 1;
            let late = at.since(due);
            self.late_sends += u64::from(late > LATE_AFTER);
            self.late.saturating_record(micros(late));
        }
        match self.cell(at) {
            Some(cell) => cell.counts.sent += 1,
            None => self.in_flight_before += i64::from(at < self.plan.counts_from),
        }
    }

    /// The item due at `due` is answered at `at`.
    pub(crate) fn answered(&mut self, due: Timestamp, at: Timestamp, answer: &Answer) {
        let latency = at.since(due);
        let is_ok = answer.end == End::Outputs;
        let has_latency = is_ok && answer.items > 0;
        let is_good = is_ok && (latency <= self.plan.slo || !has_latency);
        self.tally.counts.count_answer(is_ok, is_good);
        if self.plan.counts(due) {
            self.counts.count_answer(is_ok, is_good);
            self.follow(latency, answer);
        }
        self.turn_to(at);
        let Some(cell) = self.cell(at) else {
            self.in_flight_before -= i64::from(at < self.plan.counts_from);
            return;
        };
        cell.counts.count_answer(is_ok, is_good);
        if let Some(timing) = answer.timing {
            cell.batches.count(timing.batch_size);
        }
        if has_latency {
            self.current.saturating_record(micros(latency));
        }
    }

    /// Something that was offered within the counted time has ended.
    fn follow(&mut self, latency: Duration, answer: &Answer) {
        match &answer.end {
            End::Outputs => {
                self.ok_items += u64::from(answer.items);
                if answer.items > 0 {
                    self.latency.saturating_record(micros(latency));
                }
            }
            End::Error(name) => self.count_error(name, 1),
        }
        if let Some(timing) = &answer.timing {
            self.server.count(timing);
        }
    }

    fn count_error(&mut self, name: &str, times: u64) {
        if let Some(count) = self.errors.get_mut(name) {
            *count += times;
            return;
        }
        let name = if self.errors.len() < ERROR_NAMES_MAX { name } else { OTHER_ERRORS };
        *self.errors.entry(name.to_owned()).or_default() += times;
    }

    fn cell(&mut self, at: Timestamp) -> Option<&mut Cell> {
        let place = self.place(at)?;
        self.cells.get_mut(place)
    }

    /// The second that `at` falls into, if it is counted.
    fn place(&self, at: Timestamp) -> Option<usize> {
        self.plan.counts(at).then(|| at.since(self.plan.counts_from).as_secs() as usize)
    }

    /// Puts the latencies of a second that is over into its cell. Moments of one task hardly ever run backwards; those that do count
    /// towards the current second.
    fn turn_to(&mut self, at: Timestamp) {
        let place = if at < self.plan.ends { self.place(at).unwrap_or(0) } else { self.cells.len() };
        if place > self.current_cell {
            self.settle();
            self.current_cell = place;
        }
    }

    fn settle(&mut self) {
        let Some(cell) = self.cells.get_mut(self.current_cell) else { return };
        if self.current.is_empty() {
            return;
        }
        self.tally.p99_us = self.current.value_at_quantile(0.99);
        cell.latencies.extend(self.current.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())));
        self.current.reset();
    }

    /// How it is going.
    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Adds what another recorder of the same plan has seen.
    ///
    /// # Errors
    /// None between recorders of this module.
    pub(crate) fn merge(&mut self, mut other: Self) -> anyhow::Result<()> {
        self.settle();
        other.settle();
        self.tally.add(&other.tally);
        self.counts += other.counts;
        self.ok_items += other.ok_items;
        self.late_sends += other.late_sends;
        self.in_flight_before += other.in_flight_before;
        for (name, count) in &other.errors {
            self.count_error(name, *count);
        }
        self.late.add(&other.late)?;
        self.latency.add(&other.latency)?;
        self.server.merge(&other.server)?;
        for (cell, others) in self.cells.iter_mut().zip(other.cells) {
            cell.counts += others.counts;
            cell.batches += others.batches;
            cell.latencies.extend(others.latencies);
        }
        Ok(())
    }

    /// The outcome; the caller has to fill in name, protocol, model and streams.
    pub(crate) fn load_result(&self) -> LoadResult {
        let duration_s = self.plan.duration().as_secs_f64().max(f64::MIN_POSITIVE);
        let Counts { offered, sent, ok, good, .. } = self.counts;
        let answered = self.counts.answered();
        let came: u64 = self.cells.iter().map(|cell| cell.counts.ok).sum();
        let times = |times: &Histogram<u64>| (!times.is_empty()).then(|| percentiles(times));
        LoadResult {
            offered,
            sent,
            answered,
            ok,
            ok_items: self.ok_items,
            errors: self.errors.clone(),
            unanswered: offered.saturating_sub(answered),
            late_sends: self.late_sends,
            late_p99_us: self.late.value_at_quantile(0.99),
            throughput_hz: came as f64 / duration_s,
            goodput_hz: good as f64 / duration_s,
            goodput_share: good as f64 / offered.max(1) as f64,
            latency_us: times(&self.latency),
            age_us: times(&self.server.age),
            queue_us: times(&self.server.queue),
            compute_us: times(&self.server.compute),
            batch_size_mean: self.server.batches.mean_size(),
            ..LoadResult::default()
        }
    }

    /// Second by second; the caller has to fill in how the machine was used.
    pub(crate) fn series(&mut self) -> Vec<Second> {
        self.settle();
        let duration_s = self.plan.duration().as_secs_f64();
        let mut in_flight = self.in_flight_before;
        let mut latencies = self.current.clone();
        let second = |(place, cell): (usize, &Cell)| {
            let Counts { offered, sent, ok, good, errors } = cell.counts;
            in_flight += sent as i64 - (ok + errors) as i64;
            latencies.reset();
            for (latency, count) in &cell.latencies {
                latencies.saturating_record_n(*latency, *count);
            }
            let quantile = |quantile| (!latencies.is_empty()).then(|| latencies.value_at_quantile(quantile));
            Second {
                t_s: place as u64,
                span_s: (duration_s - place as f64).min(1.0),
                offered,
                ok,
                good,
                errors,
                p50_us: quantile(0.5),
                p99_us: quantile(0.99),
                batch_size_mean: cell.batches.mean_size(),
                in_flight: u64::try_from(in_flight).unwrap_or(0),
                ..Second::default()
            }
        };
        self.cells.iter().enumerate().map(second).collect()
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_nanos() as u64 / 1000
}

/// There must be at least one time.
fn percentiles(times: &Histogram<u64>) -> Percentiles {
    let value = |quantile| times.value_at_quantile(quantile);
    let count = times.len();
    let decades = (0..6).map(|decade| 0.1_f64.powi(decade));
    let tails = decades.flat_map(|decade| TAILS.map(|tail| tail * decade));
    // Beyond one in `count`, all percentiles are the largest value.
    let told_apart = tails.take_while(|tail| tail * count as f64 >= 1.0);
    let mut curve: Vec<_> = told_apart.map(|tail| (100.0 - tail * 100.0, value(1.0 - tail))).collect();
    curve.push((100.0, times.max()));
    Percentiles {
        count,
        min: times.min(),
        p50: value(0.5),
        p90: value(0.9),
        p99: value(0.99),
        p999: value(0.999),
        max: times.max(),
        mean: times.mean(),
        curve,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Duration = Duration::from_millis(50);

    fn plan(millis: u64) -> RecorderPlan {
        RecorderPlan { counts_from: at(1000), ends: at(1000 + millis), slo: SLO }
    }

    fn recorder(millis: u64) -> Recorder {
        Recorder::new(&plan(millis)).expect("sound bounds")
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn ok() -> Answer {
        Answer { seq: 0, end: End::Outputs, timing: None, items: 1 }
    }

    fn error(name: &'static str) -> Answer {
        Answer { end: End::Error(Cow::Borrowed(name)), ..ok() }
    }

    /// Offered and sent at once, answered after `latency_ms`.
    fn pass(recorder: &mut Recorder, due_ms: u64, latency_ms: u64, answer: &Answer) {
        recorder.offered(at(due_ms));
        recorder.sent(at(due_ms), at(due_ms));
        recorder.answered(at(due_ms), at(due_ms + latency_ms), answer);
    }

    #[test]
    fn only_what_is_due_in_time_counts() {
        let mut recorder = recorder(2000);
        for due in [999, 1000, 2999, 3000] {
            pass(&mut recorder, due, 1, &ok());
        }
        let result = recorder.load_result();
        assert_eq!((result.offered, result.sent, result.ok, result.unanswered), (2, 2, 2, 0));
        assert_eq!(recorder.tally().counts.ok, 4, "the tally leaves nothing out");
    }

    #[test]
    fn every_offer_comes_to_one_end() {
        let mut recorder = recorder(1000);
        for due in 1000..1010 {
            pass(&mut recorder, due, 2, &ok());
        }
        pass(&mut recorder, 1020, 51, &Answer { items: 8, ..ok() });
        pass(&mut recorder, 1030, 1, &error("UNAVAILABLE"));
        pass(&mut recorder, 1031, 1, &error("UNAVAILABLE"));
        recorder.offered(at(1040));
        let result = recorder.load_result();
        assert_eq!((result.offered, result.sent, result.answered, result.ok, result.ok_items), (14, 13, 13, 11, 18));
        assert_eq!((result.errors_total(), result.errors["UNAVAILABLE"], result.unanswered), (2, 2, 1));
        assert!((result.goodput_hz - 10.0).abs() < 1e-9, "the one beyond the SLO is not good");
        assert!((result.goodput_share - 10.0 / 14.0).abs() < 1e-9);
        assert_eq!(result.latency_us.map(|times| times.count), Some(11), "errors have no latency");
    }

    #[test]
    fn an_answer_without_items_is_ok_and_has_no_latency() {
        let mut recorder = recorder(1000);
        pass(&mut recorder, 1000, 900, &Answer { items: 0, ..ok() });
        let result = recorder.load_result();
        assert_eq!((result.ok, result.ok_items, result.latency_us), (1, 0, None));
        assert!((result.goodput_share - 1.0).abs() < 1e-9);
        assert_eq!(recorder.series()[0].p99_us, None);
    }

    #[test]
    fn throughput_goes_by_when_answers_come() {
        let mut recorder = recorder(1000);
        pass(&mut recorder, 900, 200, &ok());
        pass(&mut recorder, 1900, 50, &ok());
        pass(&mut recorder, 1990, 500, &ok());
        let result = recorder.load_result();
        assert_eq!(result.ok, 2);
        assert!((result.throughput_hz - 2.0).abs() < 1e-9);
    }

    #[test]
    fn late_sends_are_counted_beyond_a_millisecond() {
        let mut recorder = recorder(1000);
        let due = at(1100);
        for late_us in [0, 999, 1000, 1001, 5000] {
            recorder.sent(due, due + Duration::from_micros(late_us));
        }
        let result = recorder.load_result();
        assert_eq!(result.late_sends, 2);
        assert!((4990..=5010).contains(&result.late_p99_us), "{}", result.late_p99_us);
    }

    #[test]
    fn percentiles_keep_three_digits_and_the_longest_is_not_lost() {
        let mut recorder = recorder(20_000);
        for millis in 1..=10_000 {
            pass(&mut recorder, 1000, millis, &ok());
        }
        let latency = recorder.load_result().latency_us.expect("ok answers");
        for (found, expected) in [(latency.p50, 5_000_000), (latency.p99, 9_900_000), (latency.p999, 9_990_000)] {
            assert!(found.abs_diff(expected) * 1000 <= expected, "{found} is not {expected}");
        }
        assert!(latency.curve.is_sorted(), "{:?}", latency.curve);
        let near = latency.curve.iter().find(|(percentile, _)| (percentile - 99.99).abs() < 1e-6).expect("99.99 %");
        assert!(near.1.abs_diff(9_999_000) * 1000 <= 9_999_000, "{near:?}");
        assert_eq!(latency.curve.last(), Some(&(100.0, latency.max)));
        pass(&mut recorder, 1000, 10_000_000, &ok());
        assert!(recorder.load_result().latency_us.is_some_and(|times| times.max >= 600_000_000));
    }

    #[test]
    fn without_an_ok_answer_there_are_no_times() {
        let mut recorder = recorder(1000);
        pass(&mut recorder, 1000, 1, &error("UNAVAILABLE"));
        let result = recorder.load_result();
        assert_eq!((result.latency_us, result.age_us, result.batch_size_mean), (None, None, None));
        assert!(result.goodput_share.abs() < 1e-12);
    }

    #[test]
    fn seconds_hold_what_happened_in_them() {
        let mut recorder = recorder(2500);
        recorder.sent(at(900), at(900));
        recorder.sent(at(950), at(950));
        recorder.answered(at(900), at(990), &ok());
        recorder.answered(at(950), at(1100), &ok());
        pass(&mut recorder, 1500, 10, &ok());
        pass(&mut recorder, 1900, 300, &error("INTERNAL"));
        pass(&mut recorder, 3400, 10, &ok());
        recorder.sent(at(3450), at(3450));
        let series = recorder.series();
        let counts: Vec<_> = series.iter().map(|second| (second.offered, second.ok, second.good, second.errors)).collect();
        assert_eq!(counts, [(2, 2, 1, 0), (0, 0, 0, 1), (1, 1, 1, 0)]);
        assert_eq!(series.iter().map(|second| second.in_flight).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(series[0].p50_us.map(|micros| micros / 1000), Some(10));
        assert_eq!((series[1].p50_us, series[1].p99_us), (None, None));
        assert!((series[2].span_s - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_servers_times_are_kept_apart() {
        let mut recorder = recorder(1000);
        let millis = Duration::from_millis;
        for batch_size in [2, 4] {
            let timing = Timing { queue: millis(1), compute: millis(5), age: millis(7), batch_size };
            pass(&mut recorder, 1000, 10, &Answer { timing: Some(timing), ..ok() });
        }
        let result = recorder.load_result();
        let p50 = |times: Option<Percentiles>| times.expect("given").p50 / 1000;
        assert_eq!((p50(result.queue_us), p50(result.compute_us), p50(result.age_us)), (1, 5, 7));
        assert_eq!(result.batch_size_mean, Some(3.0));
        assert_eq!(recorder.series()[0].batch_size_mean, Some(3.0));
    }

    #[test]
    fn merged_recorders_are_as_one() {
        let (mut one, mut two, mut all) = (recorder(3000), recorder(3000), recorder(3000));
        let mut rng = fastrand::Rng::with_seed(7);
        for due in 900..4100 {
            let answer = if rng.u8(0..10) == 0 { error("ABORTED") } else { ok() };
            let latency = rng.u64(0..100);
            let part = if rng.bool() { &mut one } else { &mut two };
            pass(part, due, latency, &answer);
            pass(&mut all, due, latency, &answer);
        }
        one.merge(two).expect("one plan");
        assert_eq!(one.load_result(), all.load_result());
        let counts = |recorder: &mut Recorder| {
            let seconds = recorder.series().into_iter();
            seconds.map(|second| (second.offered, second.ok, second.errors, second.in_flight)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&mut one), counts(&mut all));
        assert_eq!(Tally { p99_us: 0, ..one.tally() }, Tally { p99_us: 0, ..all.tally() });
    }

    #[test]
    fn names_of_errors_are_bounded() {
        let mut recorder = recorder(1000);
        for number in 0..1000 {
            recorder.answered(at(1000), at(1001), &Answer { end: End::Error(Cow::Owned(format!("E{number}"))), ..ok() });
        }
        let errors = recorder.load_result().errors;
        assert_eq!(errors.len(), ERROR_NAMES_MAX + 1);
        assert_eq!(errors[OTHER_ERRORS], 1000 - ERROR_NAMES_MAX as u64);
    }
}
