"""Starts Ray Serve on a cluster of just this machine, with one model behind POST /infer."""

import importlib.metadata
import sys

from settings import HOST, from_arguments
from supervisor import answers, supervise


def main() -> None:
    settings = from_arguments("rayserve")
    supervise(
        [sys.executable, "-m", "service"],
        # Otherwise replicas would have a lower priority than the load generator on the same cores.
        environment=settings.environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"},
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('ray')}",
    )


if __name__ == "__main__":
    main()
