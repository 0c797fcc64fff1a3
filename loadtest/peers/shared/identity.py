"""Makes models that return what they get, FP32 [batch, N]: what a server costs when its model costs nothing."""

import pathlib
import sys

import onnx
from onnx import TensorProto, helper

BYTES_OF_ITEM = {"identity-64": 64, "identity-2304": 2_304, "identity-1mib": 1_048_576}


def identity(width: int) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "identity", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    for name, size in BYTES_OF_ITEM.items():
        model = identity(size // 4)
        onnx.checker.check_model(model)
        onnx.save(model, pathlib.Path(sys.argv[1], f"{name}.onnx"))
