//! Where the bytes of one item are inside a batch tensor whose batch dimension may be any axis.
//!
//! Pure arithmetic over bytes; knows no tensors and no engines.

use std::{iter, ops::Range};

use tidemill_domain::element_count;

/// The layout of a batch tensor: each item is cut into `count` strips of `bytes` bytes, and the strips of the batch's items alternate. With
/// the batch on axis 0 an item is one strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strips {
    count: usize,
    bytes: usize,
    batch_size: usize,
}

/// How an item is padded along one dimension.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaddedRows<'a> {
    /// Bytes of the item that are contiguous.
    pub(super) row_bytes: usize,
    /// Bytes of padding after each such row.
    pub(super) gap_bytes: usize,
    /// The element that the padding repeats.
    pub(super) element: &'a [u8],
}

impl Strips {
    /// The layout for items of shape `dims`, stacked along `batch_axis`; `None` if there is no such axis, or the batch is larger
    /// than can be addressed.
    pub(super) fn new(dims: &[usize], batch_axis: usize, element_bytes: usize, batch_size: usize) -> Option<Self> {
        let (before, after) = dims.split_at_checked(batch_axis)?;
        let count = element_count(before)?;
        let bytes = element_count(after)?.checked_mul(element_bytes)?;
        count.checked_mul(bytes)?.checked_mul(batch_size)?;
        Some(Self { count, bytes, batch_size })
    }

    /// The same for a batch of this size; `None` if that is larger than can be addressed.
    pub(super) fn of_batch(self, batch_size: usize) -> Option<Self> {
        self.item_bytes().checked_mul(batch_size)?;
        Some(Self { batch_size, ..self })
    }

    /// Bytes of one item.
    pub(super) const fn item_bytes(self) -> usize {
        self.count * self.bytes
    }

    /// Bytes of the batch.
    pub(super) const fn batch_bytes(self) -> usize {
        self.item_bytes() * self.batch_size
    }

    /// Whether an item's bytes are contiguous in the batch.
    pub(super) const fn are_contiguous(self) -> bool {
        self.count == 1 || self.batch_size == 1
    }

    /// Copies `item` into the batch as number `index`.
    pub(super) fn put(self, batch: &mut [u8], index: usize, item: &[u8]) {
        for strip in 0..self.count {
            let from = strip * self.bytes;
            self.strip_mut(batch, index, strip).copy_from_slice(&item[from..from + self.bytes]);
        }
    }

    /// Copies `item`, padded in this way, into the batch as number `index`.
    pub(super) fn put_padded(self, batch: &mut [u8], index: usize, item: &[u8], rows: &PaddedRows<'_>) {
        if rows.row_bytes == 0 || rows.element.is_empty() {
            return;
        }
        for (number, row) in item.chunks_exact(rows.row_bytes).enumerate() {
            let start = number * (rows.row_bytes + rows.gap_bytes);
            for (to, from) in self.pieces(index, start, rows.row_bytes) {
                batch[to..to + from.len()].copy_from_slice(&row[from]);
            }
            for (to, part) in self.pieces(index, start + rows.row_bytes, rows.gap_bytes) {
                for place in batch[to..to + part.len()].chunks_exact_mut(rows.element.len()) {
                    place.copy_from_slice(rows.element);
                }
            }
        }
    }

    /// Makes item number `index` all zeros.
    pub(super) fn put_zeros(self, batch: &mut [u8], index: usize) {
        for strip in 0..self.count {
            self.strip_mut(batch, index, strip).fill(0);
        }
    }

    /// Copies item number `index` out of the batch.
    pub(super) fn get(self, batch: &[u8], index: usize, item: &mut [u8]) {
        for (strip, bytes) in self.strips(batch, index).enumerate() {
            let to = strip * self.bytes;
            item[to..to + self.bytes].copy_from_slice(bytes);
        }
    }

    /// The strips of item number `index`, in order.
    pub(super) fn strips(self, batch: &[u8], index: usize) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(move |strip| {
            let start = self.start(index, strip);
            &batch[start..start + self.bytes]
        })
    }

    fn strip_mut(self, batch: &mut [u8], index: usize, strip: usize) -> &mut [u8] {
        let start = self.start(index, strip);
        &mut batch[start..start + self.bytes]
    }

    /// Where `len` bytes of item number `index`, from its byte `at` on, are in the batch: for each contiguous piece, its place there and
    /// its range within the `len` bytes.
    fn pieces(self, index: usize, at: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut done = 0;
        iter::from_fn(move || {
            let (strip, offset) = ((at + done).checked_div(self.bytes)?, (at + done) % self.bytes);
            let size = (self.bytes - offset).min(len - done);
            let piece = (self.start(index, strip) + offset, done..done + size);
            done += size;
            (size > 0).then_some(piece)
        })
    }

    const fn start(self, index: usize, strip: usize) -> usize {
        (strip * self.batch_size + index) * self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_on_axis_one_take_turns() {
        let strips = Strips::new(&[2, 3], 1, 1, 2).expect("small");
        let mut batch = vec![0; strips.batch_bytes()];
        strips.put(&mut batch, 0, b"abcdef");
        strips.put(&mut batch, 1, b"ABCDEF");
        assert_eq!(batch, b"abcABCdefDEF");
        strips.put_zeros(&mut batch, 0);
        assert_eq!(batch, b"\0\0\0ABC\0\0\0DEF");
    }

    #[test]
    fn rows_are_padded_whether_they_are_longer_than_strips_or_shorter() {
        let mut batch = vec![b'.'; 12];
        let rows_of_two_in_a_strip = Strips::new(&[6], 0, 1, 2).expect("small");
        let rows = PaddedRows { row_bytes: 2, gap_bytes: 1, element: b"-" };
        rows_of_two_in_a_strip.put_padded(&mut batch, 1, b"abcd", &rows);
        assert_eq!(batch, b"......ab-cd-");
        let strips_of_two_in_a_row = Strips::new(&[3, 2], 1, 1, 2).expect("small");
        batch.fill(b'.');
        let rows = PaddedRows { row_bytes: 4, gap_bytes: 2, element: b"xy" };
        strips_of_two_in_a_row.put_padded(&mut batch, 0, b"abcd", &rows);
        assert_eq!(batch, b"ab..cd..xy..");
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert_eq!(Strips::new(&[2], 2, 1, 1), None, "no such axis");
        assert_eq!(Strips::new(&[usize::MAX], 0, 2, 1), None, "item too large");
        assert_eq!(Strips::new(&[usize::MAX / 2], 0, 1, 3), None, "batch too large");
        assert_eq!(Strips::new(&[0, 3], 1, 4, 5).map(Strips::batch_bytes), Some(0));
    }

    proptest! {
        #[test]
        fn what_is_put_comes_back_and_fills_the_batch(
            dims in proptest::collection::vec(0_usize..4, 0..4), axis in 0_usize..4, element in 1_usize..5, batch_size in 1_usize..5,
        ) {
            let Some(strips) = Strips::new(&dims, axis.min(dims.len()), element, batch_size) else { panic!("small") };
            let mut batch = vec![0; strips.batch_bytes()];
            let items: Vec<Vec<u8>> = (0..batch_size).map(|index| vec![u8::try_from(index + 1).expect("small"); strips.item_bytes()]).collect();
            for (index, item) in items.iter().enumerate() {
                strips.put(&mut batch, index, item);
            }
            prop_assert!(batch.iter().all(|byte| *byte != 0), "no byte is left unwritten");
            for (index, item) in items.iter().enumerate() {
                let mut out = vec![0; strips.item_bytes()];
                strips.get(&batch, index, &mut out);
                prop_assert_eq!(&out, item);
            }
        }
    }
}
