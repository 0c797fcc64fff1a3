"""Starts Mosec with one model behind POST /infer."""

import importlib.metadata
import sys

from settings import HOST, from_arguments
from supervisor import answers, supervise


def main() -> None:
    settings = from_arguments("mosec")
    supervise(
        [sys.executable, "-m", "service", "--address", HOST, "--port", str(settings.port), "--log-level", "warning"],
        environment=settings.environment(),
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('mosec')}",
    )


if __name__ == "__main__":
    main()
