//! Converts between a signature's datatypes and the four that rten computes in.
//!
//! FP32, INT32, INT8 and UINT8 pass without a copy. The other integers and BOOL travel as 32-bit integers, FP16 and FP64 as
//! FP32. A number that does not fit is an error, never a wrong number; FP64 loses digits, so a model that computes in it is not loaded (see
//! [`Narrowing`](crate::onnx::Narrowing)).

use bytemuck::Pod;
use bytes::Bytes;
use rten::{Value, ValueOrView, ValueView};
use rten_tensor::{Layout, Tensor as RtenTensor};
use tidemill_domain::{Datatype, Shape, Tensor};

use super::half;
use crate::TensorView;

/// `view` in the form that rten takes, or why it cannot be taken. With a `limit`, the absolute values of whole numbers must not exceed it.
pub(super) fn input<'a>(view: &TensorView<'a>, limit: Option<i64>) -> Result<ValueOrView<'a>, String> {
    if let Some(limit) = limit {
        check_limit(view, limit)?;
    }
    match view.datatype {
        Datatype::Fp32 => borrowed(view, |data: &[f32]| ValueView::from_shape(view.shape, data)),
        Datatype::Int32 => borrowed(view, |data: &[i32]| ValueView::from_shape(view.shape, data)),
        Datatype::Int8 => borrowed(view, |data: &[i8]| ValueView::from_shape(view.shape, data)),
        Datatype::Uint8 => borrowed(view, |data: &[u8]| ValueView::from_shape(view.shape, data)),
        Datatype::Bool => integers(view, |x: u8| Some(i32::from(x != 0))),
        Datatype::Int16 => integers(view, |x: i16| Some(x.into())),
        Datatype::Uint16 => integers(view, |x: u16| Some(x.into())),
        Datatype::Uint32 => integers(view, |x: u32| x.try_into().ok()),
        Datatype::Int64 => integers(view, |x: i64| x.try_into().ok()),
        Datatype::Uint64 => integers(view, |x: u64| x.try_into().ok()),
        Datatype::Fp16 => floats(view, |x: u16| Some(half::to_f32(x))),
        Datatype::Fp64 => floats(view, |x: f64| {
            let narrow = x as f32;
            (narrow.is_finite() || !x.is_finite()).then_some(narrow)
        }),
        Datatype::Bf16 => Err("rten cannot compute in BF16".to_owned()),
        Datatype::Bytes => Err("rten has no strings".to_owned()),
    }
}

/// Beyond the limit, rten would compute wrong numbers.
fn check_limit(view: &TensorView<'_>, limit: i64) -> Result<(), String> {
    fn check<T: Pod + Into<i128>>(view: &TensorView<'_>, limit: i64) -> Result<(), String> {
        let data: &[T] = bytemuck::try_cast_slice(view.data).map_err(|error| error.to_string())?;
        let number = |x: &T| -> i128 { (*x).into() };
        match data.iter().map(number).enumerate().find(|(_, x)| x.unsigned_abs() > i128::from(limit).unsigned_abs()) {
            Some((at, x)) => Err(format!(
                "element {at} is {x}; on rten, which has only 32-bit integers, this model takes numbers up to {limit}; \
                 onnxruntime takes all of {}",
                view.datatype
            )),
            None => Ok(()),
        }
    }
    match view.datatype {
        Datatype::Int32 => check::<i32>(view, limit),
        Datatype::Uint32 => check::<u32>(view, limit),
        Datatype::Int64 => check::<i64>(view, limit),
        Datatype::Uint64 => check::<u64>(view, limit),
        _ => Ok(()),
    }
}

fn borrowed<'a, T: Pod, E: std::fmt::Display>(
    view: &TensorView<'a>,
    make: impl FnOnce(&'a [T]) -> Result<ValueView<'a>, E>,
) -> Result<ValueOrView<'a>, String> {
    let data = bytemuck::try_cast_slice(view.data).map_err(|error| error.to_string())?;
    make(data).map(ValueOrView::View).map_err(|error| error.to_string())
}

fn integers<'a, T: Pod + std::fmt::Display>(
    view: &TensorView<'_>,
    convert: impl Fn(T) -> Option<i32>,
) -> Result<ValueOrView<'a>, String> {
    let data = converted(view, convert, "a 32-bit integer")?;
    Value::from_shape(view.shape, data).map(ValueOrView::Value).map_err(|error| error.to_string())
}

fn floats<'a, T: Pod + std::fmt::Display>(
    view: &TensorView<'_>,
    convert: impl Fn(T) -> Option<f32>,
) -> Result<ValueOrView<'a>, String> {
    let data = converted(view, convert, "FP32")?;
    Value::from_shape(view.shape, data).map(ValueOrView::Value).map_err(|error| error.to_string())
}

fn converted<T: Pod + std::fmt::Display, U>(
    view: &TensorView<'_>,
    convert: impl Fn(T) -> Option<U>,
    target: &str,
) -> Result<Vec<U>, String> {
    let data: &[T] = bytemuck::try_cast_slice(view.data).map_err(|error| error.to_string())?;
    let refused = |at: usize, x: T| {
        format!("element {at} is {x}, which does not fit {target}, all that rten has for {}; onnxruntime takes it", view.datatype)
    };
    data.iter().enumerate().map(|(at, x)| convert(*x).ok_or_else(|| refused(at, *x))).collect()
}

/// An output of rten as the file declares it, or as it is if the file does not say, or why neither is possible.
pub(super) fn output(value: Value, declared: Option<Datatype>) -> Result<Tensor, String> {
    let mismatch = |given: Datatype| format!("it came as {given}, which is not a form of the declared datatype");
    match value {
        Value::FloatTensor(tensor) => match declared.unwrap_or(Datatype::Fp32) {
            Datatype::Fp32 => moved(Datatype::Fp32, tensor),
            Datatype::Fp64 => mapped(Datatype::Fp64, tensor, |x| Some(f64::from(x))),
            Datatype::Fp16 => mapped(Datatype::Fp16, tensor, |x| Some(half::from_f32(x))),
            _ => Err(mismatch(Datatype::Fp32)),
        },
        Value::Int32Tensor(tensor) => match declared.unwrap_or(Datatype::Int32) {
            Datatype::Int32 => moved(Datatype::Int32, tensor),
            Datatype::Int64 => mapped(Datatype::Int64, tensor, |x| Some(i64::from(x))),
            Datatype::Bool => mapped(Datatype::Bool, tensor, |x| Some(u8::from(x != 0))),
            Datatype::Int16 => mapped(Datatype::Int16, tensor, |x| i16::try_from(x).ok()),
            Datatype::Uint16 => mapped(Datatype::Uint16, tensor, |x| u16::try_from(x).ok()),
            Datatype::Uint32 => mapped(Datatype::Uint32, tensor, |x| u32::try_from(x).ok()),
            Datatype::Uint64 => mapped(Datatype::Uint64, tensor, |x| u64::try_from(x).ok()),
            _ => Err(mismatch(Datatype::Int32)),
        },
        Value::Int8Tensor(tensor) if matches!(declared, None | Some(Datatype::Int8)) => moved(Datatype::Int8, tensor),
        Value::UInt8Tensor(tensor) if matches!(declared, None | Some(Datatype::Uint8)) => moved(Datatype::Uint8, tensor),
        Value::Int8Tensor(_) => Err(mismatch(Datatype::Int8)),
        Value::UInt8Tensor(_) => Err(mismatch(Datatype::Uint8)),
        _ => Err("it is not a tensor".to_owned()),
    }
}

/// Passes the elements on without a copy.
fn moved<T: Pod + Send>(datatype: Datatype, tensor: RtenTensor<T>) -> Result<Tensor, String> {
    let shape = Shape::from_slice(tensor.shape());
    Tensor::new(datatype, shape, Bytes::from_owner(Elements(tensor.into_data()))).map_err(|error| error.to_string())
}

fn mapped<T: Pod + std::fmt::Display, U: Pod + Send>(
    datatype: Datatype,
    tensor: RtenTensor<T>,
    convert: impl Fn(T) -> Option<U>,
) -> Result<Tensor, String> {
    let shape = Shape::from_slice(tensor.shape());
    let convert = |x: T| convert(x).ok_or_else(|| format!("it holds {x}, which does not fit the declared {datatype}"));
    let elements: Vec<U> = tensor.into_data().into_iter().map(convert).collect::<Result<_, _>>()?;
    Tensor::new(datatype, shape, Bytes::from_owner(Elements(elements))).map_err(|error| error.to_string())
}

struct Elements<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuffer;

    /// Sends elements to rten and back as `datatype`.
    fn there_and_back<T: Pod>(datatype: Datatype, elements: &[T]) -> Result<Vec<T>, String> {
        let mut buffer = AlignedBuffer::default();
        buffer.extend_from_slice(bytemuck::cast_slice(elements));
        let shape = [elements.len()];
        let value = input(&TensorView { datatype, shape: &shape, data: &buffer }, None)?.into_owned();
        let tensor = output(value, Some(datatype))?;
        assert_eq!((tensor.datatype(), tensor.shape()), (datatype, &shape[..]));
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }

    #[test]
    fn what_fits_comes_back_as_it_went() {
        assert_eq!(there_and_back(Datatype::Fp32, &[1.5_f32, -0.0]), Ok(vec![1.5, -0.0]));
        assert_eq!(there_and_back(Datatype::Int32, &[i32::MIN, 7]), Ok(vec![i32::MIN, 7]));
        assert_eq!(there_and_back(Datatype::Int8, &[-128_i8, 127]), Ok(vec![-128, 127]));
        assert_eq!(there_and_back(Datatype::Uint8, &[0_u8, 255]), Ok(vec![0, 255]));
        assert_eq!(there_and_back(Datatype::Bool, &[0_u8, 1]), Ok(vec![0, 1]));
        assert_eq!(there_and_back(Datatype::Int16, &[i16::MIN, 7]), Ok(vec![i16::MIN, 7]));
        assert_eq!(there_and_back(Datatype::Uint16, &[u16::MAX]), Ok(vec![u16::MAX]));
        assert_eq!(there_and_back(Datatype::Uint32, &[2_147_483_647_u32]), Ok(vec![2_147_483_647]));
        assert_eq!(there_and_back(Datatype::Int64, &[-2_147_483_648_i64]), Ok(vec![-2_147_483_648]));
        assert_eq!(there_and_back(Datatype::Uint64, &[5_u64]), Ok(vec![5]));
        assert_eq!(there_and_back(Datatype::Fp16, &[0x3c00_u16, 0xfc00]), Ok(vec![0x3c00, 0xfc00]));
        assert_eq!(there_and_back(Datatype::Fp64, &[1.5_f64, f64::INFINITY]), Ok(vec![1.5, f64::INFINITY]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |element: &str, target: &str, datatype: &str| {
            Some(format!(
                "element 1 is {element}, which does not fit {target}, all that rten has for {datatype}; onnxruntime takes it"
            ))
        };
        let narrow = "a 32-bit integer";
        assert_eq!(there_and_back(Datatype::Int64, &[0, 1_i64 << 31]).err(), refused("2147483648", narrow, "INT64"));
        assert_eq!(there_and_back(Datatype::Uint32, &[0, u32::MAX]).err(), refused("4294967295", narrow, "UINT32"));
        assert_eq!(there_and_back(Datatype::Uint64, &[0, 1_u64 << 31]).err(), refused("2147483648", narrow, "UINT64"));
        let largest = f64::MAX.to_string();
        assert_eq!(there_and_back(Datatype::Fp64, &[0.0, f64::MAX]).err(), refused(&largest, "FP32", "FP64"));
        assert_eq!(there_and_back(Datatype::Bf16, &[0_u16]), Err("rten cannot compute in BF16".to_owned()));
    }

    #[test]
    fn outputs_that_are_not_what_the_file_declares_are_refused() {
        let numbers = || Value::from_shape([2], vec![1, 70_000]).expect("two numbers");
        assert_eq!(
            output(numbers(), Some(Datatype::Uint16)),
            Err("it holds 70000, which does not fit the declared UINT16".to_owned())
        );
        let error = output(numbers(), Some(Datatype::Fp32)).expect_err("integers are not floats");
        assert_eq!(error, "it came as INT32, which is not a form of the declared datatype");
        assert_eq!(output(numbers(), None).map(|tensor| tensor.datatype()), Ok(Datatype::Int32));
    }
}
