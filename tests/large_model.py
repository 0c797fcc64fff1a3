#!/usr/bin/env python3
"""Serves a model of more than 2 GiB whose weights are in a separate file, and says how much memory that took. Not part of the tests: it
takes gigabytes and minutes.

    tests/large_model.py [--gigabytes N] [--onnxruntime LIBRARY] [--server BINARY]

The file is sparse: it takes no space on disk, but as much memory as its size. Needs the packages numpy and onnx.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import urllib.request

from onnx import TensorProto, helper

WIDTH = 8_192
LAYER_BYTES = WIDTH * WIDTH * 4
ANY_PORTS = ["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0"]


def external(name: str, shape: list[int], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    length = 4
    for size in shape:
        length *= size
    for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(folder: pathlib.Path, layers: int) -> int:
    """A chain of additions and products with matrices of zeros, then a last row of ones, where the file ends."""
    nodes, weights, given = [], [], "x"
    for layer in range(layers):
        weights.append(external(f"w{layer}", [WIDTH, WIDTH], layer * LAYER_BYTES))
        nodes.append(helper.make_node("MatMul", [given, f"w{layer}"], [f"h{layer}"], name=f"layer {layer}"))
        given = f"h{layer}"
    weights.append(external("last", [WIDTH], layers * LAYER_BYTES))
    nodes.append(helper.make_node("Add", [given, "last"], ["y"], name="end"))
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, ["b", WIDTH])], [value("y", TensorProto.FLOAT, ["b", WIDTH])]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with open(folder / "model.onnx.data", "wb") as data:
        data.seek(layers * LAYER_BYTES)
        data.write(b"\0\0\x80\x3f" * WIDTH)
        return data.tell()


def memory(process: int) -> dict[str, float]:
    """What the process has now and had at most, in MiB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.25)
    parser.add_argument("--onnxruntime", default="")
    parser.add_argument("--server", default="target/debug/tidemill")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = write(pathlib.Path(folder) / "models/large/1", int(options.gigabytes * 2**30) // LAYER_BYTES)
        command = [os.path.abspath(options.server), "serve", *ANY_PORTS, "--models", f"{folder}/models"]
        command += ["--set", "scheduler.lanes=1", "--set", "models.embedded=false", "--set", "models.example=false"]
        # The tests' variables are not settings of the server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        command += ["--onnxruntime", options.onnxruntime] if options.onnxruntime else []
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
            try:
                address = None
                for line in server.stderr:
                    print(line, end="")
                    address = address or re.search(r"listening .*http=(\S+)", line)
                    if "model is ready" in line or "ERROR" in line:
                        break
                for line in server.stderr if address is None else ():
                    print(line, end="")
                    if address := re.search(r"listening .*http=(\S+)", line):
                        break
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [1.0] * WIDTH}
                body = json.dumps({"inputs": [tensor]}).encode()
                url = f"http://{address[1]}/v2/models/large/infer"
                with urllib.request.urlopen(url, body, 600) as answer:
                    assert set(json.load(answer)["outputs"][0]["data"]) == {1.0}, "a wrong answer"
                found = memory(server.pid)
                parts = {name: f"{value:,.0f} MiB ({value * 2**20 / size:.2f} of the file)" for name, value in found.items()}
                print(f"file {size / 2**20:,.0f} MiB; now {parts['VmRSS']}, at most {parts['VmHWM']}")
                assert found["VmRSS"] * 2**20 <= 1.2 * size, "more than the file and a fifth of it"
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
