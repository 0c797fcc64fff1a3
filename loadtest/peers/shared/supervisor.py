"""Runs a peer's server in the foreground: says when it is ready, and leaves no process behind.

Knows nothing about models or protocols: the caller gives the command and a question that is answered when the server is ready.
"""

import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from process_tree import descendants

START_PATIENCE_S = 180
STOP_PATIENCE_S = 15
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


class Stopped(Exception):
    """SIGTERM or SIGINT came."""


def supervise(command: list[str], *, environment: dict[str, str], is_ready: Callable[[], bool], ready: str) -> None:
    """Runs `command` until it ends or a signal comes, then exits: with 0 after a signal, with 1 if the server ended on its own.

    Prints `ready pid=PID` and `ready` once. PID is this process: every process of the peer descends from it.
    """
    # Processes whose parent has ended become children of this one, so that all can be found at the end.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped)
    server, status = None, 0
    try:
        server = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            # Standard output is for the line that says "ready".
            stdout=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        _await_ready(server, is_ready)
        print(f"ready pid={os.getpid()} {ready}", flush=True)
        status = f"the server ended on its own with {server.wait()}"
    except Stopped:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _stop(server)
    sys.exit(status)


def answers(port: int, path: str, body: bytes | None = None) -> bool:
    """Whether a request over HTTP gets status 200: a POST with a body, or else a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/octet-stream"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _raise_stopped(*_: object) -> None:
    raise Stopped


def _await_ready(server: subprocess.Popen, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while not is_ready():
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode} before it was ready")
        if time.monotonic() > deadline:
            sys.exit(f"the server was not ready after {START_PATIENCE_S} s")
        time.sleep(0.1)


def _stop(server: subprocess.Popen | None) -> None:
    """Asks the server to end, and kills what is left of it and its children."""
    if server is not None and server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"the server did not end within {STOP_PATIENCE_S} s and is killed", file=sys.stderr)
    # Those that are killed may have started others in the meantime.
    while left := descendants(os.getpid()):
        for pid in left:
            _kill(pid)
        _reap()
        time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
