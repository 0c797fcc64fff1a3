//! Writes a graph: operators in the order in which they run, and the numbers that they use.

use super::onnx::{
    Attribute, Dimension, Entry, FLOAT, Graph, INT, Kind, LONG, Model, Node, OperatorSet, Shape, TEXT, Tensor, TensorKind, Value,
};

/// Versions of the format and of its operators: those of the original file, so that whatever runs that runs this too.
const IR_VERSION: i64 = 8;
const OPERATORS_VERSION: i64 = 16;

/// A graph that is being written. An operator is named by its output and its kind, because rten confuses an operator with a value
/// of the same name.
#[derive(Default)]
pub(super) struct Writer {
    nodes: Vec<Node>,
    weights: Vec<Tensor>,
}

impl Writer {
    /// Numbers of this shape, row by row.
    pub(super) fn floats(&mut self, name: &str, dims: &[usize], numbers: impl IntoIterator<Item = f64>) -> String {
        let raw: Vec<u8> = numbers.into_iter().flat_map(|number| (number as f32).to_le_bytes()).collect();
        assert_eq!(raw.len(), 4 * dims.iter().product::<usize>(), "{name} has as many numbers as its shape says");
        self.weight(name.to_owned(), FLOAT, dims, raw)
    }

    /// A list of whole numbers, stored once however often it is used.
    pub(super) fn ints(&mut self, numbers: &[i64]) -> String {
        let raw = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.weight(format!("{numbers:?}"), LONG, &[numbers.len()], raw)
    }

    /// One whole number.
    pub(super) fn int(&mut self, number: i64) -> String {
        self.weight(number.to_string(), LONG, &[], number.to_le_bytes().to_vec())
    }

    fn weight(&mut self, name: String, datatype: i32, dims: &[usize], raw: Vec<u8>) -> String {
        if self.weights.iter().all(|weight| weight.name != name) {
            let dims = dims.iter().map(|size| *size as i64).collect();
            self.weights.push(Tensor { dims, datatype, name: name.clone(), raw });
        }
        name
    }

    /// An operator with one output, of this name.
    pub(super) fn op(&mut self, name: &str, operator: &str, inputs: &[&str]) -> String {
        self.op_with(name, operator, inputs, vec![])
    }

    pub(super) fn op_with(&mut self, name: &str, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.node(name, operator, inputs, vec![name.to_owned()], attributes);
        name.to_owned()
    }

    fn node(&mut self, name: &str, operator: &str, inputs: &[&str], outputs: Vec<String>, attributes: Vec<Attribute>) {
        let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
        let name = format!("{name}/{operator}");
        self.nodes.push(Node { inputs, outputs, name, operator: operator.to_owned(), attributes });
    }

    /// Parts of these sizes along an axis.
    pub(super) fn split<const PARTS: usize>(
        &mut self,
        name: &str,
        input: &str,
        axis: i64,
        sizes: [i64; PARTS],
    ) -> [String; PARTS] {
        let outputs: [String; PARTS] = std::array::from_fn(|part| format!("{name}/{part}"));
        let sizes = self.ints(&sizes);
        self.node(name, "Split", &[input, &sizes], outputs.to_vec(), vec![int("axis", axis)]);
        outputs
    }

    pub(super) fn slice(&mut self, name: &str, input: &str, from: i64, to: i64, axis: i64, step: i64) -> String {
        let [from, to, axis, step] = [from, to, axis, step].map(|number| self.ints(&[number]));
        self.op(name, "Slice", &[input, &from, &to, &axis, &step])
    }

    /// -1 means whatever is left, 0 the size in the input.
    pub(super) fn reshape(&mut self, name: &str, input: &str, dims: &[i64]) -> String {
        let dims = self.ints(dims);
        self.op(name, "Reshape", &[input, &dims])
    }

    pub(super) fn concat(&mut self, name: &str, inputs: &[&str], axis: i64) -> String {
        self.op_with(name, "Concat", inputs, vec![int("axis", axis)])
    }

    /// Rows times a matrix, plus a bias for each column.
    pub(super) fn linear(&mut self, name: &str, rows: &str, matrix: &Matrix, bias: impl IntoIterator<Item = f64>) -> String {
        let product = self.product(&format!("{name}/product"), rows, matrix);
        let bias = self.floats(&format!("{name}/bias"), &[matrix.columns], bias);
        self.op(name, "Add", &[&product, &bias])
    }

    pub(super) fn product(&mut self, name: &str, rows: &str, matrix: &Matrix) -> String {
        let dims = [matrix.numbers.len() / matrix.columns, matrix.columns];
        let weights = self.floats(&format!("{name}/weights"), &dims, matrix.numbers.iter().copied());
        self.op(name, "MatMul", &[rows, &weights])
    }

    /// The file of the graph.
    pub(super) fn model(self, name: &str, inputs: Vec<Value>, outputs: Vec<Value>, metadata: Vec<Entry>) -> Model {
        let description = metadata.first().map_or_else(String::new, |entry| entry.value.clone());
        let graph = Graph { nodes: self.nodes, name: name.to_owned(), weights: self.weights, inputs, outputs };
        let operators = OperatorSet { domain: String::new(), version: OPERATORS_VERSION };
        Model {
            ir_version: IR_VERSION,
            producer: "tidemill".to_owned(),
            description,
            graph: Some(graph),
            operator_sets: vec![operators],
            metadata,
        }
    }
}

/// Rows of numbers.
pub(super) struct Matrix {
    pub(super) columns: usize,
    pub(super) numbers: Vec<f64>,
}

impl Matrix {
    pub(super) fn of(rows: usize, columns: usize, number: impl Fn(usize, usize) -> f64) -> Self {
        let number = &number;
        let numbers = (0..rows).flat_map(|row| (0..columns).map(move |column| number(row, column))).collect();
        Self { columns, numbers }
    }

    /// The result for rows that are all `row`.
    pub(super) fn times(&self, row: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.columns];
        for (factor, numbers) in row.iter().zip(self.numbers.chunks_exact(self.columns)) {
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += factor * number);
        }
        sums
    }
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), int: Some(value), kind: INT, ..Attribute::default() }
}

pub(super) fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.to_owned(), text: Some(value.as_bytes().to_vec()), kind: TEXT, ..Attribute::default() }
}

/// An input or output. A dimension without a size is the batch.
pub(super) fn float_value(name: &str, dims: &[Option<i64>]) -> Value {
    value(name, FLOAT, dims)
}

/// An input of one whole number.
pub(super) fn long_value(name: &str) -> Value {
    value(name, LONG, &[])
}

fn value(name: &str, datatype: i32, dims: &[Option<i64>]) -> Value {
    let dim = |size: &Option<i64>| Dimension { size: *size, name: size.is_none().then(|| "batch".to_owned()) };
    let shape = Shape { dims: dims.iter().map(dim).collect() };
    let tensor = TensorKind { datatype, shape: Some(shape) };
    Value { name: name.to_owned(), kind: Some(Kind { tensor: Some(tensor) }) }
}
