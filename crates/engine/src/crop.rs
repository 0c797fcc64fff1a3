//! Where an item's elements are inside the larger tensor that it is padded to.
//!
//! Pure arithmetic over bytes; knows no tensors and no engines.

use tidemill_domain::element_count;

/// The layout of a row-major tensor inside one that has at least its size in each dimension, both beginning at the same corner:
/// runs of bytes that are contiguous in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop<'a> {
    own: &'a [usize],
    padded: &'a [usize],
    /// The last dimension in which they differ; those after it belong to one run.
    last: usize,
    run_bytes: usize,
    runs: usize,
}

impl<'a> Crop<'a> {
    /// The layout of `own` inside `padded`; `None` if it is not part of it.
    pub(super) fn new(own: &'a [usize], padded: &'a [usize], element_bytes: usize) -> Option<Self> {
        if own.len() != padded.len() || own.iter().zip(padded).any(|(own, padded)| own > padded) {
            return None;
        }
        element_count(padded)?.checked_mul(element_bytes)?;
        let last = own.iter().zip(padded).rposition(|(own, padded)| own != padded).unwrap_or_default();
        let (outer, inner) = own.split_at(last);
        let run_bytes = element_count(inner)? * element_bytes;
        Some(Self { own, padded, last, run_bytes, runs: if run_bytes == 0 { 0 } else { element_count(outer)? } })
    }

    /// Bytes of the smaller tensor.
    pub(super) const fn own_bytes(&self) -> usize {
        self.runs * self.run_bytes
    }

    /// Whether the smaller tensor's bytes are simply the first of the larger one.
    pub(super) const fn is_prefix(&self) -> bool {
        self.runs <= 1
    }

    /// Bytes of one run.
    pub(super) const fn run_bytes(&self) -> usize {
        self.run_bytes
    }

    /// Where each run begins in the larger tensor, in order.
    pub(super) fn starts(&self) -> impl Iterator<Item = usize> {
        let inner: usize = self.padded[self.last..].iter().product();
        let row_bytes =
            if self.own_bytes() == 0 { 0 } else { self.run_bytes / self.own[self.last..].iter().product::<usize>() * inner };
        (0..self.runs).map(move |run| {
            let (mut left, mut row, mut rows) = (run, 0, 1);
            for (own, padded) in self.own[..self.last].iter().zip(&self.padded[..self.last]).rev() {
                row += left % own * rows;
                left /= own;
                rows *= padded;
            }
            row * row_bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn starts(own: &[usize], padded: &[usize]) -> Vec<usize> {
        Crop::new(own, padded, 2).expect("it fits").starts().collect()
    }

    #[test]
    fn runs_are_as_long_as_possible() {
        assert_eq!(starts(&[2, 3], &[4, 3]), [0], "whole rows lie together");
        assert_eq!(starts(&[2, 3], &[2, 5]), [0, 10]);
        assert_eq!(starts(&[2, 2, 1], &[2, 3, 1]), [0, 6]);
        assert_eq!(starts(&[2, 2, 2], &[2, 3, 3]), [0, 6, 18, 24]);
        assert_eq!(starts(&[], &[]), [0], "a scalar");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Crop::new(&[3], &[2], 1), None);
        assert_eq!(Crop::new(&[1], &[1, 1], 1), None);
        assert_eq!(Crop::new(&[1], &[usize::MAX], 2), None);
        assert_eq!(Crop::new(&[0, 2], &[3, 2], 1).map(|crop| crop.own_bytes()), Some(0));
    }

    proptest! {
        #[test]
        fn each_element_is_found_at_its_indices(sizes in proptest::collection::vec((0_usize..4, 0_usize..3), 0..4)) {
            let own: Vec<usize> = sizes.iter().map(|(own, _)| *own).collect();
            let padded: Vec<usize> = sizes.iter().map(|(own, more)| own + more).collect();
            let crop = Crop::new(&own, &padded, 1).expect("it fits");
            let found: Vec<usize> = crop.starts().flat_map(|start| start..start + crop.run_bytes()).collect();
            let all = 0..padded.iter().product::<usize>();
            let inside = all.filter(|position| {
                let mut left = *position;
                own.iter().zip(&padded).rev().all(|(own, padded)| {
                    let index = left % padded;
                    left /= padded;
                    index < *own
                })
            });
            prop_assert_eq!(&found, &inside.collect::<Vec<_>>());
            prop_assert_eq!(found.len(), crop.own_bytes());
        }
    }
}
