//! A cost curve freed of noise, for finding its knee.
//!
//! At the knee, throughput comes within 1 % of its best, but a point of the curve is known to within a few percent at best: taken
//! as they are, the points would let the knee wander between half and twice its place.

/// How stiff the curve is: the weight of the penalty per unit of the calls' variance, where each call seen at a point weighs 1.
const STIFFNESS: f64 = 1000.0;

/// Durations at batch sizes 1, 2, 4, … that stay near those of `grid` (the nearer, the more calls were `seen` there), while the
/// cost per item changes as evenly as possible from size to size: a least-squares fit of its logarithm with a penalty on second
/// differences (Whittaker's smoother). The penalty grows with the square of `spread`, the relative spread of a call.
pub(super) fn smoothed(grid: &[f64], seen: &[f64], spread: f64) -> Vec<f64> {
    const DIFFERENCE: [f64; 3] = [1.0, -2.0, 1.0];
    let (size, stiffness) = (grid.len(), STIFFNESS * spread * spread);
    let mut matrix = vec![vec![0.0; size]; size];
    let mut values = vec![0.0; size];
    for index in 0..size {
        matrix[index][index] = seen[index];
        values[index] = seen[index] * (grid[index] / items(index)).ln();
    }
    for first in 0..size.saturating_sub(2) {
        for (row, weight) in DIFFERENCE.into_iter().enumerate() {
            for (column, other) in DIFFERENCE.into_iter().enumerate() {
                matrix[first + row][first + column] += stiffness * weight * other;
            }
        }
    }
    solve(&mut matrix, &mut values);
    values.iter().enumerate().map(|(index, log_cost)| log_cost.exp() * items(index)).collect()
}

/// Items of a call at this point of the grid.
fn items(index: usize) -> f64 {
    (1_u64 << index.min(63)) as f64
}

/// Solves a positive definite system, leaving the solution in `values`.
fn solve(matrix: &mut [Vec<f64>], values: &mut [f64]) {
    let size = values.len();
    for pivot in 0..size {
        let (above, below) = matrix.split_at_mut(pivot + 1);
        let pivot_row = &above[pivot];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[pivot] / pivot_row[pivot];
            for column in pivot..size {
                row[column] -= factor * pivot_row[column];
            }
            values[pivot + 1 + offset] -= factor * values[pivot];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * values[column]).sum();
        values[row] = (values[row] - known) / matrix[row][row];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_curve_stays_as_it_is() {
        // Cost per item falls by the same factor from size to size.
        let grid: Vec<f64> = (0..7).map(|index| 1000.0 * 1.6_f64.powi(index)).collect();
        for (smooth, given) in smoothed(&grid, &[9.0; 7], 0.1).iter().zip(&grid) {
            assert!((smooth / given - 1.0).abs() < 1e-9, "{smooth} for {given}");
        }
    }

    #[test]
    fn the_less_is_known_of_an_outlier_the_more_it_is_drawn_in() {
        let mut grid = [100.0, 200.0, 400.0, 800.0, 1600.0];
        grid[2] *= 1.1;
        let pulled = |seen: f64, spread: f64| {
            let mut calls = [40.0; 5];
            calls[2] = seen;
            smoothed(&grid, &calls, spread)[2]
        };
        assert!(pulled(2.0, 0.1) < pulled(40.0, 0.1) && pulled(40.0, 0.1) < 440.0 && pulled(2.0, 0.1) > 399.0);
        assert!(pulled(40.0, 0.02) > pulled(40.0, 0.1), "a steady machine's points are trusted");
    }

    #[test]
    fn short_curves_need_no_smoothing() {
        assert!((smoothed(&[7.0], &[1.0], 0.1)[0] - 7.0).abs() < 1e-9);
        let two = smoothed(&[7.0, 9.0], &[1.0, 1.0], 0.1);
        assert!((two[0] - 7.0).abs() < 1e-9 && (two[1] - 9.0).abs() < 1e-9);
    }
}
