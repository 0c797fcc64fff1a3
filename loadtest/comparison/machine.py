"""What the figures were measured on, as read from the machine and the programs."""

import datetime
import os
import pathlib
import platform
import re
import subprocess
import tomllib

from . import perf, tool


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def binaries(bench: tool.Bench) -> dict[str, str]:
    """The hashes of the programs that are measured and that measure."""
    return {program.name: tool.sha256(program) for program in (bench.server, bench.load_tool)}


def facts(bench: tool.Bench, programs: dict[str, str], *, built: bool) -> dict[str, str]:
    """The facts in the order in which they are shown. `programs` are the `binaries`."""
    return {
        "date": now(),
        "processor": _field("/proc/cpuinfo", r"model name\s*: (.+)") or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "distribution": _field("/etc/os-release", r'PRETTY_NAME="(.+)"'),
        "load average at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Tidemill": tool.said_version(bench.server),
        **{f"SHA-256 of {name}": digest for name, digest in programs.items()},
        "scripts": _commit(),
        "Rust": _output(["rustc", "--version"]),
        "build": _profile() if built else "built earlier, not for this run",
        "onnxruntime": _onnxruntime(),
        "perf_analyzer": perf.VERSION,
        "Python": platform.python_version(),
        "effort": _effort(bench.effort),
    }


def _effort(effort: tool.Effort) -> str:
    return (
        f"{effort.name}: medians of {effort.runs} runs of each arm in turns ({effort.heavy_seconds:g} s each for MiniLM and Magika, "
        f"{effort.load_seconds:g} s over HTTP, windows of {effort.perf_window_ms} ms of perf_analyzer), of {effort.turns} of "
        f"{effort.seconds:g} s where the server is compared with limits on cheap models"
    )


def _field(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, pathlib.Path(path).read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _memory() -> str:
    kib = _field("/proc/meminfo", r"MemTotal:\s+(\d+) kB")
    return f"{int(kib) / (1 << 20):.0f} GiB" if kib else "?"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=tool.ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    return done.stdout.strip() if done.returncode == 0 else "?"


def _commit() -> str:
    """The checkout's commit; the programs may not have been built from it."""
    commit = _output(["git", "rev-parse", "--short", "HEAD"])
    if commit == "?":
        return "not from a checkout"
    changed = _output(["git", "status", "--porcelain", "--untracked-files=no"])
    return f"commit {commit}{' with changes' if changed else ''}"


def _profile() -> str:
    profile = tomllib.loads((tool.ROOT / "Cargo.toml").read_text())["profile"]["release"]
    return "release, " + ", ".join(f"{key} = {value}" for key, value in profile.items())


def _onnxruntime() -> str:
    try:
        return tool.onnxruntime().name.removeprefix("libonnxruntime.so.")
    except tool.Failed as failed:
        return str(failed)
