"""The repository, shared memory, connections and the admin port: everything that reaches beyond a client's own streams."""

import collections
import contextlib
import json
import os
import pathlib
import random
import selectors
import socket
import tempfile
import time

import http1
import traffic
import wire
from attack import MIB, Report, Target, attack, expect, told
from http1 import Client, once
from http2 import Connection

SECTION = "The machine"
JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def shared_object(size: int, content: bytes = b""):
    """An object in shared memory, by its key."""
    path = pathlib.Path(tempfile.mkstemp(prefix="tidemill-hostile-", dir="/dev/shm")[1])
    try:
        with path.open("r+b") as file:
            file.truncate(size)
            file.write(content)
        yield "/" + path.name
    finally:
        path.unlink(missing_ok=True)


def register(target: Target, region: str, key: str, size: int, offset: int = 0) -> http1.Answer:
    document = json.dumps({"key": key, "byte_size": size, "offset": offset}).encode()
    return once(target.http, "POST", f"/v2/systemsharedmemory/region/{region}/register", document, JSON)


def unregister_all(target: Target) -> None:
    once(target.http, "POST", "/v2/systemsharedmemory/unregister", b"{}", JSON)


@attack(SECTION)
def names_of_shared_memory(target: Target) -> Report:
    """A key may reach nothing but objects in /dev/shm."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-hostile-", dir="/dev/shm"))
    link = folder.parent / (folder.name + "-link")
    fifo = folder.parent / (folder.name + "-fifo")
    link.symlink_to("/etc/passwd")
    os.mkfifo(fifo)
    keys = [
        "",
        "/",
        "..",
        "/..",
        "/../etc/passwd",
        "/./",
        "//etc/passwd",
        "/etc/passwd",
        "/proc/self/mem",
        "/dev/zero",
        "a\0b",
        "/a\0b",
        "x" * 300,
        f"/{folder.name}",
        f"/{folder.name}/x",
        f"/{link.name}",
        f"/{fifo.name}",
        "/nobody",
        "\n",
        "/%2e%2e",
    ]
    found = collections.Counter()
    try:
        for key in keys:
            status = register(target, "r", key, 8).status
            expect(400 <= status < 500, f"{key!r}: {status}")
            found[status] += 1
        with shared_object(64) as key:
            for size, offset in ((1 << 40, 0), (2**63 - 1, 0), (2**64 - 1, 8), (65, 0), (8, 60), (0, 0), (8, 2**64 - 4)):
                status = register(target, "r", key, size, offset).status
                expect(400 <= status < 500, f"{size} bytes at {offset}: {status}")
                found[status] += 1
    finally:
        link.unlink()
        fifo.unlink()
        folder.rmdir()
        unregister_all(target)
    return Report(f"{found.total()} kinds", told(found))


@attack(SECTION)
def regions_registered_in_a_loop(target: Target) -> Report:
    with shared_object(4_096) as key:
        statuses = collections.Counter(register(target, f"r{number}", key, 8).status for number in range(1_030))
        again = collections.Counter()
        for number in range(target.times(2_000, 100)):
            once(target.http, "POST", f"/v2/systemsharedmemory/region/r{number % 64}/unregister", b"{}", JSON)
            again[register(target, f"r{number % 64}", key, 8).status] += 1
        unregister_all(target)
    expect(set(statuses) <= {200, 403, 429} and set(again) <= {200, 403}, f"{told(statuses)}; {told(again)}")
    return Report(f"1,030 regions, 1,024 allowed; {again.total()} more one after another", told(statuses), units=1_030)


def memory_request(model: str, region: str, size: int) -> bytes:
    elements = size // 8
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": size}
    return json.dumps(
        {"inputs": [{"name": "inputs", "datatype": "FP64", "shape": [elements], "parameters": parameters}]}
    ).encode()


@attack(SECTION)
def large_regions_for_small_models(target: Target) -> Report:
    """145 bytes name 64 MiB that the model does not take: refused before they are read."""
    found = collections.Counter()
    with shared_object(64 * MIB) as key:
        expect(register(target, "large", key, 64 * MIB).status in (200, 403), "cannot register")
        document = {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [29_127, 576],
                    "parameters": {"shared_memory_region": "large", "shared_memory_byte_size": 29_127 * 576 * 4},
                }
            ]
        }
        client = Client(target.http, source="127.0.0.2")
        until = time.monotonic() + target.seconds
        while time.monotonic() < until and found.total() < target.times(3_000, 50):
            found[client.ask("POST", "/v2/models/silero-vad/infer", json.dumps(document).encode(), JSON).status] += 1
        client.close()
        unregister_all(target)
    expect(set(found) <= {400, 404, 413, 429, 403}, told(found))
    return Report(f"{found.total():,} requests of {len(json.dumps(document))} bytes", told(found))


@attack(SECTION)
def objects_that_shrink(target: Target) -> Report:
    """An object is truncated and grown while requests read it: each gets an answer, and there is no SIGBUS."""
    found = collections.Counter()
    with shared_object(MIB) as key:
        path = pathlib.Path("/dev/shm") / key[1:]
        if register(target, "moving", key, MIB).status == 200:
            body = memory_request(wire.NUMBERS, "moving", MIB)
            client = Client(target.http)
            until = time.monotonic() + target.seconds
            while time.monotonic() < until and found.total() < target.times(16_000, 300):
                os.truncate(path, MIB if found.total() % 3 == 0 else 4_096)
                found[client.ask("POST", "/v2/models/example_model/infer", body, JSON).status] += 1
            client.close()
        unregister_all(target)
    expect(set(found) <= {200, 400, 413, 429}, told(found))
    return Report(f"{found.total():,} requests", told(found), inflated=2 * MIB)


@attack(SECTION)
def floods_of_the_index(target: Target) -> Report:
    clients = [Client(target.http, source="127.0.0.2") for _ in range(8)]
    one = http1.request("POST", "/v2/repository/index", b"{}", JSON)
    found, until = collections.Counter(), time.monotonic() + target.seconds
    while time.monotonic() < until and found.total() < target.times(20_000, 400):
        for client in clients:
            client.send(one * 5)
        found.update(client.answer().status for client in clients for _ in range(5))
    for client in clients:
        client.close()
    expect(set(found) <= {200, 429}, told(found))
    return Report(f"{found.total():,} requests on 8 connections", told(found))


@attack(SECTION, patience_s=120)
def load_calls_that_queue(target: Target) -> Report:
    """One client's loads wait within a bound; another client's load is not behind all of them."""
    clients = [Client(target.http, source="127.0.0.2") for _ in range(100)]
    for client in clients:
        client.send(http1.request("POST", "/v2/repository/models/example_model/load", b"{}", JSON))
    other = once(target.http, "POST", "/v2/repository/models/example_model/load", b"{}", JSON, source="127.0.0.3", patience=60)
    expect(other.status in (200, 403), f"another client's load: {other.status} {other.error}")
    found = collections.Counter(client.answer(60).status for client in clients)
    for client in clients:
        client.close()
    expect(set(found) <= {200, 403, 429} and (found[429] or found[403]), f"100 loads at once: {told(found)}")
    return Report("100 loads at once, one from another client", told(found))


@attack(SECTION)
def a_storm_of_connections(target: Target) -> Report:
    """2,000 connects at once: none of them has to resend its SYN."""
    count = target.times(2_000, 400)
    selector = selectors.DefaultSelector()
    began = time.monotonic()
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(traffic.split(target.grpc))
        selector.register(one, selectors.EVENT_WRITE)
    late = connected = 0
    while connected < count and time.monotonic() - began < 10:
        for key, _ in selector.select(0.1):
            selector.unregister(key.fileobj)
            key.fileobj.close()
            connected += 1
            # The system waits a second before it resends a SYN: this is its clock, not the server's.
            late += time.monotonic() - began > 0.95
    expect(
        connected == count and not late, f"{connected} of {count} connected, {late} of them only after their SYN was sent again"
    )
    return Report(f"{count:,} connects at once", "all taken at once", units=8 * count)


@attack(SECTION)
def silent_scrapers(target: Target) -> Report:
    """Connections to the admin port that say nothing, and some that ask but do not read: probes are answered all the same."""
    kept = [Client(target.admin, source="127.0.0.2") for _ in range(target.times(1_000, 150))]
    unread = [Client(target.admin, source="127.0.0.2", receive_buffer=4_096) for _ in range(64)]
    for client in unread:
        client.send(http1.request("GET", "/metrics") * 50)
    found = collections.Counter(once(target.admin, "GET", "/livez", source="127.0.0.3", patience=5).status for _ in range(20))
    ready = once(target.admin, "GET", "/readyz", source="127.0.0.3", patience=5).status
    for client in kept + unread:
        client.close()
    expect(found == {200: 20} and ready == 200, f"/livez: {told(found)}, /readyz: {ready}")
    return Report(f"{len(kept)} silent and {len(unread)} that do not read", "probes are answered", units=16 * len(kept))


@attack(SECTION)
def heads_that_drip_at_the_admin_port(target: Target) -> Report:
    clients = [Client(target.admin, source="127.0.0.2") for _ in range(100)]
    for client in clients:
        client.send(b"GET /metrics HTTP/1.1\r\nx: ")
    for _ in range(6):
        for client in clients:
            client.send(b"a")
        expect(once(target.admin, "GET", "/livez", source="127.0.0.3", patience=5).status == 200, "/livez is not answered")
        time.sleep(0.3)
    large = once(target.admin, "POST", "/metrics", b"x" * MIB, patience=5).status
    for client in clients:
        client.close()
    expect(large in (0, 404, 405, 413), f"a POST of 1 MiB to /metrics: {large}")
    return Report("100 heads, 3 bytes a second; a POST of 1 MiB", "probes are answered", units=800)


@attack(SECTION)
def connections_that_come_and_go(target: Target) -> Report:
    count = target.times(20_000, 800)
    for number in range(count):
        client = Connection(target.grpc) if number % 2 else Client(target.http)
        client.close(reset=number % 3 == 0)
    return Report(f"{count:,} connects", "gone", units=64)


@attack(SECTION)
def garbage(target: Target) -> Report:
    """Random bytes at all three ports, from a fixed seed."""
    randomness = random.Random(1)
    for _ in range(target.times(3_000, 200)):
        data = randomness.randbytes(randomness.randrange(1, 2_000))
        for address in (target.grpc, target.http, target.admin):
            client = Client(address)
            client.send(data)
            client.close(reset=randomness.random() < 0.5)
        connection = Connection(target.grpc)
        connection.send(data)
        connection.close()
    return Report(f"{target.times(3_000, 200)} pieces for each port", "refused", units=64)
