//! The elements of BYTES tensors: for each, its length in 4 bytes, little-endian, then that many bytes.
//!
//! Knows no shapes: [`Tensor::new`](super::Tensor::new) decides how many elements there should be.

use super::datatype::{LENGTH_BYTES, TensorError};

/// The elements that BYTES data hold. Ends with the data, or before the first element that they do not hold whole.
#[derive(Debug, Clone)]
pub struct ByteElements<'a> {
    rest: &'a [u8],
}

impl<'a> ByteElements<'a> {
    /// The elements of `data`, which may be any bytes.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// The data from the next element on.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The length that the next element claims, and what comes after it; `None` if the data end first.
    fn claimed(&self) -> Option<(u32, &'a [u8])> {
        let (length, after) = self.rest.split_first_chunk::<LENGTH_BYTES>()?;
        Some((u32::from_le_bytes(*length), after))
    }
}

impl<'a> Iterator for ByteElements<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, after) = self.claimed()?;
        let (element, rest) = after.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(element)
    }
}

/// Appends an element to BYTES data.
///
/// # Errors
/// [`TensorError::LongElement`] if its length does not fit into 32 bits; in that case nothing is appended.
pub fn push_element(data: &mut Vec<u8>, element: &[u8]) -> Result<(), TensorError> {
    let length = u32::try_from(element.len()).map_err(|_| TensorError::LongElement { bytes: element.len() })?;
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(element);
    Ok(())
}

/// Checks that `data` is exactly `count` elements. The time depends on the length of the data, however large `count` is.
pub(super) fn check(data: &[u8], count: usize) -> Result<(), TensorError> {
    let mut elements = ByteElements::new(data);
    let found = elements.by_ref().take(count).count();
    let left = elements.rest().len();
    match elements.claimed() {
        _ if found == count && left == 0 => Ok(()),
        _ if found == count => Err(TensorError::ExcessBytes { elements: count, bytes: left }),
        _ if left == 0 => Err(TensorError::TooFewElements { elements: found, expected: count }),
        None => Err(TensorError::CutLength { element: found, bytes: left }),
        Some((length, after)) => Err(TensorError::CutElement { element: found, length, bytes: after.len() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn encoded(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut data = Vec::new();
        elements.iter().for_each(|element| push_element(&mut data, element).expect("short"));
        data
    }

    #[test]
    fn an_element_is_its_length_and_its_bytes() {
        let data = encoded(&[b"ab".to_vec(), vec![], vec![0, 255]]);
        assert_eq!(data, b"\x02\0\0\0ab\0\0\0\0\x02\0\0\0\0\xff");
        assert_eq!(ByteElements::new(&data).collect::<Vec<_>>(), [&b"ab"[..], b"", b"\0\xff"]);
    }

    #[test]
    fn what_is_wrong_is_named_by_element_and_length() {
        let cases: [(&[u8], usize, &str); 5] = [
            (b"", 2, "the data hold 0 of the 2 elements that the shape takes"),
            (b"\x01\0\0\0a\0\0\0\0", 3, "the data hold 2 of the 3 elements that the shape takes"),
            (b"\0\0\0\0\x01\0", 2, "element 1 has 2 bytes left for its length, which takes 4"),
            (b"\0\0\0\0\xff\xff\xff\xffab", 2, "element 1 claims to have 4294967295 bytes, but 2 are left"),
            (b"\0\0\0\0abc", 1, "3 bytes are left over after the last element; the shape takes 1"),
        ];
        for (data, count, message) in cases {
            assert_eq!(check(data, count).map_err(|error| error.to_string()), Err(message.to_owned()), "{data:?}");
        }
        assert_eq!(check(b"", 0), Ok(()));
    }

    #[test]
    fn a_count_without_end_takes_no_longer_than_the_data() {
        let error = check(&[0; 8], usize::MAX).expect_err("two elements");
        assert_eq!(error, TensorError::TooFewElements { elements: 2, expected: usize::MAX });
    }

    proptest! {
        #[test]
        fn elements_come_back_as_they_were_put_in(elements in vec(vec(any::<u8>(), 0..9), 0..9)) {
            let data = encoded(&elements);
            prop_assert_eq!(check(&data, elements.len()), Ok(()));
            prop_assert!(check(&data, elements.len() + 1).is_err());
            prop_assert!(ByteElements::new(&data).eq(elements.iter().map(Vec::as_slice)));
        }

        #[test]
        fn any_bytes_are_elements_or_a_fault(data in vec(prop_oneof![Just(0_u8), 0..4_u8, any::<u8>()], 0..64), count in 0_usize..8) {
            let is_good = check(&data, count).is_ok();
            let mut elements = ByteElements::new(&data);
            let found = elements.by_ref().count();
            prop_assert_eq!(is_good, found == count && elements.rest().is_empty());
        }
    }
}
