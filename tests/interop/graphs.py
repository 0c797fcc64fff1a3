"""Small ONNX graphs, put together at random from the parts of real models. Whether the rows of a call influence each other is
known for each from how it was built, and `specimens.py` checks that Python's onnxruntime agrees.

A seed makes the same graph on every machine as long as nothing here changes."""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9
ONNX_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.bool_): TensorProto.BOOL,
    np.dtype(object): TensorProto.STRING,
}
FLOAT = TensorProto.FLOAT
# The constant that says how strong a coupling is. At 0 there is none, which is how the range of the output is found.
STRENGTH = "strength"


class Graph:
    """A graph in the making. A value's shape is that of one item: without the batch, which is dimension 0."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes, self.initializers = [], {}
        self.inputs, self.outputs = [], []
        self.domains: set[str] = set()
        self.shapes: dict[str, tuple] = {}
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, values, dtype=np.float32, name: str = "") -> str:
        name = name or self.name("c")
        self.initializers[name] = np.asarray(values, dtype)
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes):
        """Adds a node and returns the name of its output, or the names of its outputs."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        self.domains.add(domain)
        return names[0] if outputs == 1 else names

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def input(self, name: str, dtype, *dims) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[np.dtype(dtype)], dims))
        return name

    def output(self, value: str, name: str, onnx_type: int, *dims) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, onnx_type, dims))

    def file(self) -> bytes:
        initializers = [numpy_helper.from_array(values, name) for name, values in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, initializers)
        versions = {"": OPSET, "ai.onnx.ml": 3, "com.microsoft": 1}
        opsets = [helper.make_opsetid(domain, versions[domain]) for domain in sorted(self.domains | {""})]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()


def nudged(file: bytes, by: float) -> bytes:
    """The same model, but each number that a node makes is off by up to this part of itself."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(file))
    values = [*model.graph.value_info, *model.graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats:
                exact = node.output[index] = f"{name}_exact"
                limits = {"low": -by, "high": by, "seed": float(len(nodes))}
                nodes.append(helper.make_node("RandomUniformLike", [exact], [f"{name}_part"], **limits))
                nodes.append(helper.make_node("Mul", [exact, f"{name}_part"], [f"{name}_off"]))
                nodes.append(helper.make_node("Add", [exact, f"{name}_off"], [name]))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


@dataclasses.dataclass
class Value:
    """A value of a graph, and its item's shape. A dynamic dimension is None."""

    name: str
    shape: tuple

    @property
    def rank(self) -> int:
        """The number of dimensions, including the batch."""
        return 1 + len(self.shape)


# Blocks between an input and an output. None of them lets one row influence another.


def affine(g: Graph, x: Value) -> Value:
    width = x.shape[-1]
    scaled = g.op("Mul", x.name, g.constant(g.random.uniform(0.5, 1.5, width)))
    return Value(g.op("Add", scaled, g.constant(g.random.normal(0, 0.5, width))), x.shape)


def activation(g: Graph, x: Value) -> Value:
    kind = g.random.choice(["Tanh", "Sigmoid", "Relu", "LeakyRelu", "Erf", "Abs", "Neg", "HardSigmoid", "Root", "Clip", "Gelu"])
    if kind == "Root":
        return Value(g.op("Sqrt", g.op("Add", g.op("Abs", x.name), g.constant(0.5))), x.shape)
    if kind == "Clip":
        return Value(g.op("Clip", x.name, g.constant(-2.0), g.constant(2.0)), x.shape)
    if kind == "Gelu":
        return Value(g.op("Mul", x.name, g.op("Sigmoid", g.op("Mul", x.name, g.constant(1.702)))), x.shape)
    return Value(g.op(kind, x.name), x.shape)


def weights(g: Graph, rows: int, columns: int) -> np.ndarray:
    return g.random.normal(0, 1 / np.sqrt(rows), (rows, columns)).astype(np.float32)


def matmul(g: Graph, x: Value) -> Value:
    width = int(g.random.integers(2, 9))
    product = g.op("MatMul", x.name, g.constant(weights(g, x.shape[-1], width)))
    return Value(product, (*x.shape[:-1], width))


def gemm(g: Graph, x: Value) -> Value:
    width = int(g.random.integers(2, 9))
    bias = g.constant(g.random.normal(0, 0.3, width))
    if len(x.shape) != 1:
        return Value(
            g.op("Add", g.op("MatMul", x.name, g.constant(weights(g, x.shape[-1], width))), bias), (*x.shape[:-1], width)
        )
    return Value(g.op("Gemm", x.name, g.constant(weights(g, x.shape[-1], width).T), bias, transB=1), (width,))


def layer_norm(g: Graph, x: Value) -> Value:
    scale, bias = g.constant(g.random.uniform(0.5, 1.5, x.shape[-1])), g.constant(g.random.normal(0, 0.3, x.shape[-1]))
    return Value(g.op("LayerNormalization", x.name, scale, bias, axis=-1, epsilon=1e-3), x.shape)


def norm_by_hand(g: Graph, x: Value) -> Value:
    centred = g.op("Sub", x.name, g.op("ReduceMean", x.name, axes=[-1], keepdims=1))
    spread = g.op("ReduceMean", g.op("Mul", centred, centred), axes=[-1], keepdims=1)
    return Value(g.op("Div", centred, g.op("Sqrt", g.op("Add", spread, g.constant(1e-3)))), x.shape)


def softmax(g: Graph, x: Value) -> Value:
    return Value(g.op("Softmax", x.name, axis=-1), x.shape)


def inner_reduction(g: Graph, x: Value) -> Value:
    """Something computed from the row over some of its dimensions, applied to each of its elements."""
    kind = g.random.choice(["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum"])
    axes = [int(axis) for axis in g.random.permutation(np.arange(1, x.rank))[: g.random.integers(1, x.rank)]]
    if kind == "ReduceSum":
        own = g.op(kind, x.name, g.ints(*axes), keepdims=1)
    else:
        own = g.op(kind, x.name, axes=axes, keepdims=1)
    if g.random.random() < 0.5:
        return Value(g.op("Sub", x.name, own), x.shape)
    return Value(g.op("Div", x.name, g.op("Add", g.op("Abs", own), g.constant(1.0))), x.shape)


def residual(g: Graph, x: Value) -> Value:
    return Value(g.op("Add", x.name, activation(g, affine(g, x)).name), x.shape)


def both_ways(g: Graph, x: Value) -> Value:
    left, right = affine(g, x), activation(g, x)
    return Value(g.op("Concat", left.name, right.name, axis=-1), (*x.shape[:-1], 2 * x.shape[-1]))


def picked(g: Graph, x: Value) -> Value:
    """Some of the last dimension, in another order."""
    chosen = g.random.permutation(x.shape[-1])[: max(2, x.shape[-1] - 1)]
    return Value(g.op("Gather", x.name, g.constant(chosen, np.int64), axis=-1 % x.rank), (*x.shape[:-1], len(chosen)))


def reversed_inside(g: Graph, x: Value) -> Value:
    last = x.rank - 1
    turned = g.op("Slice", x.name, g.ints(-1), g.ints(-(2**31)), g.ints(last), g.ints(-1))
    return Value(g.op("Add", x.name, turned), x.shape)


def running_sum(g: Graph, x: Value) -> Value:
    return Value(g.op("CumSum", x.name, g.constant(x.rank - 1, np.int64)), x.shape)


def sorted_inside(g: Graph, x: Value) -> Value:
    values, _ = g.op("TopK", x.name, g.ints(x.shape[-1]), outputs=2, axis=-1)
    return Value(values, x.shape)


def either(g: Graph, x: Value) -> Value:
    # Not at 0, where a value too small to be a number would decide.
    higher = g.op("Greater", x.name, g.constant(g.random.uniform(0.1, 0.6)))
    return Value(g.op("Where", higher, affine(g, x).name, g.op("Mul", x.name, g.constant(-0.3))), x.shape)


def convolved(g: Graph, x: Value) -> Value:
    """A convolution over the last dimension of rows, or over the first of frames, whose last one is the channels."""
    if len(x.shape) == 1:
        lined_up, channels = g.op("Unsqueeze", x.name, g.ints(1)), 1
    else:
        lined_up, channels = g.op("Transpose", x.name, perm=[0, 2, 1]), x.shape[-1]
    made = int(g.random.integers(1, 4))
    kernel = g.random.normal(0, 1 / np.sqrt(3 * channels), (made, channels, 3))
    out = g.op("Conv", lined_up, g.constant(kernel), kernel_shape=[3], pads=[1, 1])
    if len(x.shape) == 1:
        return Value(g.op("Flatten", out, axis=1), (made * x.shape[0],))
    return Value(g.op("Transpose", out, perm=[0, 2, 1]), (x.shape[0], made))


def learnt_norm(g: Graph, x: Value) -> Value:
    """A batch normalization as in a served model: with learnt statistics."""
    if len(x.shape) != 1:
        return affine(g, x)
    learnt = [g.constant(values) for values in (g.random.uniform(0.5, 1.5, x.shape), g.random.normal(0, 0.3, x.shape))]
    learnt += [g.constant(values) for values in (g.random.normal(0, 0.3, x.shape), g.random.uniform(0.5, 1.5, x.shape))]
    return Value(g.op("BatchNormalization", x.name, *learnt), x.shape)


def quantized(g: Graph, x: Value) -> Value:
    """Static quantization: the scale is learnt, so each row is rounded as it would be alone."""
    scale, zero = g.constant(0.05), g.constant(128, np.uint8)
    return Value(g.op("DequantizeLinear", g.op("QuantizeLinear", x.name, scale, zero), scale, zero), x.shape)


def attention(g: Graph, x: Value) -> Value:
    """Over the frames of an item; rows are first made into frames of two."""
    frames = x
    if len(x.shape) == 1:
        even = picked(g, x) if x.shape[0] % 2 else x
        if even.shape[0] % 2:
            return affine(g, x)
        frames = Value(g.op("Reshape", even.name, g.ints(0, even.shape[0] // 2, 2)), (even.shape[0] // 2, 2))
    query, key = matmul_to(g, frames, 4), matmul_to(g, frames, 4)
    scores = g.op("MatMul", query, g.op("Transpose", key, perm=[0, 2, 1]))
    mixed = g.op("MatMul", g.op("Softmax", g.op("Tanh", scores), axis=-1), frames.name)
    if len(x.shape) == 1:
        return Value(g.op("Flatten", mixed, axis=1), (frames.shape[0] * 2,))
    return Value(mixed, frames.shape)


def matmul_to(g: Graph, x: Value, width: int) -> str:
    return g.op("MatMul", x.name, g.constant(weights(g, x.shape[-1], width)))


def transposed(g: Graph, x: Value) -> Value:
    if len(x.shape) != 2:
        return activation(g, x)
    return Value(g.op("Transpose", x.name, perm=[0, 2, 1]), x.shape[::-1])


BLOCKS = [
    *(affine, activation, matmul, gemm, layer_norm, norm_by_hand, softmax, inner_reduction, residual, both_ways, picked),
    *(reversed_inside, running_sum, sorted_inside, either, convolved, learnt_norm, attention, transposed),
]
# Where an item may have any number of frames: blocks that treat each frame alone.
FRAME_BLOCKS = [affine, activation, matmul, layer_norm, norm_by_hand, softmax, residual, picked, either]


def body(g: Graph, x: Value, least: int = 1, most: int = 4, blocks: list[Callable] = BLOCKS) -> Value:
    for _ in range(g.random.integers(least, most + 1)):
        x = g.random.choice(blocks)(g, x)
    return x


def flat(g: Graph, x: Value) -> Value:
    """Rows of numbers, whatever came in."""
    return x if len(x.shape) == 1 else Value(g.op("Flatten", x.name, axis=1), (int(np.prod(x.shape)),))


# Couplings. Each makes a number from -1 to 1, or a little more, for the call (`[1, 1]`) or for each of its rows (`[batch, 1]`) from `u`,
# one number from -1 to 1 for each row (`[batch, 1]`).


def row_number(g: Graph, x: Value) -> str:
    x = flat(g, x)
    mixed = g.op("MatMul", x.name, g.constant(g.random.normal(0, 1 / np.sqrt(x.shape[0]), (x.shape[0], 1))))
    return g.op("Tanh", mixed)


def batch_size(g: Graph, u: str) -> str:
    """As a whole number, `[1]`."""
    return g.op("Slice", g.op("Shape", u), g.ints(0), g.ints(1), g.ints(0))


def batch_mean(g, u):
    return g.op("ReduceMean", u, axes=[0], keepdims=1)


def batch_maximum(g, u):
    return g.op(str(g.random.choice(["ReduceMax", "ReduceMin"])), u, axes=[0], keepdims=1)


def batch_sum(g, u):
    return g.op("Tanh", g.op("ReduceSum", u, g.ints(0), keepdims=1))


def batch_norm(g, u):
    return g.op("ReduceL2", u, axes=[0, 1], keepdims=1)


def batch_spread(g, u):
    """0 for an item that is alone."""
    centred = g.op("Sub", u, batch_mean(g, u))
    return g.op("ReduceMean", g.op("Mul", centred, centred), axes=[0], keepdims=1)


def batch_product(g, u):
    return g.op("ReduceProd", u, axes=[0], keepdims=1)


def batch_softmax(g, u):
    return g.op("Softmax", g.op("Mul", u, g.constant(3.0)), axis=0)


def batch_running_sum(g, u):
    return g.op("CumSum", u, g.constant(0, np.int64), exclusive=int(g.random.integers(2)))


def batch_reversed(g, u):
    return g.op("Slice", u, g.ints(-1), g.ints(-(2**31)), g.ints(0), g.ints(-1))


def batch_neighbour(g, u):
    """The row before this one; the first has none."""
    return g.op("Slice", g.op("Pad", u, g.ints(1, 0, 0, 0)), g.ints(0), g.ints(-1), g.ints(0))


def batch_convolved(g, u):
    lined_up = g.op("Unsqueeze", g.op("Transpose", u, perm=[1, 0]), g.ints(0))
    kernel = g.constant(g.random.uniform(0.3, 0.6, (1, 1, 3)))
    mixed = g.op("Conv", lined_up, kernel, kernel_shape=[3], pads=[1, 1])
    return g.op("Transpose", g.op("Squeeze", mixed, g.ints(0)), perm=[1, 0])


def batch_first(g, u):
    return g.op("Gather", u, g.ints(int(g.random.choice([0, -1]))), axis=0)


def batch_branch(g, u):
    positive = g.op("Greater", g.op("ReduceSum", u, keepdims=0), g.constant(0.0))
    branches = {}
    for branch, value in (("then_branch", 1.0), ("else_branch", -1.0)):
        out = g.name("branch")
        value = numpy_helper.from_array(np.full((1, 1), value, np.float32))
        node = helper.make_node("Constant", [], [out], value=value)
        branches[branch] = helper.make_graph([node], branch, [], [helper.make_tensor_value_info(out, FLOAT, [1, 1])])
    return g.op("If", positive, **branches)


def batch_sorted(g, u):
    values, _ = g.op("TopK", u, batch_size(g, u), outputs=2, axis=0)
    return values


def batch_winner(g, u):
    """1 for the highest row, which an item that is alone always is."""
    return g.op("Cast", g.op("Equal", u, g.op("ReduceMax", u, axes=[0], keepdims=1)), to=FLOAT)


def batch_attention(g, u):
    scores = g.op("Mul", g.op("MatMul", u, g.op("Transpose", u, perm=[1, 0])), g.constant(3.0))
    return g.op("MatMul", g.op("Softmax", scores, axis=-1), u)


def batch_recurrent(g, u):
    """A recurrent layer for which the rows are steps of time."""
    steps = g.op("Unsqueeze", u, g.ints(1))
    w, r = (g.constant(g.random.uniform(0.5, 1.0, (1, 4, 1))) for _ in range(2))
    out, _, _ = g.op("LSTM", steps, w, r, outputs=3, hidden_size=1)
    return g.op("Squeeze", out, g.ints(1, 2))


def share_above(g, u):
    """The share of the rows that are positive."""
    return g.op("ReduceMean", g.op("Cast", g.op("Greater", u, g.constant(0.0)), to=FLOAT), axes=[0], keepdims=1)


def batch_winners_row(g, u):
    """The highest row, fetched by its number."""
    return g.op("Gather", u, g.op("ArgMax", u, axis=0, keepdims=0), axis=0)


def batch_mean_of_many(g, u):
    """Only in calls of six or more."""
    many = g.op("Cast", g.op("Greater", batch_size(g, u), g.ints(5)), to=FLOAT)
    return g.op("Mul", batch_mean(g, u), many)


def batch_mean_for_some(g, u):
    """Only for the rows that are positive."""
    return g.op("Mul", batch_mean(g, u), g.op("Cast", g.op("Greater", u, g.constant(0.0)), to=FLOAT))


def batch_causal(g, u):
    """Attention from each row to those before it."""
    scores = g.op("Mul", g.op("MatMul", u, g.op("Transpose", u, perm=[1, 0])), g.constant(3.0))
    ones = g.op("Add", g.op("Mul", scores, g.constant(0.0)), g.constant(1.0))
    kept = g.op("Mul", g.op("Exp", scores), g.op("Trilu", ones, upper=0))
    total = g.op("ReduceSum", kept, g.ints(1), keepdims=1)
    return g.op("MatMul", g.op("Div", kept, total), u)


def batch_turned(g, u):
    """Each row gets the next one's, the last the first one's."""
    rest = g.op("Slice", u, g.ints(1), g.ints(2**31), g.ints(0))
    return g.op("Concat", rest, g.op("Slice", u, g.ints(0), g.ints(1), g.ints(0)), axis=0)


def batch_pooled(g, u):
    """The highest of three neighbours."""
    lined_up = g.op("Unsqueeze", g.op("Transpose", u, perm=[1, 0]), g.ints(0))
    pooled = g.op("MaxPool", lined_up, kernel_shape=[3], pads=[1, 1], strides=[1])
    return g.op("Transpose", g.op("Squeeze", pooled, g.ints(0)), perm=[1, 0])


def of_size(g, u):
    """From 0 for an item that is alone to 1 in a call of eight, and beyond."""
    size = g.op("Cast", batch_size(g, u), to=FLOAT)
    return g.op("Reshape", g.op("Div", g.op("Sub", size, g.constant(1.0)), g.constant(7.0)), g.ints(1, 1))


def of_place(g, u):
    """From 0 in the first place to 1 in the eighth, and beyond."""
    ones = g.op("Add", g.op("Mul", u, g.constant(0.0)), g.constant(1 / 7))
    return g.op("CumSum", ones, g.constant(0, np.int64), exclusive=1)


# By name. The first are statistics of the call; one item a call cures them.
STATISTICS = {
    coupling.__name__: coupling
    for coupling in (
        *(batch_mean, batch_maximum, batch_sum, batch_norm, batch_spread, batch_product, batch_softmax, batch_branch),
        *(batch_winner, batch_winners_row, batch_attention, share_above, batch_mean_of_many, batch_mean_for_some),
    )
}
ORDERS = {
    coupling.__name__: coupling
    for coupling in (
        *(batch_running_sum, batch_reversed, batch_neighbour, batch_convolved, batch_first, batch_sorted, batch_recurrent),
        *(batch_causal, batch_turned, batch_pooled),
    )
}
PLACES = {coupling.__name__: coupling for coupling in (of_size, of_place)}
COUPLINGS = STATISTICS | ORDERS | PLACES


def couple(g: Graph, x: Value, source: Value, coupling: str) -> Value:
    """`x`, with what the rows of the call make together added to every element, as strongly as the constant says."""
    together = COUPLINGS[coupling](g, row_number(g, source))
    if STRENGTH not in g.initializers:
        g.constant(0.0, name=STRENGTH)
    added = g.op("Mul", together, STRENGTH)
    if len(x.shape) > 1:
        added = g.op("Unsqueeze", added, g.ints(*range(2, x.rank)))
    if not x.shape:
        added = g.op("Squeeze", added, g.ints(1))
    return Value(g.op("Add", x.name, added), x.shape)


# Couplings without a strength to choose: operators as exporters write them.


def dynamic_quantization(g: Graph, x: Value) -> Value:
    """A product whose scale is that of the whole call, as onnxruntime's `quantize_dynamic` makes it."""
    x = flat(g, x)
    before = str(g.random.choice(["", "Tanh", "Sigmoid", "norm"]))
    if before == "norm":
        x = layer_norm(g, x)
    elif before:
        x = Value(g.op(before, x.name), x.shape)
    width = int(g.random.integers(2, 6))
    values, scale, zero = g.op("DynamicQuantizeLinear", x.name, outputs=3)
    table = g.constant(g.random.integers(-100, 100, (x.shape[0], width)), np.int8)
    product = g.op("Cast", g.op("MatMulInteger", values, table, zero), to=FLOAT)
    return Value(g.op("Mul", g.op("Mul", product, scale), g.constant(0.01)), (width,))


def clipped_below_the_loudest(g: Graph, x: Value) -> Value:
    """The way a spectrogram's loudness is clipped some decibels below the loudest value of all."""
    level = g.op("Log", g.op("Add", g.op("Mul", x.name, x.name), g.constant(1e-6)))
    floor = g.op("Sub", g.op("ReduceMax", level, axes=list(range(x.rank)), keepdims=1), g.constant(8.0))
    return Value(g.op("Max", level, floor), x.shape)


def divided_by_the_largest(g: Graph, x: Value) -> Value:
    largest = g.op("ReduceMax", g.op("Abs", x.name), axes=list(range(x.rank)), keepdims=1)
    return Value(g.op("Div", x.name, g.op("Add", largest, g.constant(1e-3))), x.shape)


def centred_over_the_batch(g: Graph, x: Value) -> Value:
    """Nothing is left of an item that is alone."""
    return Value(g.op("Sub", x.name, g.op("ReduceMean", x.name, axes=[0], keepdims=1)), x.shape)


def softmax_over_the_batch(g: Graph, x: Value) -> Value:
    """1 for every element of an item that is alone."""
    return Value(g.op("Softmax", x.name, axis=0), x.shape)


def statistics_of_the_batch(g: Graph, x: Value) -> Value:
    """A batch normalization exported the way it is in training, written out."""
    mean = g.op("ReduceMean", x.name, axes=[0], keepdims=1)
    centred = g.op("Sub", x.name, g.op("Mul", mean, g.constant(0.5)))
    spread = g.op("ReduceMean", g.op("Mul", centred, centred), axes=[0], keepdims=1)
    return Value(g.op("Div", centred, g.op("Sqrt", g.op("Add", spread, g.constant(0.01)))), x.shape)


def batch_of_one(g: Graph, x: Value) -> Value:
    """A Reshape that was exported with a batch of 1."""
    x = flat(g, x)
    return Value(g.op("Reshape", x.name, g.ints(1, x.shape[0])), x.shape)


NATURAL = {
    coupling.__name__: coupling
    for coupling in (
        *(dynamic_quantization, clipped_below_the_loudest, divided_by_the_largest, centred_over_the_batch),
        *(softmax_over_the_batch, statistics_of_the_batch),
    )
}
# These leave nothing to serve: every item that is alone gets the same answer.
CONSTANT_ALONE = ("centred_over_the_batch", "softmax_over_the_batch")
