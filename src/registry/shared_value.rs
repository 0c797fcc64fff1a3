//! Values in a manifest: from TOML to a tensor of the model's datatype and shape.

use bytes::Bytes;
use toml::Value;

use crate::domain::{Datatype, Shape, Tensor, match_datatype, push_element};

/// The tensor that `value` stands for: a number, boolean or string, or nested lists of them in row-major order.
///
/// `dims` is the model's shape (`None` inside it is dynamic), or `None` if the model file does not say. A lone number also fits
/// a shape of one element.
pub(super) fn shared_tensor(value: &Value, datatype: Datatype, dims: Option<&[Option<usize>]>) -> Result<Tensor, String> {
    let mut given = Shape::new();
    let mut data = Vec::new();
    measure(value, &mut given);
    encode_nested(value, &given, datatype, &mut data)?;
    let fits = |dims: &[Option<usize>]| {
        dims.len() == given.len() && dims.iter().zip(&given).all(|(dim, size)| dim.is_none_or(|dim| dim == *size))
    };
    let is_one_element = |dims: &[Option<usize>]| given.is_empty() && dims.iter().all(|dim| dim.is_none_or(|dim| dim == 1));
    let shape = match dims {
        None => given,
        Some(dims) if fits(dims) => given,
        Some(dims) if is_one_element(dims) => Shape::from_elem(1, dims.len()),
        Some(dims) => {
            let dims: Vec<String> = dims.iter().map(|dim| dim.map_or_else(|| "-1".to_owned(), |size| size.to_string())).collect();
            return Err(format!("has shape {:?}, but the model takes [{}]", given.as_slice(), dims.join(", ")));
        }
    };
    Tensor::new(datatype, shape, Bytes::from(data)).map_err(|error| error.to_string())
}

/// The shape that the first element of each list gives.
fn measure(value: &Value, shape: &mut Shape) {
    if let Value::Array(list) = value {
        shape.push(list.len());
        if let Some(first) = list.first() {
            measure(first, shape);
        }
    }
}

fn encode_nested(value: &Value, shape: &[usize], datatype: Datatype, data: &mut Vec<u8>) -> Result<(), String> {
    match (value, shape) {
        (Value::Array(list), [size, _rest @ ..]) if list.len() != *size || list.is_empty() => {
            Err("has lists that are empty or differ in length".to_owned())
        }
        (Value::Array(list), [_, rest @ ..]) => list.iter().try_for_each(|inner| encode_nested(inner, rest, datatype, data)),
        (Value::Array(_), []) | (_, [_, ..]) => Err("mixes lists and numbers".to_owned()),
        (scalar, []) => encode(scalar, datatype, data).ok_or_else(|| format!("{scalar} is no {datatype}")),
    }
}

/// Appends one element; `None` if the value is not exactly one of the datatype (fractions are rounded).
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the model's precision is meant")]
fn encode(value: &Value, datatype: Datatype, data: &mut Vec<u8>) -> Option<()> {
    let integer = value.as_integer();
    let number = value.as_float().or_else(|| integer.map(|integer| integer as f64)).filter(|number| number.is_finite());
    match_datatype!(datatype, {
        Int => data.extend(Int::try_from(integer?).ok()?.to_le_bytes()),
        Datatype::Bool => data.push(u8::from(value.as_bool()?)),
        Datatype::Fp32 => data.extend(Some(number? as f32).filter(|number| number.is_finite())?.to_le_bytes()),
        Datatype::Fp64 => data.extend(number?.to_le_bytes()),
        Datatype::Fp16 => data.extend(Some(half::f16::from_f64(number?)).filter(|half| half.is_finite())?.to_le_bytes()),
        Datatype::Bf16 => data.extend(Some(half::bf16::from_f64(number?)).filter(|half| half.is_finite())?.to_le_bytes()),
        Datatype::Bytes => push_element(data, value.as_str()?.as_bytes()).ok()?,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(text: &str, datatype: Datatype, dims: Option<&[Option<usize>]>) -> Result<(Vec<usize>, Vec<u8>), String> {
        let table: toml::Table = format!("value = {text}").parse().expect("good TOML");
        shared_tensor(&table["value"], datatype, dims).map(|tensor| (tensor.shape().to_vec(), tensor.data().to_vec()))
    }

    #[test]
    fn values_take_the_models_datatype_and_shape() {
        assert_eq!(tensor("16000", Datatype::Int64, Some(&[])), Ok((vec![], 16_000_i64.to_le_bytes().to_vec())));
        assert_eq!(tensor("16000", Datatype::Fp32, Some(&[Some(1)])), Ok((vec![1], 16_000_f32.to_le_bytes().to_vec())));
        assert_eq!(tensor("true", Datatype::Bool, Some(&[None])), Ok((vec![1], vec![1])));
        assert_eq!(tensor("[[1, 2], [3, 4]]", Datatype::Uint8, Some(&[None, Some(2)])), Ok((vec![2, 2], vec![1, 2, 3, 4])));
        assert_eq!(tensor("[-1]", Datatype::Int8, None), Ok((vec![1], vec![255])));
        assert_eq!(tensor("0.5", Datatype::Fp64, None), Ok((vec![], 0.5_f64.to_le_bytes().to_vec())));
        assert_eq!(tensor("-1.5", Datatype::Fp16, None), Ok((vec![], vec![0x00, 0xbe])));
        assert_eq!(tensor("['ab']", Datatype::Bytes, None), Ok((vec![1], b"\x02\0\0\0ab".to_vec())));
        assert_eq!(tensor("[7]", Datatype::Uint32, None), Ok((vec![1], 7_u32.to_le_bytes().to_vec())));
    }

    #[test]
    fn values_that_do_not_fit_say_so() {
        let cases: &[(&str, Datatype, &[Option<usize>], &str)] = &[
            ("300", Datatype::Uint8, &[], "300 is no UINT8"),
            ("-1", Datatype::Uint64, &[], "-1 is no UINT64"),
            ("1.5", Datatype::Int32, &[], "1.5 is no INT32"),
            ("1e60", Datatype::Fp32, &[], "is no FP32"),
            ("nan", Datatype::Fp64, &[], "nan is no FP64"),
            ("1", Datatype::Bool, &[], "1 is no BOOL"),
            ("70000", Datatype::Fp16, &[], "70000 is no FP16"),
            ("1", Datatype::Bytes, &[], "1 is no BYTES"),
            ("'x'", Datatype::Int32, &[], "\"x\" is no INT32"),
            ("[1, 2]", Datatype::Int32, &[Some(3)], "has shape [2], but the model takes [3]"),
            ("1", Datatype::Int32, &[Some(3), None], "has shape [], but the model takes [3, -1]"),
            ("[[1], [2, 3]]", Datatype::Int32, &[None, None], "differ in length"),
            ("[[1], 2]", Datatype::Int32, &[None, None], "mixes lists and numbers"),
            ("[1, [2]]", Datatype::Int32, &[None], "mixes lists and numbers"),
            ("[]", Datatype::Int32, &[None], "empty"),
            ("{ a = 1 }", Datatype::Int32, &[], "is no INT32"),
        ];
        for (text, datatype, dims, expected) in cases {
            let message = tensor(text, *datatype, Some(dims)).expect_err("must be refused");
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
