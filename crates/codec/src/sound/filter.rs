//! The filters between two rates: windowed sincs, one row of taps for each place that an output sample can have between two input samples.

use std::{
    f64::consts::PI,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tidemill_domain::{Fault, FaultKind};

/// What is beyond the lower of the two Nyquist frequencies is weaker by this much.
const REJECTION_DB: f64 = 96.0;

/// The pass band ends here, in parts of the lower Nyquist frequency; from there to that frequency the filter falls.
const PASS: f64 = 0.9;

/// Taps in all rows of a filter. Places between the rows are interpolated, which at this number stays below 16 bits.
const TAPS_MAX: usize = 1 << 15;

/// Pairs of rates that are in use at once. The usual rates of sound cards, files and telephones make a dozen.
const FILTERS_MAX: usize = 64;

/// Taps that are multiplied at a time.
pub(super) const LANES: usize = 8;

/// The filters in use.
static FILTERS: Mutex<Vec<(u32, u32, Weak<Filter>)>> = Mutex::new(Vec::new());

/// From one rate to another.
#[derive(Debug)]
pub(super) struct Filter {
    /// Output samples for every `step` input samples, in lowest terms.
    pub(super) places: u32,
    pub(super) step: u32,
    /// Taps of a row, half of them ahead of the output sample.
    pub(super) taps: usize,
    /// Rows between two input samples.
    rows: usize,
    /// One row more than there are, so that each has a next one.
    coefficients: Vec<f32>,
}

impl Filter {
    /// The filter between these rates; each pair has one for as long as any stream uses it.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if too many pairs are in use.
    pub(super) fn between(from_hz: u32, to_hz: u32) -> Result<Arc<Self>, Fault> {
        let mut filters = FILTERS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = filters.iter().find(|(from, to, _)| (*from, *to) == (from_hz, to_hz));
        if let Some(filter) = known.and_then(|(.., filter)| filter.upgrade()) {
            return Ok(filter);
        }
        filters.retain(|(.., filter)| filter.strong_count() > 0);
        if filters.len() >= FILTERS_MAX {
            let message = format!(
                "sample_rate_hz is {from_hz}, and audio of {FILTERS_MAX} other rates is being converted, as many as there may be; \
                 send the model's rate of {to_hz}, or come back"
            );
            return Err(Fault::new(FaultKind::Overloaded, message).with_limit("rates converted at once", FILTERS_MAX as u64));
        }
        let filter = Arc::new(Self::new(from_hz, to_hz));
        filters.push((from_hz, to_hz, Arc::downgrade(&filter)));
        Ok(filter)
    }

    fn new(from_hz: u32, to_hz: u32) -> Self {
        let divisor = gcd(from_hz, to_hz);
        let (places, step) = (to_hz / divisor, from_hz / divisor);
        // Relative to the input rate.
        let nyquist = 0.5 * f64::from(from_hz.min(to_hz)) / f64::from(from_hz);
        let fall = nyquist * (1.0 - PASS);
        // Kaiser's estimate, and his window.
        let taps = ((REJECTION_DB - 7.95) / (14.36 * fall)).ceil() as usize;
        let taps = taps.next_multiple_of(LANES);
        let rows = (places as usize).min(TAPS_MAX / taps).max(1);
        let shape = Shape { half: taps as f64 / 2.0, cutoff: nyquist - fall / 2.0, beta: 0.1102 * (REJECTION_DB - 8.7) };
        let mut coefficients = Vec::with_capacity((rows + 1) * taps);
        for row in 0..=rows {
            let place = row as f64 / rows as f64;
            let begin = coefficients.len();
            let values: Vec<f64> = (0..taps).map(|tap| shape.at(tap as f64 - (taps / 2 - 1) as f64 - place)).collect();
            // A constant stays what it is.
            let sum: f64 = values.iter().sum();
            coefficients.extend(values.into_iter().map(|value| (value / sum) as f32));
            debug_assert_eq!(coefficients.len(), begin + taps);
        }
        Self { places, step, taps, rows, coefficients }
    }

    /// The output sample at `place` of [`Self::places`] after the middle of the window.
    #[inline]
    pub(super) fn sample(&self, window: &[f32], place: u32) -> f32 {
        let row = |index: usize| &self.coefficients[index * self.taps..(index + 1) * self.taps];
        if self.rows == self.places as usize {
            return product(window, row(place as usize));
        }
        let scaled = u64::from(place) * self.rows as u64;
        let (index, rest) = ((scaled / u64::from(self.places)) as usize, scaled % u64::from(self.places));
        let share = rest as f32 / self.places as f32;
        let (before, after) = (product(window, row(index)), product(window, row(index + 1)));
        before + (after - before) * share
    }
}

/// A windowed sinc.
struct Shape {
    half: f64,
    cutoff: f64,
    beta: f64,
}

impl Shape {
    /// At this distance from its middle, in input samples.
    fn at(&self, distance: f64) -> f64 {
        let within = 1.0 - (distance / self.half).powi(2);
        if within <= 0.0 {
            return 0.0;
        }
        let x = 2.0 * self.cutoff * distance;
        let sinc = if x.abs() < 1e-9 { 1.0 } else { (PI * x).sin() / (PI * x) };
        2.0 * self.cutoff * sinc * bessel(self.beta * within.sqrt()) / bessel(self.beta)
    }
}

/// The modified Bessel function of the first kind, of order 0.
fn bessel(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..64 {
        term *= quarter / f64::from(k * k);
        sum += term;
        if term < sum * 1e-12 {
            break;
        }
    }
    sum
}

/// The sum of products, in lanes that the compiler puts side by side. The order is always the same, and so is the result.
fn product(window: &[f32], taps: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (window, _) = window.as_chunks::<LANES>();
    let (taps, _) = taps.as_chunks::<LANES>();
    for (samples, taps) in window.iter().zip(taps) {
        for lane in 0..LANES {
            sums[lane] += samples[lane] * taps[lane];
        }
    }
    sums.iter().sum()
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_rates_has_one_filter_while_it_is_used() {
        let first = Filter::between(24_000, 16_000).expect("there is room");
        assert!(Arc::ptr_eq(&first, &Filter::between(24_000, 16_000).expect("it is there")));
        assert_eq!((first.places, first.step), (2, 3));
    }

    #[test]
    fn filters_stay_small_whatever_the_rates() {
        for from in [8_000, 11_025, 16_001, 22_050, 44_100, 48_000, 96_000, 191_999, 192_000] {
            let filter = Filter::new(from, 16_000);
            assert!(filter.coefficients.len() <= TAPS_MAX + filter.taps, "{from}: {}", filter.coefficients.len());
            // What a stream keeps: a window, and the room in which it moves on.
            assert!(filter.taps * size_of::<f32>() <= 8 << 10, "{from}: {} taps", filter.taps);
        }
    }
}
