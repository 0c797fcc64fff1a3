"""Triton's load generator: one run of it, and what it prints."""

import dataclasses
import os
import re

from . import processes
from .processes import Failed
from .tool import CACHE, Bench, shown_command

PROGRAM = CACHE / "perf_analyzer/perf_analyzer"
VERSION = "tritonclient 2.51.0"
PATIENCE_S = 90
UNSTABLE = "Failed to obtain stable measurement"


@dataclasses.dataclass(frozen=True)
class Perf:
    infer_per_s: float
    p50_us: float


def command(address: str, model: str, concurrency: int, *, streaming: bool, trials: int) -> list[str]:
    return [
        *(str(PROGRAM), "-m", model, "-u", address, "-i", "grpc", "--async"),
        *(["--streaming"] if streaming else []),
        *("--measurement-interval", "1000", "--max-trials", str(trials), "--stability-percentage", "50"),
        *("--concurrency-range", str(concurrency), "--num-of-sequences", str(concurrency)),
    ]


def run(bench: Bench, address: str, model: str, concurrency: int, *, streaming: bool, commands: list[str]) -> Perf:
    typed = command(address, model, concurrency, streaming=streaming, trials=bench.effort.perf_trials)
    if shown_command(typed) not in commands:
        commands.append(shown_command(typed))
    environment = {"LD_LIBRARY_PATH": libraries()}
    try:
        text = processes.run(typed, patience_s=PATIENCE_S, environment=environment)
    except Failed as failed:
        # A figure that the program itself does not trust is none; a machine that was disturbed gets a second chance.
        if UNSTABLE not in str(failed):
            raise
        text = processes.run(typed, patience_s=PATIENCE_S, environment=environment)
    return parsed(text)


def libraries() -> str:
    """Folders of what the program links to and the machine does not have."""
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
