"""Weights in files next to the model, with other files of the same name in the server's working directory."""

import pathlib
import shutil

import numpy as np
import onnx
import places
import pytest
import tritonclient.http as triton
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from refusals import log_of_failed_start
from server import running

DATA = "model.onnx.data"


def save(folder: pathlib.Path, value: float, **options) -> None:
    """x · w + c, and a row of a table; all weights are `value`."""
    shapes = (("w", (2, 4)), ("c", (4,)), ("table", (300, 4)))
    weights = [numpy_helper.from_array(np.full(shape, value, np.float32), name) for name, shape in shapes]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "c"], ["g"]),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("Add", ["g", "e"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    inputs, outputs = [info("x", T.FLOAT, ["b", 2]), info("i", T.INT64, ["b"])], [info("y", T.FLOAT, ["b", 4])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=DATA, **options)


def answer(server, name: str) -> float:
    x, i = triton.InferInput("x", [1, 2], "FP32"), triton.InferInput("i", [1], "INT64")
    x.set_data_from_numpy(np.zeros((1, 2), np.float32))
    i.set_data_from_numpy(np.array([5], np.int64))
    with triton.InferenceServerClient(server.http_address) as client:
        (number,) = set(client.infer(name, [x, i]).as_numpy("y")[0].tolist())
    return number


@pytest.fixture(params=["rten", "onnxruntime"])
def arguments(request, tmp_path, monkeypatch):
    """For a server on each engine, started in a folder that holds another model's weights."""
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    # Small tensors stay in the model, or are in the other file too.
    save(models / "a/1", 1.0, size_threshold=1024)
    save(models / "b/1", 100.0, size_threshold=1024)
    save(models / "c/1", 1000.0, size_threshold=0)
    elsewhere.mkdir()
    shutil.copy(models / "a/1" / DATA, elsewhere)
    monkeypatch.chdir(elsewhere)
    library = ["--onnxruntime", places.onnxruntime()] if request.param == "onnxruntime" else []
    return ["--models", str(models), *library]


def test_each_model_has_its_own_weights(arguments):
    with running(*arguments) as server:
        assert [answer(server, name) for name in "abc"] == [2.0, 200.0, 2000.0]


def test_files_of_the_working_directory_are_not_used_instead(arguments, tmp_path):
    (tmp_path / "models/b/1" / DATA).unlink()
    (line,) = [line for line in log_of_failed_start(*arguments) if "/b/1/model.onnx: " in line]
    for part in ("tensor 'table'", f"'{DATA}', which is not there", "onnx.save(onnx.load("):
        assert part in line, line


def test_a_file_that_is_cut_short_is_refused_with_its_numbers(arguments, tmp_path):
    path = tmp_path / "models/b/1" / DATA
    path.write_bytes(path.read_bytes()[:-1])
    (line,) = [line for line in log_of_failed_start(*arguments) if "/b/1/model.onnx: " in line]
    assert f"tensor 'table' takes 4800 bytes from byte 0 of '{DATA}', which has 4799 bytes" in line, line
