"""Triton's load generator: runs it against a server, and reads what it prints."""

import dataclasses
import os
import re
import subprocess

import places

# A run measures three windows of about a second. The limit allows for a machine that has other things to do.
PATIENCE_S = 120

# Windows end after a number of requests, and any three are accepted, however much they differ: this is not a measurement.
SHORT = [
    *("--measurement-mode", "count_windows", "--measurement-request-count", "50"),
    *("--stability-percentage", "999", "--max-trials", "3"),
]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one run counted."""

    # By the client.
    requests: int
    per_second: float
    # By the server's statistics.
    inferences: int
    calls: int
    successes: int
    # All that it printed.
    text: str


def run(address: str, model: str, *options: str, protocol: str = "grpc") -> Measured:
    """Runs the load generator; it must end well and complain about nothing."""
    libraries = os.pathsep.join(map(str, places.PERF_ANALYZER_LIBRARIES))
    done = subprocess.run(
        [places.PERF_ANALYZER, "-m", model, "-u", address, "-i", protocol, *SHORT, *options],
        env=os.environ | {"LD_LIBRARY_PATH": libraries},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    # On a busy machine, latencies vary however well the server does.
    complaints = [line for line in done.stderr.splitlines() if line.strip() and "latency is not stabilizing" not in line]
    assert (done.returncode, complaints) == (0, []), done
    return Measured(
        requests=int(_found(r"Request count: (\d+)", done.stdout)),
        per_second=float(_found(r"Throughput: ([\d.]+) infer/sec", done.stdout)),
        inferences=int(_found(r"Inference count: (\d+)", done.stdout)),
        calls=int(_found(r"Execution count: (\d+)", done.stdout)),
        successes=int(_found(r"Successful request count: (\d+)", done.stdout)),
        text=done.stdout,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"{pattern!r} is not in\n{text}"
    return match[1]
