//! Typed contents as raw data, and back.
//!
//! The protocol has one list for several datatypes, so numbers are checked for the range of the narrower ones. It has none for
//! FP16 and BF16, which travel only as raw data.

use bytes::Bytes;

use crate::{
    domain::{ByteElements, Datatype, push_element},
    proto::inference::InferTensorContents,
};

/// The raw form of a tensor's contents.
///
/// # Errors
/// The rest of a sentence that begins with the input's name: the wrong list for the datatype, or a number out of its range.
pub(super) fn to_raw(datatype: Datatype, contents: InferTensorContents) -> Result<Bytes, String> {
    let list =
        list_of(datatype).ok_or_else(|| format!(" is {datatype}, which has no typed contents; send it in raw_input_contents"))?;
    if let Some(other) = lists(&contents).into_iter().find(|(name, length)| *name != list && *length > 0) {
        return Err(format!(" is {datatype}, whose contents belong in {list}, but {} holds {} values", other.0, other.1));
    }
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    match datatype {
        Datatype::Bool => Ok(bool_contents.into_iter().map(u8::from).collect()),
        Datatype::Int8 => narrow::<_, i8, 1>(datatype, &int_contents, i8::to_le_bytes),
        Datatype::Int16 => narrow::<_, i16, 2>(datatype, &int_contents, i16::to_le_bytes),
        Datatype::Int32 => Ok(raw(&int_contents, i32::to_le_bytes)),
        Datatype::Int64 => Ok(raw(&int64_contents, i64::to_le_bytes)),
        Datatype::Uint8 => narrow::<_, u8, 1>(datatype, &uint_contents, u8::to_le_bytes),
        Datatype::Uint16 => narrow::<_, u16, 2>(datatype, &uint_contents, u16::to_le_bytes),
        Datatype::Uint32 => Ok(raw(&uint_contents, u32::to_le_bytes)),
        Datatype::Uint64 => Ok(raw(&uint64_contents, u64::to_le_bytes)),
        Datatype::Fp32 => Ok(raw(&fp32_contents, f32::to_le_bytes)),
        Datatype::Fp64 => Ok(raw(&fp64_contents, f64::to_le_bytes)),
        Datatype::Bytes => {
            let mut data = Vec::new();
            let mut elements = bytes_contents.iter();
            elements.try_for_each(|element| push_element(&mut data, element)).map_err(|error| format!(": {error}"))?;
            Ok(data.into())
        }
        Datatype::Fp16 | Datatype::Bf16 => Err(format!(" is {datatype}, which has no typed contents")),
    }
}

/// Typed contents of raw data; `None` if the datatype has none.
pub(super) fn of_raw(datatype: Datatype, data: &[u8]) -> Option<InferTensorContents> {
    let mut contents = InferTensorContents::default();
    match datatype {
        Datatype::Bool => contents.bool_contents = data.iter().map(|byte| *byte != 0).collect(),
        Datatype::Int8 => contents.int_contents = typed(data, |bytes| i8::from_le_bytes(bytes).into()),
        Datatype::Int16 => contents.int_contents = typed(data, |bytes| i16::from_le_bytes(bytes).into()),
        Datatype::Int32 => contents.int_contents = typed(data, i32::from_le_bytes),
        Datatype::Int64 => contents.int64_contents = typed(data, i64::from_le_bytes),
        Datatype::Uint8 => contents.uint_contents = typed(data, |bytes| u8::from_le_bytes(bytes).into()),
        Datatype::Uint16 => contents.uint_contents = typed(data, |bytes| u16::from_le_bytes(bytes).into()),
        Datatype::Uint32 => contents.uint_contents = typed(data, u32::from_le_bytes),
        Datatype::Uint64 => contents.uint64_contents = typed(data, u64::from_le_bytes),
        Datatype::Fp32 => contents.fp32_contents = typed(data, f32::from_le_bytes),
        Datatype::Fp64 => contents.fp64_contents = typed(data, f64::from_le_bytes),
        Datatype::Bytes => contents.bytes_contents = ByteElements::new(data).map(Bytes::copy_from_slice).collect(),
        Datatype::Fp16 | Datatype::Bf16 => return None,
    }
    Some(contents)
}

const fn list_of(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

fn lists(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn raw<T: Copy, const SIZE: usize>(values: &[T], bytes: impl Fn(T) -> [u8; SIZE]) -> Bytes {
    values.iter().flat_map(|value| bytes(*value)).collect::<Vec<u8>>().into()
}

fn narrow<Wide, Narrow, const SIZE: usize>(
    datatype: Datatype,
    values: &[Wide],
    bytes: impl Fn(Narrow) -> [u8; SIZE],
) -> Result<Bytes, String>
where
    Wide: Copy + std::fmt::Display,
    Narrow: TryFrom<Wide>,
{
    let mut raw = Vec::with_capacity(values.len() * SIZE);
    for (index, value) in values.iter().enumerate() {
        let narrow =
            Narrow::try_from(*value).map_err(|_| format!(": element {index} is {value}, out of range for {datatype}"))?;
        raw.extend(bytes(narrow));
    }
    Ok(raw.into())
}

fn typed<T, const SIZE: usize>(data: &[u8], value: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    data.as_chunks::<SIZE>().0.iter().map(|bytes| value(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn raw_data_survive_being_typed(bytes in proptest::collection::vec(any::<u8>(), 0..10), kind in 0..Datatype::ALL.len()) {
            let datatype = Datatype::ALL[kind];
            let data: Vec<u8> = bytes.iter().flat_map(|byte| std::iter::repeat_n(*byte % 2, datatype.fixed_size().unwrap_or(0))).collect();
            if let Some(contents) = of_raw(datatype, &data) {
                prop_assert_eq!(to_raw(datatype, contents).expect("its own"), data);
            }
        }
    }

    #[test]
    fn strings_are_taken_one_by_one() {
        let contents = InferTensorContents { bytes_contents: vec!["ab".into(), "".into()], ..InferTensorContents::default() };
        let raw = to_raw(Datatype::Bytes, contents.clone()).expect("short");
        assert_eq!(&*raw, b"\x02\0\0\0ab\0\0\0\0");
        assert_eq!(of_raw(Datatype::Bytes, &raw), Some(contents));
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        let contents = InferTensorContents { int_contents: vec![1, -129], ..InferTensorContents::default() };
        let error = to_raw(Datatype::Int8, contents.clone()).expect_err("too small");
        assert_eq!(error, ": element 1 is -129, out of range for INT8");
        assert!(to_raw(Datatype::Int16, contents).is_ok());
    }

    #[test]
    fn another_datatypes_list_is_refused() {
        let contents = InferTensorContents { fp32_contents: vec![1.0], ..InferTensorContents::default() };
        let error = to_raw(Datatype::Fp64, contents.clone()).expect_err("the wrong list");
        assert!(error.contains("belong in fp64_contents, but fp32_contents holds 1 values"), "{error}");
        let error = to_raw(Datatype::Fp16, contents).expect_err("no list");
        assert!(error.contains("raw_input_contents"), "{error}");
    }
}
