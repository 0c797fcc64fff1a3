//! The cost of a call in the simulated world: a model's curve, and what makes single calls deviate from it.

use clap::ValueEnum;

use crate::random;

/// Largest batch that any policy may form.
pub(crate) const BATCH_MAX: usize = 64;

/// The cost curves of the study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CurveName {
    /// Silero VAD, one thread of a CPU: small calls, batching pays up to the end
    Silero,
    /// Magika, one thread of a CPU: batching loses throughput
    Magika,
    /// MiniLM, one thread of a CPU: batching pays a little, up to 8
    Minilm,
    /// 5 + 0.05·b ms: a GPU that hardly notices the batch
    GpuFlat,
    /// 1 + 0.5·b ms: a GPU with small calls
    GpuSmall,
    /// 20 + 0.5·b ms: a GPU with large calls
    GpuLarge,
}

impl CurveName {
    pub(crate) const ALL: [Self; 6] = [Self::Silero, Self::Magika, Self::Minilm, Self::GpuFlat, Self::GpuSmall, Self::GpuLarge];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Silero => "silero",
            Self::Magika => "magika",
            Self::Minilm => "minilm",
            Self::GpuFlat => "gpu-flat",
            Self::GpuSmall => "gpu-small",
            Self::GpuLarge => "gpu-large",
        }
    }

    /// The true curve. CPU figures are measured; sizes between them are interpolated linearly in logarithms.
    pub(crate) fn curve(self) -> Curve {
        match self {
            Self::Silero => Curve::through(&[(1, 0.22), (8, 0.95), (16, 1.9), (64, 6.6)]),
            Self::Magika => Curve::through(&[(1, 11.8), (8, 99.0), (16, 202.0), (64, 961.0)]),
            Self::Minilm => Curve::through(&[(1, 10.8), (8, 70.0), (16, 142.0), (64, 632.0)]),
            Self::GpuFlat => Curve::straight(5.0, 0.05),
            Self::GpuSmall => Curve::straight(1.0, 0.5),
            Self::GpuLarge => Curve::straight(20.0, 0.5),
        }
    }
}

/// Nanoseconds of a call by batch size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve {
    /// At sizes 1, 2, 4, ….
    grid: Vec<f64>,
    /// At each size from 1 on; index 0 is size 1.
    calls: Vec<f64>,
}

impl Curve {
    /// Nanoseconds at sizes 1, 2, 4, …; linear between them.
    pub(crate) fn of_grid(grid: Vec<f64>) -> Self {
        let mut calls = Vec::new();
        for (power, pair) in grid.windows(2).enumerate() {
            let steps = 1_usize << power;
            calls.extend((0..steps).map(|step| pair[0] + (pair[1] - pair[0]) * step as f64 / steps as f64));
        }
        calls.extend(grid.last());
        Self { grid, calls }
    }

    fn straight(base_ms: f64, item_ms: f64) -> Self {
        Self::of_grid(sizes().map(|size| item_ms.mul_add(size as f64, base_ms) * 1e6).collect())
    }

    /// Through measured points `(size, ms)`, the first at size 1 and the last at [`BATCH_MAX`].
    fn through(points: &[(usize, f64)]) -> Self {
        let at = |size: usize| {
            let upper = points.iter().position(|(known, _)| *known >= size).unwrap_or(points.len() - 1).max(1);
            let [(low, low_ms), (high, high_ms)] = [points[upper - 1], points[upper]];
            let share = (size as f64 / low as f64).ln() / (high as f64 / low as f64).ln();
            low_ms * (high_ms / low_ms).powf(share) * 1e6
        };
        Self::of_grid(sizes().map(at).collect())
    }

    pub(crate) fn grid(&self) -> &[f64] {
        &self.grid
    }

    /// Nanoseconds of a call with `batch` items; beyond the grid, its end.
    pub(crate) fn call(&self, batch: usize) -> f64 {
        self.calls[batch.clamp(1, self.calls.len()) - 1]
    }

    pub(crate) fn largest(&self) -> usize {
        self.calls.len()
    }

    /// Smallest batch with 99 % of the best throughput.
    pub(crate) fn knee(&self) -> usize {
        let throughput = |batch: usize| batch as f64 / self.call(batch);
        let best = (1..=self.largest()).map(throughput).fold(0.0, f64::max);
        (1..=self.largest()).find(|batch| throughput(*batch) >= 0.99 * best).unwrap_or(1)
    }

    /// The same curve, slower by `factor`.
    pub(crate) fn stretched(&self, factor: f64) -> Self {
        Self::of_grid(self.grid.iter().map(|nanos| nanos * factor).collect())
    }
}

fn sizes() -> impl Iterator<Item = usize> {
    (0..=BATCH_MAX.ilog2()).map(|power| 1 << power)
}

/// What makes a call deviate from its curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// Relative spread of single calls.
    pub(crate) noise: f64,
    /// How much slower a call is when all other lanes are busy.
    pub(crate) coupling: f64,
    /// Calls take twice as long in the middle third of the time.
    pub(crate) drifts: bool,
}

impl Conditions {
    pub(crate) const STEADY: Self = Self { noise: 0.1, coupling: 0.0, drifts: false };
    pub(crate) const NOISY: Self = Self { noise: 0.25, ..Self::STEADY };
    pub(crate) const COUPLED: Self = Self { coupling: 0.25, ..Self::STEADY };
    pub(crate) const DRIFTING: Self = Self { drifts: true, ..Self::STEADY };

    /// The factor on a curve under load, which is what a warm-up on all lanes measures.
    pub(crate) fn at_load(&self, lanes: usize) -> f64 {
        if lanes > 1 { 1.0 + self.coupling } else { 1.0 }
    }
}

/// How long calls take: the n-th call of a run draws the same noise whichever policy forms it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    conditions: Conditions,
    lanes: usize,
    span: u64,
    factors: Vec<f64>,
}

impl Service {
    /// Draws for `lanes` lanes over `span` nanoseconds.
    pub(crate) fn new(conditions: Conditions, lanes: usize, span: u64, seed: u64) -> Self {
        let mut rng = random::rng(seed, &[0x5E71]);
        let factors = (0..1 << 13).map(|_| random::factor(&mut rng, conditions.noise)).collect();
        Self { conditions, lanes, span, factors }
    }

    /// Nanoseconds of call `number` that starts at `now`, takes `at_load` nanoseconds with all lanes busy, and finds `others` busy.
    pub(crate) fn duration(&self, number: usize, at_load: f64, now: u64, others: usize) -> u64 {
        let mut nanos = at_load * self.factors[number % self.factors.len()];
        if self.lanes > 1 {
            let slower = 1.0 + self.conditions.coupling * others as f64 / (self.lanes - 1) as f64;
            nanos *= slower / self.conditions.at_load(self.lanes);
        }
        if self.conditions.drifts && (self.span / 3..self.span / 3 * 2).contains(&now) {
            nanos *= 2.0;
        }
        (nanos as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_pass_through_what_was_measured() {
        let silero = CurveName::Silero.curve();
        for (size, ms) in [(1, 0.22), (8, 0.95), (16, 1.9), (64, 6.6)] {
            assert!((silero.call(size) / 1e6 - ms).abs() < 1e-9, "{size}");
        }
        assert!((CurveName::GpuLarge.curve().call(33) / 1e6 - 36.5).abs() < 1e-9);
        assert_eq!(silero.largest(), BATCH_MAX);
    }

    #[test]
    fn knees_are_where_batching_ceases_to_pay() {
        let knees = CurveName::ALL.map(|name| name.curve().knee());
        assert_eq!(knees, [57, 1, 8, 63, 49, 63]);
    }

    #[test]
    fn conditions_slow_calls_as_they_say() {
        let quiet = Conditions { noise: 0.0, coupling: 0.25, drifts: true };
        let service = Service::new(quiet, 5, 300, 1);
        assert_eq!(service.duration(0, 1250.0, 0, 0), 1000);
        assert_eq!(service.duration(0, 1250.0, 0, 4), 1250);
        assert_eq!(service.duration(0, 1250.0, 100, 0), 2000);
        assert_eq!(service.duration(0, 1250.0, 200, 0), 1000);
    }
}
