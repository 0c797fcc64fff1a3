//! The bodies of requests.

use std::fmt::Write as _;

use bytes::Bytes;
use half::{bf16, f16};
use serde::Serialize;
use tidemill::domain::Datatype;

use crate::load::file::{Input, Load};

/// The JSON that precedes binary data, according to the binary data extension of the Open Inference Protocol.
#[derive(Serialize)]
struct InferHead<'a> {
    inputs: Vec<InferInput<'a>>,
    parameters: InferParameters,
}

#[derive(Serialize)]
struct InferInput<'a> {
    name: &'a str,
    shape: Vec<usize>,
    datatype: &'static str,
    parameters: BinarySize,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

#[derive(Serialize)]
struct InferParameters {
    binary_data_output: bool,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
}

/// The JSON of a request of `load`, given the data of its inputs. Outputs are requested as binary data too.
///
/// # Errors
/// None: what is written here can always be written as JSON.
pub(super) fn infer_head(load: &Load, tensors: &[Bytes]) -> anyhow::Result<Vec<u8>> {
    let inputs = load.inputs.iter().zip(tensors);
    let inputs = inputs.map(|(input, data)| InferInput {
        name: &input.name,
        shape: std::iter::once(load.batch).chain(input.shape.iter().copied()).collect(),
        datatype: input.datatype.name(),
        parameters: BinarySize { binary_data_size: data.len() },
    });
    let inputs = inputs.collect();
    let timeout = load.deadline().map(|deadline| deadline.as_micros() as u64);
    let parameters = InferParameters { binary_data_output: true, timeout };
    Ok(serde_json::to_vec(&InferHead { inputs, parameters })?)
}

/// A head, and the data that it describes.
pub(super) fn infer(head: &[u8], tensors: &[Bytes]) -> Bytes {
    let parts = std::iter::once(head).chain(tensors.iter().map(|data| &data[..]));
    parts.collect::<Vec<_>>().concat().into()
}

/// The data of all tensors, one after another.
pub(super) fn binary(tensors: &[Bytes]) -> Bytes {
    infer(&[], tensors)
}

/// `{"inputs": {"NAME": …}}`, with lists as deep as a tensor has dimensions, and a bare value for one that has none.
pub(super) fn json(inputs: &[Input], tensors: &[Bytes]) -> Bytes {
    let mut text = String::from("{\"inputs\":{");
    for (place, (input, data)) in inputs.iter().zip(tensors).enumerate() {
        let comma = if place > 0 { "," } else { "" };
        // Writing to a string cannot fail, here and below.
        let _ = write!(text, "{comma}{}:", quoted(&input.name));
        nest(&mut text, &input.shape, &mut elements(input.datatype, data).into_iter());
    }
    text.push_str("}}");
    text.into()
}

fn nest(text: &mut String, shape: &[usize], elements: &mut impl Iterator<Item = String>) {
    let [axis, inner @ ..] = shape else {
        text.push_str(&elements.next().unwrap_or_default());
        return;
    };
    text.push('[');
    for place in 0..*axis {
        if place > 0 {
            text.push(',');
        }
        nest(text, inner, elements);
    }
    text.push(']');
}

/// Each element as JSON.
fn elements(datatype: Datatype, data: &[u8]) -> Vec<String> {
    match datatype {
        Datatype::Bool => data.iter().map(|byte| (*byte != 0).to_string()).collect(),
        Datatype::Uint8 => each(data, u8::from_le_bytes),
        Datatype::Uint16 => each(data, u16::from_le_bytes),
        Datatype::Uint32 => each(data, u32::from_le_bytes),
        Datatype::Uint64 => each(data, u64::from_le_bytes),
        Datatype::Int8 => each(data, i8::from_le_bytes),
        Datatype::Int16 => each(data, i16::from_le_bytes),
        Datatype::Int32 => each(data, i32::from_le_bytes),
        Datatype::Int64 => each(data, i64::from_le_bytes),
        Datatype::Fp16 => each(data, f16::from_le_bytes),
        Datatype::Bf16 => each(data, bf16::from_le_bytes),
        Datatype::Fp32 => each(data, f32::from_le_bytes),
        Datatype::Fp64 => each(data, f64::from_le_bytes),
        Datatype::Bytes => texts(data),
    }
}

fn each<const SIZE: usize, T: ToString>(data: &[u8], from: fn([u8; SIZE]) -> T) -> Vec<String> {
    let (chunks, _) = data.as_chunks();
    chunks.iter().map(|chunk| from(*chunk).to_string()).collect()
}

/// Strings of bytes, each after its length in four bytes. Anything in them that is not Unicode is replaced: JSON has no way to write it.
fn texts(mut data: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let (text, rest) = rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize));
        texts.push(quoted(&String::from_utf8_lossy(text)));
        data = rest;
    }
    texts
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{file::Fill, payload::Payload};

    fn input(name: &str, datatype: Datatype, shape: &[usize]) -> Input {
        Input { name: name.to_owned(), datatype, shape: shape.to_vec(), fill: Fill::Counter }
    }

    fn parsed(inputs: &[Input], tensors: &[Bytes]) -> serde_json::Value {
        serde_json::from_slice(&json(inputs, tensors)).expect("it is JSON")
    }

    #[test]
    fn json_lists_are_as_deep_as_shapes() {
        let inputs = [
            input("a \"b\"", Datatype::Int32, &[2, 3]),
            input("one", Datatype::Fp32, &[]),
            input("none", Datatype::Fp64, &[2, 0]),
        ];
        let payload = Payload::new(&inputs, 1, 1);
        let expected = serde_json::json!({ "inputs": { "a \"b\"": [[0, 1, 2], [3, 4, 5]], "one": 0, "none": [[], []] } });
        assert_eq!(parsed(&inputs, payload.of(0)), expected);
    }

    #[test]
    fn every_datatype_and_fill_is_json() {
        for datatype in Datatype::ALL {
            for fill in [Fill::Noise, Fill::Ones] {
                let inputs = [Input { fill, ..input("x", datatype, &[3]) }];
                let value = parsed(&inputs, Payload::new(&inputs, 1, 1).of(0));
                assert_eq!(value["inputs"]["x"].as_array().map(Vec::len), Some(3), "{datatype}: {value}");
            }
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        let inputs = [input("x", Datatype::Fp32, &[2])];
        let data = Bytes::from([0.1_f32, -2.5e-5].map(f32::to_le_bytes).concat());
        assert_eq!(json(&inputs, &[data]), r#"{"inputs":{"x":[0.1,-0.000025]}}"#);
    }

    #[test]
    fn tensors_follow_one_another() {
        let tensors = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        assert_eq!(binary(&tensors), "abc");
        assert_eq!(infer(b"{}", &tensors), "{}abc");
    }
}
