"""Streams and connections that begin and do not go on, or do not read."""

import collections
import time

import http2
import wire
from attack import MIB, Report, Target, attack, expect, told
from http2 import Connection

SECTION = "HTTP/2"
METHODS = [
    wire.PREDICT,
    wire.SCAN,
    wire.FEED,
    wire.UPLOAD,
    wire.EXAMPLE,
    wire.INFER,
    wire.STREAM_INFER,
    wire.REFLECTION,
    wire.HEALTH_WATCH,
    wire.open_inference("RepositoryIndex"),
    wire.GET_MODEL,
]
# Codes of a call that was given up because its client did not go on: its time ran out, or there are too many of its kind.
GIVEN_UP = ("4", "8", "reset 8", "reset 7", "reset 11")


def expect_given_up(codes: collections.Counter) -> str:
    wrong = {code: count for code, count in codes.items() if code not in GIVEN_UP}
    expect(not wrong, f"still open, or ended otherwise: {wrong}")
    return told(codes)


@attack(SECTION)
def windows_of_one_byte(target: Target) -> Report:
    count = target.times(1_000, 30)
    connection = Connection(target.grpc, window=1)
    streams = [connection.open(wire.SCAN) for _ in range(count)]
    for stream in streams:
        connection.message(stream, wire.scan_audio(bytes(8 * wire.WINDOW_BYTES)), True)
    rounds = target.times(196, 8)
    for _ in range(rounds):
        connection.pump(0.05)
        connection.send(b"".join(http2.window_update(stream, 1) for stream in streams))
    expect(connection.goaway is None, f"GOAWAY {connection.goaway}")
    connection.close()
    return Report(
        f"{count} Scans, {rounds} bytes read of each", f"{connection.frames[http2.DATA]:,} DATA frames", units=9 * count
    )


@attack(SECTION)
def windows_of_nothing(target: Target) -> Report:
    count = target.times(100, 10)
    connection = Connection(target.grpc, window=0)
    audio = wire.scan_audio(bytes(MIB))
    for _ in range(count):
        connection.message(connection.open(wire.SCAN), audio, True)
    time.sleep(min(2, target.seconds / 3))
    expect(connection.goaway is None, f"GOAWAY {connection.goaway}")
    connection.close()
    return Report(f"{count} Scans of 1 MiB of audio", "held in windows", units=1_024 * count)


@attack(SECTION)
def feeds_that_never_open(target: Target) -> Report:
    count = target.times(9_000, 500)
    connection = Connection(target.grpc)
    block = http2.header_block(http2.call_fields(wire.FEED))
    for _ in range(0, count, 100):
        connection.send(b"".join(http2.headers(connection.new_stream(), block) for _ in range(100)))
        connection.pump()
    codes = connection.wait_all(patience=target.clocks["open"] + 10)
    connection.close()
    return Report(f"{count:,} calls without a message", expect_given_up(codes), units=3 * count)


@attack(SECTION, patience_s=120)
def calls_that_never_send(target: Target) -> Report:
    """Every method, only headers: a clock runs for each from its headers on."""
    count = target.times(900, 20)
    connection = Connection(target.grpc)
    for path in METHODS:
        block = http2.header_block(http2.call_fields(path))
        connection.send(b"".join(http2.headers(connection.new_stream(), block) for _ in range(count)))
        connection.pump()
    # A silent stream of inferences is idle.
    codes = connection.wait_all(patience=max(target.clocks["arrival"], target.clocks["idle"]) + 10)
    connection.close()
    return Report(f"{count} calls of each of {len(METHODS)} methods", expect_given_up(codes), units=3 * count * len(METHODS))


@attack(SECTION, patience_s=120)
def half_messages(target: Target) -> Report:
    """A message of 1,000 announced bytes that stops after one."""
    count = target.times(200, 10)
    connection = Connection(target.grpc)
    for path in METHODS:
        for _ in range(count):
            connection.data(connection.open(path), wire.framed(b"\n", announced=1_000))
    codes = connection.wait_all(patience=target.clocks["arrival"] + 10)
    connection.close()
    return Report(f"{count} calls of each of {len(METHODS)} methods", expect_given_up(codes), units=3 * count * len(METHODS))


@attack(SECTION, patience_s=120)
def a_byte_now_and_then(target: Target) -> Report:
    """Messages of 16 MiB that go on at a byte a second: progress does not reset the clock."""
    count = target.times(25, 3)
    connection = Connection(target.grpc)
    for path in METHODS:
        for _ in range(count):
            connection.data(connection.open(path), wire.framed(b"\n", announced=wire.MESSAGE_BYTES_MAX))
    until = time.monotonic() + target.clocks["arrival"] + 10
    while time.monotonic() < until and not all(stream.ended for stream in connection.streams.values()) and not connection.closed:
        for number, stream in connection.streams.items():
            if not stream.ended:
                connection.data(number, b"\n", patience=0)
        connection.pump(0.5)
    codes = connection.codes()
    connection.close()
    return Report(f"{count} calls of each of {len(METHODS)} methods", expect_given_up(codes), units=3 * count * len(METHODS))


@attack(SECTION)
def deadlines_of_calls_that_stop(target: Target) -> Report:
    """`grpc-timeout` ends a call whose message never comes, whatever the method."""
    connection = Connection(target.grpc)
    for path in METHODS:
        stream = connection.open(path, (("grpc-timeout", "500m"),))
        connection.data(stream, wire.framed(b"\n", announced=1_000))
    codes = connection.wait_all(patience=5)
    wrong = {
        path: stream.code
        for path, stream in zip(METHODS, connection.streams.values(), strict=True)
        if stream.code not in ("4", "reset 8")
    }
    connection.close()
    expect(not wrong, f"a grpc-timeout of 0.5 s has passed: {wrong}")
    return Report(f"{len(METHODS)} methods, 0.5 s", told(codes))


@attack(SECTION)
def prefaces_that_drip(target: Target) -> Report:
    kept = [Connection(target.grpc, greets=False) for _ in range(target.times(500, 40))]
    until = time.monotonic() + target.clocks["greeting"] + 8
    at = 0
    while time.monotonic() < until and not all(connection.closed for connection in kept):
        for connection in kept:
            if not connection.closed:
                connection.send(http2.PREFACE[at % 20 : at % 20 + 1] if at < 20 else b"")
                connection.pump()
        at += 1
        time.sleep(0.5)
    open_still = sum(not connection.closed for connection in kept)
    expect(not open_still, f"{open_still} of {len(kept)} connections are still open after {target.clocks['greeting'] + 8} s")
    return Report(f"{len(kept)} connections, a byte each half second", "all closed", units=8 * len(kept))


@attack(SECTION, in_short=False, patience_s=120)
def half_a_frame_then_silence(target: Target) -> Report:
    """A peer that answers no pings is gone."""
    kept = [Connection(target.grpc, answers_pings=False) for _ in range(target.times(300, 20))]
    for connection in kept:
        connection.send(http2.headers(1, http2.header_block(http2.call_fields(wire.PREDICT)))[:20])
    until = time.monotonic() + 50
    while time.monotonic() < until and not all(connection.closed for connection in kept):
        for connection in kept:
            connection.pump()
        time.sleep(0.5)
    open_still = sum(not connection.closed for connection in kept)
    expect(not open_still, f"{open_still} connections are still open after 50 s")
    return Report(f"{len(kept)} connections", "all closed", units=8 * len(kept))


@attack(SECTION, "grpc.max_connections=60", patience_s=90)
def idle_connections_that_answer_pings(target: Target) -> Report:
    """As many idle connections as allowed: a client from elsewhere is let in all the same."""
    kept = []
    for _ in range(70):
        try:
            kept.append(Connection(target.grpc, source="127.0.0.2"))
        except OSError:
            break
    for connection in kept:
        connection.pump(0.01)
    other = Connection(target.grpc, source="127.0.0.3")
    state = other.call(wire.EXAMPLE, wire.example(1.0), patience=8)
    expect(state.code == "0", f"with {len(kept)} idle connections from 127.0.0.2, a call from 127.0.0.3 is {state.code}")
    other.close()
    for connection in kept:
        connection.close()
    return Report(f"{len(kept)} idle connections, 60 allowed", "a client from another address is served", units=8 * len(kept))


@attack(SECTION)
def odd_heads_of_requests(target: Target) -> Report:
    """Pseudo-headers, methods, paths and content types that no library sends: each gets an answer, and no connection is lost but its own."""
    plain = dict(http2.call_fields(wire.EXAMPLE))

    def changed(**fields: str | None) -> list[tuple[str, str]]:
        merged = plain | {
            name.replace("_", "-") if not name.startswith("p_") else ":" + name[2:]: value for name, value in fields.items()
        }
        ordered = sorted(
            ((name, value) for name, value in merged.items() if value is not None), key=lambda field: not field[0].startswith(":")
        )
        return ordered

    kinds = {
        "GET": changed(p_method="GET"),
        "OPTIONS": changed(p_method="OPTIONS"),
        "an empty method": changed(p_method=""),
        "CONNECT": changed(p_method="CONNECT"),
        "no path": changed(p_path=None),
        "an empty path": changed(p_path=""),
        "a star": changed(p_path="*"),
        "no slash": changed(p_path="model.ModelInference/Predict"),
        "a path of 10 KB": changed(p_path="/" + "a" * 10_000),
        "dots": changed(p_path="/../../etc/passwd"),
        "a query": changed(p_path=wire.EXAMPLE + "?a=b"),
        "no scheme": changed(p_scheme=None),
        "scheme file": changed(p_scheme="file"),
        "no authority": changed(p_authority=None),
        "two authorities": [*changed(), ("host", "elsewhere")],
        "no content-type": changed(content_type=None),
        "text/html": changed(content_type="text/html"),
        "application/json": changed(content_type="application/json"),
        "no te": changed(te=None),
        "te gzip": changed(te="gzip"),
        "connection": [*changed(), ("connection", "close")],
        "transfer-encoding": [*changed(), ("transfer-encoding", "chunked")],
        "upper case": [*changed(), ("X-Upper", "1")],
        "a newline in a value": [*changed(), ("x-line", "a\r\nb")],
        "a NUL in a value": [*changed(), ("x-nul", "a\0b")],
        "an empty name": [*changed(), ("", "value")],
        "an unknown pseudo-header": [(":other", "1"), *changed()],
        "a pseudo-header at the end": [*changed(p_path=None), (":path", wire.EXAMPLE)],
        "the path twice": [(":path", "/"), *changed()],
        "timeout -1S": [*changed(), ("grpc-timeout", "-1S")],
        "timeout 999999999H": [*changed(), ("grpc-timeout", "999999999H")],
        "timeout empty": [*changed(), ("grpc-timeout", "")],
        "encoding unknown": [*changed(), ("grpc-encoding", "br")],
        "400 headers": [*changed(), *((f"x-{index}", "v") for index in range(400))],
        "content-length wrong": [*changed(), ("content-length", "3")],
    }
    found = collections.Counter()
    for name, fields in kinds.items():
        connection = Connection(target.grpc)
        stream = connection.open(wire.EXAMPLE, block=http2.header_block(fields))
        connection.message(stream, wire.example(1.0), True, patience=1)
        connection.wait_until(
            lambda connection=connection, stream=stream: connection.streams[stream].ended or connection.goaway is not None, 3
        )
        got = connection.streams[stream].code if connection.goaway is None else f"GOAWAY {connection.goaway}"
        expect(got != "open", f"{name} is never answered")
        found[got] += 1
        connection.close()
    return Report(f"{len(kinds)} kinds", told(found))


@attack(SECTION)
def too_large_headers(target: Target) -> Report:
    """Metadata above the limit costs the call, not the connection; another stream on it goes on."""
    connection = Connection(target.grpc)
    feed = connection.open(wire.FEED)
    connection.message(feed, wire.feed_open())
    found = collections.Counter()
    for size in (17 << 10, 40 << 10, 100 << 10, 200 << 10):
        state = connection.call(wire.EXAMPLE, wire.example(1.0), (("x-large", "m" * size),), patience=5)
        expect(
            connection.goaway is None and not connection.closed,
            f"the connection ended for metadata of {size >> 10} KiB: {connection.goaway_text}",
        )
        expect(state.code == "8" and "grpc.max_header_bytes" in state.message, f"{size >> 10} KiB: {state.code} {state.message}")
        found[state.code] += 1
    connection.message(feed, wire.feed_chunk(bytes(wire.WINDOW_BYTES)), True)
    expect(connection.wait(feed).code == "0", "the other stream was lost")
    connection.close()
    return Report("metadata of 17 to 200 KiB next to a feed", told(found))


@attack(SECTION)
def message_frames(target: Target) -> Report:
    """Prefixes and lengths of gRPC messages that are wrong."""
    half = wire.example(1.0)
    kinds: dict[str, tuple[bytes, tuple, tuple[str, ...]]] = {
        "compressed without an encoding": (wire.framed(half, True), (), ("13", "3", "12")),
        "flag 7": (b"\x07" + wire.framed(half)[1:], (), ("13", "3")),
        "100 MB announced": (wire.framed(b"x", announced=100_000_000), (), ("8",)),
        "4 GB announced": (wire.framed(b"x", announced=(1 << 32) - 1), (), ("8",)),
        "half a prefix": (b"\0\0", (), ("13", "3")),
        "half a message": (wire.framed(half, announced=100), (), ("13", "3")),
        "nothing": (b"", (), ("13", "3")),
        "two messages": (wire.framed(half) * 2, (), ("13", "3", "0", "12")),
        "broken gzip": (wire.framed(b"not gzip", True), (("grpc-encoding", "gzip"),), ("13", "3")),
        "broken zstd": (wire.framed(b"not zstd", True), (("grpc-encoding", "zstd"),), ("13", "3")),
        "not protobuf": (wire.framed(b"\xff" * 40), (), ("3",)),
        "a field that is cut": (wire.framed(b"\x0a\x7fabc"), (), ("3",)),
    }
    found = collections.Counter()
    for path in (wire.EXAMPLE, wire.PREDICT, wire.INFER):
        for name, (body, extra, allowed) in kinds.items():
            connection = Connection(target.grpc)
            stream = connection.open(path, extra)
            connection.data(stream, body, True)
            code = connection.wait(stream, 5).code
            expect(code in allowed, f"{name} to {path}: {code} {connection.streams[stream].message}; allowed: {allowed}")
            found[code] += 1
            connection.close()
    return Report(f"{len(kinds)} kinds to 3 methods", told(found))
