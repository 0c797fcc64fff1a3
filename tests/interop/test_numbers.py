"""Models that compute in 64 bits: answers are right, or are refused with the reason, but never wrong."""

import pathlib
import sys

import numpy as np
import places
import pytest
import tritonclient.http as triton
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from refusals import log_of_failed_start
from server import running
from tritonclient.utils import InferenceServerException

LARGE = 5_000_000_000
NUMPY_OF = {T.INT64: np.int64, T.DOUBLE: np.float64, T.FLOAT: np.float32, T.BOOL: np.bool_, T.INT16: np.int16}
NUMPY_OF |= {T.UINT32: np.uint32, T.UINT64: np.uint64, T.FLOAT16: np.float16}
NAME_OF = {T.INT64: "INT64", T.DOUBLE: "FP64", T.FLOAT: "FP32", T.BOOL: "BOOL", T.INT16: "INT16"}
NAME_OF |= {T.UINT32: "UINT32", T.UINT64: "UINT64", T.FLOAT16: "FP16"}


class Kind:
    """A model, a row for it, and the right answer. rten serves `bounded` ones only for small numbers."""

    def __init__(self, nodes, given, asked, gives, right, weights=(), bounded=None, harmless=False):
        self.nodes, self.given, self.gives, self.weights = nodes, given, gives, weights
        self.asked, self.right, self.bounded, self.harmless = asked, right, bounded, harmless

    def file(self) -> bytes:
        width = len(self.asked)
        info = helper.make_tensor_value_info
        weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.weights]
        inputs, outputs = [info("x", self.given, ["b", width])], [info("y", self.gives, ["b", width])]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        return model.SerializeToString()


def of_itself(operator: str) -> list:
    return [helper.make_node(operator, ["x", "x"], ["y"])]


def with_k(operator: str) -> list:
    return [helper.make_node(operator, ["x", "k"], ["y"])]


def longs(*values: int) -> tuple:
    return ("k", np.array(values, np.int64))


def doubles(*values: float) -> tuple:
    return ("k", np.array(values, np.float64))


def constant() -> list:
    value = numpy_helper.from_array(np.array([LARGE], np.int64))
    return [helper.make_node("Constant", [], ["k"], value=value), *with_k("Add")]


def hashed() -> list:
    return [helper.make_node("Mul", ["x", "k"], ["a"]), helper.make_node("Mod", ["a", "m"], ["y"])]


def squared_as_float() -> list:
    return [*[helper.make_node("Mul", ["x", "x"], ["a"])], helper.make_node("Cast", ["a"], ["y"], to=T.FLOAT)]


def there_and_back() -> list:
    return [helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("Sub", ["a", "x"], ["y"])]


AXIS = ("axis", np.int64(1))
# Some of these models give every item the same answer, which a server would warn about.
ALONE = "batching = 'off'"
KINDS = {
    "mul": Kind(of_itself("Mul"), T.INT64, [100_000], T.INT64, [10_000_000_000]),
    "add": Kind(of_itself("Add"), T.INT64, [2_000_000_000], T.INT64, [4_000_000_000], bounded=([3], [6])),
    "cumsum": Kind(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        *(T.INT64, [2_000_000_000, 2_000_000_000, 1], T.INT64, [2_000_000_000, 4_000_000_000, 4_000_000_001]),
        weights=[AXIS],
        bounded=([1, 2, 3], [1, 3, 6]),
    ),
    "constant-node": Kind(constant(), T.INT64, [1], T.INT64, [LARGE + 1]),
    "weight": Kind(with_k("Add"), T.INT64, [1], T.INT64, [LARGE + 1], weights=[longs(LARGE)]),
    "equal": Kind(with_k("Equal"), T.INT64, [2_147_483_647], T.BOOL, [False], weights=[longs(LARGE)]),
    "less": Kind(with_k("Less"), T.INT64, [2_147_483_647], T.BOOL, [True], weights=[longs(LARGE)]),
    "hash": Kind(
        *(hashed(), T.INT64, [12_345], T.INT64, [162_812]), weights=[longs(2_654_435_761), ("m", np.array([1_000_003], np.int64))]
    ),
    "cast-float": Kind([helper.make_node("Cast", ["x"], ["y"], to=T.INT64)], T.FLOAT, [1e10], T.INT64, [10_000_000_000]),
    "milliseconds": Kind(with_k("Mul"), T.INT64, [1_700_000_000], T.INT64, [1_700_000_000_000], weights=[longs(1_000)]),
    "to-float": Kind(squared_as_float(), T.INT64, [100_000], T.FLOAT, [1e10]),
    "fp64-mul": Kind(with_k("Mul"), T.DOUBLE, [16_777_217.0], T.DOUBLE, [16_777_217.0], weights=[doubles(1.0)]),
    "fp64-add": Kind(with_k("Add"), T.DOUBLE, [1.0], T.DOUBLE, [1.000000001], weights=[doubles(1e-9)]),
    "fp64-range": Kind(of_itself("Mul"), T.DOUBLE, [1e30], T.DOUBLE, [1e30 * 1e30]),
    "fp64-same": Kind([helper.make_node("Identity", ["x"], ["y"])], T.DOUBLE, [0.1], T.DOUBLE, [0.1]),
    "fp64-cast": Kind([helper.make_node("Cast", ["x"], ["y"], to=T.FLOAT)], T.DOUBLE, [0.5], T.FLOAT, [0.5], harmless=True),
    "int16-mul": Kind(of_itself("Mul"), T.INT16, [200], T.INT16, [-25_536]),
    "uint32-add": Kind(of_itself("Add"), T.UINT32, [2_000_000_000], T.UINT32, [4_000_000_000], bounded=([3], [6])),
    "uint64-add": Kind(of_itself("Add"), T.UINT64, [2_000_000_000], T.UINT64, [4_000_000_000], bounded=([3], [6])),
    "fp16-sum": Kind(there_and_back(), T.FLOAT16, [1.5], T.FLOAT16, [1.5], harmless=True),
    "as-it-is": Kind([helper.make_node("Identity", ["x"], ["y"])], T.INT64, [-7], T.INT64, [-7], harmless=True),
    "slice": Kind(
        [helper.make_node("Slice", ["x", "from", "to", "axes"], ["y"])],
        *(T.INT64, [1, 2, 3], T.INT64, [1, 2, 3]),
        weights=[("from", np.array([0])), ("to", np.array([9_223_372_036_854_775_807])), ("axes", np.array([1]))],
        harmless=True,
    ),
}


def write(folder: pathlib.Path, kinds: dict[str, Kind], manifest: str = "") -> pathlib.Path:
    for name, kind in kinds.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.onnx").write_bytes(kind.file())
        (folder / name / "model.toml").write_text(manifest)
    return folder


def ask(server, name: str, kind: Kind, numbers: list) -> list:
    """What a model computes from one row."""
    row = np.array([numbers], NUMPY_OF[kind.given])
    tensor = triton.InferInput("x", row.shape, NAME_OF[kind.given])
    tensor.set_data_from_numpy(row)
    with triton.InferenceServerClient(server.http_address) as client:
        return client.infer(name, [tensor]).as_numpy("y")[0].tolist()


@pytest.fixture(scope="module")
def on_onnxruntime(tmp_path_factory):
    models = write(tmp_path_factory.mktemp("models"), KINDS, ALONE)
    with running("--models", str(models), "--onnxruntime", places.onnxruntime()) as server:
        yield server


@pytest.fixture(scope="module")
def on_rten(tmp_path_factory):
    served = {name: kind for name, kind in KINDS.items() if kind.bounded or kind.harmless}
    models = write(tmp_path_factory.mktemp("models"), served, f"engine = 'rten'\n{ALONE}")
    with running("--models", str(models)) as server:
        yield server


@pytest.mark.parametrize("name", KINDS)
def test_onnxruntime_gives_what_the_model_means(on_onnxruntime, name):
    kind = KINDS[name]
    assert ask(on_onnxruntime, name, kind, kind.asked) == kind.right


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.harmless])
def test_rten_gives_it_where_32_bits_hold_all_that_is_computed(on_rten, name):
    kind = KINDS[name]
    assert ask(on_rten, name, kind, kind.asked) == kind.right


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.bounded])
def test_rten_takes_numbers_as_far_as_it_can_compute_with_them(on_rten, name):
    kind = KINDS[name]
    small, right = kind.bounded
    assert ask(on_rten, name, kind, small) == right
    with pytest.raises(InferenceServerException) as refused:
        ask(on_rten, name, kind, kind.asked)
    assert refused.value.status() == "400"
    for part in ("input 'x'", "element 0 is 2000000000", "onnxruntime"):
        assert part in refused.value.message()


@pytest.mark.parametrize("manifest", ["", "engine = 'rten'"])
def test_rten_refuses_what_32_bits_do_not_hold(tmp_path, manifest):
    refused = {name: kind for name, kind in KINDS.items() if not kind.bounded and not kind.harmless}
    log = log_of_failed_start("--models", str(write(tmp_path, refused, manifest)))
    for name in refused:
        (line,) = [line for line in log if f"/{name}/1/model.onnx: " in line]
        for part in ("operator " if name != "fp64-same" else "output 'y' is FP64", "--onnxruntime auto", "allow_narrowing = true"):
            assert part in line, line


def test_a_manifest_can_accept_it_and_the_log_says_what(tmp_path):
    models = write(tmp_path, {"mul": KINDS["mul"]}, "engine = 'rten'\nallow_narrowing = true")
    warning = r"WARN.*model=mul.*operator Mul computes INT64"
    with running("--models", str(models), expected_alarms=(warning,)) as server:
        assert ask(server, "mul", KINDS["mul"], [46_340]) == [46_340**2]
        assert server.alarms(), "it warns"


def test_the_library_of_an_installed_package_is_found_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)
    models = write(tmp_path, {"mul": KINDS["mul"]})
    with running("--models", str(models), "--onnxruntime", "auto") as server:
        assert ask(server, "mul", KINDS["mul"], KINDS["mul"].asked) == KINDS["mul"].right
        (line,) = [line for line in server.log if "found the library of onnxruntime" in line]
        assert "libonnxruntime.so" in line, line
