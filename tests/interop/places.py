"""Where the tests find what `tests/setup/install` has put in place."""

import importlib.util
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
ASSETS = pathlib.Path(os.environ.get("TIDEMILL_TEST_ASSETS", CACHE / "assets"))
SERVER = pathlib.Path(os.environ.get("TIDEMILL_SERVER", ROOT / "target/debug/tidemill"))
# The programs that `cargo test` and `cargo build --examples` make from `examples/*.rs`.
RUST_EXAMPLES = pathlib.Path(os.environ.get("TIDEMILL_TEST_EXAMPLES", ROOT / "target/debug/examples"))
# Models from packages that people install.
MODELS = CACHE / "models"
PROTOS = ROOT / "proto"
NODE_MODULES = CACHE / "node/node_modules"
BUF = NODE_MODULES / ".bin/buf"
GRPCURL = CACHE / "venv/bin/grpcurl"
PROMETHEUS = CACHE / "debian/prometheus/usr/bin/prometheus"
PROMTOOL = CACHE / "debian/prometheus/usr/bin/promtool"
# Envoy, from a package that holds nothing else; and tools for OpenAPI, one of which is a plug-in of pytest.
ENVOY = CACHE / "envoy/envoy"
OPENAPI = CACHE / "openapi/bin"
KSERVE_PYTHON = CACHE / "kserve/bin/python"
# Clients of speech, which have many packages of their own.
VOICE_PYTHON = CACHE / "venv-voice/bin/python"
PERF_ANALYZER = CACHE / "perf_analyzer/perf_analyzer"
# Libraries that the load generator links to and the machine does not have.
PERF_ANALYZER_LIBRARIES = (CACHE / "perf_analyzer", CACHE / "debian/libb64-0d/usr/lib/x86_64-linux-gnu")


def onnxruntime() -> str:
    """The library of ONNX Runtime in the Python package."""
    (library,) = pathlib.Path(importlib.util.find_spec("onnxruntime").origin).parent.glob("capi/libonnxruntime.so.*")
    return str(library)
