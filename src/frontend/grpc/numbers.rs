//! Doubles as the elements of any datatype, and back.
//!
//! A number that its datatype cannot hold is refused, never changed to fit: whole numbers stay whole, nothing overflows, and
//! NaN is taken only by datatypes that have it. A value may at most be rounded to the nearest number of a smaller float.

use bytes::Bytes;
use half::{bf16, f16};

use crate::domain::{Datatype, Tensor, match_datatype};

/// The elements, little-endian.
///
/// # Errors
/// The position of the first number that does not fit the datatype.
pub(super) fn to_elements(datatype: Datatype, numbers: &[f64]) -> Result<Bytes, usize> {
    macro_rules! integers {
        ($integer:ty) => {
            // One above the greatest is a power of two, and so exact, whatever the size.
            elements(numbers, |number| {
                let fits = number.fract() == 0.0 && number >= <$integer>::MIN as f64 && number < <$integer>::MAX as f64 + 1.0;
                fits.then(|| (number as $integer).to_le_bytes())
            })
        };
    }
    match_datatype!(datatype, {
        Int => integers!(Int),
        Datatype::Bool => elements(numbers, |number| (number == 0.0 || number == 1.0).then(|| [u8::from(number == 1.0)])),
        Datatype::Fp16 => elements(numbers, |number| {
            let near = f16::from_f32(to_odd(number));
            (near.is_finite() || !number.is_finite()).then(|| near.to_le_bytes())
        }),
        Datatype::Bf16 => elements(numbers, |number| {
            let near = bf16::from_f32(to_odd(number));
            (near.is_finite() || !number.is_finite()).then(|| near.to_le_bytes())
        }),
        Datatype::Fp32 => elements(numbers, |number| {
            let near = number as f32;
            (near.is_finite() || !number.is_finite()).then(|| near.to_le_bytes())
        }),
        Datatype::Fp64 => elements(numbers, |number| Some(number.to_le_bytes())),
        Datatype::Bytes => Err(0),
    })
}

fn elements<const BYTES: usize>(numbers: &[f64], element: impl Fn(f64) -> Option<[u8; BYTES]>) -> Result<Bytes, usize> {
    let mut bytes = Vec::with_capacity(numbers.len() * BYTES);
    for (position, number) in numbers.iter().enumerate() {
        bytes.extend_from_slice(&element(*number).ok_or(position)?);
    }
    Ok(bytes.into())
}

/// The number as a single that rounds to the same half as the number itself: whatever is cut off leaves an odd last bit, so that
/// only a true midpoint between two halves looks like one.
fn to_odd(number: f64) -> f32 {
    let near = number as f32;
    let back = f64::from(near);
    if back == number || number.is_nan() {
        return near;
    }
    let cut = if back.abs() > number.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(cut | 1)
}

/// The numbers that a datatype holds, in words.
pub(super) fn range(datatype: Datatype) -> String {
    let whole = |least: &dyn std::fmt::Display, most: &dyn std::fmt::Display| format!("whole numbers from {least} to {most}");
    match_datatype!(datatype, {
        Int => whole(&Int::MIN, &Int::MAX),
        Datatype::Bool => "0 and 1".to_owned(),
        Datatype::Fp16 => format!("numbers from {} to {}", f16::MIN, f16::MAX),
        Datatype::Bf16 => format!("numbers from {:e} to {:e}", bf16::MIN, bf16::MAX),
        Datatype::Fp32 => format!("numbers from {:e} to {:e}", f32::MIN, f32::MAX),
        Datatype::Fp64 => "all numbers".to_owned(),
        Datatype::Bytes => "strings, not numbers".to_owned(),
    })
}

/// The elements as numbers; `None` for strings. Those of 64-bit integers beyond 2^53 are rounded to the nearest.
pub(super) fn from_elements(tensor: &Tensor) -> Option<Vec<f64>> {
    let data = &**tensor.data();
    Some(match_datatype!(tensor.datatype(), {
        Int => numbers(data, |bytes| Int::from_le_bytes(bytes) as f64),
        Datatype::Bool => numbers(data, |[byte]| f64::from(byte)),
        Datatype::Fp16 => numbers(data, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Datatype::Bf16 => numbers(data, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        Datatype::Fp32 => numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Datatype::Fp64 => numbers(data, f64::from_le_bytes),
        Datatype::Bytes => return None,
    }))
}

fn numbers<const BYTES: usize>(data: &[u8], number: impl Fn([u8; BYTES]) -> f64) -> Vec<f64> {
    let (elements, _) = data.as_chunks::<BYTES>();
    elements.iter().map(|element| number(*element)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Shape;

    /// There and back again.
    fn returned(datatype: Datatype, numbers: &[f64]) -> Result<Vec<f64>, usize> {
        let data = to_elements(datatype, numbers)?;
        let tensor = Tensor::new(datatype, Shape::from_slice(&[numbers.len()]), data).expect("as long as its shape");
        Ok(from_elements(&tensor).expect("numbers"))
    }

    #[test]
    fn the_ends_of_each_range_are_held_and_what_lies_beyond_is_refused() {
        let two_to = |power| 2_f64.powi(power);
        // The least, the greatest that is a double, and their neighbours out of range.
        let integers = [
            (Datatype::Uint8, 0.0, 255.0, -1.0, 256.0),
            (Datatype::Uint16, 0.0, 65_535.0, -1.0, 65_536.0),
            (Datatype::Uint32, 0.0, two_to(32) - 1.0, -1.0, two_to(32)),
            (Datatype::Uint64, 0.0, two_to(64) - 2_048.0, -1.0, two_to(64)),
            (Datatype::Int8, -128.0, 127.0, -129.0, 128.0),
            (Datatype::Int16, -32_768.0, 32_767.0, -32_769.0, 32_768.0),
            (Datatype::Int32, -two_to(31), two_to(31) - 1.0, -two_to(31) - 1.0, two_to(31)),
            (Datatype::Int64, -two_to(63), two_to(63) - 1_024.0, -two_to(63) - 2_048.0, two_to(63)),
            (Datatype::Bool, 0.0, 1.0, -1.0, 2.0),
        ];
        for (datatype, least, most, below, above) in integers {
            assert_eq!(returned(datatype, &[least, most]), Ok(vec![least, most]), "{datatype}");
            for wrong in [below, above, 0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert_eq!(returned(datatype, &[least, wrong]), Err(1), "{datatype} {wrong}");
            }
        }
        for (datatype, most, above) in [
            (Datatype::Fp16, 65_504.0, 65_520.0),
            (Datatype::Bf16, (2.0 - two_to(-7)) * two_to(127), two_to(128)),
            (Datatype::Fp32, f64::from(f32::MAX), two_to(128)),
        ] {
            assert_eq!(returned(datatype, &[-most, most]), Ok(vec![-most, most]), "{datatype}");
            assert_eq!(returned(datatype, &[1.0, above]), Err(1), "{datatype}");
            assert_eq!(returned(datatype, &[-above]), Err(0), "{datatype}");
        }
    }

    #[test]
    fn floats_keep_what_no_finite_number_is() {
        for datatype in [Datatype::Fp16, Datatype::Bf16, Datatype::Fp32, Datatype::Fp64] {
            let kept = returned(datatype, &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN]).expect("floats have these");
            assert_eq!(kept[..2], [f64::INFINITY, f64::NEG_INFINITY], "{datatype}");
            assert!(kept[2].is_nan(), "{datatype}");
        }
    }

    #[test]
    fn floats_round_to_the_nearest() {
        assert_eq!(returned(Datatype::Fp32, &[0.1]), Ok(vec![f64::from(0.1_f32)]));
        assert_eq!(returned(Datatype::Fp16, &[1.0 + 2_f64.powi(-11) + 2_f64.powi(-30)]), Ok(vec![1.0 + 2_f64.powi(-10)]));
        assert_eq!(returned(Datatype::Bf16, &[1.0 + 2_f64.powi(-8) + 2_f64.powi(-30)]), Ok(vec![1.0 + 2_f64.powi(-7)]));
        assert_eq!(returned(Datatype::Fp64, &[0.1, f64::MAX]), Ok(vec![0.1, f64::MAX]));
    }
}
