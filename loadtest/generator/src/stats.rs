//! Medians over rounds, and quantiles of durations.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer durations all count as this one.
const LONGEST: Duration = Duration::from_secs(120);

/// One figure per round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The median; NaN if there was no round.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// Half the range of the rounds, relative to the median: how far to trust the median.
    pub(crate) fn spread(&self) -> f64 {
        let largest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        (largest - smallest) / 2.0 / self.median()
    }
}

/// Durations, kept to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Durations(Histogram<u64>);

impl Durations {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_max(LONGEST.as_nanos() as u64, 3)?))
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(duration.as_nanos() as u64);
    }

    /// The quantile in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Durations one by one: for many streams with few answers each, where a histogram for each would be most of the memory in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The quantile in milliseconds; NaN if there is no sample.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figures: &[f64]) -> Rounds {
        Rounds(figures.to_vec())
    }

    #[test]
    fn the_median_ignores_order_and_outliers() {
        assert!((rounds(&[9.0, 1.0, 1000.0]).median() - 9.0).abs() < 1e-12);
        assert!((rounds(&[4.0, 1.0, 2.0, 100.0]).median() - 3.0).abs() < 1e-12);
        assert!(rounds(&[]).median().is_nan());
    }

    #[test]
    fn the_spread_is_half_the_range() {
        assert!((rounds(&[90.0, 100.0, 110.0]).spread() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn samples_give_the_smallest_that_covers_the_quantile() {
        let mut samples = Samples::default();
        assert!(samples.quantile_ms(0.5).is_nan());
        for millis in (1..=100).rev() {
            samples.record(Duration::from_millis(millis));
        }
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|quantile| samples.quantile_ms(quantile).round() as u64);
        assert_eq!(quantiles, [1, 50, 99, 100]);
    }

    #[test]
    fn quantiles_keep_three_digits_and_the_longest_is_not_lost() {
        let mut durations = Durations::new().expect("sound bounds");
        for millis in 1..=1000 {
            durations.record(Duration::from_millis(millis));
        }
        let p99 = durations.quantile_us(0.99);
        assert!((989_000.0..=991_000.0).contains(&p99), "{p99}");
        durations.record(Duration::from_secs(1_000_000));
        assert!(durations.quantile_us(1.0) >= LONGEST.as_micros() as f64);
    }
}
