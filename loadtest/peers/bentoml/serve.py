"""Starts BentoML with one model behind POST /infer."""

import importlib.metadata
import pathlib
import sys

from settings import HOST, Batching, from_arguments
from supervisor import answers, supervise

# Here the delay is the latency that the batcher aims to keep under; what would take longer is refused.
DEFAULTS = {"*": Batching(max_batch=16, delay_us=1_000_000)}


def main() -> None:
    settings = from_arguments(DEFAULTS)
    here = str(pathlib.Path(__file__).resolve().parent)
    supervise(
        [sys.executable, "-m", "bentoml", "serve", "service:Infer", "--working-dir", here, "--host", HOST, "--port", str(settings.port)],
        environment=settings.environment() | {"BENTOML_DO_NOT_TRACK": "true"},
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('bentoml')}",
    )


if __name__ == "__main__":
    main()
