"""Starts a peer with its `serve` and stops it, for the script that checks peers."""

import contextlib
import dataclasses
import pathlib
import random
import signal
import socket
import subprocess
from collections.abc import Iterator

PEERS = pathlib.Path(__file__).resolve().parents[1]
NAMES = ("triton", "mlserver", "mosec", "litserve", "bentoml", "rayserve")
STOP_PATIENCE_S = 40


@dataclasses.dataclass(frozen=True)
class Running:
    """What the ready line said."""

    pid: int
    version: str
    grpc: str | None
    http: str | None


@contextlib.contextmanager
def running(peer: str, model: str, *options: str, log: pathlib.Path) -> Iterator[Running]:
    """A peer that is ready; when the block is left, it has ended properly, or RuntimeError says what went wrong."""
    command = [PEERS / peer / "serve", "--model", model, "--port", str(_free_ports()), *options]
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            line = process.stdout.readline().split()
            if line[:1] != ["ready"]:
                raise RuntimeError(f"{peer} is not ready for {model}: see {log}")
            fields = dict(field.split("=", 1) for field in line[1:])
            yield Running(int(fields["pid"]), fields["version"], fields.get("grpc"), fields.get("http"))
        finally:
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=STOP_PATIENCE_S)
    if process.returncode != 0 or rest:
        raise RuntimeError(f"{peer} ended with {process.returncode} and said {rest!r} after it was ready: see {log}")


def _free_ports() -> int:
    """A port that is free, as is the one above it; not from the range from which the kernel gives ports to clients."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
