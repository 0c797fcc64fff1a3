//! The best classes of an output in place of its numbers: for each item, texts `value:index` or `value:index:label`, highest value
//! first.
//!
//! Knows no model: a class is an element of an item's output.

use std::cmp::Ordering;

use half::{bf16, f16};

use super::{
    request::{Parameter, Parameters},
    response::{OutputData, OutputTensor},
};
use crate::{
    domain::{Datatype, Fault, FaultKind, TensorSpec, match_datatype, push_element},
    registry::Labels,
};

/// Parameter of an output that asks for its best classes.
const CLASSIFICATION: &str = "classification";

/// Bytes of all texts of an output.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// How many bytes could be copied in the time that it takes to find the classes in one.
pub(super) const COPIES_PER_BYTE: usize = 32;

/// How many classes of each item a request asks for; `None` if it asks for the output itself. `field` is the output's.
///
/// # Errors
/// [`FaultKind::Invalid`] if that is no number of classes, or the output has none.
pub(super) fn wanted_classes(parameters: &Parameters, field: &str, output: &TensorSpec) -> Result<Option<usize>, Fault> {
    let Some(wanted) = parameters.get(CLASSIFICATION) else { return Ok(None) };
    let fault = |message: String| Fault::invalid(format!("{field}.parameters.{CLASSIFICATION}"), message);
    let count = match wanted {
        Parameter::Int64(count @ 1..) => Some(count.cast_unsigned()),
        Parameter::Uint64(count @ 1..) => Some(*count),
        _ => None,
    };
    let count = count.ok_or_else(|| {
        fault(format!("output '{}': {CLASSIFICATION} is {wanted}, but must be a number of classes from 1", output.name))
    })?;
    if matches!(output.datatype, Datatype::Bytes | Datatype::Bool) {
        let message = format!(
            "output '{}' is {}, and {CLASSIFICATION} is for numbers; ask for the tensor itself",
            output.name, output.datatype
        );
        return Err(fault(message));
    }
    Ok(Some(usize::try_from(count).unwrap_or(usize::MAX)))
}

/// The `top` best classes of each of `items` items that an output holds; all of them if there are fewer.
///
/// # Errors
/// [`FaultKind::TooLarge`] if their texts are longer than an output may be.
pub(super) fn classify(
    output: OutputTensor,
    items: usize,
    batched: bool,
    top: usize,
    labels: Option<&Labels>,
) -> Result<OutputTensor, Fault> {
    let OutputData::Here(data) = &output.data else { return Ok(output) };
    let element_bytes = output.datatype.least_size();
    let classes = data.len() / element_bytes / items.max(1);
    let mut texts = Vec::new();
    if classes > 0 {
        for row in data.chunks_exact(classes * element_bytes) {
            let mut write = |value: String, index: usize| write_class(&mut texts, value, index, labels);
            write_best(output.datatype, row, top, &mut write).map_err(|message| {
                let message = format!("output '{}': {message}", output.name);
                Fault::new(FaultKind::TooLarge, message)
            })?;
        }
    }
    let sizes = batched.then_some(items).into_iter().chain([classes.min(top)]);
    let shape = sizes.map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
    Ok(OutputTensor { name: output.name, datatype: Datatype::Bytes, shape, data: OutputData::Here(texts.into()) })
}

fn write_class(texts: &mut Vec<u8>, mut text: String, index: usize, labels: Option<&Labels>) -> Result<(), String> {
    text.push(':');
    text.push_str(&index.to_string());
    if let Some(label) = labels.and_then(|labels| labels.name(index)) {
        text.push(':');
        text.push_str(label);
    }
    if texts.len() + text.len() > TEXT_BYTES_MAX {
        return Err(format!("its classes take more than {TEXT_BYTES_MAX} bytes; ask for fewer"));
    }
    push_element(texts, text.as_bytes()).map_err(|error| error.to_string())
}

type Write<'a> = &'a mut dyn FnMut(String, usize) -> Result<(), String>;

/// Passes on the best elements of an item.
fn write_best(datatype: Datatype, row: &[u8], top: usize, write: Write<'_>) -> Result<(), String> {
    /// Of a whole number, all digits.
    fn integers<T: Copy + Ord + ToString, const N: usize>(
        row: &[u8],
        top: usize,
        write: Write<'_>,
        read: fn([u8; N]) -> T,
    ) -> Result<(), String> {
        let values: Vec<T> = row.as_chunks().0.iter().map(|bytes| read(*bytes)).collect();
        let best = best(&values, top, |one, other| other.cmp(one));
        best.into_iter().try_for_each(|index| write(values[index].to_string(), index))
    }
    fn floats<const N: usize>(row: &[u8], top: usize, write: Write<'_>, read: fn([u8; N]) -> f64) -> Result<(), String> {
        let values: Vec<f64> = row.as_chunks().0.iter().map(|bytes| read(*bytes)).collect();
        best(&values, top, highest_first).into_iter().try_for_each(|index| write(float_text(values[index]), index))
    }
    match_datatype!(datatype, {
        Int => integers(row, top, write, Int::from_le_bytes),
        Datatype::Fp16 => floats(row, top, write, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Datatype::Bf16 => floats(row, top, write, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        Datatype::Fp32 => floats(row, top, write, |bytes| f32::from_le_bytes(bytes).into()),
        Datatype::Fp64 => floats(row, top, write, f64::from_le_bytes),
        // Requests for these are refused.
        Datatype::Bool | Datatype::Bytes => Ok(()),
    })
}

/// The indices of the first `top` values in this order; of equal ones, the lower index comes first.
fn best<T>(values: &[T], top: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<usize> {
    let compare = |one: &usize, other: &usize| order(&values[*one], &values[*other]).then(one.cmp(other));
    let mut indices: Vec<usize> = (0..values.len()).collect();
    if top < indices.len() {
        indices.select_nth_unstable_by(top, compare);
        indices.truncate(top);
    }
    indices.sort_unstable_by(compare);
    indices
}

/// What is not a number comes last.
fn highest_first(one: &f64, other: &f64) -> Ordering {
    other.partial_cmp(one).unwrap_or_else(|| one.is_nan().cmp(&other.is_nan()))
}

/// With six decimals, as C prints it.
fn float_text(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:.6}") }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ByteElements, FaultKind};

    fn output(datatype: Datatype, shape: &[i64], data: Vec<u8>) -> OutputTensor {
        OutputTensor { name: "y".into(), datatype, shape: shape.to_vec(), data: OutputData::Here(data.into()) }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn texts(output: &OutputTensor) -> Vec<String> {
        let OutputData::Here(data) = &output.data else { panic!("it is here") };
        assert_eq!(output.datatype, Datatype::Bytes);
        ByteElements::new(data).map(|text| String::from_utf8(text.to_vec()).expect("text")).collect()
    }

    fn spec(datatype: Datatype) -> TensorSpec {
        TensorSpec { name: "y".into(), datatype, dims: vec![Some(4)], batch_axis: Some(0) }
    }

    fn wanted(datatype: Datatype, value: Parameter) -> Result<Option<usize>, Fault> {
        wanted_classes(&[(CLASSIFICATION.to_owned(), value)].into(), "outputs[3]", &spec(datatype))
    }

    #[test]
    fn each_item_has_its_own_best_classes() {
        let data = floats(&[0.1, 0.7, 0.2, 3.0, 1.0, 2.0]);
        let found = classify(output(Datatype::Fp32, &[2, 3], data), 2, true, 2, None).expect("short");
        assert_eq!(found.shape, [2, 2]);
        assert_eq!(texts(&found), ["0.700000:1", "0.200000:2", "3.000000:0", "2.000000:2"]);
    }

    #[test]
    fn without_a_batch_dimension_there_is_one_dimension_whatever_the_outputs_own() {
        let data = floats(&[0.0, 1.0, 2.0, 3.0]);
        let found = classify(output(Datatype::Fp32, &[2, 2], data), 1, false, 100, None).expect("short");
        assert_eq!(found.shape, [4], "all of them, as there are fewer than are asked for");
        assert_eq!(texts(&found), ["3.000000:3", "2.000000:2", "1.000000:1", "0.000000:0"]);
    }

    #[test]
    fn of_equal_ones_the_lower_index_comes_first_and_what_is_no_number_last() {
        let data = floats(&[f32::NAN, 0.0, f32::NEG_INFINITY, -0.0, f32::INFINITY, f32::NAN]);
        let found = classify(output(Datatype::Fp32, &[6], data), 1, false, 6, None).expect("short");
        assert_eq!(texts(&found), ["inf:4", "0.000000:1", "-0.000000:3", "-inf:2", "nan:0", "nan:5"]);
    }

    #[test]
    fn numbers_have_six_decimals_or_all_their_digits() {
        for (value, text) in
            [(0.007_812_5, "0.007812"), (0.023_437_5, "0.023438"), (1e10, "10000000000.000000"), (-2.5e-8, "-0.000000")]
        {
            assert_eq!(float_text(value), text);
        }
        let data = [u64::MAX, 0].into_iter().flat_map(u64::to_le_bytes).collect();
        let found = classify(output(Datatype::Uint64, &[2], data), 1, false, 1, None).expect("short");
        assert_eq!(texts(&found), ["18446744073709551615:0"]);
        let data = [f16::from_f32(0.5), f16::from_f32(1.5)].into_iter().flat_map(f16::to_le_bytes).collect();
        let found = classify(output(Datatype::Fp16, &[2], data), 1, false, 1, None).expect("short");
        assert_eq!(texts(&found), ["1.500000:1"]);
    }

    #[test]
    fn an_output_without_elements_has_no_classes() {
        let found = classify(output(Datatype::Fp32, &[2, 0], Vec::new()), 2, true, 3, None).expect("short");
        assert_eq!((found.shape.as_slice(), texts(&found).len()), (&[2, 0][..], 0));
    }

    #[test]
    fn texts_have_a_limit() {
        let bytes = Bytes::from(vec![0; 8 << 20]);
        let large = OutputTensor { data: OutputData::Here(bytes), ..output(Datatype::Uint8, &[8 << 20], Vec::new()) };
        let fault = classify(large, 1, false, usize::MAX, None).expect_err("some 100 MB");
        assert_eq!(fault.kind(), FaultKind::TooLarge);
        assert!(fault.message().contains("ask for fewer"), "{fault}");
    }

    #[test]
    fn a_number_of_classes_is_at_least_one_and_of_an_output_of_numbers() {
        assert_eq!(wanted_classes(&Parameters::new(), "outputs[0]", &spec(Datatype::Fp32)), Ok(None));
        assert_eq!(wanted(Datatype::Fp32, Parameter::Int64(3)), Ok(Some(3)));
        assert_eq!(wanted(Datatype::Int8, Parameter::Uint64(u64::MAX)), Ok(Some(usize::MAX)));
        let wrong = [
            (Datatype::Fp32, Parameter::Int64(0)),
            (Datatype::Fp32, Parameter::Int64(-1)),
            (Datatype::Fp32, Parameter::Uint64(0)),
            (Datatype::Fp32, Parameter::Double(2.0)),
            (Datatype::Fp32, Parameter::String("2".to_owned())),
            (Datatype::Bytes, Parameter::Int64(2)),
            (Datatype::Bool, Parameter::Int64(2)),
        ];
        for (datatype, value) in wrong {
            let fault = wanted(datatype, value).expect_err("must be refused");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("outputs[3].parameters.classification")));
        }
    }

    proptest! {
        #[test]
        fn the_classes_are_those_of_a_plain_sort(
            rows in proptest::collection::vec(proptest::collection::vec(-4_i16..4, 7), 1..4),
            top in 1_usize..10,
        ) {
            let data: Vec<u8> = rows.iter().flatten().flat_map(|value| f32::from(*value).to_le_bytes()).collect();
            let found = classify(output(Datatype::Fp32, &[rows.len() as i64, 7], data), rows.len(), true, top, None).expect("short");
            let mut expected = Vec::new();
            for row in &rows {
                let mut sorted: Vec<(usize, i16)> = row.iter().copied().enumerate().collect();
                // A stable sort leaves equal values in the order of their indices.
                sorted.sort_by_key(|(_, value)| -value);
                expected.extend(sorted.iter().take(top).map(|(index, value)| format!("{value}.000000:{index}")));
            }
            prop_assert_eq!(texts(&found), expected);
            prop_assert_eq!(found.shape, [rows.len() as i64, top.min(7) as i64]);
        }
    }
}
