"""Clients that are programs of their own."""

import os
import subprocess

import places
from server import PATIENCE_S


def run(*command, **options) -> str:
    """What a program prints; it must end well and complain of nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def run_node(script: str, *arguments) -> str:
    """What a script of this folder prints."""
    environment = os.environ | {"NODE_PATH": str(places.NODE_MODULES)}
    return run("node", places.ROOT / "tests/interop" / script, *arguments, env=environment)
