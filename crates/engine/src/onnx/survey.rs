//! Follows the bounds of numbers through a graph, and finds where an engine that computes in 32 bits would get different numbers.

use std::collections::HashMap;

use rten_onnx::onnx::DataType;

use super::{
    constants::Constants,
    proto::{self, Graph, Node},
    values::{ELEMENTS_MAX, Fit, LENGTH_MAX, Origin, Value, is_integer, power, product, quotient, remainder},
};

/// The state of following a graph.
pub(super) struct Survey<'a, 'f> {
    values: HashMap<&'f str, Value>,
    dims: HashMap<&'f str, Vec<Option<i64>>>,
    constants: Constants<'a, 'f>,
    /// Datatypes that the file gives for intermediate values.
    datatypes: HashMap<&'f str, DataType>,
    /// Where numbers may be wrong, each once.
    reasons: Vec<String>,
}

/// Follows `graph`, whose inputs can bring what `inputs` says, and finds where numbers may not be what they should be.
pub(super) fn survey<'f>(graph: &Graph<'f>, inputs: impl Fn(usize, &proto::Value<'f>) -> Value) -> Vec<String> {
    let mut survey = Survey {
        values: HashMap::new(),
        dims: HashMap::new(),
        constants: Constants::default(),
        datatypes: HashMap::new(),
        reasons: Vec::new(),
    };
    survey.values.extend(graph.inputs.iter().enumerate().map(|(at, input)| (input.name, inputs(at, input))));
    survey.graph(graph);
    for output in &graph.outputs {
        let value = survey.value(output.name);
        if value.datatype == DataType::DOUBLE && !value.exact {
            survey.reason(format!("output '{}' is FP64", output.name));
        } else if value.is_narrowed() && value.fit != Fit::Held {
            survey.reason(format!("output '{}' is {} that may not fit in 32 bits", output.name, name_of(value.datatype)));
        }
    }
    survey.reasons
}

impl<'a, 'f: 'a> Survey<'a, 'f> {
    fn graph(&mut self, graph: &'a Graph<'f>) {
        for value in graph.inputs.iter().chain(&graph.outputs).chain(&graph.values) {
            if let Some(dims) = &value.dims {
                self.dims.insert(value.name, dims.iter().map(|dim| dim.size.filter(|size| *size >= 0)).collect());
            }
            if let Some(datatype) = value.datatype {
                self.datatypes.insert(value.name, DataType(datatype));
            }
        }
        for tensor in &graph.initializers {
            self.dims.insert(tensor.name, tensor.dims.iter().copied().map(Some).collect());
        }
        self.constants.add(graph);
        for tensor in &graph.initializers {
            if let Some(constant) = self.constants.get(tensor.name) {
                self.values.insert(tensor.name, constant.value());
            }
        }
        for node in &graph.nodes {
            self.node(node);
        }
    }

    /// The known facts about the value with this name.
    fn value(&self, name: &str) -> Value {
        if let Some(value) = self.values.get(name) {
            return *value;
        }
        if let Some(constant) = self.constants.get(name) {
            return constant.value();
        }
        Value::any(self.datatypes.get(name).copied().unwrap_or(DataType::FLOAT))
    }

    fn reason(&mut self, reason: String) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// The values of a node's outputs, given those of its inputs.
    fn node(&mut self, node: &'a Node<'f>) {
        if matches!(node.operator, "If" | "Loop") {
            return self.control(node);
        }
        let inputs: Vec<Value> = node.inputs.iter().map(|name| self.value(name)).collect();
        let outputs = match node.operator {
            "Constant" => vec![self.value(node.outputs.first().copied().unwrap_or_default())],
            "Cast" | "CastLike" => vec![self.cast(node, &inputs)],
            _ => self
                .moved(node, &inputs)
                .or_else(|| self.told(node, &inputs))
                .unwrap_or_else(|| vec![self.arithmetic(node, &inputs)]),
        };
        for (at, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let fallback = || Value::any(self.datatypes.get(name).copied().unwrap_or(DataType::FLOAT));
            let value = outputs.get(at).copied().unwrap_or_else(fallback);
            self.values.insert(name, value);
        }
    }

    /// Graphs inside a node see all values around them.
    fn control(&mut self, node: &'a Node<'f>) {
        let mut outputs: Vec<Value> = Vec::new();
        for graph in node.graphs() {
            let carried = if node.operator == "Loop" { self.enter_loop(node, graph) } else { Vec::new() };
            self.graph(graph);
            // A body's first output says whether to go on.
            let skipped = usize::from(node.operator == "Loop");
            for (at, output) in graph.outputs.iter().skip(skipped).enumerate() {
                let value = self.value(output.name);
                let value = carried.get(at).map_or(value, |before: &Value| before.or(value));
                match outputs.get_mut(at) {
                    Some(other) => *other = other.or(value),
                    None => outputs.push(value),
                }
            }
        }
        let named = node.outputs.iter().copied().zip(outputs);
        self.values.extend(named.filter(|(name, _)| !name.is_empty()));
    }

    /// What the inputs of a loop's body can be in any iteration.
    fn enter_loop(&mut self, node: &Node<'f>, body: &Graph<'f>) -> Vec<Value> {
        let carried: Vec<Value> = node.inputs.iter().skip(2).map(|name| self.value(name)).collect();
        let carried: Vec<Value> = carried.into_iter().map(|value| value.or(Value::any(value.datatype))).collect();
        let inputs = [Value::index(), Value::truth()].into_iter().chain(carried.iter().copied());
        self.values.extend(body.inputs.iter().map(|input| input.name).zip(inputs));
        carried
    }

    /// For operators that pass numbers on as they are.
    fn moved(&mut self, node: &Node<'f>, inputs: &[Value]) -> Option<Vec<Value>> {
        let first = inputs.first().copied()?;
        let zero = Value { datatype: first.datatype, ..Value::constant(DataType::FLOAT, [0.0]) };
        let all = |some: &[usize]| {
            let mut some = some.iter().filter_map(|at| node.input(*at).and_then(|_| inputs.get(*at)));
            let first = some.next().copied()?;
            Some(some.fold(first, |all, value| all.or(*value)))
        };
        let moved = match node.operator {
            "Slice" => first,
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose" | "Flatten" | "Expand" | "Tile" | "Gather"
            | "GatherElements" | "GatherND" | "DepthToSpace" | "SpaceToDepth" | "Split" | "ReverseSequence" | "Compress"
            | "SplitToSequence" | "SequenceAt" | "SequenceErase" => {
                self.check_shapes(node, inputs, 1);
                first
            }
            "Concat" | "SequenceConstruct" | "ConcatFromSequence" => all(&(0..inputs.len()).collect::<Vec<_>>())?,
            "SequenceInsert" => all(&[0, 1])?,
            "Where" => all(&[1, 2])?,
            "Pad" => all(&[0, 2])?.or(zero),
            "Trilu" => first.or(zero),
            "ScatterElements" | "ScatterND" | "Scatter"
                if node.attribute("reduction").and_then(|it| it.text).is_none_or(|text| text == b"none") =>
            {
                all(&[0, 2])?
            }
            "OneHot" => inputs.get(2).copied()?,
            "Resize" | "Upsample" if first.datatype != DataType::DOUBLE => first,
            "MaxPool" | "GlobalMaxPool" | "ReduceMax" | "ReduceMin" => first,
            "TopK" => {
                self.check_order(node, first);
                first
            }
            "Dropout" => first,
            _ => return None,
        };
        let second = match node.operator {
            "TopK" | "MaxPool" => Value::index(),
            "Dropout" => Value::truth(),
            _ => moved,
        };
        Some(std::iter::once(moved).chain(std::iter::repeat_n(second, node.outputs.len().saturating_sub(1))).collect())
    }

    /// For operators whose results have their own bounds.
    fn told(&mut self, node: &Node<'f>, inputs: &[Value]) -> Option<Vec<Value>> {
        let first = inputs.first().copied();
        let found = match node.operator {
            "Shape" => Value::index().from(Origin::Shape),
            "Size" => Value::between(DataType::INT64, 0.0, ELEMENTS_MAX).from(Origin::Shape),
            "SequenceLength" | "NonZero" | "NonMaxSuppression" => Value::index(),
            "ArgMax" | "ArgMin" => {
                self.check_order(node, first?);
                Value::index()
            }
            "ConstantOfShape" => {
                self.check_shapes(node, inputs, 0);
                let tensor = node.attribute("value").and_then(|value| value.tensor.as_ref());
                tensor.map_or_else(
                    || Value::constant(DataType::FLOAT, [0.0]),
                    |tensor| super::constants::Constant::Tensor(tensor).value(),
                )
            }
            "EyeLike" => {
                let datatype = node.int("dtype").and_then(|it| i32::try_from(it).ok()).map_or(first?.datatype, DataType);
                Value::between(datatype, 0.0, 1.0)
            }
            "Range" if first?.datatype != DataType::DOUBLE => {
                let [start, limit, delta] = inputs.get(..3)?.try_into().ok()?;
                let all = Value::computed(&[start, limit, delta], start.low.min(limit.low), start.high.max(limit.high));
                self.settled(node, all)
            }
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => {
                self.check_comparison(node, inputs);
                Value::truth()
            }
            "Not" | "And" | "Or" | "Xor" | "IsNaN" | "IsInf" => Value::truth(),
            "Sign" => {
                self.check_order(node, first?);
                Value { exact: true, whole: true, ..Value::computed(inputs, -1.0, 1.0) }
            }
            "BitCast" => {
                let to = node.int("to").and_then(|to| i32::try_from(to).ok()).map_or(DataType::FLOAT, DataType);
                let made = Value::any(to);
                if first?.is_narrowed() || made.is_narrowed() || [first?.datatype, to].contains(&DataType::DOUBLE) {
                    self.reason(format!("{} looks at the bits of {}", label(node), name_of(first?.datatype)));
                }
                Value { exact: true, ..made }
            }
            // Fractions of FP64 are arithmetic.
            _ if first.is_some_and(|it| it.datatype == DataType::DOUBLE) => return None,
            _ => return fractions(node, inputs),
        };
        Some(vec![found; node.outputs.len()])
    }

    /// For all others: the result has the first input's type.
    fn arithmetic(&mut self, node: &Node<'f>, inputs: &[Value]) -> Value {
        let Some(first) = inputs.first().copied() else {
            return Value::any(DataType::FLOAT);
        };
        let second = inputs.get(1).copied().unwrap_or(first);
        let given = || node.inputs.iter().zip(inputs).filter(|(name, _)| !name.is_empty()).map(|(_, value)| *value);
        let bounded = |low: f64, high: f64| Value::computed(&[first], low, high);
        let unknown = Value { whole: is_integer(first.datatype), ..bounded(f64::NEG_INFINITY, f64::INFINITY) };
        let both = |(low, high): (f64, f64)| Value::computed(&[first, second], low, high);
        let found = match node.operator {
            "Add" => both((first.low + second.low, first.high + second.high)),
            "Sub" => both((first.low - second.high, first.high - second.low)),
            "Mul" => {
                let (low, high) = product(first, second);
                if first.origin == Origin::Shape && second.origin == Origin::Shape && node.inputs.first() != node.inputs.get(1) {
                    both((low.max(-ELEMENTS_MAX), high.min(ELEMENTS_MAX)))
                } else {
                    both((low, high))
                }
            }
            "Div" => Value { whole: is_integer(first.datatype), ..both(quotient(first, second)) },
            "Mod" => both(remainder(first, second)),
            "Pow" => both(power(first, second)),
            "Neg" => bounded(-first.high, -first.low),
            "Abs" => bounded(if first.low > 0.0 { first.low } else { 0.0 }, first.magnitude()),
            "Relu" => bounded(first.low.max(0.0), first.high.max(0.0)),
            "Floor" | "Ceil" | "Round" => Value { whole: true, ..bounded(first.low.floor(), first.high.ceil()) },
            "Max" => {
                let (low, high) =
                    given().fold((f64::NEG_INFINITY, f64::NEG_INFINITY), |(l, h), it| (l.max(it.low), h.max(it.high)));
                chosen(&given().collect::<Vec<_>>(), low, high)
            }
            "Min" => {
                let (low, high) = given().fold((f64::INFINITY, f64::INFINITY), |(l, h), it| (l.min(it.low), h.min(it.high)));
                chosen(&given().collect::<Vec<_>>(), low, high)
            }
            "Clip" => clipped(node, inputs, first),
            "Sum" => Value::computed(inputs, inputs.iter().map(|it| it.low).sum(), inputs.iter().map(|it| it.high).sum()),
            "Mean" => Value { whole: is_integer(first.datatype), ..given().fold(first, Value::or) },
            "MatMul" | "Gemm" => {
                let (low, high) = product(first, second);
                let third = node.input(2).and_then(|_| inputs.get(2)).map_or(0.0, Value::magnitude);
                let most = low.abs().max(high.abs()) * LENGTH_MAX + third;
                Value { whole: false, ..both((-most, most)) }
            }
            _ => self.reduced(node, first).unwrap_or_else(|| Value {
                whole: is_integer(first.datatype),
                ..given().fold(unknown, |all, it| Value { low: unknown.low, high: unknown.high, ..all.or(it) })
            }),
        };
        // Given a rounded number, these give the rounded result.
        let is_exact = matches!(node.operator, "Neg" | "Abs" | "Relu" | "Max" | "Min" | "Clip")
            || (matches!(node.operator, "Floor" | "Ceil" | "Round") && found.exact);
        let datatypes = inputs.iter().zip(&node.inputs).filter(|(_, name)| !name.is_empty()).map(|(value, _)| value.datatype);
        if !is_exact && datatypes.into_iter().any(|datatype| datatype == DataType::DOUBLE) {
            self.reason(format!("{} computes FP64", label(node)));
            return Value { exact: true, ..found };
        }
        self.settled(node, found)
    }

    /// For operators that add up or multiply many elements of their first input.
    fn reduced(&self, node: &Node<'f>, first: Value) -> Option<Value> {
        let bounded = |low: f64, high: f64| Value::computed(&[first], low, high);
        let grown =
            |count: f64| bounded((first.low * count).min(first.low).min(0.0), (first.high * count).max(first.high).max(0.0));
        Some(match node.operator {
            "CumSum" => grown(self.length(node, self.constants.ints(node.input(1).unwrap_or_default()).as_deref())),
            "ReduceSum" => grown(self.length(node, self.axes(node).as_deref())),
            "ReduceMean" => Value { whole: is_integer(first.datatype), ..first },
            "ReduceL1" => {
                let count = self.length(node, self.axes(node).as_deref());
                bounded(0.0, first.magnitude() * count)
            }
            "ReduceSumSquare" => {
                let count = self.length(node, self.axes(node).as_deref());
                bounded(0.0, first.magnitude() * first.magnitude() * count)
            }
            "ReduceProd" if first.origin == Origin::Shape => bounded(-ELEMENTS_MAX, ELEMENTS_MAX),
            "ReduceProd" if first.magnitude() <= 1.0 => bounded(-1.0, 1.0),
            _ => return None,
        })
    }

    /// The result of arithmetic, which is a reason if it can leave its type's bits.
    fn settled(&mut self, node: &Node<'f>, mut found: Value) -> Value {
        if found.is_narrowed() && (found.fit != Fit::Held || found.is_outside()) {
            found.fit = Fit::Wrapped;
            if found.origin == Origin::Data {
                let bits = if matches!(found.datatype, DataType::INT16 | DataType::UINT16) { 16 } else { 32 };
                self.reason(format!("{} computes {} that may not fit in {bits} bits", label(node), name_of(found.datatype)));
                found.fit = Fit::Held;
            }
        }
        found.clamped()
    }

    fn cast(&mut self, node: &Node<'f>, inputs: &[Value]) -> Value {
        let Some(from) = inputs.first().copied() else {
            return Value::any(DataType::FLOAT);
        };
        let told = node.int("to").and_then(|to| i32::try_from(to).ok()).map(DataType);
        let to = told.or_else(|| inputs.get(1).map(|like| like.datatype)).unwrap_or(DataType::FLOAT);
        if to == from.datatype {
            return from;
        }
        let (old, new) = (name_of(from.datatype), name_of(to));
        let is_float = |datatype| matches!(datatype, DataType::FLOAT | DataType::FLOAT16 | DataType::BFLOAT16 | DataType::DOUBLE);
        let mut made = Value { datatype: to, exact: true, ..from };
        if from.datatype == DataType::BOOL {
            if from.low < 0.0 || from.high > 1.0 {
                self.reason(format!("{} makes {new} from BOOL that can be a number other than 0 and 1", label(node)));
            }
            return Value { fit: Fit::Held, low: from.low.clamp(0.0, 1.0), high: from.high.clamp(0.0, 1.0), ..made };
        }
        if from.datatype == DataType::DOUBLE && !from.exact {
            if to != DataType::FLOAT {
                self.reason(format!("{} makes {new} from FP64", label(node)));
            }
            return Value { low: made.low.max(f64::from(f32::MIN)), high: made.high.min(f64::from(f32::MAX)), ..made }.clamped();
        }
        if is_float(from.datatype) && is_float(to) {
            return made;
        }
        if to == DataType::BOOL {
            if is_float(from.datatype) && (!from.whole || from.overflows_as_integer()) {
                self.reason(format!("{} makes BOOL from {old}, which may have a fraction", label(node)));
                return Value::truth();
            }
            return made;
        }
        if is_float(from.datatype) {
            made.whole = true;
            if made.overflows_as_integer() {
                if made.origin == Origin::Data && made.is_narrowed() {
                    self.reason(format!("{} makes {new} from {old} that may not fit in 32 bits", label(node)));
                } else if made.origin != Origin::Data {
                    (made.low, made.high) = (-ELEMENTS_MAX, ELEMENTS_MAX);
                }
            } else {
                (made.low, made.high) = (made.low.trunc(), made.high.trunc());
            }
            made.fit = Fit::Held;
            return made.clamped();
        }
        if from.fit != Fit::Held {
            self.reason(format!("{} makes {new} from {old} that may not fit in 32 bits", label(node)));
            made.fit = Fit::Held;
        }
        made.whole = true;
        // FP32 made from anything but FP64 is right as it is. FP64 can represent every number that 32 bits hold; FP32 cannot.
        made.exact = to != DataType::DOUBLE || made.magnitude() <= f64::from(1 << f32::MANTISSA_DIGITS);
        if made.is_narrowed() && made.is_outside() {
            self.reason(format!("{} makes {new} from {old}, which {new} cannot hold", label(node)));
        }
        made.clamped()
    }

    /// Inputs from this one on are shapes, positions and the like. One that wrapped, from constants alone, could be anything.
    fn check_shapes(&mut self, node: &Node<'f>, inputs: &[Value], from: usize) {
        let wrapped = |value: &Value| value.is_narrowed() && value.fit == Fit::Wrapped && value.origin == Origin::Constant;
        if inputs.iter().skip(from).any(wrapped) {
            self.reason(format!("{} takes INT64 beyond 32 bits", label(node)));
        }
    }

    fn check_comparison(&mut self, node: &Node<'f>, inputs: &[Value]) {
        for (value, name) in inputs.iter().zip(&node.inputs) {
            if value.is_narrowed() && value.fit != Fit::Held {
                self.reason(format!("{} takes {} '{name}' beyond 32 bits", label(node), name_of(value.datatype)));
            } else if value.datatype == DataType::BOOL && (value.low < 0.0 || value.high > 1.0) {
                self.reason(format!("{} takes BOOL '{name}' that can be a number other than 0 and 1", label(node)));
            } else {
                self.check_order(node, *value);
            }
        }
    }

    /// Rounded numbers may be equal where they should not be.
    fn check_order(&mut self, node: &Node<'f>, value: Value) {
        if value.datatype == DataType::DOUBLE && !value.exact {
            self.reason(format!("{} compares FP64", label(node)));
        }
    }

    /// Axes of a reduction; none means all.
    fn axes(&self, node: &Node<'f>) -> Option<Vec<i64>> {
        match node.attribute("axes") {
            Some(axes) => Some(axes.ints.clone()),
            None => self.constants.ints(node.input(1)?),
        }
    }

    /// How many elements of the first input lie along `axes`, at most.
    fn length(&self, node: &Node<'f>, axes: Option<&[i64]>) -> f64 {
        let known = node.input(0).and_then(|name| self.dims.get(name));
        let (Some(dims), Some(axes)) = (known, axes.filter(|axes| !axes.is_empty())) else {
            return LENGTH_MAX;
        };
        let size = |axis: &i64| {
            let at = if *axis < 0 { axis + i64::try_from(dims.len()).unwrap_or(0) } else { *axis };
            let size = usize::try_from(at).ok().and_then(|at| dims.get(at).copied().flatten());
            size.map_or(LENGTH_MAX, |size| size as f64)
        };
        axes.iter().map(size).product::<f64>().max(1.0)
    }
}

/// For operators that give fractions, or integers that stand for them.
fn fractions(node: &Node<'_>, inputs: &[Value]) -> Option<Vec<Value>> {
    let first = inputs.first().copied();
    let single = |low: f64, high: f64| first.map(|it| Value { whole: false, ..Value::computed(&[it], low, high) });
    let found = match node.operator {
        "QuantizeLinear" => {
            let told = node.int("output_dtype").filter(|it| *it != 0).and_then(|it| i32::try_from(it).ok()).map(DataType);
            let zero_point = node.input(2).and_then(|_| inputs.get(2)).map(|it| it.datatype);
            Value::any(told.or(zero_point).unwrap_or(DataType::UINT8))
        }
        "DynamicQuantizeLinear" => {
            let (byte, scale) = (Value::any(DataType::UINT8), Value::any(DataType::FLOAT));
            return Some(vec![byte, scale, byte]);
        }
        "DequantizeLinear" => Value::any(inputs.get(1).map_or(DataType::FLOAT, |scale| scale.datatype)),
        "MatMulInteger" | "ConvInteger" => Value::any(DataType::INT32),
        "Sigmoid" | "HardSigmoid" | "Softmax" => single(0.0, 1.0)?,
        "Tanh" | "Sin" | "Cos" | "Erf" | "Softsign" => single(-1.0, 1.0)?,
        "Exp" => single(0.0, f64::INFINITY)?,
        _ => return None,
    };
    Some(vec![found; node.outputs.len()])
}

/// One of `given`: what is beyond 32 bits becomes the nearest number within them, which is chosen, or not, just as the number itself would
/// be.
fn chosen(given: &[Value], low: f64, high: f64) -> Value {
    let worst = given.iter().map(|it| it.fit).max().unwrap_or(Fit::Held);
    let held: Vec<Value> = given.iter().map(|it| Value { fit: Fit::Held, ..*it }).collect();
    let fit = if worst == Fit::Wrapped { Fit::Wrapped } else { Fit::Held };
    Value { fit, ..Value::computed(&held, low, high) }
}

/// Between the bounds of `Clip`, which are attributes or inputs.
fn clipped(node: &Node<'_>, inputs: &[Value], first: Value) -> Value {
    let bound = |at: usize, name: &str| {
        let told =
            node.attribute(name).and_then(|bound| bound.float).map(|bound| Value::constant(first.datatype, [f64::from(bound)]));
        node.input(at).and_then(|_| inputs.get(at).copied()).or(told)
    };
    let (least, most) = (bound(1, "min"), bound(2, "max"));
    let (mut low, mut high) = (first.low, first.high);
    if let Some(least) = least {
        (low, high) = (low.max(least.low), high.max(least.high));
    }
    if let Some(most) = most {
        (low, high) = (low.min(most.low), high.min(most.high));
    }
    let given: Vec<Value> = [Some(first), least, most].into_iter().flatten().collect();
    chosen(&given, low, high)
}

/// `operator Mul ('scale_ms')`
fn label(node: &Node<'_>) -> String {
    if node.name.is_empty() {
        format!("operator {}", node.operator)
    } else {
        format!("operator {} ('{}')", node.operator, node.name)
    }
}

fn name_of(datatype: DataType) -> String {
    super::contract::datatype_of(datatype).map_or_else(|| datatype.to_string(), |datatype| datatype.to_string())
}
