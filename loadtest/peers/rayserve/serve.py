"""Starts Ray Serve on a cluster of this one machine, with one model behind POST /infer."""

import importlib.metadata
import sys

from settings import HOST, Batching, from_arguments
from supervisor import answers, supervise

DEFAULTS = {"*": Batching(max_batch=16, delay_us=1_000)}


def main() -> None:
    settings = from_arguments(DEFAULTS)
    supervise(
        [sys.executable, "-m", "service"],
        environment=settings.environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"},
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('ray')}",
    )


if __name__ == "__main__":
    main()
