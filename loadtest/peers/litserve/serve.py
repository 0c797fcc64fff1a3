"""Starts LitServe with one model behind POST /infer."""

import importlib.metadata
import sys

from settings import HOST, from_arguments
from supervisor import answers, supervise


def main() -> None:
    settings = from_arguments("litserve")
    supervise(
        [sys.executable, "-m", "service"],
        environment=settings.environment(),
        is_ready=lambda: answers(settings.port, "/infer", settings.contract.zeros()),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('litserve')}",
    )


if __name__ == "__main__":
    main()
