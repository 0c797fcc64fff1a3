"""Starts MLServer with one model of a custom runtime."""

import importlib.metadata
import json
import pathlib
import sys
import tempfile

from settings import HOST, from_arguments
from supervisor import answers, supervise


def main() -> None:
    settings = from_arguments("mlserver")
    model, batching, grpc, http = settings.contract.name, settings.batching, settings.port, settings.port + 1
    server = {
        "host": HOST,
        "grpc_port": grpc,
        "http_port": http,
        "parallel_workers": batching.workers,
        # Neither a log line nor a histogram for each request.
        "debug": False,
        "metrics_endpoint": None,
    }
    served = {
        "name": model,
        "implementation": "runtime.OnnxRuntime",
        "max_batch_size": batching.max_batch,
        "max_batch_time": batching.delay_us / 1e6,
    }
    with tempfile.TemporaryDirectory(prefix="mlserver-", dir=pathlib.Path(sys.prefix).parent) as folder:
        pathlib.Path(folder, "settings.json").write_text(json.dumps(server))
        pathlib.Path(folder, model).mkdir()
        pathlib.Path(folder, model, "model-settings.json").write_text(json.dumps(served))
        supervise(
            [sys.executable, "-m", "service", "start", folder],
            environment=settings.environment(),
            is_ready=lambda: answers(http, f"/v2/models/{model}/ready"),
            ready=f"grpc={HOST}:{grpc} http={HOST}:{http} version={importlib.metadata.version('mlserver')}",
        )


if __name__ == "__main__":
    main()
