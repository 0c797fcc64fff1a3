//! Finds the largest factor that holds: doubles until one does not, then halves the gap.
//!
//! Only decides, and waits for nothing: its caller asks for the next factor and reports the outcome.

/// A search in progress.
#[derive(Debug, Clone)]
pub(crate) struct Bisection {
    from: f64,
    to: f64,
    precision: f64,
    confirmations: u32,
    /// Factors that have held, rising.
    held: Vec<f64>,
    /// The smallest factor that has not.
    broke: Option<f64>,
    /// How often the largest factor that held was confirmed.
    confirmed: u32,
}

impl Bisection {
    pub(crate) const fn new(from: f64, to: f64, precision: f64, confirmations: u32) -> Self {
        Self { from, to, precision, confirmations, held: Vec::new(), broke: None, confirmed: 0 }
    }

    /// What to try next; `None` once the answer is found.
    ///
    /// `is_new` says whether a factor between these two would be a load different from both: streams come in whole numbers.
    pub(crate) fn next(&self, is_new: impl Fn(f64, f64, f64) -> bool) -> Option<f64> {
        let Some(largest) = self.largest() else {
            return self.broke.is_none().then_some(self.from);
        };
        let middle = match self.broke {
            None if largest < self.to => return Some((largest * 2.0).min(self.to)),
            None => None,
            Some(broke) if broke <= largest * (1.0 + self.precision) => None,
            Some(broke) => Some(f64::midpoint(largest, broke)).filter(|middle| is_new(*middle, largest, broke)),
        };
        middle.or_else(|| (self.confirmed < self.confirmations).then_some(largest))
    }

    /// Whether a factor that was asked for has held.
    pub(crate) fn tell(&mut self, factor: f64, held: bool) {
        if held {
            if self.largest() == Some(factor) {
                self.confirmed += 1;
            } else {
                self.held.push(factor);
                self.confirmed = 0;
            }
        } else {
            self.broke = Some(self.broke.map_or(factor, |broke| broke.min(factor)));
            // One that held only by luck does not count.
            self.held.retain(|held| *held < factor);
            self.confirmed = 0;
        }
    }

    /// The largest factor that has held.
    pub(crate) fn largest(&self) -> Option<f64> {
        self.held.last().copied()
    }

    /// Whether the end of the range has held, so that the true limit is beyond it.
    pub(crate) fn is_at_limit(&self) -> bool {
        self.broke.is_none() && self.largest() == Some(self.to)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probes(mut search: Bisection, holds: impl Fn(f64, usize) -> bool) -> (Bisection, Vec<f64>) {
        let mut probes = Vec::new();
        while let Some(factor) = search.next(|_, _, _| true) {
            search.tell(factor, holds(factor, probes.len()));
            probes.push(factor);
            assert!(probes.len() < 1_000, "it does not end");
        }
        (search, probes)
    }

    #[test]
    fn it_doubles_and_then_halves_the_gap() {
        let (search, probes) = probes(Bisection::new(1.0, 64.0, 0.1, 0), |factor, _| factor <= 11.0);
        assert_eq!(probes, [1.0, 2.0, 4.0, 8.0, 16.0, 12.0, 10.0, 11.0]);
        assert_eq!((search.largest(), search.is_at_limit()), (Some(11.0), false));
    }

    #[test]
    fn the_end_of_the_range_is_the_limit_if_it_holds() {
        let (search, probes) = probes(Bisection::new(1.0, 6.0, 0.1, 1), |_, _| true);
        assert_eq!(probes, [1.0, 2.0, 4.0, 6.0, 6.0]);
        assert_eq!((search.largest(), search.is_at_limit()), (Some(6.0), true));
    }

    #[test]
    fn nothing_is_found_where_the_smallest_does_not_hold() {
        let (search, probes) = probes(Bisection::new(2.0, 6.0, 0.1, 3), |_, _| false);
        assert_eq!(probes, [2.0]);
        assert_eq!((search.largest(), search.is_at_limit()), (None, false));
    }

    #[test]
    fn what_held_by_luck_is_taken_back() {
        // The eighth probe confirms 11, and it does not hold again.
        let (search, probes) = probes(Bisection::new(1.0, 64.0, 0.1, 1), |factor, probe| factor <= 10.5 || probe == 7);
        assert_eq!(probes[7..9], [11.0, 11.0]);
        assert!(search.largest().is_some_and(|factor| (10.0..=10.5).contains(&factor)), "{probes:?}");
        assert_eq!(probes[probes.len() - 2..].iter().min_by(|a, b| a.total_cmp(b)), search.largest().as_ref());
    }

    #[test]
    fn streams_that_do_not_differ_are_not_tried() {
        let mut search = Bisection::new(1.0, 8.0, 0.01, 0);
        let streams = |factor: f64| (4.0 * factor).round();
        let mut probes = 0;
        while let Some(factor) =
            search.next(|middle, low, high| streams(middle) > streams(low) && streams(middle) < streams(high))
        {
            search.tell(factor, streams(factor) <= 13.0);
            probes += 1;
            assert!(probes < 20);
        }
        assert_eq!(search.largest().map(streams), Some(13.0));
    }

    proptest! {
        #[test]
        fn the_answer_is_within_the_precision(limit in 1.0..100.0_f64, precision in 0.01..0.5_f64, confirmations in 0..3_u32) {
            let (search, _) = probes(Bisection::new(1.0, 128.0, precision, confirmations), |factor, _| factor <= limit);
            let found = search.largest().expect("the smallest holds");
            prop_assert!(found <= limit && limit <= found * (1.0 + precision), "{} for {}", found, limit);
        }
    }
}
