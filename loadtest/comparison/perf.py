"""Triton's load generator: one run of it, and what it prints."""

import dataclasses
import os
import re
import time

from . import processes
from .processes import Failed
from .rows import Figures
from .servers import Server
from .tool import CACHE, Effort, note

PROGRAM = CACHE / "perf_analyzer/perf_analyzer"
VERSION = "tritonclient 2.51.0"
PATIENCE_S = 90
UNSTABLE = "Failed to obtain stable measurement"


@dataclasses.dataclass(frozen=True)
class Perf:
    infer_per_s: float
    p50_us: float
    # Cores that the server kept busy while the program ran, its start and its pauses included.
    cores: float = 0.0

    def figures(self) -> Figures:
        """In the form that rows use."""
        return {"per_s": self.infer_per_s, "p50_us": self.p50_us, "cores": self.cores}


def command(address: str, model: str, concurrency: int, *, streaming: bool, effort: Effort) -> list[str]:
    return [
        *(str(PROGRAM), "-m", model, "-u", address, "-i", "grpc", "--async"),
        *(["--streaming"] if streaming else []),
        *("--measurement-interval", str(effort.perf_window_ms), "--max-trials", str(effort.perf_trials), "--stability-percentage", "50"),
        *("--concurrency-range", str(concurrency), "--num-of-sequences", str(concurrency)),
    ]


def run(effort: Effort, server: Server, model: str, concurrency: int, *, streaming: bool, commands: list[str]) -> Perf:
    if server.grpc is None:
        raise Failed(f"{server.name} has no gRPC port")
    typed = command(server.grpc, model, concurrency, streaming=streaming, effort=effort)
    note(commands, typed)
    environment = {"LD_LIBRARY_PATH": libraries()}

    def once() -> Perf:
        before, begin = processes.cpu_s(server.pid), time.monotonic()
        text = server.load(typed, patience_s=PATIENCE_S, environment=environment)
        return dataclasses.replace(parsed(text), cores=(processes.cpu_s(server.pid) - before) / (time.monotonic() - begin))

    try:
        return once()
    except Failed as failed:
        # A figure that the program itself does not trust does not count; a disturbed machine gets a second chance.
        if UNSTABLE not in str(failed):
            raise
        return once()


def libraries() -> str:
    """Folders of the libraries that the program links to and the machine does not have."""
    base64 = next((CACHE / "debian").rglob("libb64.so*"), None)
    if base64 is None or not PROGRAM.is_file():
        raise Failed("there is no perf_analyzer in .cache: run tests/setup/install")
    return os.pathsep.join([str(PROGRAM.parent), str(base64.parent)])


def parsed(text: str) -> Perf:
    """Reads the first throughput and the median latency."""
    throughput = re.search(r"Throughput: ([\d.]+) infer/sec", text)
    p50 = re.search(r"p50 latency: (\d+) usec", text)
    if throughput is None or p50 is None:
        raise Failed(f"perf_analyzer prints no throughput: {processes.last_line(text)}")
    return Perf(float(throughput[1]), float(p50[1]))
