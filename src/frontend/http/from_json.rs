//! JSON arrays of numbers, booleans and strings as the bytes of tensors.
//!
//! Works on text that is known to be JSON, in one pass, without a tree and without recursion: what it needs besides the result
//! does not grow with the text. Each number is read as its own type straight from its digits, so none is rounded on the way.

use std::{fmt, str::FromStr};

use bytes::Bytes;

use crate::domain::{Datatype, bad_dimension, match_datatype, push_element};

/// Levels of brackets; more than any sensible tensor has.
const NESTING_MAX: usize = 32;

/// Characters of a value that are quoted in an error.
const QUOTED_CHARS: usize = 40;

/// How the elements of an array must be nested.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout<'a> {
    /// In one flat list, or nested as this shape says.
    Of(&'a [i64]),
    /// In any way: a lone value, or lists of equal length on each level.
    Any,
}

/// The elements, and how they were nested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elements {
    /// Row-major, little-endian.
    pub(super) data: Bytes,
    /// Lengths of the lists, outermost first; empty for a lone value.
    pub(super) shape: Vec<i64>,
}

/// Reads the elements of an array.
///
/// # Errors
/// A sentence with the index of the element, its value and what would be accepted: the wrong kind of value, a number out of
/// range, more or fewer elements than the layout takes, lists of unequal length, FP16 and BF16, which JSON does not have.
pub(super) fn read(json: &str, datatype: Datatype, layout: Layout<'_>) -> Result<Elements, String> {
    let read_element: ReadElement = match_datatype!(datatype, {
        Int => |token, data| integer(token, data, Int::to_le_bytes),
        Datatype::Bool => boolean,
        Datatype::Fp32 => |token, data| {
            let value = number(token)?;
            finite(f32::is_finite(value), data, &value.to_le_bytes())
        },
        Datatype::Fp64 => |token, data| {
            let value = number(token)?;
            finite(f64::is_finite(value), data, &value.to_le_bytes())
        },
        Datatype::Bytes => string,
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(format!("{datatype} has no form in JSON; send the tensor as binary data (binary_data_size)"));
        }
    });
    walk(json, datatype, layout, read_element)
}

/// Appends an element's bytes, or says what is wrong with it.
type ReadElement = fn(&str, &mut Vec<u8>) -> Result<(), Bad>;

/// What is wrong with an element.
enum Bad {
    Kind,
    Range,
}

fn boolean(token: &str, data: &mut Vec<u8>) -> Result<(), Bad> {
    match token {
        "true" => data.push(1),
        "false" => data.push(0),
        _ => return Err(Bad::Kind),
    }
    Ok(())
}

fn string(token: &str, data: &mut Vec<u8>) -> Result<(), Bad> {
    let inner = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(Bad::Kind)?;
    let pushed = if inner.contains('\\') {
        let unescaped: String = serde_json::from_str(token).map_err(|_| Bad::Kind)?;
        push_element(data, unescaped.as_bytes())
    } else {
        push_element(data, inner.as_bytes())
    };
    pushed.map_err(|_| Bad::Range)
}

fn finite(is_finite: bool, data: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Bad> {
    if !is_finite {
        return Err(Bad::Range);
    }
    data.extend_from_slice(bytes);
    Ok(())
}

fn number<T: FromStr>(token: &str) -> Result<T, Bad> {
    // Rust's parser takes words such as `inf` too. The text is JSON, so whatever begins like a number is one.
    if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        token.parse().map_err(|_| Bad::Kind)
    } else {
        Err(Bad::Kind)
    }
}

fn integer<T, const N: usize>(token: &str, data: &mut Vec<u8>, to_le_bytes: fn(T) -> [u8; N]) -> Result<(), Bad>
where
    T: FromStr + TryFrom<i128>,
{
    let value = match token.parse() {
        Ok(value) => value,
        // `-0`, and numbers out of range: the quick way's error does not distinguish those from other faults.
        Err(_) => {
            let digits = token.strip_prefix('-').unwrap_or(token);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Bad::Kind);
            }
            token.parse::<i128>().ok().and_then(|value| value.try_into().ok()).ok_or(Bad::Range)?
        }
    };
    data.extend_from_slice(&to_le_bytes(value));
    Ok(())
}

fn walk(json: &str, datatype: Datatype, layout: Layout<'_>, read_element: ReadElement) -> Result<Elements, String> {
    let mut lists = Lists::new(layout)?;
    let elements_max = json.len() / 2 + 1;
    let mut data = Vec::with_capacity(lists.expected.unwrap_or(elements_max).min(elements_max) * datatype.least_size());
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'[' => lists.open()?,
            b']' => lists.close()?,
            b',' | b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' => return Err(format!("element {} is an object, but {}", lists.elements, accepted(datatype))),
            first => {
                at = if *first == b'"' { end_of_string(bytes, at) } else { end_of_word(bytes, at) };
                let token = json.get(start..at).unwrap_or_default();
                let index = lists.elements;
                lists.element()?;
                read_element(token, &mut data).map_err(|bad| complaint(index, token, datatype, &bad))?;
            }
        }
    }
    let shape = lists.finish()?;
    Ok(Elements { data: data.into(), shape })
}

fn end_of_word(bytes: &[u8], from: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r');
    bytes[from..].iter().position(ends).map_or(bytes.len(), |length| from + length)
}

/// One past the closing quote; `from` is one past the opening one.
fn end_of_string(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn complaint(index: usize, token: &str, datatype: Datatype, bad: &Bad) -> String {
    let quoted: String = token.chars().take(QUOTED_CHARS).collect();
    let ellipsis = if quoted.len() < token.len() { "…" } else { "" };
    match bad {
        Bad::Kind => format!("element {index} is {quoted}{ellipsis}, but {}", accepted(datatype)),
        Bad::Range => format!("element {index} is {quoted}{ellipsis}, which is out of range: {}", accepted(datatype)),
    }
}

/// The values that a datatype takes, in words.
fn accepted(datatype: Datatype) -> Accepted {
    Accepted(datatype)
}

struct Accepted(Datatype);

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let datatype = self.0;
        let (low, high) = match_datatype!(datatype, {
            Int => (i128::from(Int::MIN), i128::from(Int::MAX)),
            Datatype::Bool => return write!(f, "{datatype} takes true and false"),
            Datatype::Fp32 | Datatype::Fp64 | Datatype::Fp16 | Datatype::Bf16 => {
                return write!(f, "{datatype} takes finite numbers of its range");
            }
            Datatype::Bytes => return write!(f, "{datatype} takes strings"),
        });
        write!(f, "{datatype} takes integers from {low} to {high}")
    }
}

/// The position of the walk, and the lengths of the lists.
struct Lists<'a> {
    layout: Layout<'a>,
    /// Elements in all, if the layout says.
    expected: Option<usize>,
    elements: usize,
    /// Members so far of each open list, outermost first.
    open: Vec<usize>,
    /// Length of the lists on each level, once one of them has ended. Elements lie on the innermost level only.
    lengths: Vec<Option<usize>>,
}

impl<'a> Lists<'a> {
    fn new(layout: Layout<'a>) -> Result<Self, String> {
        let expected = match layout {
            Layout::Of(shape) => Some(expected_elements(shape)?),
            Layout::Any => None,
        };
        Ok(Self { layout, expected, elements: 0, open: Vec::new(), lengths: Vec::new() })
    }

    fn open(&mut self) -> Result<(), String> {
        if self.open.len() == NESTING_MAX {
            return Err(format!("lists are nested more than {NESTING_MAX} deep"));
        }
        if self.elements > 0 && self.open.len() == self.lengths.len() {
            return Err(format!("there is a list where element {} should be", self.elements));
        }
        self.count_member();
        self.open.push(0);
        if self.lengths.len() < self.open.len() {
            self.lengths.push(None);
        }
        Ok(())
    }

    fn element(&mut self) -> Result<(), String> {
        let (depth, depth_of_others) = (self.open.len(), self.lengths.len());
        if depth != depth_of_others {
            return Err(format!("element {} lies in {depth} lists, but those before it in {depth_of_others}", self.elements));
        }
        self.count_member();
        self.elements += 1;
        match (self.expected, self.layout) {
            (Some(expected), Layout::Of(shape)) if self.elements > expected => {
                Err(format!("there are more than the {expected} elements that shape {shape:?} takes"))
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(length) = self.open.pop() else { return Ok(()) };
        let level = self.open.len();
        match self.lengths[level] {
            Some(known) if known != length => {
                let before = self.elements;
                Err(format!("the list that ends before element {before} has {length} members, but those before it {known}"))
            }
            _ => {
                self.lengths[level] = Some(length);
                Ok(())
            }
        }
    }

    fn count_member(&mut self) {
        if let Some(members) = self.open.last_mut() {
            *members += 1;
        }
    }

    fn finish(self) -> Result<Vec<i64>, String> {
        let lengths = self.lengths.iter().map(|length| i64::try_from(length.unwrap_or_default()).unwrap_or(i64::MAX));
        let found: Vec<i64> = lengths.collect();
        let Layout::Of(shape) = self.layout else { return Ok(found) };
        if self.expected != Some(self.elements) {
            let expected = self.expected.unwrap_or_default();
            return Err(format!("there are {} elements, but shape {shape:?} takes {expected}", self.elements));
        }
        // Empty lists have nothing inside that could be nested further.
        let ends_empty = found.last() == Some(&0) && shape.starts_with(&found);
        if found.len() > 1 && found != shape && !ends_empty {
            return Err(format!("the lists are nested as {found:?}, but the shape is {shape:?}; nest them so, or not at all"));
        }
        Ok(shape.to_vec())
    }
}

/// Elements of a tensor of this shape.
fn expected_elements(shape: &[i64]) -> Result<usize, String> {
    shape.iter().enumerate().try_fold(1_usize, |product, (axis, size)| match usize::try_from(*size) {
        Ok(size) => product.checked_mul(size).ok_or_else(|| format!("shape {shape:?} has more elements than can be addressed")),
        Err(_) => Err(bad_dimension(shape, axis)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ByteElements;

    fn le<const N: usize, T: Copy>(values: &[T], to_le_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| to_le_bytes(*value)).collect()
    }

    fn data(json: &str, datatype: Datatype) -> Vec<u8> {
        read(json, datatype, Layout::Any).expect("elements").data.to_vec()
    }

    #[test]
    fn each_datatype_is_read_over_its_whole_range() {
        use Datatype::{Bool, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
        assert_eq!(data("[true, false]", Bool), [1, 0]);
        assert_eq!(data("[0, 255]", Uint8), [0, 255]);
        assert_eq!(data("[0, 65535]", Uint16), le(&[0, u16::MAX], u16::to_le_bytes));
        assert_eq!(data("[4294967295]", Uint32), le(&[u32::MAX], u32::to_le_bytes));
        assert_eq!(data("[18446744073709551615]", Uint64), le(&[u64::MAX], u64::to_le_bytes));
        assert_eq!(data("[-128, 127]", Int8), le(&[-128, 127], i8::to_le_bytes));
        assert_eq!(data("[-32768]", Int16), le(&[i16::MIN], i16::to_le_bytes));
        assert_eq!(data("[-2147483648]", Int32), le(&[i32::MIN], i32::to_le_bytes));
        let extremes = "[-9223372036854775808, 9223372036854775807, 9007199254740993, -0]";
        assert_eq!(data(extremes, Int64), le(&[i64::MIN, i64::MAX, (1 << 53) + 1, 0], i64::to_le_bytes));
        assert_eq!(data("[1, -0.0, 1e-45, 3.4028235e38, 1E2]", Fp32), le(&[1.0, -0.0, 1e-45, f32::MAX, 100.0], f32::to_le_bytes));
        assert_eq!(data("[1.7976931348623157e308, 5e-324]", Fp64), le(&[f64::MAX, 5e-324], f64::to_le_bytes));
    }

    #[test]
    fn strings_are_read_without_their_escapes() {
        let read = data(r#"["", "né", "a\"\\\n\u00e9]"]"#, Datatype::Bytes);
        let elements: Vec<_> = ByteElements::new(&read).collect();
        assert_eq!(elements, ["", "né", "a\"\\\né]"].map(str::as_bytes));
    }

    #[test]
    fn a_number_is_rounded_once() {
        // Just above the midpoint of two 32-bit numbers. Rounded to 64 bits first, it would be the midpoint and round down.
        let above = f32::from_bits(1.0_f32.to_bits() + 1);
        assert_eq!(data("[1.00000005960464477539062500001]", Datatype::Fp32), le(&[above], f32::to_le_bytes));
        assert_eq!(data("[7.2057594037927933e16]", Datatype::Fp64), le(&[72_057_594_037_927_936.0_f64], f64::to_le_bytes));
    }

    #[test]
    fn lists_lie_flat_or_as_the_shape_says() {
        let nested = |json| read(json, Datatype::Uint8, Layout::Of(&[2, 3])).map(|elements| elements.data.to_vec());
        assert_eq!(nested("[1,2,3,4,5,6]"), Ok(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(nested(" [ [1, 2,3],\n\t[4,5,6] ]\r"), Ok(vec![1, 2, 3, 4, 5, 6]));
        for (json, complaint) in [
            ("[1,2,3,4,5]", "there are 5 elements, but shape [2, 3] takes 6"),
            ("[1,2,3,4,5,6,7]", "there are more than the 6 elements that shape [2, 3] takes"),
            ("[[1,2],[3,4],[5,6]]", "the lists are nested as [3, 2], but the shape is [2, 3]; nest them so, or not at all"),
            ("[[[1,2,3],[4,5,6]]]", "the lists are nested as [1, 2, 3], but"),
            ("[[1,2,3],[4,5],[6]]", "the list that ends before element 5 has 2 members, but those before it 3"),
            ("[[1,2,3],4,5,6]", "element 3 lies in 1 lists, but those before it in 2"),
            ("[1,[2,3]]", "there is a list where element 1 should be"),
            ("[]", "there are 0 elements"),
            ("[[],[]]", "there are 0 elements"),
        ] {
            let found = nested(json).expect_err("another shape");
            assert!(found.starts_with(complaint), "{json}: {found}");
        }
        assert!(read(&"[".repeat(100_000), Datatype::Uint8, Layout::Any).expect_err("too deep").contains("32 deep"));
    }

    #[test]
    fn a_tensor_may_be_empty() {
        let read = |json, shape: &[i64]| {
            read(json, Datatype::Uint8, Layout::Of(shape)).map(|elements| (elements.data.len(), elements.shape))
        };
        for (json, shape) in [
            ("[]", &[0][..]),
            ("[]", &[0, 4]),
            ("[]", &[2, 0, 3]),
            ("[[],[]]", &[2, 0]),
            ("[[],[]]", &[2, 0, 3]),
            (" [ ] ", &[3, 0]),
        ] {
            assert_eq!(read(json, shape), Ok((0, shape.to_vec())), "{json}");
        }
        assert!(read("[[],[],[]]", &[2, 0]).expect_err("three lists").starts_with("the lists are nested as [3, 0]"));
        assert!(read("[1]", &[0, 4]).expect_err("an element").starts_with("there are more than the 0 elements"));
    }

    #[test]
    fn the_shape_is_that_of_the_lists_if_there_is_no_other() {
        let shape = |json| read(json, Datatype::Uint8, Layout::Any).map(|elements| elements.shape);
        assert_eq!(shape("7"), Ok(vec![]));
        assert_eq!(shape("[7]"), Ok(vec![1]));
        assert_eq!(shape("[[[1,2]],[[3,4]],[[5,6]]]"), Ok(vec![3, 1, 2]));
        assert_eq!(shape("[]"), Ok(vec![0]));
        assert!(shape("[[1,2],[3]]").is_err());
    }

    #[test]
    fn a_bad_element_is_named_with_its_index_its_value_and_what_is_taken() {
        let cases = [
            (Datatype::Uint8, "[1, 256]", "element 1 is 256, which is out of range: UINT8 takes integers from 0 to 255"),
            (
                Datatype::Uint64,
                "[-1]",
                "element 0 is -1, which is out of range: UINT64 takes integers from 0 to 18446744073709551615",
            ),
            (Datatype::Int8, "[0, 0, -129]", "element 2 is -129, which is out of range: INT8 takes integers from -128 to 127"),
            (Datatype::Int64, "[9223372036854775808]", "element 0 is 9223372036854775808, which is out of range"),
            (Datatype::Int32, "[1.5]", "element 0 is 1.5, but INT32 takes integers"),
            (Datatype::Int32, "[1e2]", "element 0 is 1e2, but INT32 takes integers"),
            (Datatype::Fp32, "[1e39]", "element 0 is 1e39, which is out of range: FP32 takes finite numbers"),
            (Datatype::Fp64, "[-1e309]", "element 0 is -1e309, which is out of range: FP64 takes finite numbers"),
            (Datatype::Fp32, "[\"NaN\"]", "element 0 is \"NaN\", but FP32 takes finite numbers"),
            (Datatype::Fp32, "[null]", "element 0 is null, but FP32 takes finite numbers"),
            (Datatype::Fp32, "[true]", "element 0 is true, but FP32 takes finite numbers"),
            (Datatype::Bool, "[1]", "element 0 is 1, but BOOL takes true and false"),
            (Datatype::Uint8, "[{\"a\":[1]}]", "element 0 is an object, but UINT8 takes"),
            (Datatype::Bytes, "[\"a\", 1]", "element 1 is 1, but BYTES takes strings"),
            (Datatype::Fp16, "[1]", "FP16 has no form in JSON; send the tensor as binary data (binary_data_size)"),
            (Datatype::Bf16, "[1]", "BF16 has no form in JSON"),
        ];
        for (datatype, json, complaint) in cases {
            let found = read(json, datatype, Layout::Any).expect_err("not of the datatype");
            assert!(found.starts_with(complaint), "{datatype} {json}: {found}");
        }
        let long = read(&format!("[{}]", "9".repeat(1_000)), Datatype::Int64, Layout::Any).expect_err("out of range");
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_shape_that_is_none_is_refused_before_anything_is_set_aside() {
        let of = |shape: &[i64]| read("[1]", Datatype::Fp64, Layout::Of(shape)).expect_err("no shape");
        assert_eq!(of(&[1, 0]), "there are more than the 0 elements that shape [1, 0] takes");
        assert_eq!(of(&[-1]), "dimension 0 of shape [-1] is -1; dimensions must be 0 or more");
        assert!(of(&[i64::MAX, 3]).contains("more elements than can be addressed"));
        assert!(of(&[i64::MAX]).contains("there are 1 elements"));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let scalar = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        scalar.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(".{0,3}", inner, 0..3)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_elements_or_a_complaint(value in json(), shape in proptest::collection::vec(-1_i64..5, 0..4)) {
            let text = value.to_string();
            for datatype in Datatype::ALL {
                for layout in [Layout::Any, Layout::Of(&shape)] {
                    if let Ok(elements) = read(&text, datatype, layout) {
                        let count: i64 = elements.shape.iter().product();
                        let found = match datatype.fixed_size() {
                            Some(size) => elements.data.len() / size,
                            None => ByteElements::new(&elements.data).count(),
                        };
                        prop_assert_eq!(found, usize::try_from(count).expect("small"));
                    }
                }
            }
        }

        #[test]
        fn what_is_no_json_does_no_harm(text in "[\\[\\],\"\\\\{} 0-9eé.-]{0,40}") {
            for datatype in Datatype::ALL {
                let _ = read(&text, datatype, Layout::Any);
                let _ = read(&text, datatype, Layout::Of(&[2, 2]));
            }
        }

        #[test]
        fn numbers_come_out_as_they_went_in(ints in proptest::collection::vec(any::<i64>(), 1..20), floats in proptest::collection::vec(any::<f32>(), 1..20)) {
            let text = serde_json::to_string(&ints).expect("JSON");
            prop_assert_eq!(data(&text, Datatype::Int64), le(&ints, i64::to_le_bytes));
            let floats: Vec<f32> = floats.into_iter().filter(|value| value.is_finite()).collect();
            let text = serde_json::to_string(&floats).expect("JSON");
            prop_assert_eq!(data(&text, Datatype::Fp32), le(&floats, f32::to_le_bytes));
        }
    }
}
