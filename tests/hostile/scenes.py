"""What the faults are staged with: models without files, small disks, clients that hold something open."""

import contextlib
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator

import http1
import http2
import pytest
import wire
from server import Server

BROKEN = "broken"
FAILS, PANICS = -2.0, -3.0

_MANIFEST = """
description = "{about}"
engine = "synthetic"
[[inputs]]
name = "x"
datatype = "FP32"
dims = ["batch", 4]
[[outputs]]
name = "y"
datatype = "FP32"
dims = ["batch", 4]
[synthetic]
cost_per_call_us = 200
fail_value = {fails}
panic_value = {panics}
"""


def manifest(about: str = "doubles four numbers") -> str:
    return _MANIFEST.format(about=about, fails=FAILS, panics=PANICS)


def models(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """A folder of models that fail at -2 and panic at -3."""
    for name in names or (BROKEN,):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.toml").write_text(manifest())
    return folder


def ask(server: Server, first: float, name: str = BROKEN, patience: float = 10) -> int:
    """The status of one inference of such a model."""
    document = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,4],"data":[{first},1,1,1]}}]}}'
    headers = {"content-type": "application/json"}
    return http1.once(server.http, "POST", f"/v2/models/{name}/infer", document.encode(), headers, patience=patience).status


def expect_well(server: Server) -> None:
    """It serves, and its probes say so."""
    assert server.is_running(), f"the server ended with {server.process.returncode}:\n{server.log()[-2_000:]}"
    assert server.serves() == ""
    assert [http1.once(server.admin, "GET", path).status for path in ("/livez", "/readyz")] == [200, 200]


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A disk of this size; the test is skipped where none can be mounted."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: pathlib.Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


def feeds(server: Server, count: int, windows: int = 8, window: int = http2.WINDOW_MAX) -> list[http2.Connection]:
    """Live feeds with audio on the way, 50 to a connection."""
    connections = []
    for index in range(count):
        if index % 50 == 0:
            connections.append(http2.Connection(server.grpc, window=window))
        feed = connections[-1].open(wire.FEED)
        connections[-1].message(feed, wire.feed_open())
        connections[-1].message(feed, wire.feed_chunk(bytes(windows * wire.WINDOW_BYTES)), patience=1)
    return connections


# ---- Clients that hold something open when the server is asked to stop


def half_calls(server: Server) -> list:
    connection = http2.Connection(server.grpc)
    for _ in range(20):
        connection.data(connection.open(wire.PREDICT), wire.framed(b"\n", announced=1_000))
    return [connection]


def watches(server: Server) -> list:
    connection = http2.Connection(server.grpc)
    for _ in range(20):
        connection.message(connection.open(wire.HEALTH_WATCH), b"", True)
    return [connection]


def reflections(server: Server) -> list:
    connection = http2.Connection(server.grpc)
    for _ in range(20):
        connection.open(wire.REFLECTION)
    return [connection]


def idle_connections(server: Server) -> list:
    clients = [http1.Client(server.http) for _ in range(20)]
    for client in clients:
        assert client.ask("GET", "/v2").status == 200
    return clients


def slow_bodies(server: Server) -> list:
    clients = [http1.Client(server.http) for _ in range(20)]
    for client in clients:
        client.send(http1.request("POST", "/v2/models/example_model/infer", headers={"content-length": "1000"}) + b"{")
    return clients


def unread_events(server: Server) -> list:
    row = b"[" + b",".join([b"0.123456789"] * 2_000) + b"]"
    body = b'{"inputs":[' + b",".join([row] * 64) + b"]}"
    clients = [http1.Client(server.http, receive_buffer=4_096) for _ in range(10)]
    for client in clients:
        client.send(http1.request("POST", "/v2/models/example_model/generate_stream", body))
    return clients


def half_prefaces(server: Server) -> list:
    connections = [http2.Connection(server.grpc, greets=False) for _ in range(20)]
    for connection in connections:
        connection.send(http2.PREFACE[:9])
    return connections


def open_sequences(server: Server) -> list:
    connection = http2.Connection(server.grpc)
    assert connection.call(wire.INFER, wire.sequence_step(5, start=True)).code == "0"
    return [connection]


def unread_feeds(server: Server) -> list:
    return feeds(server, 20, 64, window=0)


HOLDERS: list[Callable[[Server], list]] = [
    half_calls,
    watches,
    reflections,
    idle_connections,
    slow_bodies,
    unread_events,
    half_prefaces,
    open_sequences,
    unread_feeds,
]


def read_what_there_is(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    out = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, 1 << 16):
            out += data
    return out


def read_until(descriptor: int, wanted: bytes, patience: float = 20) -> bytes:
    """What a pipe gives until it has said this, or patience runs out."""
    out, give_up_at = b"", time.monotonic() + patience
    while wanted not in out and time.monotonic() < give_up_at:
        out += read_what_there_is(descriptor)
        time.sleep(0.02)
    return out
