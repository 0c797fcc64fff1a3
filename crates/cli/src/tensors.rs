//! Tensors as the command line sees them: values typed by hand or read from a file on the way in, numbers and texts on the way
//! out.
//!
//! Knows the wire's tensors and the domain's datatypes; does not know where the model's specification came from.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::Serialize;
use tidemill_client::Error;

use super::{printed::Record, status::Failure};
use tidemill_domain::{self as domain, match_datatype};
use tidemill_wire::v1::{Datatype, Tensor, TensorSpec};

/// How many elements a tensor's text form shows; the JSON form has them all.
const SHOWN_ELEMENTS_MAX: usize = 16;

/// The argument of `--tensor`: `NAME=VALUE`, where the name may end in a shape such as `:2x3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorArgument {
    name: String,
    value: String,
}

impl FromStr for TensorArgument {
    type Err = String;

    fn from_str(argument: &str) -> Result<Self, String> {
        match argument.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("expected NAME=1,2,3 or NAME=FILE, with an optional shape as in NAME:2x3=FILE".to_owned()),
        }
    }
}

impl TensorArgument {
    /// Makes the tensor that the model's specification asks for.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if there is no such input, a file cannot be read, a number does not fit the datatype, or there are more or
    /// fewer elements than the shape takes.
    pub(super) async fn resolve(&self, inputs: &[TensorSpec], has_batch: bool) -> Result<Tensor, Failure> {
        let (spec, asked_shape) = self.find_spec(inputs)?;
        let dims = item_dims(spec, has_batch);
        let datatype = domain_datatype(spec.datatype)
            .ok_or_else(|| Error::UnexpectedAnswer(format!("input '{}' has datatype {}", spec.name, spec.datatype)))?;
        let (data, elements) =
            self.read(asked_shape.as_deref().unwrap_or(dims), datatype).await.map_err(|reason| self.bad(&reason))?;
        let shape = match asked_shape {
            Some(shape) => shape,
            None => item_shape(spec, dims, elements).map_err(|reason| self.bad(&reason))?,
        };
        let sizes: Option<domain::Shape> = shape.iter().map(|size| usize::try_from(*size).ok()).collect();
        let sizes = sizes.ok_or_else(|| self.bad(&format!("shape {shape:?} cannot be addressed")))?;
        let checked = domain::Tensor::new(datatype, sizes, data.into()).map_err(|error| self.bad(&error.to_string()))?;
        Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: checked.into_data() })
    }

    /// The data that the value stands for, and how many elements it has.
    async fn read(&self, dims: &[i64], datatype: domain::Datatype) -> Result<(Vec<u8>, usize), String> {
        let Some(element_bytes) = datatype.fixed_size() else {
            return self.read_texts(takes_one(dims)).await;
        };
        let data = match parse_values(&self.value, datatype) {
            Some(parsed) => parsed?,
            None => read_file(&self.value).await?,
        };
        let elements = data.len() / element_bytes;
        Ok((data, elements))
    }

    /// One element: a text, or with `@` the content of a file. Where an item takes several, they are separated by commas.
    async fn read_texts(&self, takes_one: bool) -> Result<(Vec<u8>, usize), String> {
        let texts: Vec<&str> = if takes_one { vec![&self.value] } else { self.value.split(',').collect() };
        let mut data = Vec::new();
        for text in &texts {
            let element = match text.strip_prefix('@') {
                Some(file) => read_file(file).await?,
                None => text.as_bytes().to_vec(),
            };
            domain::push_element(&mut data, &element).map_err(|error| error.to_string())?;
        }
        Ok((data, texts.len()))
    }

    /// Names may contain colons, so the whole name is looked up before its end is read as a shape.
    fn find_spec<'a>(&self, inputs: &'a [TensorSpec]) -> Result<(&'a TensorSpec, Option<Vec<i64>>), Failure> {
        let named = |name: &str| inputs.iter().find(|spec| spec.name == name);
        if let Some(spec) = named(&self.name) {
            return Ok((spec, None));
        }
        let with_shape = self.name.rsplit_once(':').and_then(|(name, shape)| Some((named(name)?, parse_shape(shape)?)));
        let (spec, shape) = with_shape.ok_or_else(|| {
            let known: Vec<String> = inputs.iter().map(describe_spec).collect();
            self.bad(&format!("the model has no such input; it takes {}", known.join(", ")))
        })?;
        Ok((spec, Some(shape)))
    }

    fn bad(&self, reason: &str) -> Failure {
        Failure::BadInput(format!("--tensor {}: {reason}", self.name))
    }
}

/// A specification in one line, such as `audio FP32 [-1, 512]`.
pub(super) fn describe_spec(spec: &TensorSpec) -> String {
    format!("{} {} {:?}", spec.name, datatype_name(spec.datatype), spec.shape)
}

/// The protocol's name of a datatype, such as `FP32`.
pub(super) fn datatype_name(datatype: i32) -> &'static str {
    domain_datatype(datatype).map_or("UNKNOWN", domain::Datatype::name)
}

fn domain_datatype(datatype: i32) -> Option<domain::Datatype> {
    let name = Datatype::try_from(datatype).ok()?.as_str_name();
    name.strip_prefix("DATATYPE_")?.parse().ok()
}

fn parse_shape(text: &str) -> Option<Vec<i64>> {
    text.split('x').map(|size| size.parse().ok().filter(|size| *size >= 0)).collect()
}

async fn read_file(path: &str) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("'{path}': {error}"))
}

/// The specification's shape without the batch dimension, if the model has one.
fn item_dims(spec: &TensorSpec, has_batch: bool) -> &[i64] {
    match spec.shape.as_slice() {
        [-1, item @ ..] if has_batch => item,
        shape => shape,
    }
}

fn takes_one(shape: &[i64]) -> bool {
    shape.iter().all(|size| *size == 1)
}

/// The item's shape: the specification's without the batch dimension, with one dynamic dimension at most, which follows from
/// the number of elements.
fn item_shape(spec: &TensorSpec, dims: &[i64], elements: usize) -> Result<Vec<i64>, String> {
    let mut shape = dims.to_vec();
    let dynamic: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] < 0).collect();
    match dynamic.as_slice() {
        [] => Ok(shape),
        [axis] => {
            let fixed: i64 = shape.iter().filter(|size| **size >= 0).product();
            let elements = i64::try_from(elements).unwrap_or(i64::MAX);
            if fixed == 0 || elements % fixed != 0 {
                return Err(format!("{elements} elements do not fill shape {:?}", spec.shape));
            }
            shape[*axis] = elements / fixed;
            Ok(shape)
        }
        _ => Err(format!("shape {:?} has several dynamic dimensions; give their sizes, as in {}:2x3=...", spec.shape, spec.name)),
    }
}

/// Reads comma-separated numbers; `None` if the text is not a list of numbers and so must be the name of a file.
fn parse_values(text: &str, datatype: domain::Datatype) -> Option<Result<Vec<u8>, String>> {
    let values: Vec<&str> = text.split(',').map(str::trim).collect();
    let is_number = |value: &&str| value.parse::<f64>().is_ok() || matches!(*value, "true" | "false");
    if !values.iter().all(is_number) {
        return None;
    }
    let bytes = values.iter().map(|value| {
        value_bytes(value, datatype).ok_or_else(|| match datatype {
            domain::Datatype::Fp16 | domain::Datatype::Bf16 => format!("{datatype} values cannot be typed; put them into a file"),
            _ => format!("'{value}' is not valid as {datatype}"),
        })
    });
    Some(bytes.collect::<Result<Vec<_>, _>>().map(|bytes| bytes.concat()))
}

fn value_bytes(value: &str, datatype: domain::Datatype) -> Option<Vec<u8>> {
    fn little_endian<T: FromStr, const N: usize>(value: &str, to_bytes: fn(T) -> [u8; N]) -> Option<Vec<u8>> {
        value.parse().ok().map(|number| to_bytes(number).to_vec())
    }
    match_datatype!(datatype, {
        Int => little_endian(value, Int::to_le_bytes),
        domain::Datatype::Bool => match value {
            "true" | "1" => Some(vec![1]),
            "false" | "0" => Some(vec![0]),
            _ => None,
        },
        domain::Datatype::Fp32 => little_endian(value, f32::to_le_bytes),
        domain::Datatype::Fp64 => little_endian(value, f64::to_le_bytes),
        domain::Datatype::Fp16 | domain::Datatype::Bf16 | domain::Datatype::Bytes => None,
    })
}

/// An output as it is printed.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct TensorRecord {
    name: String,
    datatype: &'static str,
    shape: Vec<i64>,
    data: Vec<Element>,
}

/// One number, text or string of bytes, in a lossless form.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Element {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Text(String),
    /// Bytes that are not text.
    Binary {
        hex: String,
    },
}

impl Element {
    fn of_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }
}

impl From<&Tensor> for TensorRecord {
    /// A tensor of a datatype that this client does not know has no data.
    fn from(tensor: &Tensor) -> Self {
        let data = domain_datatype(tensor.datatype).map(|datatype| decode(datatype, &tensor.data)).unwrap_or_default();
        Self { name: tensor.name.clone(), datatype: datatype_name(tensor.datatype), shape: tensor.shape.clone(), data }
    }
}

impl fmt::Display for TensorRecord {
    /// A single element stands alone; several come with datatype and shape, and only the first few are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [element] = self.data.as_slice() {
            return write!(f, "{} {element}", self.name);
        }
        write!(f, "{} {} {:?}", self.name, self.datatype, self.shape)?;
        self.data.iter().take(SHOWN_ELEMENTS_MAX).try_for_each(|element| write!(f, " {element}"))?;
        if self.data.len() > SHOWN_ELEMENTS_MAX {
            write!(f, " and {} more", self.data.len() - SHOWN_ELEMENTS_MAX)
        } else {
            Ok(())
        }
    }
}

impl Record for TensorRecord {
    const KIND: &'static str = "output";
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Single(value) => write!(f, "{value:.4}"),
            Self::Double(value) => write!(f, "{value:.4}"),
            // Quoted, so that no text can control the terminal.
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Binary { hex } => write!(f, "<{} bytes>", hex.len() / 2),
        }
    }
}

fn decode(datatype: domain::Datatype, data: &Bytes) -> Vec<Element> {
    fn each<const N: usize>(data: &[u8], element: impl Fn([u8; N]) -> Element) -> Vec<Element> {
        data.as_chunks::<N>().0.iter().map(|bytes| element(*bytes)).collect()
    }
    match datatype {
        domain::Datatype::Bool => each(data, |[byte]| Element::Bool(byte != 0)),
        domain::Datatype::Uint8 => each(data, |[byte]| Element::Unsigned(byte.into())),
        domain::Datatype::Uint16 => each(data, |bytes| Element::Unsigned(u16::from_le_bytes(bytes).into())),
        domain::Datatype::Uint32 => each(data, |bytes| Element::Unsigned(u32::from_le_bytes(bytes).into())),
        domain::Datatype::Uint64 => each(data, |bytes| Element::Unsigned(u64::from_le_bytes(bytes))),
        domain::Datatype::Int8 => each(data, |bytes| Element::Signed(i8::from_le_bytes(bytes).into())),
        domain::Datatype::Int16 => each(data, |bytes| Element::Signed(i16::from_le_bytes(bytes).into())),
        domain::Datatype::Int32 => each(data, |bytes| Element::Signed(i32::from_le_bytes(bytes).into())),
        domain::Datatype::Int64 => each(data, |bytes| Element::Signed(i64::from_le_bytes(bytes))),
        domain::Datatype::Fp16 => each(data, |bytes| Element::Single(f32_from_half(u16::from_le_bytes(bytes)))),
        domain::Datatype::Bf16 => each(data, |bytes| Element::Single(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))),
        domain::Datatype::Fp32 => each(data, |bytes| Element::Single(f32::from_le_bytes(bytes))),
        domain::Datatype::Fp64 => each(data, |bytes| Element::Double(f64::from_le_bytes(bytes))),
        domain::Datatype::Bytes => domain::ByteElements::new(data).map(Element::of_bytes).collect(),
    }
}

/// IEEE 754 half to single precision; every half is a single.
fn f32_from_half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f32::from(bits & 0x3ff) / 1024.0;
    sign * match exponent {
        0 => fraction * 2_f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2_f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    async fn resolve(argument: &str, inputs: &[TensorSpec]) -> Result<Tensor, String> {
        let argument: TensorArgument = argument.parse()?;
        argument.resolve(inputs, true).await.map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn without_a_batch_dimension_the_shape_is_whole() {
        let inputs =
            [spec("x", Datatype::Uint8, &[-1]), spec("boxes", Datatype::Uint8, &[-1, 4]), spec("sr", Datatype::Uint8, &[])];
        let shape = async |argument: &str, has_batch| {
            let argument: TensorArgument = argument.parse()?;
            argument.resolve(&inputs, has_batch).await.map(|tensor| tensor.shape).map_err(|failure| failure.to_string())
        };
        assert_eq!(shape("x=1,2,3", false).await, Ok(vec![3]));
        assert_eq!(shape("boxes=1,2,3,4,5,6,7,8", false).await, Ok(vec![2, 4]));
        assert_eq!(shape("sr=8", false).await, Ok(vec![]));
        assert_eq!(shape("boxes=1,2,3,4", true).await, Ok(vec![4]), "one item of a batch");
        assert_eq!(shape("boxes=/dev/null", false).await, Ok(vec![0, 4]), "a file of nothing");
        assert_eq!(shape("boxes:0x4=/dev/null", false).await, Ok(vec![0, 4]));
    }

    #[tokio::test]
    async fn typed_numbers_take_the_datatype_and_shape_of_the_model() {
        let inputs = [spec("x", Datatype::Int16, &[-1, 3])];
        let tensor = resolve("x=1, -2,3", &inputs).await.expect("fits");
        assert_eq!((tensor.shape, &tensor.data[..]), (vec![3], &[1, 0, 254, 255, 3, 0][..]));
        let error = resolve("x=1,2", &inputs).await.expect_err("one short");
        assert_eq!(error, "--tensor x: 4 bytes of data, but shape [3] of INT16 takes 6");
        let error = resolve("x=1,2,40000", &inputs).await.expect_err("too large");
        assert_eq!(error, "--tensor x: '40000' is not valid as INT16");
    }

    #[tokio::test]
    async fn one_dynamic_dimension_follows_from_the_elements_and_two_must_be_given() {
        let inputs = [spec("x", Datatype::Fp32, &[-1, -1, 2]), spec("y:0", Datatype::Uint8, &[-1, -1, -1])];
        assert_eq!(resolve("x=1,2,3,4", &inputs).await.expect("fits").shape, [2, 2]);
        assert!(resolve("x=1,2,3", &inputs).await.expect_err("odd").contains("3 elements do not fill shape [-1, -1, 2]"));
        assert!(resolve("y:0=1,2", &inputs).await.expect_err("unknown").contains("give their sizes, as in y:0:2x3="));
        assert_eq!(resolve("y:0:2x1=1,2", &inputs).await.expect("said").shape, [2, 1]);
    }

    #[tokio::test]
    async fn a_file_is_sent_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.raw");
        std::fs::write(&file, [1, 2, 3, 4]).expect("written");
        let inputs = [spec("x", Datatype::Fp16, &[-1, 2])];
        let tensor = resolve(&format!("x={}", file.display()), &inputs).await.expect("fits");
        assert_eq!(&tensor.data[..], [1, 2, 3, 4]);
        assert!(resolve("x=1,2", &inputs).await.expect_err("halves").contains("put them into a file"));
    }

    #[tokio::test]
    async fn texts_and_the_contents_of_files_become_elements() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("photo.jpg");
        std::fs::write(&file, [0xff, 0xd8]).expect("written");
        let inputs = [spec("one", Datatype::Bytes, &[-1, 1]), spec("some", Datatype::Bytes, &[-1, -1])];
        let elements = async |argument: &str| {
            let tensor = resolve(argument, &inputs).await?;
            let elements: Vec<Vec<u8>> = domain::ByteElements::new(&tensor.data).map(<[u8]>::to_vec).collect();
            Ok((tensor.shape, elements))
        };
        assert_eq!(elements("one=1, 2").await, Ok((vec![1], vec![b"1, 2".to_vec()])), "a text with a comma");
        assert_eq!(elements("some=a,,c").await, Ok((vec![3], vec![b"a".to_vec(), vec![], b"c".to_vec()])));
        let file = file.display();
        assert_eq!(elements(&format!("one=@{file}")).await, Ok((vec![1], vec![vec![0xff, 0xd8]])));
        assert_eq!(elements(&format!("some=@{file},b")).await, Ok((vec![2], vec![vec![0xff, 0xd8], b"b".to_vec()])));
        let error: Result<_, String> = elements("some:3=a,b").await;
        assert_eq!(error, Err("--tensor some:3: the data hold 2 of the 3 elements that the shape takes".to_owned()));
    }

    #[test]
    fn texts_are_printed_quoted_and_other_bytes_by_their_number() {
        let mut data = Vec::new();
        for element in [&b"caf\xc3\xa9\x1b"[..], b"\xff\0"] {
            domain::push_element(&mut data, element).expect("short");
        }
        let tensor = Tensor { name: "y".to_owned(), datatype: Datatype::Bytes.into(), shape: vec![2], data: data.into() };
        let record = TensorRecord::from(&tensor);
        assert_eq!(record.to_string(), "y BYTES [2] \"café\\u{1b}\" <2 bytes>");
        let json = serde_json::to_string(&record).expect("it can be written");
        assert_eq!(json, r#"{"name":"y","datatype":"BYTES","shape":[2],"data":["café\u001b",{"hex":"ff00"}]}"#);
    }

    #[tokio::test]
    async fn an_unknown_input_is_answered_with_the_known_ones() {
        let error = resolve("audio=1", &[spec("x", Datatype::Fp32, &[-1, 2])]).await.expect_err("unknown");
        assert_eq!(error, "--tensor audio: the model has no such input; it takes x FP32 [-1, 2]");
    }

    #[test]
    fn halves_of_every_class_are_decoded() {
        let halves = [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2_f32.powi(-24)), (0x7bff, 65_504.0), (0x7c00, f32::INFINITY)];
        for (bits, value) in halves {
            assert_eq!(f32_from_half(bits), value, "{bits:#06x}");
        }
        assert!(f32_from_half(0x7e00).is_nan());
    }

    #[test]
    fn single_precision_numbers_are_printed_as_short_as_they_can_be_read_back() {
        let tensor = Tensor {
            name: "p".to_owned(),
            datatype: Datatype::Fp32.into(),
            shape: vec![2],
            data: [0.1_f32, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
        };
        let record = TensorRecord::from(&tensor);
        let json = serde_json::to_string(&record).expect("serializes");
        assert_eq!(json, r#"{"name":"p","datatype":"FP32","shape":[2],"data":[0.1,1.0]}"#);
        assert_eq!(record.to_string(), "p FP32 [2] 0.1000 1.0000");
    }
}
