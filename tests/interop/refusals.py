"""A server that does not start, and what it says."""

import os
import subprocess

import places
from server import ANSI, ANY_PORTS, PATIENCE_S


def log_of_failed_start(*arguments: str) -> list[str]:
    """The log of a server that refuses its models."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    command = [places.SERVER, "serve", *ANY_PORTS, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode != 0, done.stderr
    return [ANSI.sub("", line) for line in done.stderr.splitlines()]
