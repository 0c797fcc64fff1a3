//! Samples that a histogram counted in buckets, and what can still be said about them: count, mean, quantiles, the largest.
//!
//! Does not know where the counts come from. A sample above the last bound counts as that bound.

/// The values that a bucket can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// Any number.
    Fine,
    /// Only whole numbers: the bucket from 2 to 4 holds threes and fours.
    Whole,
}

/// Counts by bucket, and the sum of all samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Distribution {
    /// Upper bound, rising, and how many samples are at most that.
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

impl Distribution {
    /// Adds samples of which `at_most` are not above `bound`.
    pub(super) fn add_bucket(&mut self, bound: f64, at_most: f64) {
        match self.buckets.binary_search_by(|(other, _)| other.total_cmp(&bound)) {
            Ok(index) => self.buckets[index].1 += at_most,
            Err(index) => self.buckets.insert(index, (bound, at_most)),
        }
    }

    /// Adds to the sum of all samples.
    pub(super) fn add_sum(&mut self, sum: f64) {
        self.sum += sum;
    }

    /// How many samples there are.
    pub(super) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, at_most)| *at_most)
    }

    /// The sum of all samples.
    pub(super) const fn sum(&self) -> f64 {
        self.sum
    }

    /// Their mean; `None` without any.
    pub(super) fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0.0).then(|| self.sum / count)
    }

    /// The value that `share` of the samples do not exceed, as if samples lay evenly within each bucket; `None` without any.
    pub(super) fn quantile(&self, share: f64, grain: Grain) -> Option<f64> {
        let rank = share * self.count();
        self.filled().find(|bucket| bucket.at_most >= rank).map(|bucket| {
            let first = match grain {
                Grain::Fine => bucket.above,
                Grain::Whole => (bucket.above + 1.0).min(bucket.bound),
            };
            first + (bucket.bound - first) * ((rank - bucket.below) / (bucket.at_most - bucket.below)).clamp(0.0, 1.0)
        })
    }

    /// The bound that no sample exceeds; `None` without any.
    pub(super) fn largest(&self) -> Option<f64> {
        self.filled().last().map(|bucket| bucket.bound)
    }

    /// The buckets that hold samples.
    fn filled(&self) -> impl Iterator<Item = Bucket> {
        let before = std::iter::once((0.0, 0.0)).chain(self.buckets.iter().copied());
        before.zip(&self.buckets).filter(|((_, below), (_, at_most))| at_most > below).map(
            |((above, below), &(bound, at_most))| Bucket {
                above,
                bound: if bound.is_finite() { bound } else { above },
                below,
                at_most,
            },
        )
    }
}

/// One bucket: its bounds, and how many samples are below it and not above it.
struct Bucket {
    above: f64,
    bound: f64,
    below: f64,
    at_most: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(buckets: &[(f64, f64)], sum: f64) -> Distribution {
        let mut distribution = Distribution::default();
        buckets.iter().for_each(|&(bound, at_most)| distribution.add_bucket(bound, at_most));
        distribution.add_sum(sum);
        distribution
    }

    #[test]
    fn quantiles_lie_evenly_within_their_bucket() {
        let waits = distribution(&[(1.0, 0.0), (2.0, 10.0), (4.0, 20.0), (f64::INFINITY, 20.0)], 45.0);
        assert_eq!(waits.quantile(0.5, Grain::Fine), Some(2.0));
        assert_eq!(waits.quantile(0.25, Grain::Fine), Some(1.5));
        assert_eq!(waits.quantile(0.75, Grain::Fine), Some(3.0));
        assert_eq!(waits.quantile(1.0, Grain::Fine), Some(4.0));
        assert_eq!((waits.count(), waits.mean(), waits.largest()), (20.0, Some(2.25), Some(4.0)));
    }

    #[test]
    fn whole_numbers_are_never_less_than_the_first_of_their_bucket() {
        let ones = distribution(&[(1.0, 8.0), (2.0, 8.0), (f64::INFINITY, 8.0)], 8.0);
        assert_eq!((ones.quantile(0.5, Grain::Whole), ones.largest()), (Some(1.0), Some(1.0)));
        let threes_and_fours = distribution(&[(1.0, 0.0), (2.0, 0.0), (4.0, 8.0)], 28.0);
        assert_eq!(threes_and_fours.quantile(0.5, Grain::Whole), Some(3.5));
        assert_eq!(threes_and_fours.quantile(0.5, Grain::Fine), Some(3.0));
    }

    #[test]
    fn beyond_the_last_bound_counts_as_that_bound() {
        let long = distribution(&[(1.0, 0.0), (60.0, 1.0), (f64::INFINITY, 4.0)], 600.0);
        assert_eq!((long.quantile(0.99, Grain::Fine), long.largest()), (Some(60.0), Some(60.0)));
        assert_eq!(long.quantile(0.99, Grain::Whole), Some(60.0));
    }

    #[test]
    fn without_samples_there_is_nothing_to_say() {
        for none in [Distribution::default(), distribution(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.0)] {
            assert_eq!((none.count(), none.mean(), none.largest(), none.quantile(0.5, Grain::Fine)), (0.0, None, None, None));
        }
    }

    #[test]
    fn histograms_of_the_same_bounds_add_up() {
        let mut both = distribution(&[(1.0, 1.0), (f64::INFINITY, 1.0)], 0.5);
        both.add_bucket(1.0, 0.0);
        both.add_bucket(f64::INFINITY, 3.0);
        both.add_sum(6.0);
        assert_eq!((both.count(), both.sum()), (4.0, 6.5));
        assert_eq!(both, distribution(&[(1.0, 1.0), (f64::INFINITY, 4.0)], 6.5));
    }
}
