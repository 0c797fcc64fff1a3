"""Sends what an attack sent, at the same moments, to a sink: the control for what a bystander sees during the attack.

`replay.py RECORDING ADDRESS`. The attacker's and the system's work is the same; what is missing is the server's."""

import os
import pickle
import resource
import sys
import time

import traffic


def main(recording: str, sink: str) -> None:
    os.nice(19)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with open(recording, "rb") as file:
        events = pickle.load(file)
    wires: dict[int, traffic.Wire] = {}
    began = time.monotonic()
    for moment, number, what in events:
        early = moment - (time.monotonic() - began)
        if early > 0:
            time.sleep(early)
        try:
            if what == "open":
                wires[number] = traffic.Wire(sink, encrypts=False)
            elif what is None:
                wires.pop(number).close()
            else:
                wires[number].send(what)
        except (OSError, KeyError):
            wires.pop(number, None)
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
