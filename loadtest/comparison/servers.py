"""Servers under comparison: this one's release binary, and the peers. Each is a tree of processes with ports of its own."""

import contextlib
import dataclasses
import json
import pathlib
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from . import processes
from .processes import Failed
from .tool import ROOT, Bench, say, shown_command

PEERS = ("triton", "mlserver", "mosec", "litserve", "bentoml", "rayserve")
PEERS_FOLDER = ROOT / "loadtest/peers"

INSTALL_PATIENCE_S = 1_800
START_PATIENCE_S = 200

_LISTENING = re.compile(r"listening grpc=(\S+) http=(\S+)")


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that is ready."""

    name: str
    version: str
    # Of the process that all others of the server descend from.
    pid: int
    grpc: str | None
    http: str | None
    command: str = ""


@contextlib.contextmanager
def tidemill(bench: Bench, model: str) -> Iterator[Server]:
    """This server with one model, on the engine that the peers have."""
    models = [] if model == "silero-vad" else ["--models", str(bench.models(model)), "--set", "models.embedded=false"]
    addresses = [f"--{port}-addr=127.0.0.1:0" for port in ("grpc", "http", "admin")]
    engine = ["--onnxruntime", str(bench.onnxruntime())]
    command = [str(bench.server), "serve", *addresses, *engine, *models, "--set", "log.format=json"]
    child = processes.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with processes.stopping(child):
        assert child.stderr is not None
        found = _await_line(child, child.stderr, _LISTENING, "tidemill")
        version = processes.run([str(bench.server), "--version"], patience_s=20).split()[-1]
        yield Server("tidemill", version, child.pid, found[1], found[2], shown_command(command))


@contextlib.contextmanager
def peer(bench: Bench, name: str, model: str) -> Iterator[Server]:
    """A peer with one model."""
    port = _two_free_ports()
    log = bench.scratch / f"{name}-{model}.log"
    command = [str(PEERS_FOLDER / name / "serve"), "--model", model, "--port", str(port)]
    with log.open("w") as errors:
        child = processes.start(command, stdout=subprocess.PIPE, stderr=errors)
    with processes.stopping(child):
        assert child.stdout is not None
        try:
            found = _await_line(child, child.stdout, re.compile(r"^ready (.*)$"), name)
        except Failed as failed:
            raise Failed(f"{failed}: {processes.last_line(log.read_text(errors='replace'))}") from failed
        yield dataclasses.replace(ready(name, found[1]), command=shown_command([*command[:-1], "PORT"]))


def ready(name: str, text: str) -> Server:
    """Reads what a peer says when it is ready: `pid=… grpc=… http=… version=…`, of which it may lack a port."""
    said = dict(word.split("=", 1) for word in text.split() if "=" in word)
    try:
        return Server(name, said.get("version", "?"), int(said["pid"]), said.get("grpc") or None, said.get("http") or None)
    except (KeyError, ValueError) as error:
        raise Failed(f"{name} says {text!r} when it is ready, without the number of its process") from error


def install(name: str) -> None:
    """Installs a peer; does nothing if it is there."""
    script = PEERS_FOLDER / name / "install"
    if not script.is_file():
        raise Failed(f"there is no {script.relative_to(ROOT)}")
    say(f"installing {name}")
    processes.run([str(script)], patience_s=INSTALL_PATIENCE_S)


def _await_line(child: "subprocess.Popen[str]", stream: "object", pattern: re.Pattern[str], name: str) -> re.Match[str]:
    """Waits for a line of the server; what it says after that is read and dropped, so that it never waits for a reader."""
    last = ""
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        # A line is written at once, so that there is a whole one where there is anything.
        if not select.select([stream], [], [], 0.2)[0]:
            continue
        line = stream.readline()  # type: ignore[attr-defined]
        if not line:
            raise Failed(f"{name} ended before it was ready: {last}")
        last = _message(line) or last
        if found := pattern.search(_message(line)):
            threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()  # type: ignore[attr-defined]
            return found
    raise Failed(f"{name} was not ready within {START_PATIENCE_S} s: {last}")


def _message(line: str) -> str:
    """What a line of the log says, whether it is JSON or not."""
    try:
        return str(json.loads(line)["fields"]["message"])
    except (ValueError, KeyError, TypeError):
        return line.strip()[:300]


def _two_free_ports() -> int:
    """A free port with a free one above it."""
    for _ in range(100):
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            try:
                high.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise Failed("there are no two free ports in a row")


def peers_there() -> list[str]:
    return [name for name in PEERS if pathlib.Path(PEERS_FOLDER / name / "install").is_file()]
