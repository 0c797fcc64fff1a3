//! The filter's coefficients: a row for each place that an output sample may have between two input samples.
//!
//! The rows are cut from one curve, a sinc in a window, stretched where the rate goes down so that it keeps out what the new rate cannot hold.

use std::f64::consts::PI;

/// Length of the curve on each side, in periods of the lower rate.
const REACH: f64 = 64.0;
/// Where the curve cuts off, as a share of half the lower rate.
const CUTOFF: f64 = 0.945;
/// How steeply the window falls. More widens the edge of the filter, less leaves more beyond it.
const STEEPNESS: f64 = 10.0;

/// Numbers that are multiplied side by side. All rows have a multiple of these.
const SIDE_BY_SIDE: usize = 16;

/// Places for each period of the lower rate, between which the curve is taken to be straight: wrong by 108 dB less than the sound.
const PLACES: f64 = 512.0;
/// Steps in which the curve is stretched, for each doubling.
const STRETCHES: f64 = 16.0;

/// Most places, and samples until they repeat, of a filter that has a row for each.
const EXACT_MAX: u32 = 640;
/// Rates that sound usually has. Only for these a filter is made for the very pair of rates: all others share few, so that no client can
/// make the server hold a filter for each stream.
const USUAL_HZ: [u32; 14] =
    [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000, 176_400, 192_000];

/// Two rates, in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ratio {
    /// So many output samples take as long as…
    pub(super) outputs: u32,
    /// … so many input samples.
    pub(super) inputs: u32,
}

impl Ratio {
    /// Of two rates that are not 0.
    pub(super) const fn new(from_hz: u32, to_hz: u32) -> Self {
        let (mut divisor, mut rest) = (from_hz, to_hz);
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        Self { outputs: to_hz / divisor, inputs: from_hz / divisor }
    }

    /// The nearest whole number of outputs for this many inputs.
    pub(super) fn outputs_of(self, inputs: u64) -> u64 {
        let (outputs_each, inputs_each) = (u128::from(self.outputs), u128::from(self.inputs));
        let rounded = (u128::from(inputs) * outputs_each + inputs_each / 2) / inputs_each;
        u64::try_from(rounded).unwrap_or(u64::MAX)
    }
}

/// What a filter is made for. Equal designs are equal filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Design {
    /// A row for each place.
    Exact(Ratio),
    /// For any two rates whose ratio is about this one: the curve is stretched by two to the power of this many sixteenths, and the places
    /// lie between rows.
    Between(u32),
}

impl Design {
    /// For these rates.
    pub(super) fn new(from_hz: u32, to_hz: u32) -> Self {
        let ratio = Ratio::new(from_hz, to_hz);
        if USUAL_HZ.contains(&from_hz) && ratio.outputs.max(ratio.inputs) <= EXACT_MAX {
            return Self::Exact(ratio);
        }
        let stretch = (f64::from(from_hz) / f64::from(to_hz)).max(1.0);
        Self::Between((stretch.log2() * STRETCHES).ceil() as u32)
    }

    /// How much the curve is stretched: periods of the lower rate are this many input samples long.
    fn stretch(self) -> f64 {
        match self {
            Self::Exact(Ratio { outputs, inputs }) => (f64::from(inputs) / f64::from(outputs)).max(1.0),
            Self::Between(steps) => (f64::from(steps) / STRETCHES).exp2(),
        }
    }
}

/// The coefficients.
#[derive(Debug)]
pub(super) struct Filter {
    /// Coefficients of a row.
    taps: usize,
    /// Parts into which the rows divide the way from one input sample to the next.
    places: u32,
    rows: Box<[f32]>,
}

impl Filter {
    pub(super) fn new(design: Design) -> Self {
        let stretch = design.stretch();
        // Half of a row is a multiple of half of what is multiplied side by side.
        let half = ((REACH * stretch).ceil() as usize).next_multiple_of(SIDE_BY_SIDE / 2);
        let (places, rows) = match design {
            Design::Exact(Ratio { outputs, .. }) => (outputs, outputs),
            Design::Between(_) => {
                let places = (PLACES / stretch).ceil() as u32;
                (places, places + 1)
            }
        };
        let mut coefficients = Vec::with_capacity(rows as usize * 2 * half);
        let mut row = Vec::with_capacity(2 * half);
        for place in 0..rows {
            let place = f64::from(place) / f64::from(places);
            row.clear();
            row.extend((0..2 * half).map(|tap| curve((place + half as f64 - 1.0 - tap as f64) / stretch)));
            // Silence and constants come out as they are, from each row alike.
            let sum: f64 = row.iter().sum();
            coefficients.extend(row.iter().map(|coefficient| (coefficient / sum) as f32));
        }
        Self { taps: 2 * half, places, rows: coefficients.into() }
    }

    /// How many input samples an output sample is made of.
    pub(super) const fn taps(&self) -> usize {
        self.taps
    }

    /// The output sample that lies `place / places` after the middle one of `samples`, which are as many as there are taps: sample number
    /// `taps / 2 - 1` comes just before it, or is where it is.
    pub(super) fn apply(&self, place: u32, places: u32, samples: &[f32]) -> f32 {
        if places == self.places {
            return dot(self.row(place), samples);
        }
        let scaled = u64::from(place) * u64::from(self.places);
        let (row, rest) = ((scaled / u64::from(places)) as u32, scaled % u64::from(places));
        let (before, after) = (dot(self.row(row), samples), dot(self.row(row + 1), samples));
        before + (after - before) * (rest as f32 / places as f32)
    }

    fn row(&self, row: u32) -> &[f32] {
        &self.rows[row as usize * self.taps..][..self.taps]
    }
}

/// The curve at this many periods of the lower rate from its middle, up to a factor.
fn curve(periods: f64) -> f64 {
    let inside = 1.0 - (periods / REACH).powi(2);
    if inside <= 0.0 {
        return 0.0;
    }
    let window = (STEEPNESS * (inside.sqrt() - 1.0)).exp();
    let angle = PI * CUTOFF * periods;
    if angle.abs() < 1e-9 { window } else { window * angle.sin() / angle }
}

/// The sum of the products. The order of additions is fixed, so equal samples give equal bits wherever they are in memory.
fn dot(row: &[f32], samples: &[f32]) -> f32 {
    let mut sums = [0.0_f32; SIDE_BY_SIDE];
    let (rows, samples) = (row.as_chunks::<SIDE_BY_SIDE>().0, samples.as_chunks::<SIDE_BY_SIDE>().0);
    for (row, samples) in rows.iter().zip(samples) {
        for ((sum, coefficient), sample) in sums.iter_mut().zip(row).zip(samples) {
            *sum += coefficient * sample;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_rates_have_filters_of_their_own_and_all_others_share_few() {
        assert_eq!(Design::new(24_000, 16_000), Design::Exact(Ratio { outputs: 2, inputs: 3 }));
        assert_eq!(Design::new(44_100, 16_000), Design::Exact(Ratio { outputs: 160, inputs: 441 }));
        assert_eq!(Design::new(11_025, 16_000), Design::Exact(Ratio { outputs: 640, inputs: 441 }));
        assert_eq!(Design::new(8_001, 16_000), Design::Between(0));
        assert_eq!(Design::new(44_099, 16_000), Design::Between(24));
        // As good a ratio as any, but not a usual rate.
        assert_eq!(Design::new(20_000, 16_000), Design::Between(6));
        let most = (8_000..=192_000).map(|from_hz| match Design::new(from_hz, 8_000) {
            Design::Between(steps) => steps,
            Design::Exact(_) => 0,
        });
        assert_eq!(most.max(), Some(74));
    }

    #[test]
    fn filters_are_small_and_their_rows_even() {
        for (from_hz, to_hz) in [
            (24_000, 16_000),
            (48_000, 16_000),
            (44_100, 16_000),
            (11_025, 16_000),
            (8_000, 16_000),
            (8_001, 192_000),
            (191_999, 8_000),
        ] {
            let filter = Filter::new(Design::new(from_hz, to_hz));
            assert!(filter.rows.len() * size_of::<f32>() <= 384 * 1024, "{from_hz} to {to_hz}: {}", filter.rows.len());
            assert!(
                filter.taps().is_multiple_of(SIDE_BY_SIDE) && filter.taps() * size_of::<f32>() <= 13 * 1024,
                "{}",
                filter.taps()
            );
            for row in filter.rows.chunks(filter.taps()) {
                let sum: f64 = row.iter().map(|coefficient| f64::from(*coefficient)).sum();
                assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            }
        }
        assert_eq!(Filter::new(Design::new(24_000, 16_000)).taps(), 192);
    }

    #[test]
    fn the_first_row_is_the_last_one_a_sample_later() {
        let filter = Filter::new(Design::new(8_001, 16_000));
        let (first, last) = (filter.row(0), filter.row(filter.places));
        for (earlier, later) in first.iter().zip(&last[1..]) {
            assert!((earlier - later).abs() < 1e-6);
        }
    }
}
