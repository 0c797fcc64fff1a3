"""Child processes that do not outlive this one.

Each child leads its own session. At the end, at a signal and after an error, all that descends from it is asked to end, killed
if it does not, and waited for.
"""

import atexit
import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from types import FrameType

STOP_PATIENCE_S = 20.0
GONE_PATIENCE_S = 10.0
# How often a program is looked at while waiting for it, and how long a pause between two looks means that everything stood still.
LOOK_S = 0.5
STANDSTILL_S = 3.0

_running: dict[int, subprocess.Popen[str]] = {}


class Failed(Exception):
    """A program or a server did not do what it was started for; the text says why."""


class StoodStill(Failed):
    """The machine, or all of these processes, stood still during it: what was measured means nothing, and can be measured again."""


class Interrupted(BaseException):
    """A signal asks this process to end: what was measured is kept, and nothing more is measured."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def guard() -> None:
    """Turns the first signal that asks this process to end into an `Interrupted`. Further ones do not disturb the end."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number in signals:
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


def run(
    command: list[str],
    *,
    patience_s: float,
    environment: dict[str, str] | None = None,
    quiet_errors: bool = True,
    needed: Callable[[], bool] = lambda: True,
    steady: bool = False,
) -> str:
    """Runs a program to its end and returns what it prints. Stops waiting once it is not `needed`.

    Time in which everything stands still is not taken off the patience. If it has to be `steady`, it is `StoodStill`, however it ended.
    """
    name = pathlib.Path(command[0]).name
    errors = subprocess.PIPE if quiet_errors else None
    child = start(command, environment=environment, stdout=subprocess.PIPE, stderr=errors)
    looks = 0
    try:
        while True:
            looked, said = time.monotonic(), None
            try:
                said = child.communicate(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                looks += 1
            if steady and (stood_s := time.monotonic() - looked) > STANDSTILL_S:
                raise StoodStill(f"everything stood still for {stood_s:.0f} s while {name} ran")
            if said:
                break
            if not needed():
                raise Failed(f"{name} was stopped: there is nothing left for it to do")
            if looks * LOOK_S > patience_s:
                raise Failed(f"{name} did not end within {patience_s:.0f} s")
    finally:
        stop(child)
    if child.returncode != 0:
        raise Failed(f"{name} ended with {child.returncode}: {last_line(said[1] or said[0])}")
    return said[0]


def stop(child: subprocess.Popen[str]) -> None:
    """Asks a child to end, waits, kills what is left of it and of what it started, and waits until that is gone."""
    _running.pop(child.pid, None)
    below = family(child.pid)
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_PATIENCE_S)
    # This includes what it started while it ended.
    below |= family(child.pid)
    deadline = time.monotonic() + GONE_PATIENCE_S
    while left := [pid for pid, born in below.items() if _stat(pid).get("born") == born]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def stop_all() -> None:
    for child in list(_running.values()):
        stop(child)


def last_line(text: str) -> str:
    """The last error that a program reports, or else the last thing that it says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return (errors or lines or ["it says nothing"])[-1][:300]


def family(root: int) -> dict[int, int]:
    """What is running of a child, of its descendants, and of their sessions, in which they stay when their parents end.

    With each process comes the time at which it was born: numbers are used again. `root` leads a session.
    """
    stats = {int(entry.name): _stat(int(entry.name)) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()}
    below: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        for above in {stat.get("parent"), stat.get("session")} - {None, pid}:
            below.setdefault(above, []).append(pid)
    found: dict[int, int] = {}
    ends = [root]
    while ends:
        pid = ends.pop()
        if pid in found:
            continue
        if born := stats.get(pid, {}).get("born"):
            found[pid] = born
        ends += [each for each in below.get(pid, []) if each not in found]
    return found


def cpu_s(root: int) -> float:
    """Processor time of a child, and of what it started that is still running."""
    ticks = (_stat(pid).get("ticks", 0) for pid in family(root))
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> dict[str, int]:
    """Empty for a process that is no longer running."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return {}
    # The name of a program is in parentheses and may contain anything.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return {}
    ticks = int(fields[11]) + int(fields[12])
    return {"parent": int(fields[1]), "session": int(fields[3]), "born": int(fields[19]), "ticks": ticks}


@contextlib.contextmanager
def stopping(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield child
    finally:
        stop(child)
