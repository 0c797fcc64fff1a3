"""Starts BentoML with one model behind POST /infer."""

import importlib.metadata
import pathlib
import sys

from settings import HOST, from_arguments
from supervisor import answers, supervise

# Here the delay is the latency that the batcher tries to stay under; what would take longer is refused.
# After this many answers it has measured its calls, and no longer makes requests wait for that.
WARM_UP = 40


def main() -> None:
    settings = from_arguments("bentoml")
    here = str(pathlib.Path(__file__).resolve().parent)
    supervise(
        [sys.executable, "-m", "bentoml", "serve", "service:Infer", "--working-dir", here, "--host", HOST, "--port", str(settings.port)],
        environment=settings.environment() | {"BENTOML_DO_NOT_TRACK": "true"},
        is_ready=lambda: all(answers(settings.port, "/infer", settings.contract.zeros()) for _ in range(WARM_UP)),
        ready=f"http={HOST}:{settings.port} version={importlib.metadata.version('bentoml')}",
    )


if __name__ == "__main__":
    main()
