"""Random models with the truth about them: whether company can change an item's answer. It is known from how they were built, and
checked in Python's onnxruntime, with the same item at the same place in calls of one size, among calm and loud others."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator

import graphs
import numpy as np
from alone import Model, State, Tensors, difference, is_number, magnitudes, row_scale
from graphs import FLOAT, Graph, Value
from onnx import TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

INDEPENDENT, DEPENDENT, LEAKS, RANDOM, NO_BATCH, ONE = "independent", "dependent", "leaks", "random", "no batch", "one"
# Dependent too, but the only output is a label, which may be the same for all items that a server makes up.
LABELS = "labels"

# How long a lane waits for company, so that the clients' items meet.
MEET = "max_delay_us = 3000"
# A verdict must not depend on how busy the machine is.
PATIENT = "[trial]\nseconds = 60"
BATCH_NAMES = ["batch", "N", "b", "batch_size", "unk__7", None]
# In parts of the range of a model's outputs. Even the weakest coupling must be found.
STRENGTHS = [1e-3, 1e-3, 1e-2, 0.1, 0.5]
# A row of almost nothing may be what is left of larger numbers: between engines it is measured against this part of a typical row.
LEAST = 0.1
LEAK = 0.05
# In how many contrasts a coupling must show at least, so that it is not chance.
SHOWN = 3
# Rounding between calls of different sizes, in parts of the row's largest value.
ROUNDING = 1e-4
# How far each number is off, where that must not matter.
NUDGE = 2e-7

CALM = ["unit", "unit", "offset", "positive"]
LOUD = ["loud", "mirror", "zero", "quiet"]
LENGTH_MAX = 12


class Unfit(Exception):
    """A model that tests nothing: its coupling is near rounding, or does not show. Another one is built."""


@dataclasses.dataclass
class Specimen:
    name: str
    seed: int
    truth: str
    model: Model
    manifest: str
    # An item of this character, and of this many frames where a model takes any number of them.
    draw: Callable[[np.random.Generator, str, int], Tensors]
    # Whether only onnxruntime can run it.
    onnxruntime_only: bool = False
    # Whether it rounds inside the graph, so that two engines may differ by more than rounding.
    lossy: bool = False
    # How far other clients' items move an answer, in parts of the outputs' range.
    shift: float = 0.0

    def items(self, random: np.random.Generator, characters: list[str], length: int = 0) -> list[Tensors]:
        return [self.draw(random, character, length) for character in characters]

    def write(self, folder: pathlib.Path) -> None:
        """Puts the model into a folder for `--models`."""
        write_model(folder, self.name, self.model.file, self.manifest)

    def __repr__(self) -> str:
        return f"{self.name} (seed {self.seed}, {self.truth}, shift {self.shift:.2g}, {self.manifest!r})"


def write_model(folder: pathlib.Path, name: str, file: bytes, manifest: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1/model.onnx").write_bytes(file)
    if manifest:
        (folder / name / "model.toml").write_text(manifest)


def floats(random: np.random.Generator, character: str, *shape: int, loud: float = 1000.0) -> np.ndarray:
    drawn = random.normal(0, 1, shape)
    made = {
        "unit": drawn,
        "loud": loud * drawn,
        "mirror": -loud * np.abs(drawn),
        "zero": 0 * drawn,
        "quiet": drawn / loud,
        "offset": 3 + drawn / 2,
        "positive": np.abs(drawn),
    }
    return np.asarray(made[character], np.float32)


def whole_numbers(random: np.random.Generator, character: str, top: int, dtype, *shape: int) -> np.ndarray:
    reach = {"zero": 1, "quiet": max(2, top // 10)}.get(character, top)
    return np.asarray(random.integers(0, reach, shape), dtype)


# The clients' inputs, and how they become numbers. Each adds its inputs to the graph and returns the value and how an item is
# drawn.


class Inputs:
    """The inputs of a graph, and what else to know about them."""

    def __init__(self, value: Value, draw, **extra) -> None:
        self.value, self.draw, self.extra = value, draw, extra


def rows(g: Graph, batch) -> Inputs:
    n = int(g.random.integers(3, 9))
    g.input("x", np.float32, batch, n)
    return Inputs(Value("x", (n,)), lambda random, character, _: {"x": floats(random, character, n)})


def frames(g: Graph, batch) -> Inputs:
    t, n = (int(n) for n in g.random.integers((2, 3), (6, 7)))
    g.input("x", np.float32, batch, t, n)
    return Inputs(Value("x", (t, n)), lambda random, character, _: {"x": floats(random, character, t, n)})


def tokens(g: Graph, batch) -> Inputs:
    dtype, k, width = g.random.choice([np.int64, np.int32]), int(g.random.integers(2, 6)), int(g.random.integers(3, 7))
    words = int(g.random.choice([7, 40, 130, 500]))
    g.input("ids", dtype, batch, k)
    table = g.constant(g.random.normal(0, 1, (words, width)))
    value = Value(g.op("Gather", table, "ids", axis=0), (k, width))
    return Inputs(value, lambda random, character, _: {"ids": whole_numbers(random, character, words, dtype, k)})


def image(g: Graph, batch) -> Inputs:
    n = int(g.random.integers(4, 9))
    g.input("pixels", np.uint8, batch, n)
    value = Value(g.op("Mul", g.op("Cast", "pixels", to=FLOAT), g.constant(1 / 64)), (n,))
    return Inputs(value, lambda random, character, _: {"pixels": whole_numbers(random, character, 256, np.uint8, n)})


def flagged(g: Graph, batch) -> Inputs:
    n = int(g.random.integers(3, 9))
    g.input("x", np.float32, batch, n)
    g.input("flags", np.bool_, batch, n)

    def draw(random, character, _):
        return {"x": floats(random, character, n), "flags": random.random(n) < 0.5}

    return Inputs(Value(g.op("Where", "flags", "x", g.constant(0.3)), (n,)), draw)


def category(g: Graph, batch) -> Inputs:
    n, kinds = int(g.random.integers(3, 9)), int(g.random.choice([4, 20]))
    g.input("x", np.float32, batch, n)
    g.input("kind", np.int32, batch)
    of_kind = g.op("Gather", g.constant(g.random.normal(0, 1, (kinds, n))), "kind", axis=0)

    def draw(random, character, _):
        return {"x": floats(random, character, n), "kind": whole_numbers(random, character, kinds, np.int32)}

    return Inputs(Value(g.op("Add", "x", of_kind), (n,)), draw)


def scalars(g: Graph, batch) -> Inputs:
    g.input("x", np.float32, batch)
    spread = g.op("MatMul", g.op("Unsqueeze", "x", g.ints(1)), g.constant(g.random.normal(0, 1, (1, 4))))
    return Inputs(Value(spread, (4,)), lambda random, character, _: {"x": floats(random, character)})


def half(g: Graph, batch) -> Inputs:
    n = int(g.random.integers(3, 9))
    g.input("x", np.float16, batch, n)
    value = Value(g.op("Cast", "x", to=FLOAT), (n,))

    def draw(random, character, _):
        return {"x": floats(random, character, n, loud=100.0).astype(np.float16)}

    return Inputs(value, draw)


def sideways(g: Graph, batch) -> Inputs:
    """The batch is the last dimension."""
    n = int(g.random.integers(3, 9))
    g.input("x", np.float32, n, batch)
    value = Value(g.op("Transpose", "x", perm=[1, 0]), (n,))
    axes, manifest = {"x": 1}, '[[inputs]]\nname = "x"\nbatch_axis = 1'
    draw = lambda random, character, _: {"x": floats(random, character, n)}  # noqa: E731
    return Inputs(value, draw, batch_axes=axes, manifest=manifest)


def texts(g: Graph, batch) -> Inputs:
    """Words from a list. To the model all made-up strings are the same, so the manifest gives some words."""
    k, words = int(g.random.integers(2, 5)), ["red", "green", "blue", "Tromsø", ""]
    g.input("words", object, batch, k)
    values = [float(value) for value in g.random.normal(0, 1, len(words))]
    encoder = {"keys_strings": words, "values_floats": values, "default_float": 0.5}
    value = Value(g.op("LabelEncoder", "words", domain="ai.onnx.ml", **encoder), (k,))

    def draw(random, character, _):
        chosen = random.choice([*words, "unknown"], k) if character != "zero" else ["unknown"] * k
        return {"words": np.array([word.encode() for word in chosen], object)}

    own = np.random.default_rng(k)
    lists = ", ".join(f"{{ words = {[str(word) for word in own.choice([*words, 'unknown'], k)]} }}" for _ in range(8)).replace(
        "'", '"'
    )
    return Inputs(value, draw, trial=f"items = [{lists}]", onnxruntime_only=True)


SIMPLE = [rows, frames, tokens, image, flagged, category, scalars, half, sideways]


def any_length(g: Graph, batch) -> Inputs:
    """Items of any number of frames; those with the same number meet."""
    n = int(g.random.integers(3, 7))
    g.input("x", np.float32, batch, "length", n)
    return Inputs(Value("x", (None, n)), lambda random, character, length: {"x": floats(random, character, length or 5, n)})


def masked(g: Graph, batch) -> Inputs:
    """Items of different lengths in one call, with a mask that says which frames are real."""
    n, dtype = int(g.random.integers(3, 7)), g.random.choice([np.int64, np.float32])
    g.input("x", np.float32, batch, "length", n)
    g.input("mask", dtype, batch, "length")

    def draw(random, character, length):
        length = length or int(random.integers(1, LENGTH_MAX + 1))
        return {"x": floats(random, character, length, n), "mask": np.ones(length, dtype)}

    manifest = '[padding]\nmask = "mask"\nbuckets = [6, 12]\nwaste_max = 0.9'
    return Inputs(Value("x", (None, n)), draw, padded=("x", "mask"), manifest=manifest)


# Pooling of frames.


def masked_mean(g: Graph, x: Value) -> Value:
    mask = g.op("Unsqueeze", g.op("Cast", "mask", to=FLOAT), g.ints(2))
    total = g.op("ReduceSum", g.op("Mul", x.name, mask), g.ints(1), keepdims=0)
    return Value(g.op("Div", total, g.op("ReduceSum", mask, g.ints(1), keepdims=0)), x.shape[1:])


def masked_maximum(g: Graph, x: Value) -> Value:
    real = g.op("Greater", g.op("Cast", g.op("Unsqueeze", "mask", g.ints(2)), to=FLOAT), g.constant(0.5))
    return Value(g.op("ReduceMax", g.op("Where", real, x.name, g.constant(-3e38)), axes=[1], keepdims=0), x.shape[1:])


def plain_mean(g: Graph, x: Value) -> Value:
    return Value(g.op("ReduceMean", x.name, axes=[1], keepdims=0), x.shape[1:])


def plain_maximum(g: Graph, x: Value) -> Value:
    raised = g.op("Sub", x.name, g.constant(2.0))
    return Value(g.op("ReduceMax", raised, axes=[1], keepdims=0), x.shape[1:])


def last_frame(g: Graph, x: Value) -> Value:
    return Value(g.op("Gather", x.name, g.constant(-1, np.int64), axis=1), x.shape[1:])


def sums_from_behind(g: Graph, x: Value) -> Value:
    return Value(g.op("CumSum", affine_one(g, x), g.constant(1, np.int64), reverse=1), x.shape)


def softmax_over_frames(g: Graph, x: Value) -> Value:
    return Value(g.op("Softmax", x.name, axis=1), x.shape)


def neighbouring_frames(g: Graph, x: Value) -> Value:
    """A convolution that sees padded frames as something other than zero."""
    lined_up = g.op("Transpose", affine_one(g, x), perm=[0, 2, 1])
    kernel = g.random.normal(0, 0.5, (2, x.shape[-1], 3))
    out = g.op("Conv", lined_up, g.constant(kernel), kernel_shape=[3], pads=[1, 1])
    return Value(g.op("Transpose", out, perm=[0, 2, 1]), (None, 2))


def affine_one(g: Graph, x: Value) -> str:
    return g.op("Add", x.name, g.constant(1.0))


TIGHT = [masked_mean, masked_maximum, None]
LEAKY = [plain_mean, plain_maximum, last_frame, sums_from_behind, softmax_over_frames, neighbouring_frames]


def batch_name(g: Graph):
    return BATCH_NAMES[g.random.integers(len(BATCH_NAMES))]


def specimen(g: Graph, inputs: Inputs, truth: str, manifest: str = "", **more) -> Specimen:
    """The specimen of a finished graph."""
    extra = inputs.extra
    fields = {"batch_axes": extra.get("batch_axes", {}), "padded": extra.get("padded", ())} | more.pop("model", {})
    # Tables come last in TOML.
    text = "\n".join([MEET, *filter(None, [manifest, extra.get("manifest", ""), PATIENT, extra.get("trial", "")])])
    alone = extra.get("onnxruntime_only", False) or more.pop("onnxruntime_only", False)
    return Specimen("", 0, truth, Model(g.file(), **fields), text, inputs.draw, alone, **more)


def finish(g: Graph, y: Value, batch, labels: bool = False, name: str = "y") -> tuple[str, ...]:
    """Makes `y` an output. Returns the outputs that have a dimension for the frames."""
    dims = ["length" if size is None else size for size in y.shape]
    if labels:
        # No two are equal, or the engine would have to choose.
        apart = g.op("Add", y.name, g.constant(g.random.normal(0, 1, y.shape)))
        g.output(g.op("ArgMax", apart, axis=1, keepdims=0), name, TensorProto.INT64, batch)
        return ()
    g.output(y.name, name, FLOAT, batch, *dims)
    return (name,) if None in y.shape else ()


# The families of models.


def independent(g: Graph, setting: Callable = None) -> Specimen:
    batch = batch_name(g)
    inputs = (setting or g.random.choice(SIMPLE))(g, batch)
    y = graphs.body(g, inputs.value, most=6)
    lossy = bool(g.random.random() < 0.15)
    if lossy:
        y = graphs.gemm(g, graphs.quantized(g, y))
    finish(g, y, batch)
    if g.random.random() < 0.3:
        finish(g, graphs.flat(g, y), batch, labels=True, name="label")
    return specimen(g, inputs, INDEPENDENT, lossy=lossy or setting is half)


def independent_text(g: Graph) -> Specimen:
    return independent(g, texts)


def independent_of_any_length(g: Graph) -> Specimen:
    batch = batch_name(g)
    inputs = any_length(g, batch)
    y = graphs.body(g, inputs.value, blocks=graphs.FRAME_BLOCKS)
    y = g.random.choice([plain_mean, plain_maximum, last_frame, sums_from_behind, softmax_over_frames])(g, y)
    finish(g, y, batch)
    return specimen(g, inputs, INDEPENDENT)


def coupled(g: Graph, couplings: dict, strengths: list[float], setting: Callable = None) -> Specimen:
    batch = batch_name(g)
    inputs = (setting or g.random.choice(SIMPLE))(g, batch)
    before = graphs.body(g, inputs.value, least=0)
    y = graphs.couple(g, before, inputs.value, str(g.random.choice(list(couplings))))
    if g.random.random() < 0.4:
        y = graphs.body(g, y, most=2)
    finish(g, y, batch, name="z")
    if g.random.random() < 0.3:
        finish(g, graphs.body(g, inputs.value, most=2), batch, name="a")
    return tuned(g, specimen(g, inputs, DEPENDENT), float(g.random.choice(strengths)))


def coupled_statistic(g: Graph) -> Specimen:
    return coupled(g, graphs.STATISTICS, STRENGTHS)


def coupled_order(g: Graph) -> Specimen:
    return coupled(g, graphs.ORDERS, STRENGTHS)


def coupled_place(g: Graph) -> Specimen:
    return coupled(g, graphs.PLACES, STRENGTHS)


def coupled_text(g: Graph) -> Specimen:
    return coupled(g, graphs.STATISTICS, STRENGTHS, texts)


def coupled_naturally(g: Graph) -> Specimen:
    batch = batch_name(g)
    inputs = g.random.choice([rows, frames, tokens, flagged, category])(g, batch)
    x = graphs.body(g, inputs.value, least=0, most=2)
    coupling = str(g.random.choice(list(graphs.NATURAL)))
    y = graphs.NATURAL[coupling](g, x)
    if coupling not in graphs.CONSTANT_ALONE:
        y = graphs.body(g, y, least=0, most=2)
    finish(g, y, batch)
    return specimen(g, inputs, DEPENDENT, lossy=coupling == "dynamic_quantization")


def baked_in(g: Graph) -> Specimen:
    """Exported with a batch of 1: two items cannot be run together."""
    batch = batch_name(g)
    inputs = rows(g, batch)
    y = graphs.batch_of_one(g, graphs.body(g, inputs.value, most=2))
    finish(g, graphs.body(g, y, least=0, most=2), batch)
    return specimen(g, inputs, ONE)


def coupled_labels(g: Graph) -> Specimen:
    """The only output is the index of the highest."""
    batch = batch_name(g)
    inputs = g.random.choice([rows, tokens, flagged])(g, batch)
    x = graphs.gemm(g, graphs.flat(g, graphs.body(g, inputs.value, most=2)))
    together = graphs.batch_mean(g, graphs.row_number(g, inputs.value))
    each = g.constant(g.random.normal(0, 4, x.shape))
    finish(g, Value(g.op("Add", x.name, g.op("Mul", together, each)), x.shape), batch, labels=True)
    return specimen(g, inputs, LABELS)


def recurrent(g: Graph, coupling: str = "", strength: float = 0, where: str = "") -> Specimen:
    """A state that is fed back, with the batch in front or as the middle dimension of three."""
    batch, width = batch_name(g), int(g.random.integers(3, 6))
    inputs = rows(g, batch)
    axis = int(g.random.integers(2))
    dims = (batch, width) if axis == 0 else (1, batch, width)
    g.input("h", np.float32, *dims)
    before = "h" if axis == 0 else g.op("Squeeze", "h", g.ints(0))
    driven = graphs.matmul_to(g, inputs.value, width)
    h = Value(g.op("Tanh", g.op("Add", driven, graphs.matmul_to(g, Value(before, (width,)), width))), (width,))
    y = graphs.body(g, h, most=3)
    states = [State("h", "h_next", (width,) if axis == 0 else (1, width), axis)]
    if where == "state":
        h = graphs.couple(g, h, h, coupling)
    elif where == "output":
        y = graphs.couple(g, y, h, coupling)
    elif where == "late":
        # Counts the items of a stream, and couples from the sixth on.
        g.input("count", np.float32, batch, 1)
        counted = g.op("Add", "count", g.constant(1.0))
        late = g.op("Cast", g.op("Greater", counted, g.constant(5.0)), to=FLOAT)
        together = graphs.couple(g, Value(g.constant(np.zeros((1, 1))), (1,)), h, coupling).name
        y = graphs.flat(g, y)
        y = Value(g.op("Add", y.name, g.op("Mul", late, together)), y.shape)
        g.output(counted, "count_next", FLOAT, batch, 1)
        states.append(State("count", "count_next", (1,)))
    finish(g, y, batch)
    g.output(h.name if axis == 0 else g.op("Unsqueeze", h.name, g.ints(0)), "h_next", FLOAT, *dims)
    tables = [f'[[states]]\ninput = "{s.input}"\noutput = "{s.output}"\nbatch_axis = {s.batch_axis}' for s in states]
    truth = DEPENDENT if where else INDEPENDENT
    made = specimen(g, inputs, truth, "\n".join(tables), model={"states": tuple(states)})
    return tuned(g, made, strength) if where else made


def coupled_recurrent(g: Graph) -> Specimen:
    where = str(g.random.choice(["state", "output", "late"]))
    return recurrent(g, str(g.random.choice(list(graphs.STATISTICS))), float(g.random.choice(STRENGTHS)), where)


def padded(g: Graph, poolings: list = TIGHT, truth: str = INDEPENDENT, coupling: str = "") -> Specimen:
    batch = batch_name(g)
    inputs = masked(g, batch)
    y = graphs.body(g, inputs.value, blocks=graphs.FRAME_BLOCKS)
    pooling = g.random.choice(np.array([*poolings, None], object)[: len(poolings)])
    if pooling:
        y = pooling(g, y)
    if len(y.shape) == 1:
        y = graphs.body(g, y, least=0, most=2)
    strength = float(g.random.choice(STRENGTHS))
    if coupling:
        pooled = y if len(y.shape) == 1 else masked_mean(g, y)
        y = graphs.couple(g, y, pooled, coupling)
    cut = finish(g, y, batch)
    if "length" not in cut and pooling is None:
        cut = ("y",)
    made = specimen(g, inputs, truth, model={"cut": cut})
    return tuned(g, made, strength) if coupling else made


def leaking(g: Graph) -> Specimen:
    return padded(g, LEAKY, LEAKS)


def coupled_padded(g: Graph) -> Specimen:
    return padded(g, TIGHT, DEPENDENT, str(g.random.choice(list(graphs.STATISTICS))))


def noisy(g: Graph) -> Specimen:
    """Random, as a voice is. rten has no random operators."""
    batch = batch_name(g)
    inputs = rows(g, batch)
    y = graphs.body(g, inputs.value)
    noise = g.op("Mul", g.op("RandomNormalLike", y.name), g.constant(0.5))
    finish(g, Value(g.op("Add", y.name, noise), y.shape), batch)
    return specimen(g, inputs, RANDOM, onnxruntime_only=True)


def found(g: Graph) -> Specimen:
    """One row for each hit in the call, not for each item. rten cannot compress."""
    inputs = rows(g, "batch")
    y = graphs.flat(g, graphs.body(g, inputs.value, most=2))
    score = g.op("Squeeze", g.op("Slice", y.name, g.ints(0), g.ints(1), g.ints(1)), g.ints(1))
    hits = g.op("Compress", y.name, g.op("Greater", score, g.constant(0.0)), axis=0)
    g.output(hits, "y", FLOAT, "hits", *y.shape)
    return specimen(g, inputs, NO_BATCH, onnxruntime_only=True)


# How often each one is built.
FAMILIES = [
    *[independent] * 13,
    *[independent_of_any_length] * 2,
    *[independent_text],
    *[recurrent] * 2,
    *[padded] * 3,
    *[leaking] * 3,
    *[coupled_statistic] * 8,
    *[coupled_order] * 6,
    *[coupled_place] * 2,
    *[coupled_text],
    *[coupled_naturally] * 5,
    *[coupled_labels] * 2,
    *[coupled_recurrent] * 3,
    *[coupled_padded] * 2,
    *[noisy],
    *[found],
    *[baked_in],
]


def tuned(g: Graph, made: Specimen, strength: float) -> Specimen:
    """Sets the strength of the coupling so that company moves an answer by this much, in parts of the outputs' range."""
    scale = output_range(made)
    for _ in range(4):
        constant = g.initializers[graphs.STRENGTH]
        better = strength * scale if constant == 0 else constant * strength / max(made.shift, 1e-9)
        g.initializers[graphs.STRENGTH] = np.float32(better)
        made.model = dataclasses.replace(made.model, file=g.file())
        made.shift = shift(made)
        if not 0 < made.shift < np.inf:
            raise Unfit(f"the coupling shows as {made.shift}")
        if 0.95 <= made.shift / strength <= 1.3:
            return made
    raise Unfit(f"the coupling shows as {made.shift} instead of {strength}")


def answers_alone(made: Specimen, items: list[Tensors]) -> list[Tensors]:
    return [made.model.stream([item])[0] for item in items]


def output_range(made: Specimen) -> float:
    """From the lowest to the highest number that calm items give."""
    alone = answers_alone(made, made.items(np.random.default_rng(1), CALM * 4))
    numbers = [values for own in alone for values in own.values() if is_number(values)]
    if not numbers:
        return 1.0
    spread = float(max(values.max() for values in numbers) - min(values.min() for values in numbers))
    if not 1e-3 < spread < 1e4:
        raise Unfit(f"a range of {spread}")
    return spread


STEPS = 8


@functools.cache
def _sizes() -> list[int]:
    return [2, 3, 5, 8]


def contrasts(made: Specimen) -> Iterator[tuple[list[list[Tensors]], list[list[Tensors]], int]]:
    """Pairs of calls of one size that share one stream of items, at the same place, and the number of that stream. Models
    without states have streams of one item."""
    random = np.random.default_rng(2)
    steps = STEPS if made.model.states else 1
    length = LENGTH_MAX if made.model.padded else 0

    def streams(characters, length=0):
        return [made.items(random, [character] * steps, length) for character in characters]

    for size, turn in itertools.product(_sizes(), range(4)):
        place = int(random.integers(size))
        (target,) = streams([random.choice(CALM)])
        sides = [random.choice(CALM, size - 1), random.choice(LOUD if turn % 2 else CALM, size - 1)]
        calls = []
        for characters in sides:
            others = streams(characters[1:]) + streams(characters[:1], length)
            calls.append([*others[:place], target, *others[place:]])
        yield calls[0], calls[1], place


def shift(made: Specimen) -> float:
    """How far company moves a calm item's answer at most, in parts of the outputs' range."""
    scale, moved = output_range(made), []
    try:
        for calm, other, place in contrasts(made):
            found, expected = (made.model.streams(streams)[place] for streams in (calm, other))
            alone = made.model.stream(calm[place])
            near = [difference(a, b, scale) for a, b in zip(found, expected, strict=True)]
            far = [difference(a, b, scale) for a, b in zip(cut(made, found, calm[place]), alone, strict=True)]
            moved.append(max(*near, *far))
    except (Fail, InvalidArgument, RuntimeException):
        return np.inf
    moved.sort()
    if moved[-SHOWN] < 0.1 * moved[-1]:
        raise Unfit(f"the coupling shows as {moved[-SHOWN:]}")
    return moved[-1]


def cut(made: Specimen, answers: list[Tensors], items: list[Tensors]) -> list[Tensors]:
    if not made.model.padded:
        return answers
    return [made.model.cut_to(own, item) for own, item in zip(answers, items, strict=True)]


def verify(made: Specimen) -> None:
    """Checks that the model is what it was built to be; one that was meant to have no coupling must have none at all."""
    if made.truth in (RANDOM, ONE):
        return
    calm = made.items(np.random.default_rng(1), CALM * 4)
    if made.truth == NO_BATCH:
        hits = [len(made.model.session.run(None, {"x": item["x"][np.newaxis]})[0]) for item in calm]
        if not 0.2 < np.mean(hits) < 0.8:
            raise Unfit(f"a share of hits of {np.mean(hits)}")
        return
    alone = answers_alone(made, calm)
    typical = magnitudes(alone)
    if made.truth == INDEPENDENT and np.mean([difference(own, alone[0], typical) < ROUNDING for own in alone]) > 0.5:
        raise Unfit("answers that are all the same")
    if not np.isfinite([*typical.values()]).all():
        raise Unfit("answers that are not numbers")
    if made.truth in (DEPENDENT, LABELS):
        made.shift = made.shift or shift(made)
        if made.shift < 1e-3 * 0.95:
            raise Unfit(f"the coupling shows as {made.shift}")
        return
    if not made.lossy:
        check_conditioning(made, typical)
    far = 0.0
    for calm, other, place in contrasts(made):
        found, expected = (made.model.streams(streams)[place] for streams in (calm, other))
        for a, b in zip(found, expected, strict=True):
            near = difference(a, b, row_scale(b, typical))
            assert near == 0, f"{made!r} was built without a coupling, but moves by {near}"
        alone = made.model.stream(calm[place])
        for a, b in zip(cut(made, found, calm[place]), alone, strict=True):
            far = max(far, difference(a, b, row_scale(b, typical)))
    if made.truth == LEAKS:
        if far < LEAK:
            raise Unfit(f"padding shows as {far}")
        made.shift = far
    elif far > ROUNDING:
        raise Unfit(f"rounding shows as {far}")


def check_conditioning(made: Specimen, typical: dict[str, float]) -> None:
    """Engines round in different ways. If rounding a model at random changes the answer, engines may rightly differ."""
    nudged = dataclasses.replace(made.model, file=graphs.nudged(made.model.file, NUDGE))
    for item in made.items(np.random.default_rng(3), [*CALM, *LOUD] * 3):
        item = item | {state.input: state.first() for state in made.model.states}
        expected, found = made.model.alone(item), nudged.alone(item)
        for state in made.model.states:
            expected.pop(state.output)
        apart = difference(found, expected, row_scale(expected, typical, LEAST))
        if apart > ROUNDING:
            raise Unfit(f"rounding between engines shows as {apart}")


def build(seed: int) -> Specimen:
    """The model of a seed."""
    family = FAMILIES[seed % len(FAMILIES)]
    for attempt in range(50):
        g = Graph(np.random.default_rng([seed, attempt]))
        try:
            made = family(g)
            made.seed = seed
            verify(made)
        except Unfit:
            continue
        made.name = f"{family.__name__}-{seed}"
        return made
    raise AssertionError(f"seed {seed}: no {family.__name__} that shows what it should in 50 attempts")
