"""Models that users sent, whose items depend on each other although nothing in the file says so."""

import numpy as np
from alone import Model, Tensors
from graphs import FLOAT, Graph
from onnx import helper

WAVE, DYNAMIC, BRANCH, HITS = "wave", "dynamic", "branch", "hits"
WHOLE = "batch = false"


def wave() -> bytes:
    """A waveform, without a batch: its first dimension is time. Returns the wave without its mean."""
    g = Graph(np.random.default_rng())
    x = g.input("x", np.float32, "time")
    g.output(g.op("Sub", x, g.op("ReduceMean", x, axes=[0], keepdims=1)), "y", FLOAT, "time")
    return g.file()


def dynamic() -> bytes:
    """Dynamic quantization: one scale for the whole call, as onnxruntime's `quantize_dynamic` makes it."""
    g = Graph(np.random.default_rng())
    values, scale, zero = g.op("DynamicQuantizeLinear", g.input("x", np.float32, "batch", 4), outputs=3)
    weights = g.constant([[1, -2], [3, 4], [5, 6], [7, -8]], np.int8)
    product = g.op("Cast", g.op("MatMulInteger", values, weights, zero), to=FLOAT)
    g.output(g.op("Mul", product, scale), "y", FLOAT, "batch", 2)
    return g.file()


def branch() -> bytes:
    """Twice the item, or its negative, depending on the sum of the call."""
    g = Graph(np.random.default_rng())
    x = g.input("x", np.float32, "batch", 2)
    positive = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.constant(0.0))
    branches = {}
    for name, node in (
        ("then_branch", helper.make_node("Add", [x, x], ["t"])),
        ("else_branch", helper.make_node("Neg", [x], ["e"])),
    ):
        branches[name] = helper.make_graph([node], name, [], [helper.make_tensor_value_info(node.output[0], FLOAT, None)])
    g.output(g.op("If", positive, **branches), "y", FLOAT, "batch", 2)
    return g.file()


def hits() -> bytes:
    """A detector: as many rows as there are hits in all images of the call. An image of zeros has one."""
    g = Graph(np.random.default_rng())
    bias = np.zeros((1, 3, 4), np.float32)
    bias[0, 0, 0] = 0.5
    boxes = g.op("Reshape", g.op("Add", g.input("x", np.float32, "batch", 3, 4), g.constant(bias)), g.ints(-1, 4))
    found = g.op("Greater", g.op("Gather", boxes, g.constant(0, np.int64), axis=1), g.constant(0.0))
    g.output(g.op("Compress", boxes, found, axis=0), "y", FLOAT, "hits", 4)
    return g.file()


FILES = {WAVE: wave, DYNAMIC: dynamic, BRANCH: branch, HITS: hits}


def calm_and_loud(name: str) -> tuple[list[Tensors], list[Tensors]]:
    """An item whose answer others would change, and those others."""
    if name == DYNAMIC:
        return [{"x": np.array([0.1, 0.2, -0.1, 0.3], np.float32)}], [{"x": np.array([1000, 0, 0, -1000], np.float32)}] * 8
    return [{"x": np.array([-1, -2], np.float32)}], [{"x": np.array([100, 100], np.float32)}] * 8


def images() -> list[Tensors]:
    """Without a hit, with one and with two."""
    made = [np.zeros((1, 3, 4), np.float32) for _ in range(3)]
    made[0][..., 0] = -1
    made[2][0, :2, 0], made[2][0, 0, 1], made[2][0, 2, 0] = 1, 20, -1
    return [{"x": image} for image in made]


def waves() -> list[Tensors]:
    return [{"x": np.arange(length, dtype=np.float32) + offset} for length, offset in ((16, 0), (16, 1000), (1000, 0), (1, 5))]


def whole(name: str) -> Model:
    return Model(FILES[name](), whole=True)
