//! The messages of an ONNX file, as slices of it, as far as they are needed here.
//!
//! Weights are not copied. Everything that rten's own decoder reads is read here too, even if nothing needs it, because reading it is how
//! wrong lengths are found; see [`reader`](super::reader).

use rten_onnx::{
    onnx::DataType,
    protobuf::{ErrorKind, Field, FieldValue, Fields, ProtobufError, ReadValue},
};

use super::slices::Slices;

/// How deeply graphs and types may be nested. There is a limit because each level uses stack.
const NESTING_MAX: usize = 32;

type Result<T> = std::result::Result<T, ProtobufError>;

/// `ModelProto`.
#[derive(Debug, Default)]
pub(crate) struct Model<'a> {
    pub(crate) ir_version: i64,
    pub(crate) graph: Option<Graph<'a>>,
    /// Domain, empty for ONNX's own, and version of each set of operators.
    pub(crate) operator_sets: Vec<(&'a str, i64)>,
    pub(crate) functions: Vec<Function<'a>>,
}

/// `GraphProto`.
#[derive(Debug, Default)]
pub(crate) struct Graph<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) initializers: Vec<Tensor<'a>>,
    /// For each initializer that is written as sparse: its values, which have its name, and their positions.
    pub(crate) sparse_initializers: Vec<Vec<Tensor<'a>>>,
    pub(crate) inputs: Vec<Value<'a>>,
    pub(crate) outputs: Vec<Value<'a>>,
    /// What the file says about intermediate values.
    pub(crate) values: Vec<Value<'a>>,
}

/// `FunctionProto`: an operator composed of others.
#[derive(Debug, Default)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) nodes: Vec<Node<'a>>,
}

/// `NodeProto`.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    pub(crate) operator: &'a str,
    pub(crate) domain: &'a str,
    /// Empty for a node without one.
    pub(crate) name: &'a str,
    /// An omitted input has an empty name.
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

/// `AttributeProto`.
#[derive(Debug, Default)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) float: Option<f32>,
    pub(crate) int: Option<i64>,
    pub(crate) text: Option<&'a [u8]>,
    pub(crate) tensor: Option<Tensor<'a>>,
    /// For a list of tensors, or of sparse ones.
    pub(crate) tensors: Vec<Tensor<'a>>,
    pub(crate) floats: Vec<f32>,
    pub(crate) ints: Vec<i64>,
    /// Its graph, or its graphs.
    pub(crate) graphs: Vec<Graph<'a>>,
    /// Inside a function: the attribute of the call that this one stands for.
    pub(crate) reference: &'a str,
}

/// `TensorProto`.
#[derive(Debug, Default)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: Vec<i64>,
    /// As in the file.
    pub(crate) datatype: i32,
    pub(crate) raw: Option<&'a [u8]>,
    /// `float_data` and `double_data`, as they are in the file.
    pub(crate) floats: &'a [u8],
    pub(crate) doubles: &'a [u8],
    /// `int32_data`, which holds the smaller integers too.
    pub(crate) ints: Vec<i32>,
    pub(crate) longs: Vec<i64>,
    pub(crate) unsigned_longs: Vec<u64>,
    /// Whether the data is in another file.
    pub(crate) is_external: bool,
    /// Where it is there, as keys and values.
    pub(crate) external: Vec<(&'a str, &'a str)>,
}

/// `ValueInfoProto`.
#[derive(Debug, Default)]
pub(crate) struct Value<'a> {
    pub(crate) name: &'a str,
    /// `None` if the file does not say, or if it is not a tensor.
    pub(crate) datatype: Option<i32>,
    pub(crate) dims: Option<Vec<Dimension<'a>>>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Debug, Default)]
pub(crate) struct Dimension<'a> {
    pub(crate) size: Option<i64>,
    pub(crate) name: Option<&'a str>,
}

impl Tensor<'_> {
    /// Whether its numbers are in another file and have not been read from there.
    pub(crate) const fn is_elsewhere(&self) -> bool {
        self.is_external && self.raw.is_none()
    }

    /// Its datatype by name.
    pub(crate) fn datatype(&self) -> DataType {
        DataType(self.datatype)
    }
}

impl<'a> Node<'a> {
    /// The attribute of this name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// The whole number of this name.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.int
    }

    /// The name of the input at this place; `None` if it is omitted.
    pub(crate) fn input(&self, at: usize) -> Option<&'a str> {
        self.inputs.get(at).copied().filter(|name| !name.is_empty())
    }

    /// The graphs inside it.
    pub(crate) fn graphs(&self) -> impl Iterator<Item = &Graph<'a>> {
        self.attributes.iter().flat_map(|attribute| &attribute.graphs)
    }

    /// Whether it is an operator of ONNX's own set.
    pub(crate) fn is_standard(&self) -> bool {
        matches!(self.domain, "" | "ai.onnx")
    }
}

/// Something that reads slices of the file.
pub(super) trait Source<'a>: ReadValue<Types = Slices<'a>> {}
impl<'a, R: ReadValue<Types = Slices<'a>>> Source<'a> for R {}

pub(super) fn model<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Model<'a>> {
    let mut model = Model::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => model.ir_version = field.get_int64()?,
            2 | 3 => drop(field.read_string()?),
            7 => model.graph = Some(graph(field.read_message(Some("GraphProto"))?, 0)?),
            8 => model.operator_sets.push(operator_set(field.read_message(Some("OperatorSetIdProto"))?)?),
            14 => drop(entry(&mut field)?),
            25 => model.functions.push(function(field.read_message(Some("FunctionProto"))?)?),
            _ => field.skip()?,
        }
    }
    Ok(model)
}

fn graph<'a>(mut fields: Fields<'_, impl Source<'a>>, depth: usize) -> Result<Graph<'a>> {
    let depth = deeper(depth)?;
    let mut graph = Graph::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => graph.nodes.push(node(field.read_message(Some("NodeProto"))?, depth)?),
            5 => graph.initializers.push(tensor(field.read_message(Some("TensorProto"))?)?),
            11 => graph.inputs.push(value(field.read_message(Some("ValueInfoProto"))?)?),
            12 => graph.outputs.push(value(field.read_message(Some("ValueInfoProto"))?)?),
            13 => graph.values.push(value(field.read_message(Some("ValueInfoProto"))?)?),
            15 => graph.sparse_initializers.push(sparse(field.read_message(Some("SparseTensorProto"))?)?),
            _ => field.skip()?,
        }
    }
    Ok(graph)
}

fn function<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Function<'a>> {
    let mut function = Function::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => function.name = field.read_string()?,
            4 => function.inputs.push(field.read_string()?),
            5 => function.outputs.push(field.read_string()?),
            7 => function.nodes.push(node(field.read_message(Some("NodeProto"))?, 0)?),
            10 => function.domain = field.read_string()?,
            _ => field.skip()?,
        }
    }
    Ok(function)
}

fn node<'a>(mut fields: Fields<'_, impl Source<'a>>, depth: usize) -> Result<Node<'a>> {
    let mut node = Node::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => node.inputs.push(field.read_string()?),
            2 => node.outputs.push(field.read_string()?),
            3 => node.name = field.read_string()?,
            4 => node.operator = field.read_string()?,
            5 => node.attributes.push(attribute(field.read_message(Some("AttributeProto"))?, depth)?),
            7 => node.domain = field.read_string()?,
            _ => field.skip()?,
        }
    }
    Ok(node)
}

fn attribute<'a>(mut fields: Fields<'_, impl Source<'a>>, depth: usize) -> Result<Attribute<'a>> {
    let mut attribute = Attribute::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => attribute.name = field.read_string()?,
            2 => attribute.float = Some(field.get_float()?),
            3 => attribute.int = Some(field.get_int64()?),
            4 => attribute.text = Some(field.read_bytes()?),
            5 => attribute.tensor = Some(tensor(field.read_message(Some("TensorProto"))?)?),
            6 | 11 => attribute.graphs.push(graph(field.read_message(Some("GraphProto"))?, depth)?),
            7 => extend(&mut attribute.floats, field.read_repeated_float()?)?,
            8 => extend(&mut attribute.ints, field.read_repeated_int64()?)?,
            9 => drop(field.read_bytes()?),
            10 => attribute.tensors.push(tensor(field.read_message(Some("TensorProto"))?)?),
            22 | 23 => attribute.tensors.extend(sparse(field.read_message(Some("SparseTensorProto"))?)?),
            21 => attribute.reference = field.read_string()?,
            _ => field.skip()?,
        }
    }
    Ok(attribute)
}

pub(super) fn tensor<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Tensor<'a>> {
    let mut tensor = Tensor::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => extend(&mut tensor.dims, field.read_repeated_int64()?)?,
            2 => tensor.datatype = field.get_enum()?,
            4 => tensor.floats = packed(&mut field, size_of::<f32>())?,
            5 => extend(&mut tensor.ints, field.read_repeated_int32()?)?,
            7 => extend(&mut tensor.longs, field.read_repeated_int64()?)?,
            8 => tensor.name = field.read_string()?,
            9 => tensor.raw = Some(field.read_bytes()?),
            10 => tensor.doubles = packed(&mut field, size_of::<f64>())?,
            11 => extend(&mut tensor.unsigned_longs, field.read_repeated_uint64()?)?,
            13 => tensor.external.push(entry(&mut field)?),
            14 => tensor.is_external = field.get_enum()? == 1,
            _ => field.skip()?,
        }
    }
    if tensor.is_external {
        tensor.raw = None;
    }
    Ok(tensor)
}

fn sparse<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Vec<Tensor<'a>>> {
    let mut tensors = Vec::new();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 | 2 => tensors.push(tensor(field.read_message(Some("TensorProto"))?)?),
            _ => field.skip()?,
        }
    }
    Ok(tensors)
}

fn value<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Value<'a>> {
    let mut value = Value::default();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => value.name = field.read_string()?,
            2 => (value.datatype, value.dims) = kind(field.read_message(Some("TypeProto"))?, 0)?,
            _ => field.skip()?,
        }
    }
    Ok(value)
}

type Kind<'a> = (Option<i32>, Option<Vec<Dimension<'a>>>);

/// What a `TypeProto` says about a tensor; nothing if it is the type of something else.
fn kind<'a>(mut fields: Fields<'_, impl Source<'a>>, depth: usize) -> Result<Kind<'a>> {
    let depth = deeper(depth)?;
    let mut found = (None, None);
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => {
                let mut fields = field.read_message(Some("TypeProto.Tensor"))?;
                while let Some(mut field) = fields.next()? {
                    match field.number() {
                        1 => found.0 = Some(field.get_enum()?),
                        2 => found.1 = Some(shape(field.read_message(Some("TensorShapeProto"))?)?),
                        _ => field.skip()?,
                    }
                }
            }
            4 => {
                let mut fields = field.read_message(Some("TypeProto.Sequence"))?;
                while let Some(mut field) = fields.next()? {
                    match field.number() {
                        1 => drop(kind(field.read_message(Some("TypeProto"))?, depth)?),
                        _ => field.skip()?,
                    }
                }
            }
            _ => field.skip()?,
        }
    }
    Ok(found)
}

fn shape<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<Vec<Dimension<'a>>> {
    let mut dims = Vec::new();
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => {
                let mut dimension = Dimension::default();
                let mut fields = field.read_message(Some("TensorShapeProto.Dimension"))?;
                while let Some(mut field) = fields.next()? {
                    match field.number() {
                        1 => dimension.size = Some(field.get_int64()?),
                        2 => dimension.name = Some(field.read_string()?),
                        _ => field.skip()?,
                    }
                }
                dims.push(dimension);
            }
            _ => field.skip()?,
        }
    }
    Ok(dims)
}

fn operator_set<'a>(mut fields: Fields<'_, impl Source<'a>>) -> Result<(&'a str, i64)> {
    let mut set = ("", 0);
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => set.0 = field.read_string()?,
            2 => set.1 = field.get_int64()?,
            _ => field.skip()?,
        }
    }
    if set.0 == "ai.onnx" {
        set.0 = "";
    }
    Ok(set)
}

/// A key and its value.
fn entry<'a>(field: &mut Field<'_, impl Source<'a>>) -> Result<(&'a str, &'a str)> {
    let mut entry = ("", "");
    let mut fields = field.read_message(Some("StringStringEntryProto"))?;
    while let Some(mut field) = fields.next()? {
        match field.number() {
            1 => entry.0 = field.read_string()?,
            2 => entry.1 = field.read_string()?,
            _ => field.skip()?,
        }
    }
    Ok(entry)
}

/// Numbers of `size` bytes as they are in the file, where they are contiguous, as with all known writers.
fn packed<'a>(field: &mut Field<'_, impl Source<'a>>, size: usize) -> Result<&'a [u8]> {
    if !matches!(field.value(), FieldValue::Len(_)) {
        return Ok(&[]);
    }
    let bytes = field.read_bytes()?;
    if bytes.len().is_multiple_of(size) { Ok(bytes) } else { Err(ProtobufError::new(ErrorKind::Eof)) }
}

fn extend<T>(list: &mut Vec<T>, found: impl Iterator<Item = Result<T>>) -> Result<()> {
    found.into_iter().try_for_each(|element| {
        list.push(element?);
        Ok(())
    })
}

fn deeper(depth: usize) -> Result<usize> {
    if depth < NESTING_MAX {
        return Ok(depth + 1);
    }
    let cause = std::io::Error::other(format!("graphs or types are nested more than {NESTING_MAX} deep"));
    Err(ProtobufError::new(ErrorKind::IoError(cause)))
}
