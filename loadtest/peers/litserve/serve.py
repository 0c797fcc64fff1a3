"""Starts LitServe with one model behind POST /infer."""

import importlib.metadata
import sys

from settings import HOST, Batching, from_arguments
from supervisor import answers, supervise

DEFAULTS = {"*": Batching(max_batch=16, delay_us=1_000)}


def main() -> None:
    settings = from_arguments(DEFAULTS)
    supervise(
        [sys.executable, "-m", "service"],
        environment=settings.environment(),
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('litserve')}",
    )


if __name__ == "__main__":
    main()
