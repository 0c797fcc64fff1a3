//! Rewrites a file with a few changes: everything else is copied as it is, whether known here or not.

use rten_onnx::protobuf::Fields;

use super::{
    external::{External, is_shared},
    proto::{self, Tensor},
    reader::BoundedReader,
};

/// Bytes that are reserved for the length of a message before it is known: numbers up to 2^35.
const LENGTH_BYTES: usize = 5;

/// Numbers, from `onnx.proto`, of the fields that lead to what is changed.
mod field {
    pub(super) const MODEL_GRAPH: u64 = 7;
    pub(super) const MODEL_FUNCTIONS: u64 = 25;
    pub(super) const FUNCTION_NODE: u64 = 7;
    pub(super) const GRAPH_NODE: u64 = 1;
    pub(super) const GRAPH_INITIALIZER: u64 = 5;
    pub(super) const NODE_INPUT: u64 = 1;
    pub(super) const NODE_NAME: u64 = 3;
    pub(super) const NODE_OPERATOR: u64 = 4;
    pub(super) const NODE_ATTRIBUTE: u64 = 5;
    pub(super) const ATTRIBUTE_TENSOR: u64 = 5;
    pub(super) const ATTRIBUTE_GRAPH: u64 = 6;
    pub(super) const ATTRIBUTE_TENSORS: u64 = 10;
    pub(super) const ATTRIBUTE_GRAPHS: u64 = 11;
    pub(super) const TENSOR_RAW: u64 = 9;
    pub(super) const TENSOR_EXTERNAL: u64 = 13;
    pub(super) const TENSOR_LOCATION: u64 = 14;
    pub(super) const ENTRY_KEY: u64 = 1;
    pub(super) const ENTRY_VALUE: u64 = 2;
}

/// What is changed.
pub(super) struct Changes<'a> {
    /// Where weights are: they get names that are no file's, or move into the model.
    pub(super) external: &'a External,
    /// Whether nodes without a name get that of their operator, for messages, and lose omitted inputs at the end, which some writers count.
    pub(super) tidy: bool,
}

type Result<T> = std::result::Result<T, String>;

impl Changes<'_> {
    /// `file` with the changes applied; it has been read before.
    pub(super) fn model(&self, file: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(file.len());
        each(file, |number, whole, inner| match (number, inner) {
            (field::MODEL_GRAPH, Some(graph)) => nested(&mut out, number, |out| self.graph(graph, true, out)),
            (field::MODEL_FUNCTIONS, Some(function)) => nested(&mut out, number, |out| self.function(function, out)),
            _ => copied(&mut out, whole),
        })?;
        Ok(out)
    }

    fn graph(&self, graph: &[u8], is_top: bool, out: &mut Vec<u8>) -> Result<()> {
        each(graph, |number, whole, inner| match (number, inner) {
            (field::GRAPH_NODE, Some(node)) => nested(out, number, |out| self.node(node, out)),
            (field::GRAPH_INITIALIZER, Some(tensor)) => self.tensor(number, whole, tensor, is_top, out),
            _ => copied(out, whole),
        })
    }

    fn function(&self, function: &[u8], out: &mut Vec<u8>) -> Result<()> {
        each(function, |number, whole, inner| match (number, inner) {
            (field::FUNCTION_NODE, Some(node)) => nested(out, number, |out| self.node(node, out)),
            _ => copied(out, whole),
        })
    }

    fn node(&self, node: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (mut is_named, mut operator) = (false, None);
        let (mut inputs, mut wanted) = (0, 0);
        each(node, |number, _, inner| {
            inputs += usize::from(number == field::NODE_INPUT);
            wanted = if number == field::NODE_INPUT && inner != Some(&[]) { inputs } else { wanted };
            Ok(())
        })?;
        let mut left = if self.tidy { wanted } else { inputs };
        each(node, |number, whole, inner| match (number, inner) {
            (field::NODE_INPUT, Some([])) if left == 0 => Ok(()),
            (field::NODE_INPUT, _) => {
                left = left.saturating_sub(1);
                copied(out, whole)
            }
            (field::NODE_ATTRIBUTE, Some(attribute)) => nested(out, number, |out| self.attribute(attribute, out)),
            (field::NODE_NAME, Some([])) => Ok(()),
            _ => {
                is_named |= number == field::NODE_NAME;
                operator = if number == field::NODE_OPERATOR { inner } else { operator };
                copied(out, whole)
            }
        })?;
        match operator {
            Some(operator) if self.tidy && !is_named => written(out, field::NODE_NAME, operator),
            _ => Ok(()),
        }
    }

    fn attribute(&self, attribute: &[u8], out: &mut Vec<u8>) -> Result<()> {
        each(attribute, |number, whole, inner| match (number, inner) {
            (field::ATTRIBUTE_GRAPH | field::ATTRIBUTE_GRAPHS, Some(graph)) => {
                nested(out, number, |out| self.graph(graph, false, out))
            }
            (field::ATTRIBUTE_TENSOR | field::ATTRIBUTE_TENSORS, Some(tensor)) => self.tensor(number, whole, tensor, false, out),
            _ => copied(out, whole),
        })
    }

    fn tensor(&self, number: u64, whole: &[u8], inner: &[u8], is_top: bool, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = BoundedReader::new(inner);
        let tensor: Tensor<'_> = proto::tensor(Fields::new(&mut reader, None)).map_err(|error| error.to_string())?;
        if !tensor.is_external {
            return copied(out, whole);
        }
        let place = self.external.place(&tensor).ok_or_else(|| format!("tensor '{}' has no place", tensor.name))?;
        nested(out, number, |out| {
            each(inner, |number, whole, _| match number {
                field::TENSOR_EXTERNAL | field::TENSOR_LOCATION | field::TENSOR_RAW => Ok(()),
                _ => copied(out, whole),
            })?;
            if !is_shared(&tensor, place, is_top) {
                return written(out, field::TENSOR_RAW, &self.external.read(place)?);
            }
            let name = &self.external.files[place.file].name;
            for (key, value) in
                [("location", name.clone()), ("offset", place.offset.to_string()), ("length", place.length.to_string())]
            {
                nested(out, field::TENSOR_EXTERNAL, |out| {
                    written(out, field::ENTRY_KEY, key.as_bytes())?;
                    written(out, field::ENTRY_VALUE, value.as_bytes())
                })?;
            }
            varint(out, field::TENSOR_LOCATION << 3);
            varint(out, 1);
            Ok(())
        })
    }
}

/// Passes on each field of a message: its number, all its bytes, and those inside if it has a length.
fn each<'a>(message: &'a [u8], mut take: impl FnMut(u64, &'a [u8], Option<&'a [u8]>) -> Result<()>) -> Result<()> {
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let tag = read_varint(&mut rest)?;
        let inner = match tag & 7 {
            0 => read_varint(&mut rest).map(|_| None)?,
            1 => cut(&mut rest, 8).map(|_| None)?,
            2 => {
                let length = read_varint(&mut rest)?;
                Some(cut(&mut rest, length)?)
            }
            5 => cut(&mut rest, 4).map(|_| None)?,
            _ => None,
        };
        take(tag >> 3, &start[..start.len() - rest.len()], inner)?;
    }
    Ok(())
}

fn cut<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (taken, left) = rest.split_at_checked(length).ok_or("it is cut short")?;
    *rest = left;
    Ok(taken)
}

fn read_varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for index in 0..10 {
        let [byte] = cut(rest, 1)? else { return Err("it is cut short".to_owned()) };
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err("it holds an endless number".to_owned())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

fn copied(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    out.extend_from_slice(bytes);
    Ok(())
}

/// A field that holds these bytes.
fn written(out: &mut Vec<u8>, number: u64, bytes: &[u8]) -> Result<()> {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    copied(out, bytes)
}

/// A field that holds what `write` writes.
fn nested(out: &mut Vec<u8>, number: u64, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    varint(out, number << 3 | 2);
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out)?;
    let length = (out.len() - start - LENGTH_BYTES) as u64;
    if length >> (7 * LENGTH_BYTES) != 0 {
        return Err("it is too large".to_owned());
    }
    // Written with all its bytes, however small it is, so that what follows does not have to move.
    for (index, byte) in out[start..start + LENGTH_BYTES].iter_mut().enumerate() {
        let more = if index + 1 < LENGTH_BYTES { 0x80 } else { 0 };
        *byte = more | (length >> (7 * index) & 0x7f) as u8;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::{GraphProto, NodeProto};

    use super::*;
    use crate::{
        onnx::reader,
        test_models::{self, silero},
    };

    fn tidied(file: &[u8]) -> Vec<u8> {
        Changes { external: &External::default(), tidy: true }.model(file).expect("it has been read")
    }

    #[test]
    fn nodes_without_a_name_get_their_operators_and_nothing_else_changes() {
        let file = test_models::masked_mean();
        let model = test_models::parse(&tidied(&file));
        let names: Vec<_> =
            model.graph.iter().flat_map(|graph| &graph.node).map(|node| node.name.clone().unwrap_or_default()).collect();
        assert_eq!(names, ["Mul", "ReduceSum", "ReduceSum", "Div", "ReduceSum", "Add"]);
        let mut back = model;
        back.graph.iter_mut().flat_map(|graph| &mut graph.node).for_each(|node| node.name = None);
        assert_eq!(back.write_buf().expect("it can be written"), file);
    }

    #[test]
    fn inputs_that_are_left_out_at_the_end_are_gone_and_others_stay() {
        let nodes = [["a", "", ""].as_slice(), &["", "b", ""], &["", ""], &["a", "", "c"]];
        let nodes = nodes.map(|inputs| NodeProto { name: Some("n".to_owned()), ..test_models::node("LSTM", inputs, "y") });
        let file = test_models::write(GraphProto { node: nodes.to_vec(), ..GraphProto::default() });
        let model = test_models::parse(&tidied(&file));
        let inputs: Vec<_> = model.graph.iter().flat_map(|graph| &graph.node).map(|node| node.input.join(",")).collect();
        assert_eq!(inputs, ["a", ",b", "", "a,,c"]);
    }

    #[test]
    fn a_model_that_is_rewritten_reads_as_before() {
        let again = Changes { external: &External::default(), tidy: false }.model(silero::FILE).expect("it has been read");
        let (before, after) = (reader::decode(silero::FILE).expect("a model"), reader::decode(&again).expect("a model"));
        assert!(format!("{before:?}") == format!("{after:?}"));
    }

    #[test]
    fn broken_fields_are_refused() {
        for file in [&[0x3a_u8, 0x05, 0x0a][..], &[0xff; 20], &[0x08], &[0x09, 0, 0]] {
            let found = Changes { external: &External::default(), tidy: true }.model(file);
            assert!(found.is_err(), "{file:?}");
        }
    }
}
