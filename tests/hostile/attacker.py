"""Runs one attack against a running server, in a process that gives way to everything else, and prints what it saw as JSON.

`attacker.py NAME GRPC HTTP ADMIN SCALE SECONDS CLOCKS [RECORDING]`; with the last one, what was sent is kept for `replay.py`."""

import json
import os
import resource
import sys
import traceback

import attack
import traffic


def main(name: str, grpc: str, http: str, admin: str, scale: str, seconds: str, clocks: str, recording: str | None = None) -> int:
    os.nice(19)
    # Python's threads and sockets, not the server's: this process may have as many descriptors as the system allows.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if recording:
        traffic.LOG.keep()
    target = attack.Target(grpc, http, admin, float(scale), float(seconds), json.loads(clocks))
    out: dict = {}
    try:
        report = attack.load()[name].run(target)
        out |= {"sent": report.sent, "did": report.did, "units": report.units, "inflated": report.inflated}
    except attack.Survived as wrong:
        out["wrong"] = str(wrong)
    except Exception as error:  # What the server did to this connection, in the words of Python.
        out["wrong"] = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
    out |= {"bytes_sent": traffic.LOG.bytes_sent, "connections": traffic.LOG.connections}
    if recording:
        traffic.LOG.save(recording)
    print(json.dumps(out), flush=True)
    # The system closes thousands of connections faster than Python does.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
