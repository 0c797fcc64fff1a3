//! Draws that depend only on a seed.

use fastrand::Rng;

/// A generator for one purpose: the same `seed` and `labels` always give the same draws, and other labels give others.
pub(crate) fn rng(seed: u64, labels: &[u64]) -> Rng {
    let mixed = labels.iter().fold(seed, |mixed, label| scramble(mixed ^ label.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    Rng::with_seed(scramble(mixed))
}

/// Spreads neighbouring numbers over the whole range (the finaliser of MurmurHash3).
const fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let value = (value ^ (value >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    value ^ (value >> 33)
}

/// Exponential with this mean.
pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// Standard normal.
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// Log-normal with mean 1 and about this relative spread.
pub(crate) fn factor(rng: &mut Rng, spread: f64) -> f64 {
    spread.mul_add(normal(rng), -spread * spread / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_separate_the_draws_and_equal_ones_repeat_them() {
        let first = |seed, labels: &[u64]| rng(seed, labels).u64(..);
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        assert_ne!(first(1, &[2, 3]), first(1, &[3, 2]));
        assert_ne!(first(1, &[2, 3]), first(2, &[2, 3]));
    }

    #[test]
    fn factors_have_mean_one_and_the_spread_asked_for() {
        let mut rng = rng(7, &[]);
        let draws: Vec<f64> = (0..20_000).map(|_| factor(&mut rng, 0.1)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        assert!((variance.sqrt() - 0.1).abs() < 0.005, "{}", variance.sqrt());
    }
}
