//! Tensors.

use std::fmt;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    byte_elements::{self, ByteElements},
    datatype::{Datatype, TensorError},
};
use crate::match_datatype;

/// Dimensions of a tensor; up to four without allocating.
pub type Shape = SmallVec<[usize; 4]>;

/// Number of elements in a tensor of this shape; `None` if it overflows.
#[must_use]
#[inline]
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))
}

/// The most elements a message shows.
const SHOWN_ELEMENTS_MAX: usize = 8;

/// Elements as a message shows them, such as `INT64 [1, 2]` or `INT64 16000`; for BYTES and half floats, only the datatype.
#[must_use]
pub fn elements_text(datatype: Datatype, data: &[u8]) -> String {
    fn each<T: fmt::Display, const N: usize>(data: &[u8], element: fn([u8; N]) -> T) -> Vec<String> {
        data.as_chunks().0.iter().take(SHOWN_ELEMENTS_MAX + 1).map(|bytes| element(*bytes).to_string()).collect()
    }
    let mut elements = match_datatype!(datatype, {
        Int => each(data, Int::from_le_bytes),
        Datatype::Bool => each(data, |[byte]| byte != 0),
        Datatype::Fp32 => each(data, f32::from_le_bytes),
        Datatype::Fp64 => each(data, f64::from_le_bytes),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => return datatype.to_string(),
    });
    if let [lone] = elements.as_slice() {
        return format!("{datatype} {lone}");
    }
    if elements.len() > SHOWN_ELEMENTS_MAX {
        elements.truncate(SHOWN_ELEMENTS_MAX);
        elements.push("…".to_owned());
    }
    format!("{datatype} [{}]", elements.join(", "))
}

/// A dense, row-major, little-endian array whose data are shared, never copied. An element of BYTES is its length, 4 bytes, and
/// that many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    datatype: Datatype,
    shape: Shape,
    data: Bytes,
}

impl Tensor {
    /// Puts a tensor together.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] if `data` is not exactly `product(shape)` elements of the datatype's size,
    /// [`TensorError::TooManyElements`] if that is more than can be addressed. For BYTES, the first fault in the elements.
    #[inline]
    pub fn new(datatype: Datatype, shape: Shape, data: Bytes) -> Result<Self, TensorError> {
        let count = element_count(&shape);
        let least = count.and_then(|count| count.checked_mul(datatype.least_size()));
        let (Some(count), Some(expected)) = (count, least) else {
            let shape = shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX));
            return Err(TensorError::TooManyElements(shape.collect()));
        };
        if datatype == Datatype::Bytes {
            byte_elements::check(&data, count)?;
        } else if data.len() != expected {
            return Err(TensorError::WrongLength { bytes: data.len(), shape: shape.to_vec(), datatype, expected });
        }
        Ok(Self { datatype, shape, data })
    }

    /// A one-dimensional FP32 tensor holding `values`; for tests and framing.
    #[must_use]
    pub fn from_f32(values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { datatype: Datatype::Fp32, shape: SmallVec::from_slice(&[values.len()]), data: data.into() }
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// Those of [`Tensor::new`], if the shape takes a different number of elements.
    #[inline]
    pub fn reshaped(self, shape: &[usize]) -> Result<Self, TensorError> {
        Self::new(self.datatype, Shape::from_slice(shape), self.data)
    }

    /// The slices along the leading dimension, each without that dimension; a scalar is one slice. The data are shared.
    #[inline]
    pub fn rows(&self) -> impl Iterator<Item = Self> {
        let (count, shape) = self.shape.split_first().map_or((1, &self.shape[..]), |(count, row)| (*count, row));
        let row_bytes = self.data.len() / count.max(1);
        // Strings vary in length, so a row ends where its elements do.
        let row_elements = element_count(shape).unwrap_or_default();
        let mut elements = self.byte_elements();
        let mut begin = 0;
        (0..count).map(move |_| {
            let end = match &mut elements {
                None => begin + row_bytes,
                Some(elements) => {
                    elements.by_ref().take(row_elements).for_each(drop);
                    self.data.len() - elements.rest().len()
                }
            };
            let data = self.data.slice(begin..end);
            begin = end;
            Self { datatype: self.datatype, shape: Shape::from_slice(shape), data }
        })
    }

    /// The same tensor with data of its own, so that it does not keep whatever they were a part of.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { data: Bytes::copy_from_slice(&self.data), ..self }
    }

    /// Element type.
    #[must_use]
    #[inline]
    pub const fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Dimensions.
    #[must_use]
    #[inline]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    #[must_use]
    #[inline]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// The elements, by value.
    #[must_use]
    #[inline]
    pub fn into_data(self) -> Bytes {
        self.data
    }

    /// The elements as numbers, if this is an FP32 tensor.
    #[inline]
    pub fn iter_f32(&self) -> Option<impl ExactSizeIterator<Item = f32> + '_> {
        (self.datatype == Datatype::Fp32)
            .then(|| self.data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    }

    /// The elements, if this is a BYTES tensor.
    #[must_use]
    fn byte_elements(&self) -> Option<ByteElements<'_>> {
        (self.datatype == Datatype::Bytes).then(|| ByteElements::new(&self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    #[test]
    fn every_datatype_is_found_by_its_name() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.name().parse(), Ok(datatype));
        }
        assert!("fp32".parse::<Datatype>().is_err());
    }

    #[test]
    fn a_tensor_of_the_wrong_length_is_refused_with_both_lengths() {
        let error = Tensor::new(Datatype::Fp32, smallvec![2, 3], Bytes::from_static(&[0; 20])).expect_err("4 bytes short");
        assert_eq!(error.to_string(), "20 bytes of data, but shape [2, 3] of FP32 takes 24");
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        let error = Tensor::new(Datatype::Fp32, smallvec![usize::MAX, 2], Bytes::new()).expect_err("overflow");
        assert!(matches!(error, TensorError::TooManyElements(_)));
        let error = Tensor::new(Datatype::Fp64, smallvec![usize::MAX / 4], Bytes::new()).expect_err("overflow in bytes");
        assert!(matches!(error, TensorError::TooManyElements(_)));
    }

    #[test]
    fn rows_are_what_lies_along_the_leading_dimension() {
        let rows = |tensor: &Tensor| tensor.rows().map(|row| (row.shape().to_vec(), row.data().to_vec())).collect::<Vec<_>>();
        let numbers = Tensor::new(Datatype::Uint8, smallvec![2, 3], Bytes::from_static(&[1, 2, 3, 4, 5, 6])).expect("sound");
        assert_eq!(rows(&numbers), [(vec![3], vec![1, 2, 3]), (vec![3], vec![4, 5, 6])]);
        let texts = Bytes::from_static(b"\x01\0\0\0a\0\0\0\0");
        let strings = Tensor::new(Datatype::Bytes, smallvec![2, 1], texts.clone()).expect("two elements");
        assert_eq!(rows(&strings), [(vec![1], texts[..5].to_vec()), (vec![1], texts[5..].to_vec())]);
        let empty = Tensor::new(Datatype::Bytes, smallvec![2, 0], Bytes::new()).expect("no elements");
        assert_eq!(rows(&empty), [(vec![0], Vec::new()), (vec![0], Vec::new())]);
        let none = Tensor::new(Datatype::Uint8, smallvec![0, usize::MAX, 2], Bytes::new()).expect("no elements");
        assert_eq!(rows(&none), []);
        let scalar = Tensor::new(Datatype::Uint8, smallvec![], Bytes::from_static(&[7])).expect("one element");
        assert_eq!(rows(&scalar), [(vec![], vec![7])]);
    }

    #[test]
    fn a_bytes_tensor_has_as_many_elements_as_its_shape_says() {
        let data = Bytes::from_static(b"\x01\0\0\0a\0\0\0\0");
        let tensor = Tensor::new(Datatype::Bytes, smallvec![2, 1], data.clone()).expect("two elements");
        assert!(tensor.byte_elements().expect("BYTES").eq([&b"a"[..], b""]));
        let error = Tensor::new(Datatype::Bytes, smallvec![3], data.clone()).expect_err("one is missing");
        assert_eq!(error, TensorError::TooFewElements { elements: 2, expected: 3 });
        let error = Tensor::new(Datatype::Bytes, smallvec![], data).expect_err("one too many");
        assert_eq!(error, TensorError::ExcessBytes { elements: 1, bytes: 4 });
        let error = Tensor::new(Datatype::Bytes, smallvec![usize::MAX / 2], Bytes::new()).expect_err("overflow in bytes");
        assert!(matches!(error, TensorError::TooManyElements(_)));
        assert!(Tensor::from_f32(&[1.0]).byte_elements().is_none());
    }
}
