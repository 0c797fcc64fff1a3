//! What a model call costs at each batch size: measured at load, then learned from every call.
//!
//! The rule and its constants come from a simulation of 3,840 combinations of cost curve, load and deadline: underestimating the
//! cost is the dangerous side, and one noisy call must not move the curve.

use std::time::Duration;

use super::knee;

/// Weight of the newest call in the running estimate of the relative spread.
const SPREAD_GAIN: f64 = 0.02;
/// A single call counts as at most this squared relative error, so that one stall is not mistaken for noise.
const SQUARED_ERROR_MAX: f64 = 0.25;
/// A single call counts as at most this much longer than expected. A thread that loses its core for a few milliseconds makes a
/// call of a few microseconds a thousand times as long, which says nothing about the next one; if the machine really slowed down
/// by more than this, the curve follows in several steps.
const ERROR_MAX: f64 = 2.0;
/// Relative spread before any call has been seen.
const SPREAD_START: f64 = 0.1;
/// No machine is steadier than this.
const SPREAD_MIN: f64 = 0.02;
/// A grid point averages over about this many calls.
const CALLS_AVERAGED: f64 = 40.0;
/// How many calls a measured point counts for when serving begins.
const CALLS_MEASURED: f64 = 9.0;
/// How far one call moves the whole curve, so that it follows a machine that gets slower or faster.
const DRIFT_GAIN: f64 = 0.03;
/// The cap is the smallest batch with this fraction of the best throughput. At 0.95, capacity would be given away.
const KNEE: f64 = 0.99;
/// Counts as the best throughput.
const PEAK: f64 = 0.999;
/// Calls from one search for the knee to the next.
const CALLS_PER_KNEE: u32 = 16;
/// One in this many calls may be twice the cap if there is enough work: otherwise sizes beyond the cap would never be measured
/// again, and a cap set too low by a busy start would stay there.
const CALLS_PER_TRIAL: u32 = 64;
/// How many calls a point beyond the cap counts for once a trial has measured it.
const CALLS_BEHIND_TRIAL: f64 = 2.0;
/// How many calls a curve scaled from another shape's counts for.
const CALLS_BEHIND_GUESS: f64 = 1.0;

/// Durations of a call at batch sizes 1, 2, 4, …, as measured.
#[derive(Debug, Clone, PartialEq)]
pub struct CostCurve(Vec<Duration>);

impl CostCurve {
    /// `durations[i]` is for batch size `2^i`. Zeros count as one nanosecond; an empty list as one nanosecond at batch 1.
    #[must_use]
    pub fn new(mut durations: Vec<Duration>) -> Self {
        if durations.is_empty() {
            durations.push(Duration::from_nanos(1));
        }
        for duration in &mut durations {
            *duration = (*duration).max(Duration::from_nanos(1));
        }
        Self(durations)
    }

    /// Batch sizes and durations, smallest first.
    pub fn points(&self) -> impl Iterator<Item = (usize, Duration)> + '_ {
        self.0.iter().enumerate().map(|(index, duration)| (1 << index, *duration))
    }

    /// Largest batch size measured.
    #[must_use]
    pub fn largest(&self) -> usize {
        1 << (self.0.len() - 1)
    }
}

/// The running estimate.
#[derive(Debug, Clone)]
pub struct CostModel {
    /// Nanoseconds at batch sizes 1, 2, 4, …
    grid: Vec<f64>,
    /// Calls seen at each grid point, up to [`CALLS_AVERAGED`].
    seen: Vec<f64>,
    squared_spread: f64,
    limit: usize,
    cap: usize,
    peak: usize,
    calls_since_knee: u32,
    calls_since_trial: u32,
}

impl CostModel {
    /// Starts from a measured curve. Batches stay at or below `max_batch`.
    #[must_use]
    pub fn new(curve: &CostCurve, max_batch: usize) -> Self {
        let grid: Vec<f64> = curve.points().map(|(_, duration)| duration.as_nanos() as f64).collect();
        let mut model = Self {
            seen: vec![CALLS_MEASURED; grid.len()],
            grid,
            squared_spread: SPREAD_START * SPREAD_START,
            limit: max_batch.clamp(1, curve.largest()),
            cap: 1,
            peak: 1,
            calls_since_knee: 0,
            calls_since_trial: 0,
        };
        model.find_knee();
        model
    }

    /// The same curve with all durations `factor` times as long, and barely trusted yet.
    pub(super) fn scaled(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        for nanos in &mut scaled.grid {
            *nanos = (*nanos * factor).max(1.0);
        }
        scaled.seen.fill(CALLS_BEHIND_GUESS);
        scaled.find_knee();
        scaled
    }

    /// Expected duration of a call with `batch` items.
    #[must_use]
    #[inline]
    pub fn call(&self, batch: usize) -> Duration {
        Duration::from_nanos(self.nanos(batch) as u64)
    }

    /// Expected duration, stretched by `spreads` relative spreads.
    #[must_use]
    #[inline]
    pub(super) fn call_with_margin(&self, batch: usize, spreads: f64) -> Duration {
        Duration::from_nanos((self.nanos(batch) * spreads.mul_add(self.spread(), 1.0)).max(0.0) as u64)
    }

    /// Relative spread of calls around the estimate.
    #[must_use]
    #[inline]
    pub fn spread(&self) -> f64 {
        self.squared_spread.sqrt().max(SPREAD_MIN)
    }

    /// Largest batch worth forming.
    #[must_use]
    #[inline]
    pub const fn cap(&self) -> usize {
        self.cap
    }

    /// The batch with the best throughput: worth its longer calls when there is far more work than can be done.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak
    }

    /// Largest batch to form from `ready` items: the cap, or now and then a trial beyond it.
    #[must_use]
    #[inline]
    pub(super) fn cap_for(&self, ready: usize) -> usize {
        let trial = (self.cap * 2).min(self.limit);
        if self.calls_since_trial >= CALLS_PER_TRIAL && ready >= trial { trial } else { self.cap }
    }

    /// Whether the cap comes from the manifest (or the end of the measured grid) rather than the knee.
    #[must_use]
    pub(super) const fn cap_is_limit(&self) -> bool {
        self.cap == self.limit
    }

    /// The curve as it stands.
    #[must_use]
    pub fn curve(&self) -> CostCurve {
        CostCurve::new(self.grid.iter().map(|nanos| Duration::from_nanos(*nanos as u64)).collect())
    }

    /// Learns from a call of `batch` items that took `duration`.
    #[inline]
    pub(super) fn observe(&mut self, batch: usize, duration: Duration) {
        let batch = batch.max(1);
        let error = (duration.as_nanos() as f64 / self.nanos(batch) - 1.0).min(ERROR_MAX);
        self.squared_spread += SPREAD_GAIN * ((error * error).min(SQUARED_ERROR_MAX) - self.squared_spread);
        let (lower, share) = self.position(batch);
        if batch > self.cap {
            // What is known of sizes that are hardly ever run is old, so a trial counts for more.
            for seen in &mut self.seen[lower..] {
                *seen = seen.min(CALLS_BEHIND_TRIAL);
            }
        }
        self.pull(lower, 1.0 - share, error);
        if share > 0.0 {
            self.pull(lower + 1, share, error);
        }
        for nanos in &mut self.grid {
            *nanos = (*nanos * DRIFT_GAIN.mul_add(error, 1.0)).max(1.0);
        }
        self.calls_since_knee += 1;
        self.calls_since_trial = if batch > self.cap { 0 } else { self.calls_since_trial.saturating_add(1) };
        if self.calls_since_knee >= CALLS_PER_KNEE {
            self.find_knee();
        }
    }

    fn pull(&mut self, index: usize, weight: f64, error: f64) {
        self.seen[index] = (self.seen[index] + weight).min(CALLS_AVERAGED);
        self.grid[index] = (self.grid[index] * (weight * error / self.seen[index] + 1.0)).max(1.0);
    }

    /// Grid index at or below `batch`, and how far it lies towards the next one. Beyond the grid, its end.
    fn position(&self, batch: usize) -> (usize, f64) {
        let batch = batch.max(1);
        let lower = batch.ilog2() as usize;
        if lower + 1 >= self.grid.len() {
            return (self.grid.len() - 1, 0.0);
        }
        let base = 1_usize << lower;
        (lower, (batch - base) as f64 / base as f64)
    }

    #[inline]
    fn nanos(&self, batch: usize) -> f64 {
        self.interpolated(&self.grid, batch)
    }

    fn interpolated(&self, grid: &[f64], batch: usize) -> f64 {
        let (lower, share) = self.position(batch);
        if share == 0.0 {
            return grid[lower];
        }
        share.mul_add(grid[lower + 1] - grid[lower], grid[lower])
    }

    fn find_knee(&mut self) {
        self.calls_since_knee = 0;
        let grid = knee::smoothed(&self.grid, &self.seen, self.spread());
        let throughput = |batch: usize| batch as f64 / self.interpolated(&grid, batch);
        let best = (1..=self.limit).map(throughput).fold(0.0, f64::max);
        let reaches = |share: f64| (1..=self.limit).find(|batch| throughput(*batch) >= share * best).unwrap_or(self.limit);
        (self.cap, self.peak) = (reaches(KNEE), reaches(PEAK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(micros: &[u64]) -> CostCurve {
        CostCurve::new(micros.iter().map(|micros| Duration::from_micros(*micros)).collect())
    }

    const SILERO: [u64; 7] = [220, 330, 550, 950, 1900, 3800, 7600];

    /// What is known after many calls on a steady machine.
    fn settled(micros: &[u64]) -> CostModel {
        let mut model = CostModel::new(&curve(micros), 64);
        for call in 0..400 {
            let size = call % micros.len();
            model.observe(1 << size, Duration::from_micros(micros[size]));
        }
        model
    }

    #[test]
    fn the_cap_is_where_more_items_gain_no_throughput() {
        let by_so_few_calls = CostModel::new(&curve(&SILERO), 64).cap();
        assert!((8..=17).contains(&by_so_few_calls), "{by_so_few_calls}");
        assert!((8..=10).contains(&settled(&SILERO).cap()));
        assert_eq!(settled(&[100, 190, 360, 800, 1700]).cap(), 4);
        let constant = CostModel::new(&curve(&[100, 100, 100, 100]), 64);
        assert_eq!(constant.cap(), 8);
        assert!(constant.cap_is_limit());
    }

    #[test]
    fn a_manifest_can_only_lower_the_cap() {
        assert_eq!(CostModel::new(&curve(&[100, 100, 100, 100]), 3).cap(), 3);
        assert_eq!(CostModel::new(&curve(&[100, 100, 100, 100]), 1000).cap(), 8);
    }

    #[test]
    fn sizes_between_grid_points_are_linear() {
        let model = CostModel::new(&curve(&[100, 200, 300]), 4);
        assert_eq!(model.call(3), Duration::from_micros(250));
        assert_eq!(model.call(9), Duration::from_micros(300));
    }

    #[test]
    fn the_curve_follows_a_machine_that_becomes_slower_and_faster_again() {
        let mut model = CostModel::new(&curve(&[100, 190, 360, 700]), 8);
        for _ in 0..400 {
            model.observe(4, Duration::from_micros(1200));
        }
        let slow = model.call(4).as_secs_f64() / 1200e-6;
        assert!((0.9..1.1).contains(&slow), "{slow}");
        assert!(model.call(1) > Duration::from_micros(125), "sizes that were not seen drift along");
        for _ in 0..400 {
            model.observe(4, Duration::from_micros(400));
        }
        let fast = model.call(4).as_secs_f64() / 400e-6;
        assert!((0.9..1.1).contains(&fast), "{fast}");
    }

    #[test]
    fn one_stalled_call_hardly_moves_the_curve() {
        let mut model = CostModel::new(&curve(&[100, 180, 330, 600]), 8);
        assert_eq!(model.cap(), 8);
        for _ in 0..100 {
            model.observe(8, Duration::from_micros(600));
        }
        model.observe(8, Duration::from_micros(3000));
        assert!(model.call(8) < Duration::from_micros(825), "{:?}", model.call(8));
        assert!(model.spread() < 0.15);
    }

    #[test]
    fn short_calls_that_lose_their_core_now_and_then_keep_their_cost() {
        let mut model = CostModel::new(&curve(&[2, 3, 5, 8]), 8);
        for call in 0..4_000 {
            let stalled = call % 100 == 0;
            model.observe(1 << (call % 4), Duration::from_micros(if stalled { 4_000 } else { [2, 3, 5, 8][call % 4] }));
        }
        for (batch, micros) in [(1, 2.0), (2, 3.0), (4, 5.0), (8, 8.0)] {
            let ratio = model.call(batch).as_secs_f64() * 1e6 / micros;
            assert!((0.9..1.3).contains(&ratio), "{ratio} at {batch}");
        }
    }

    #[test]
    fn a_cap_that_a_busy_start_set_too_low_rises_again() {
        // Measured while the machine was busy: larger batches looked useless.
        let mut model = CostModel::new(&curve(&[100, 400, 900, 2000]), 8);
        assert_eq!(model.cap(), 1);
        let truth = |batch: usize| Duration::from_micros(80 + 20 * batch as u64);
        for _ in 0..40 * CALLS_PER_TRIAL {
            let batch = model.cap_for(100);
            model.observe(batch, truth(batch));
        }
        assert_eq!(model.cap(), 8);
    }

    proptest::proptest! {
        #[test]
        fn no_sequence_of_calls_breaks_it(calls in proptest::collection::vec((0_usize..200, 0_u64..10_000_000_000), 0..200)) {
            let mut model = CostModel::new(&curve(&[100, 150, 250]), 4);
            for (batch, nanos) in calls {
                model.observe(batch, Duration::from_nanos(nanos));
            }
            proptest::prop_assert!((1..=4).contains(&model.cap()));
            proptest::prop_assert!(model.spread().is_finite());
            proptest::prop_assert!(model.call(3) > Duration::ZERO);
        }
    }
}
