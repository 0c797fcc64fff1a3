"""Child processes that do not outlive this one.

Each child leads a group of its own. At the end, at a signal and after an error, all that descends from it is asked to end, and
killed if it does not.
"""

import atexit
import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

STOP_PATIENCE_S = 20.0

_running: dict[int, subprocess.Popen[str]] = {}


class Failed(Exception):
    """A program or a server did not do what it was started for; the text says why."""


def guard() -> None:
    """Makes signals end this process in order, so that its children end too."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    atexit.register(stop_all)


def start(command: list[str], *, environment: dict[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
    try:
        child = subprocess.Popen(
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
    except OSError as error:
        raise Failed(f"cannot start {command[0]}: {error.strerror}") from error
    _running[child.pid] = child
    return child


def run(command: list[str], *, patience_s: float, environment: dict[str, str] | None = None, quiet_errors: bool = True) -> str:
    """Runs a program to its end and returns what it prints."""
    errors = subprocess.PIPE if quiet_errors else None
    child = start(command, environment=environment, stdout=subprocess.PIPE, stderr=errors)
    try:
        out, err = child.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"{pathlib.Path(command[0]).name} did not end within {patience_s:.0f} s") from expired
    finally:
        stop(child)
    if child.returncode != 0:
        raise Failed(f"{pathlib.Path(command[0]).name} ended with {child.returncode}: {last_line(err or out)}")
    return out


def stop(child: subprocess.Popen[str]) -> None:
    """Asks a child to end, waits, and kills what is left of it and of what it started."""
    _running.pop(child.pid, None)
    below = tree(child.pid)
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_PATIENCE_S)
    for pid, born in below.items():
        if _stat(pid).get("born") == born:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def stop_all() -> None:
    for child in list(_running.values()):
        stop(child)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"


def tree(root: int) -> dict[int, int]:
    """The process and all that descend from it, with the time at which each was born: numbers are used again."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()}
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.get("parent", 0), []).append(pid)
    found, ends = {}, [root]
    while ends:
        pid = ends.pop()
        if born := stats.get(pid, {}).get("born"):
            found[pid] = born
            ends += children.get(pid, [])
    return found


def _stat(pid: int) -> dict[str, int]:
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return {}
    # The name of a program stands in parentheses and may hold anything.
    fields = text.rpartition(")")[2].split()
    if fields[0] == "Z":
        return {}
    return {"parent": int(fields[1]), "born": int(fields[19])}


@contextlib.contextmanager
def stopping(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield child
    finally:
        stop(child)
