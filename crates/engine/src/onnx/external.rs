//! Weights in files other than the model's own.
//!
//! The caller decides which files those are, and opens them. Here the places are read from the model, checked against the files, and
//! rewritten so that no engine can be led elsewhere: an engine gets names that are not files, and the bytes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt as _,
};

use rten_onnx::onnx::DataType;

use super::proto::{Graph, Model, Node, Tensor};

/// Opens the file at this place, relative to the model's own, or says why not.
pub type OpenBeside<'a> = &'a dyn Fn(&str) -> Result<File, String>;

/// How many bytes of weights may be moved into the model itself because engines cannot read them from another file. A Protobuf message has
/// at most 2 GiB.
const INLINE_BYTES_MAX: u64 = 1 << 30;
/// How many files a model's weights may be spread over.
const FILES_MAX: usize = 1_024;
/// Largest tensor whose numbers are looked at where only small tensors matter, in bytes.
const SMALL_BYTES: u64 = 64 << 10;

/// A file of weights, kept open so that it stays the one that was checked.
#[derive(Debug)]
pub(crate) struct WeightFile {
    /// Its name in the rewritten model.
    pub(crate) name: String,
    /// Its name in the model's own file, for messages.
    location: String,
    file: File,
    /// How many of its bytes are weights, counted from the first.
    pub(crate) bytes: u64,
}

impl WeightFile {
    /// Reads it into `buffer`, which must be as long as its weights.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<(), String> {
        self.file.read_exact_at(buffer, 0).map_err(|error| format!("the weights in '{}' cannot be read: {error}", self.location))
    }

    /// Its weights.
    pub(crate) fn to_vec(&self) -> Result<Vec<u8>, String> {
        let mut buffer = vec![0; self.len()?];
        self.read(&mut buffer)?;
        Ok(buffer)
    }

    /// How long a buffer must be to hold them.
    pub(crate) fn len(&self) -> Result<usize, String> {
        usize::try_from(self.bytes).map_err(|_| format!("the weights in '{}' are too large for this machine", self.location))
    }
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// All files of a model's weights.
#[derive(Debug, Default)]
pub(super) struct External {
    pub(super) files: Vec<WeightFile>,
    /// By location as given in the model, normalized.
    numbers: BTreeMap<String, usize>,
    /// How much is to be moved into the model.
    inline_bytes: u64,
}

impl External {
    /// Opens all files that `model` refers to and checks that they hold what it says.
    pub(super) fn of(model: &Model<'_>, open: OpenBeside<'_>) -> Result<Self, String> {
        let mut external = Self::default();
        for (tensor, is_top) in outside(model) {
            let place = external.enter(tensor, open)?;
            if !is_shared(tensor, place, is_top) {
                external.inline_bytes = external.inline_bytes.saturating_add(place.length);
                if external.inline_bytes > INLINE_BYTES_MAX {
                    return Err(format!(
                        "{} lies at byte {} of '{}', which is not a multiple of its element's size, or belongs to an operator, so it must \
                         be moved into the model; all such tensors together are larger than the {INLINE_BYTES_MAX} bytes that can be \
                         moved: export the model again",
                        named(tensor),
                        place.offset,
                        external.files[place.file].location
                    ));
                }
            }
        }
        Ok(external)
    }

    /// Where `tensor` is. If the file is a new one, it is opened.
    fn enter(&mut self, tensor: &Tensor<'_>, open: OpenBeside<'_>) -> Result<Place, String> {
        let (location, offset, length) = told(tensor)?;
        let number = match self.numbers.get(&location) {
            Some(number) => *number,
            None if self.files.len() == FILES_MAX => {
                return Err(format!("its weights are in more than {FILES_MAX} files: save the model with all of them in one"));
            }
            None => {
                let file = open(&location).map_err(|cause| {
                    format!(
                        "{} is in '{location}', which {cause}: put that file next to model.onnx, or write the weights into \
                         model.onnx itself: onnx.save(onnx.load('model.onnx'), 'model.onnx')",
                        named(tensor)
                    )
                })?;
                let number = self.files.len();
                self.files.push(WeightFile { name: format!("{number}.data"), location: location.clone(), file, bytes: 0 });
                self.numbers.insert(location, number);
                number
            }
        };
        let weights = &mut self.files[number];
        let size = weights.file.metadata().map_err(|error| format!("'{}': {error}", weights.location))?.len();
        let length = length.unwrap_or_else(|| size.saturating_sub(offset));
        let end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(|| {
            format!(
                "{} takes {length} bytes from byte {offset} of '{}', which has {size} bytes: the file does not belong to this model, or \
                 was not copied completely",
                named(tensor),
                weights.location
            )
        })?;
        weights.bytes = weights.bytes.max(end);
        Ok(Place { file: number, offset, length })
    }

    /// Where `tensor` is, once it has been entered.
    pub(super) fn place(&self, tensor: &Tensor<'_>) -> Option<Place> {
        let (location, offset, length) = told(tensor).ok()?;
        let file = *self.numbers.get(&location)?;
        let length = length.or_else(|| self.files[file].file.metadata().ok()?.len().checked_sub(offset))?;
        Some(Place { file, offset, length })
    }

    /// The bytes of `tensor`.
    pub(super) fn read(&self, place: Place) -> Result<Vec<u8>, String> {
        let weights = &self.files[place.file];
        let cannot = |cause: &dyn std::fmt::Display| format!("the weights in '{}' cannot be read: {cause}", weights.location);
        let mut buffer = vec![0; usize::try_from(place.length).map_err(|error| cannot(&error))?];
        weights.file.read_exact_at(&mut buffer, place.offset).map_err(|error| cannot(&error))?;
        Ok(buffer)
    }

    /// The bytes of those tensors whose numbers matter before the model runs.
    pub(super) fn telling(&self, model: &Model<'_>) -> Result<HashMap<Place, Vec<u8>>, String> {
        let mut found = HashMap::new();
        for (tensor, _) in outside(model) {
            let Some(place) = self.place(tensor) else { continue };
            let is_telling = match tensor.datatype() {
                DataType::INT64 | DataType::DOUBLE => true,
                DataType::INT32 | DataType::FLOAT | DataType::BOOL => place.length <= SMALL_BYTES,
                _ => false,
            };
            if is_telling && !found.contains_key(&place) {
                found.insert(place, self.read(place)?);
            }
        }
        Ok(found)
    }

    /// Puts those bytes where they would be if the model had no other files.
    pub(super) fn fill<'f>(&self, graph: &mut Graph<'f>, telling: &'f HashMap<Place, Vec<u8>>) {
        let attributes = graph.nodes.iter_mut().flat_map(|node| &mut node.attributes);
        let mut inner = Vec::new();
        let of_nodes = attributes.flat_map(|attribute| {
            inner.extend(&mut attribute.graphs);
            attribute.tensor.as_mut()
        });
        for tensor in of_nodes.chain(&mut graph.initializers).filter(|tensor| tensor.is_external) {
            tensor.raw = self.place(tensor).and_then(|place| telling.get(&place)).map(Vec::as_slice);
        }
        inner.into_iter().for_each(|graph| self.fill(graph, telling));
    }
}

/// Whether an engine can read the tensor where it is: it belongs to the graph itself, and is aligned for its elements.
pub(super) fn is_shared(tensor: &Tensor<'_>, place: Place, is_top: bool) -> bool {
    let bits = bits_of(tensor.datatype()).unwrap_or(128);
    is_top && place.offset.is_multiple_of((bits / 8).max(1))
}

/// All tensors in other files, and whether they are weights of the outermost graph.
fn outside<'a, 'f>(model: &'a Model<'f>) -> impl Iterator<Item = (&'a Tensor<'f>, bool)> {
    let mut tensors = Vec::new();
    if let Some(graph) = &model.graph {
        of_graph(graph, true, &mut tensors);
    }
    model.functions.iter().flat_map(|function| &function.nodes).for_each(|node| of_node(node, &mut tensors));
    tensors.into_iter().filter(|(tensor, _)| tensor.is_external)
}

/// All tensors of a graph.
fn of_graph<'a, 'f>(graph: &'a Graph<'f>, is_top: bool, found: &mut Vec<(&'a Tensor<'f>, bool)>) {
    found.extend(graph.initializers.iter().map(|tensor| (tensor, is_top)));
    found.extend(graph.sparse_initializers.iter().flatten().map(|tensor| (tensor, false)));
    graph.nodes.iter().for_each(|node| of_node(node, found));
}

fn of_node<'a, 'f>(node: &'a Node<'f>, found: &mut Vec<(&'a Tensor<'f>, bool)>) {
    for attribute in &node.attributes {
        found.extend(attribute.tensor.iter().chain(&attribute.tensors).map(|tensor| (tensor, false)));
        attribute.graphs.iter().for_each(|graph| of_graph(graph, false, found));
    }
}

/// Location, offset and length as given in the model.
fn told(tensor: &Tensor<'_>) -> Result<(String, u64, Option<u64>), String> {
    let find = |key: &str| tensor.external.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let number = |key: &str| {
        find(key)
            .map(|text| {
                text.trim()
                    .parse::<u64>()
                    .map_err(|_| format!("{} has the {key} '{text}', which is not a number of bytes", named(tensor)))
            })
            .transpose()
    };
    let location = find("location")
        .ok_or_else(|| format!("{} is in another file, but the model does not say in which one", named(tensor)))?;
    // Different spellings of a place are the same file.
    let location = location.split('/').filter(|part| *part != ".").collect::<Vec<_>>().join("/");
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let needed = needed(tensor)?;
    match (length, needed) {
        (Some(length), Some(needed)) if length != needed => Err(format!(
            "{} takes {needed} bytes as {} of shape {:?}, but the model says that it has {length} in '{location}'",
            named(tensor),
            tensor.datatype(),
            tensor.dims
        )),
        (length, needed) => Ok((location, offset, length.or(needed))),
    }
}

/// The bytes of a tensor of this type and shape; `None` for types of unknown size.
fn needed(tensor: &Tensor<'_>) -> Result<Option<u64>, String> {
    let elements = tensor.dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(u64::try_from(*dim).ok()?));
    let bits = bits_of(tensor.datatype());
    let bytes = elements.and_then(|elements| elements.checked_mul(bits.unwrap_or(0))).map(|bits| bits.div_ceil(8));
    match bytes {
        Some(bytes) => Ok(bits.map(|_| bytes)),
        None => Err(format!("{} has the shape {:?}, which no tensor can have", named(tensor), tensor.dims)),
    }
}

/// How many bits an element takes; `None` for strings and unknown types.
fn bits_of(datatype: DataType) -> Option<u64> {
    Some(match datatype {
        DataType::FLOAT4E2M1 | DataType::INT4 | DataType::UINT4 => 4,
        DataType::BOOL
        | DataType::INT8
        | DataType::UINT8
        | DataType::FLOAT8E4M3FN
        | DataType::FLOAT8E4M3FNUZ
        | DataType::FLOAT8E5M2
        | DataType::FLOAT8E5M2FNUZ
        | DataType::FLOAT8E8M0 => 8,
        DataType::INT16 | DataType::UINT16 | DataType::FLOAT16 | DataType::BFLOAT16 => 16,
        DataType::INT32 | DataType::UINT32 | DataType::FLOAT => 32,
        DataType::INT64 | DataType::UINT64 | DataType::DOUBLE | DataType::COMPLEX64 => 64,
        DataType::COMPLEX128 => 128,
        _ => return None,
    })
}

fn named(tensor: &Tensor<'_>) -> String {
    if tensor.name.is_empty() { "a tensor of an operator".to_owned() } else { format!("tensor '{}'", tensor.name) }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io::Write as _, sync::Arc};

    use rten_onnx::onnx::{DataLocation, GraphProto, StringStringEntryProto, TensorProto};
    use smallvec::smallvec;

    use crate::{
        CallThreads, Engine, Executable, ItemCall, LaneThreads, Wishes,
        onnx::{ModelFile, Narrowing},
        onnxruntime::OnnxRuntime,
        rten::Rten,
        test_models::{self, node, value, with_graph},
    };
    use tidemill_domain::{Datatype, Shape, Signature, Tensor, TensorSpec};

    use super::*;

    fn outside(name: &str, datatype: DataType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some((*key).to_owned()),
            value: Some((*value).to_owned()),
        };
        TensorProto {
            name: Some(name.to_owned()),
            dims: dims.to_vec(),
            data_type: Some(datatype),
            data_location: Some(DataLocation::EXTERNAL),
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        }
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("it can be written");
        file
    }

    /// y = x * w + w, of two numbers.
    fn graph(weights: TensorProto) -> GraphProto {
        GraphProto {
            node: vec![node("Mul", &["x", "w"], "m"), node("Add", &["m", "w"], "y")],
            initializer: vec![weights],
            input: vec![value("x", DataType::FLOAT, &[None, Some(2)])],
            output: vec![value("y", DataType::FLOAT, &[None, Some(2)])],
            ..GraphProto::default()
        }
    }

    fn read(graph: GraphProto, content: &[u8]) -> Result<ModelFile, String> {
        let open = |_: &str| Ok(file_of(content));
        ModelFile::read_beside(test_models::write(graph), &open).map_err(|error| error.to_string())
    }

    fn computed(engine: Arc<dyn Engine>, x: [f32; 2]) -> Vec<f32> {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(2)], batch_axis: Some(0) };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
        let model = Executable::new(engine, Arc::new(signature), &[LaneThreads::new()]).expect("it has x and y");
        let shape: Shape = smallvec![2];
        let data = bytemuck::cast_slice(&x).to_vec();
        let inputs = [Tensor::new(Datatype::Fp32, shape, data.into()).expect("two numbers")];
        let ran = model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One).expect("it runs");
        ran.outputs[0][0].iter_f32().expect("FP32").collect()
    }

    /// Each available engine's results for 1 and 2.
    fn answers(graph: impl Fn() -> GraphProto, content: &[u8]) -> Vec<Vec<f32>> {
        let mut answers = Vec::new();
        answers.push(computed(
            Arc::new(Rten::open(read(graph(), content).expect("sound"), Wishes::default()).expect("rten has it")),
            [1.0, 2.0],
        ));
        if let Some(library) = option_env!("TIDEMILL_TEST_ONNXRUNTIME") {
            OnnxRuntime::load_library(library.as_ref()).expect("it names a library");
            let engine = OnnxRuntime::open(read(graph(), content).expect("sound")).expect("onnxruntime has it");
            answers.push(computed(Arc::new(engine), [1.0, 2.0]));
        }
        answers
    }

    fn assert_answers(graph: impl Fn() -> GraphProto, content: &[u8], expected: [f32; 2]) {
        for answer in answers(graph, content) {
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn weights_are_read_from_where_they_are() {
        let numbers: Vec<u8> = [0.0_f32, 10.0, 100.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        let whole = [("location", "w.data"), ("offset", "4"), ("length", "8")];
        assert_answers(|| graph(outside("w", DataType::FLOAT, &[2], &whole)), &numbers, [20.0, 300.0]);
        // Offset and length may be left out: then it is as many bytes as needed, from the first on.
        assert_answers(|| graph(outside("w", DataType::FLOAT, &[2], &[("location", "w.data")])), &numbers, [0.0, 30.0]);
        // Unknown keys, old and new, are no reason to stop.
        let with_more = [("location", "./w.data"), ("basepath", "/home"), ("checksum", "0"), ("offset", "4")];
        assert_answers(|| graph(outside("w", DataType::FLOAT, &[2], &with_more)), &numbers, [20.0, 300.0]);
    }

    #[test]
    fn weights_may_begin_at_any_byte_and_belong_to_operators() {
        let mut numbers = vec![0xff];
        numbers.extend([10.0_f32, 100.0].iter().flat_map(|number| number.to_le_bytes()));
        let shifted = || outside("w", DataType::FLOAT, &[2], &[("location", "w.data"), ("offset", "1")]);
        assert_answers(|| graph(shifted()), &numbers, [20.0, 300.0]);
        let constant = || {
            let attribute = rten_onnx::onnx::AttributeProto {
                name: Some("value".to_owned()),
                r#type: Some(rten_onnx::onnx::AttributeType::TENSOR),
                t: Some(shifted()),
                ..Default::default()
            };
            rten_onnx::onnx::NodeProto { attribute: vec![attribute], ..node("Constant", &[], "w") }
        };
        let of_operator = || {
            let mut graph = graph(shifted());
            graph.initializer.clear();
            graph.node.insert(0, constant());
            graph
        };
        assert_answers(of_operator, &numbers, [20.0, 300.0]);
        let of_branch = || {
            let branch = || GraphProto {
                node: vec![constant(), node("Mul", &["x", "w"], "r")],
                output: vec![value("r", DataType::FLOAT, &[None, Some(2)])],
                ..GraphProto::default()
            };
            let mut graph = graph(test_models::longs("zero", &[], &[0]));
            let choice = with_graph(node("If", &["c"], "y"), "then_branch", branch());
            graph.node = vec![node("Equal", &["zero", "zero"], "c"), with_graph(choice, "else_branch", branch())];
            graph
        };
        // The graph inside the operator has no name here, which onnxruntime requires.
        let engine = Rten::open(read(of_branch(), &numbers).expect("sound"), Wishes::default()).expect("rten has it");
        assert_eq!(computed(Arc::new(engine), [1.0, 2.0]), [10.0, 200.0]);
    }

    #[test]
    fn numbers_in_other_files_count_like_those_of_the_model() {
        let of = |number: i64| {
            let place = [("location", "k.data")];
            let graph = GraphProto {
                node: vec![node("Equal", &["x", "k"], "y")],
                initializer: vec![outside("k", DataType::INT64, &[1], &place)],
                input: vec![value("x", DataType::INT64, &[None, Some(2)])],
                output: vec![value("y", DataType::BOOL, &[None, Some(2)])],
                ..GraphProto::default()
            };
            read(graph, &number.to_le_bytes()).expect("sound").narrowing().clone()
        };
        assert_eq!(of(5), Narrowing::None);
        assert!(matches!(of(5_000_000_000), Narrowing::Possible { .. }));
    }

    #[test]
    fn places_that_lie_are_named_with_their_numbers() {
        let at =
            |offset: &'static str, length: &'static str| vec![("location", "w.data"), ("offset", offset), ("length", length)];
        let short = "takes 8 bytes from byte 4 of 'w.data', which has 8 bytes: the file does not belong to this model";
        let cases = [
            (at("4", "8"), short),
            (at("18446744073709551615", "8"), "takes 8 bytes from byte 18446744073709551615 of 'w.data', which has 8 bytes"),
            (at("-4", "8"), "has the offset '-4', which is not a number of bytes"),
            (at("0", "18446744073709551616"), "has the length '18446744073709551616', which is not a number of bytes"),
            (at("0", "many"), "has the length 'many', which is not a number of bytes"),
            (at("0", "4"), "takes 8 bytes as FLOAT of shape [2], but the model says that it has 4 in 'w.data'"),
            (vec![("offset", "0")], "is in another file, but the model does not say in which one"),
        ];
        for (entries, expected) in cases {
            let error = read(graph(outside("w", DataType::FLOAT, &[2], &entries)), &[0; 8]).expect_err("it lies");
            assert_eq!(error.split(&format!("tensor 'w' {expected}")).count(), 2, "{error} lacks {expected}");
        }
        for dims in [vec![-2], vec![i64::MAX, i64::MAX]] {
            let error = read(graph(outside("w", DataType::FLOAT, &dims, &at("0", "8"))), &[0; 8]).expect_err("no shape");
            assert!(error.contains("which no tensor can have"), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_reported_with_what_to_do() {
        let asked = RefCell::new(Vec::new());
        let open = |name: &str| {
            asked.borrow_mut().push(name.to_owned());
            Err("is not there".to_owned())
        };
        let file = test_models::write(graph(outside("w", DataType::FLOAT, &[2], &[("location", "../w.data")])));
        let error = ModelFile::read_beside(file, &open).expect_err("there is none").to_string();
        assert_eq!(*asked.borrow(), ["../w.data"], "what such a name means is up to the opener");
        for part in
            ["tensor 'w' is in '../w.data', which is not there", "next to model.onnx", "onnx.save(onnx.load('model.onnx')"]
        {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
}
