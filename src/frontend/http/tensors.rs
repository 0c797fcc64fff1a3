//! JSON arrays of numbers, booleans and strings as the bytes of tensors.
//!
//! Works on text that is known to be JSON, in one pass, without a tree and without recursion: what it needs beside the result does
//! not grow with the text. Each number is read as its own type straight from its digits, so none is rounded on the way.

use std::{fmt, str::FromStr};

use bytes::Bytes;

use crate::domain::Datatype;

/// Levels of brackets; more than a tensor that means something has.
const NESTING_MAX: usize = 32;

/// Characters of a value that are quoted in an error.
const QUOTED_CHARS: usize = 40;

/// How the elements of an array must lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout<'a> {
    /// In one flat list, or nested as this shape says.
    Of(&'a [i64]),
    /// However they do: a lone value, or lists as long as one another on each level.
    Any,
}

/// The elements, and how they lay.
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
/// A sentence with the index of the element, its value and what would be accepted: another kind of value, a number out of range,
/// more or fewer elements than the layout takes, lists of other lengths, FP16 and BF16, which JSON does not have.
pub(super) fn read(json: &str, datatype: Datatype, layout: Layout<'_>) -> Result<Elements, String> {
    let read_element: ReadElement = match datatype {
        Datatype::Bool => boolean,
        Datatype::Uint8 => |token, data| integer(token, data, u8::to_le_bytes),
        Datatype::Uint16 => |token, data| integer(token, data, u16::to_le_bytes),
        Datatype::Uint32 => |token, data| integer(token, data, u32::to_le_bytes),
        Datatype::Uint64 => |token, data| integer(token, data, u64::to_le_bytes),
        Datatype::Int8 => |token, data| integer(token, data, i8::to_le_bytes),
        Datatype::Int16 => |token, data| integer(token, data, i16::to_le_bytes),
        Datatype::Int32 => |token, data| integer(token, data, i32::to_le_bytes),
        Datatype::Int64 => |token, data| integer(token, data, i64::to_le_bytes),
        Datatype::Fp32 => |token, data| {
            let value = number(token)?;
            finite(f32::is_finite(value), data, &value.to_le_bytes())
        },
        Datatype::Fp64 => |token, data| {
            let value = number(token)?;
            finite(f64::is_finite(value), data, &value.to_le_bytes())
        },
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            return Err(format!("{datatype} has no form in JSON; send the tensor as binary data (binary_data_size)"));
        }
    };
    walk(json, datatype, layout, read_element)
}

/// Appends an element's bytes, or says why it is none.
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

fn finite(is_finite: bool, data: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Bad> {
    if !is_finite {
        return Err(Bad::Range);
    }
    data.extend_from_slice(bytes);
    Ok(())
}

fn number<T: FromStr>(token: &str) -> Result<T, Bad> {
    // Rust reads words such as `inf` too. The text is JSON, so whatever begins like a number is one.
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
        // `-0`, and what is out of range, which is not to be told from other things by the error of the quick way.
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

/// What a datatype takes, in words.
fn accepted(datatype: Datatype) -> Accepted {
    Accepted(datatype)
}

struct Accepted(Datatype);

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let datatype = self.0;
        let (low, high) = match datatype {
            Datatype::Bool => return write!(f, "{datatype} takes true and false"),
            Datatype::Fp32 | Datatype::Fp64 | Datatype::Fp16 | Datatype::Bf16 => {
                return write!(f, "{datatype} takes finite numbers of its range");
            }
            Datatype::Bytes => return write!(f, "{datatype} takes strings"),
            Datatype::Uint8 => (0, u64::from(u8::MAX)),
            Datatype::Uint16 => (0, u64::from(u16::MAX)),
            Datatype::Uint32 => (0, u64::from(u32::MAX)),
            Datatype::Uint64 => (0, u64::MAX),
            Datatype::Int8 => (i64::from(i8::MIN), i8::MAX as u64),
            Datatype::Int16 => (i64::from(i16::MIN), i16::MAX as u64),
            Datatype::Int32 => (i64::from(i32::MIN), i32::MAX as u64),
            Datatype::Int64 => (i64::MIN, i64::MAX as u64),
        };
        write!(f, "{datatype} takes integers from {low} to {high}")
    }
}

/// Where the walk is, and how long the lists are.
struct Lists<'a> {
    layout: Layout<'a>,
    /// Elements in all, if the layout says.
    expected: Option<usize>,
    elements: usize,
    /// Members so far of the lists that are open, outermost first.
    open: Vec<usize>,
    /// Length of the lists on each level, as soon as one of them has ended.
    lengths: Vec<Option<usize>>,
    /// Lists around each element, once there was one.
    depth: Option<usize>,
}

impl<'a> Lists<'a> {
    fn new(layout: Layout<'a>) -> Result<Self, String> {
        let expected = match layout {
            Layout::Of(shape) => Some(expected_elements(shape)?),
            Layout::Any => None,
        };
        Ok(Self { layout, expected, elements: 0, open: Vec::new(), lengths: Vec::new(), depth: None })
    }

    fn open(&mut self) -> Result<(), String> {
        if self.open.len() == NESTING_MAX {
            return Err(format!("lists are nested more than {NESTING_MAX} deep"));
        }
        if self.depth.is_some_and(|depth| self.open.len() >= depth) {
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
        let depth = *self.depth.get_or_insert(self.open.len());
        if depth != self.open.len() {
            return Err(format!("element {} lies in {} lists, but those before it in {depth}", self.elements, self.open.len()));
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
                Err(format!("the list that ends before element {before} has {length} members, but others beside it {known}"))
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
        if found.len() > 1 && found != shape {
            return Err(format!("the lists are nested as {found:?}, but the shape is {shape:?}; nest them so, or not at all"));
        }
        Ok(shape.to_vec())
    }
}

/// Elements of a tensor of this shape.
fn expected_elements(shape: &[i64]) -> Result<usize, String> {
    shape.iter().enumerate().try_fold(1_usize, |product, (axis, size)| match usize::try_from(*size) {
        Ok(size) if size > 0 => {
            product.checked_mul(size).ok_or_else(|| format!("shape {shape:?} has more elements than can be addressed"))
        }
        _ => Err(format!("dimension {axis} of shape {shape:?} is {size}; dimensions must be at least 1")),
    })
}
