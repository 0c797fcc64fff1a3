"""The servers under comparison: this one's release binary, the peers, and the limit. Each is a tree of processes with its own ports."""

import contextlib
import dataclasses
import json
import random
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from . import processes
from .peer_record import Batching, Record
from .processes import Failed, StoodStill
from .tool import ROOT, Bench, onnxruntime, said_version, say, shown_command

PEERS_FOLDER = ROOT / "loadtest/peers"
# The peers, and what people call them.
PEERS = {
    # Never without naming its backend: the package has no other for these models, and each request has to cross to a Python process.
    "triton": "Triton, Python backend",
    "mlserver": "MLServer",
    "mosec": "Mosec",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "rayserve": "Ray Serve",
}
OURS = "tidemill"
# Answers made in advance, from a bare server: what no server can beat with the same client.
CANNED = "canned"
# Peers that keep a state for each sequence of calls, as this server does.
KEEP_STATE = ("triton",)

INSTALL_PATIENCE_S = 1_800
START_PATIENCE_S = 200
# A client notices before its parent that a server has ended.
END_PATIENCE_S = 2.0
# Below the range of clients' ports.
PORTS = range(20_000, 32_000)

_LISTENING = re.compile(r"listening grpc=(\S+) http=(\S+)")
_READY = re.compile(r"^ready (.*)$")


def title(name: str) -> str:
    """What tables call a server."""
    return PEERS.get(name, name)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that is ready."""

    name: str
    version: str
    # The process from which all others of the server descend.
    pid: int
    grpc: str | None
    http: str | None
    command: str = ""
    is_alive: Callable[[], bool] = lambda: True
    # The last thing that it said.
    last_words: Callable[[], str] = str

    def load(self, command: list[str], *, patience_s: float, environment: dict[str, str] | None = None) -> str:
        """Runs a client of this server to its end and returns what it prints, or reports that the server has ended."""
        try:
            return processes.run(command, patience_s=patience_s, environment=environment, needed=self.is_alive, steady=True)
        except StoodStill:
            raise
        except Failed as failed:
            deadline = time.monotonic() + END_PATIENCE_S
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.is_alive():
                raise
            raise Failed(f"{self.name} ended under this load: {self.last_words()}") from failed


Start = Callable[[], contextlib.AbstractContextManager[Server]]


class Kept:
    """A server that is started when it is first asked for, and again when it has ended on its own."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._running = contextlib.ExitStack()
        self._server: Server | Failed | None = None

    def server(self) -> Server:
        """The server. If it could not be started, it is not tried again."""
        if isinstance(self._server, Server) and not self._server.is_alive():
            self._running.close()
            self._server = None
        if self._server is None:
            try:
                self._server = self._running.enter_context(self._start())
            except Failed as failed:
                say(f"  {failed}")
                self._server = failed
        if isinstance(self._server, Failed):
            raise self._server
        return self._server

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def kept(bench: Bench, name: str, model: str) -> Kept:
    """A server of any kind with one model."""
    starts: dict[str, Start] = {OURS: lambda: tidemill(bench, model), CANNED: lambda: canned(bench, model)}
    return Kept(starts.get(name) or (lambda: peer(bench, name, model)))


def broken(failed: Failed) -> Kept:
    """Stands in for a server that cannot be started."""

    def refuse() -> contextlib.AbstractContextManager[Server]:
        raise failed

    return Kept(refuse)


@contextlib.contextmanager
def tidemill(bench: Bench, model: str) -> Iterator[Server]:
    """This server with one model, on the peers' engine."""
    models = ["--models", str(bench.models(model)), "--set", "models.embedded=false"]
    addresses = [f"--{port}-addr=127.0.0.1:0" for port in ("grpc", "http", "admin")]
    engine = ["--onnxruntime", str(onnxruntime())]
    command = [str(bench.server), "serve", *addresses, *engine, *models, "--set", "log.format=json"]
    with of_command(OURS, said_version(bench.server), command) as server:
        yield server


@contextlib.contextmanager
def of_command(name: str, version: str, command: list[str]) -> Iterator[Server]:
    """This server, started by a command that makes it log JSON."""
    with _started(name, command, _LISTENING, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as (child, found, last_words):
        server = Server(name, version, child.pid, found[1], found[2])
        yield dataclasses.replace(server, command=shown_command(command), is_alive=_alive(child), last_words=last_words)


@contextlib.contextmanager
def canned(bench: Bench, model: str) -> Iterator[Server]:
    """The bare server that gives each request the same answer, of the kind that the model gives."""
    models = ["--models", str(bench.models(model))]
    command = [str(bench.load_tool), "canned", "--port", "0", "--model", model, *models, "--onnxruntime", str(onnxruntime())]
    with _said_ready(bench, CANNED, model, command) as server:
        yield dataclasses.replace(server, command=shown_command(command))


@contextlib.contextmanager
def peer(bench: Bench, name: str, model: str, batching: Batching | None = None) -> Iterator[Server]:
    """A peer with one model, and with the settings that were recorded for this machine unless others are given."""
    settings = (batching or Record.read().batching(name, model)).options()
    program = [str(PEERS_FOLDER / name / "serve"), "--model", model, *settings, "--port"]
    with _said_ready(bench, name, model, [*program, str(_two_free_ports())]) as server:
        yield dataclasses.replace(server, command=shown_command([*program, "PORT"]))


@contextlib.contextmanager
def _said_ready(bench: Bench, name: str, model: str, command: list[str]) -> Iterator[Server]:
    """A server that says on its standard output when it is ready, and logs to standard error."""
    log = bench.scratch / f"{name}-{model}.log"
    with log.open("w") as errors:
        started = _started(name, command, _READY, stdout=subprocess.PIPE, stderr=errors)

        def last_words() -> str:
            return processes.last_line(log.read_text(errors="replace"))

        with contextlib.ExitStack() as stack:
            try:
                child, found, _ = stack.enter_context(started)
            except Failed as failed:
                raise Failed(f"{failed}: {last_words()}") from failed
            try:
                yield dataclasses.replace(ready(name, found[1]), is_alive=_alive(child), last_words=last_words)
            finally:
                # If a server ended on its own, what it said is kept beyond its next start.
                if child.poll() is not None:
                    shutil.copy(log, log.with_suffix(".ended.log"))


def ready(name: str, text: str) -> Server:
    """Reads what a peer says when it is ready: `pid=… grpc=… http=… version=…`; one of the ports may be missing."""
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


Started = tuple["subprocess.Popen[str]", re.Match[str], Callable[[], str]]


@contextlib.contextmanager
def _started(name: str, command: list[str], pattern: re.Pattern[str], **streams: object) -> Iterator[Started]:
    """A running program, the line that said it was ready, and a function that gives the last thing it said."""
    child = processes.start(command, **streams)
    with processes.stopping(child):
        spoken = child.stdout or child.stderr
        assert spoken is not None
        found = _await_line(spoken, pattern, name)
        last = [""]

        def drain() -> None:
            """Reads, so that the program never waits for a reader."""
            with contextlib.suppress(ValueError):
                for line in spoken:
                    last[0] = _message(line)

        threading.Thread(target=drain, daemon=True).start()
        yield child, found, lambda: last[0] or "it says nothing"


def _await_line(stream: IO[str], pattern: re.Pattern[str], name: str) -> re.Match[str]:
    last = ""
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        # A line is written in one piece, so if there is anything, there is a whole line.
        if not select.select([stream], [], [], 0.2)[0]:
            continue
        line = stream.readline()
        if not line:
            raise Failed(" ".join(filter(None, [f"{name} ended before it was ready", last])))
        last = _message(line) or last
        if found := pattern.search(_message(line)):
            return found
    raise Failed(" ".join(filter(None, [f"{name} was not ready within {START_PATIENCE_S} s", last])))


def _message(line: str) -> str:
    """What a line of the log says, whether it is JSON or not."""
    try:
        return str(json.loads(line)["fields"]["message"])
    except (ValueError, KeyError, TypeError):
        return line.strip()[:300]


def _alive(child: "subprocess.Popen[str]") -> Callable[[], bool]:
    return lambda: child.poll() is None


def _two_free_ports() -> int:
    """A free port with a free one above it, outside the range from which the kernel gives ports to clients."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as low, socket.socket() as high:
            try:
                low.bind(("127.0.0.1", port))
                high.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise Failed(f"there are no two free ports in a row from {PORTS.start} to {PORTS.stop}")
