"""gRPC messages that cost far more memory or time than bytes: compressed, counted, nested, long."""

import collections
import time

import http2
import wire
from attack import MIB, Report, Target, attack, expect, expect_codes, told
from http2 import Connection
from wire import part, varint, zstd_repeated

SECTION = "gRPC messages"
ZSTD = (("grpc-encoding", "zstd"),)
# How much shorter such a message is, so that with everything around it it stays below grpc.max_message_bytes.
ROOM = 400


def nested(*fields: int, pattern: bytes, count: int, before: bytes = b"", inside: bytes = b"") -> bytes:
    """Zstandard of a message that repeats `pattern` inside a member inside a member, after `before`."""
    head, length = inside, len(pattern) * count
    for field in reversed(fields):
        head = varint(field << 3 | 2) + varint(len(head) + length) + head
    return zstd_repeated(pattern, count, before + head)


def empty_items(count: int) -> bytes:
    """A Scan of this many empty items: two bytes each, compressed to almost nothing."""
    return nested(2, pattern=b"\x0a\0", count=count, before=part(1, wire.stream_config(wire.NUMBERS, wire.TENSORS)))


def compressed_calls(
    target: Target, path: str, bodies: list[bytes], *, window: int = http2.WINDOW_MAX, patience: float = 20
) -> tuple[collections.Counter, int]:
    connection = Connection(target.grpc, window=window, keeps_messages=False)
    streams = [connection.open(path, ZSTD) for _ in bodies]
    for stream, body in zip(streams, bodies, strict=True):
        connection.message(stream, body, True, True)
    codes = connection.wait_all(streams, patience)
    connection.close()
    return codes, sum(map(len, bodies))


def scan_of_empty_items(target: Target, count: int, requests: int, window: int) -> Report:
    body = empty_items(count)
    codes, sent = compressed_calls(target, wire.SCAN, [body] * requests, window=window, patience=target.seconds)
    return Report(
        f"{requests} of {len(body):,} bytes, {count:,} items each",
        told(codes),
        units=requests * min(count, 65_536),
        inflated=2 * count * requests,
    )


@attack(SECTION, held_max=256 * MIB)
def empty_items_unread(target: Target) -> Report:
    return scan_of_empty_items(target, 8_000_000, 1, 0)


@attack(SECTION, held_max=384 * MIB)
def empty_items_unread_four_times(target: Target) -> Report:
    return scan_of_empty_items(target, 8_000_000, 4, 0)


@attack(SECTION)
def empty_items_read(target: Target) -> Report:
    return scan_of_empty_items(target, target.times(1_000_000, 50_000), 1, http2.WINDOW_MAX)


NUMBERS_NAME = part(1, wire.NUMBERS)
INPUT_NAME = part(1, "inputs")


def rep(count: int, pattern: bytes, *fields: int, before: bytes = b"", inside: bytes = b"") -> tuple[bytes, int]:
    return nested(*fields, pattern=pattern, count=count, before=before, inside=inside), count


def kinds(size: int) -> dict[str, tuple[str, tuple[bytes, int]]]:
    """What is repeated, and where, in a message of this size."""
    return {
        "Predict: 16 M dimensions": (wire.PREDICT, rep(size, b"\1", 3, 2, 3, before=NUMBERS_NAME)),
        "Predict: 8 M empty tensors": (wire.PREDICT, rep(size // 2, b"\x12\0", 3, before=NUMBERS_NAME)),
        "Predict: an id of 16 MiB": (wire.PREDICT, rep(size, b"a", 3, 1, before=NUMBERS_NAME)),
        "Predict: a model of 16 MiB": (wire.PREDICT, rep(size, b"a", 1)),
        "Predict: a tensor's name of 16 MiB": (wire.PREDICT, rep(size, b"a", 3, 2, 1, before=NUMBERS_NAME)),
        "Predict: 16 M groups, one inside the other": (wire.PREDICT, rep(size, b"\x7b")),
        "Predict: 8 M unknown fields": (wire.PREDICT, rep(size // 2, b"\x78\1", before=NUMBERS_NAME)),
        "Scan: 16 MiB of audio": (wire.SCAN, rep(size, b"\0", 3, before=part(1, wire.stream_config()))),
        "Scan: one item of 8 M tensors": (
            wire.SCAN,
            rep(size // 2, b"\x12\0", 2, 1, before=part(1, wire.stream_config(wire.NUMBERS, wire.TENSORS))),
        ),
        "Scan: a version of 16 MiB": (wire.SCAN, rep(size, b"a", 1, 2, inside=b"")),
        "ModelInfer: 8 M empty inputs": (wire.INFER, rep(size // 2, b"\x2a\0", before=NUMBERS_NAME)),
        "ModelInfer: 8 M empty outputs": (wire.INFER, rep(size // 2, b"\x32\0", before=NUMBERS_NAME)),
        "ModelInfer: 8 M raw contents": (wire.INFER, rep(size // 2, b"\x3a\0", before=NUMBERS_NAME)),
        "ModelInfer: 16 M dimensions": (wire.INFER, rep(size, b"\1", 5, 3, before=NUMBERS_NAME, inside=b"")),
        "ModelInfer: 8 M empty bytes_contents": (wire.INFER, rep(size // 2, b"\x42\0", 5, 5, before=NUMBERS_NAME)),
        "ModelInfer: 16 M bool_contents": (wire.INFER, rep(size, b"\1", 5, 5, 1, before=NUMBERS_NAME)),
        "ModelInfer: 16 M int64_contents": (wire.INFER, rep(size, b"\1", 5, 5, 3, before=NUMBERS_NAME)),
        "ModelInfer: 8 M parameters": (wire.INFER, rep(size // 2, b"\x22\0", before=NUMBERS_NAME)),
        "ModelInfer: 8 M parameters of an input": (wire.INFER, rep(size // 2, b"\x22\0", 5, before=NUMBERS_NAME)),
        "RepositoryModelLoad: 8 M parameters": (
            wire.open_inference("RepositoryModelLoad"),
            rep(size // 2, b"\x1a\0", before=part(2, "nobody")),
        ),
        "ModelConfig: a name of 16 MiB": (wire.open_inference("ModelConfig"), rep(size, b"a", 1)),
        "model.Predict: 2 M numbers": (wire.EXAMPLE, rep(size // 8 * 8, b"\0", 2, before=NUMBERS_NAME)),
        "GetModel: a name of 4 MiB": (wire.GET_MODEL, rep(4 * MIB - ROOM, b"a", 1)),
    }


@attack(SECTION, held_max=384 * MIB, patience_s=180)
def messages_of_sixteen_mib(target: Target) -> Report:
    """Each kind of member, as often as it fits in 16 MiB, in some 600 to 1,800 bytes."""
    found = collections.Counter()
    asked = kinds(target.times(wire.MESSAGE_BYTES_MAX - ROOM, 3 * MIB))
    for name, (path, (body, _)) in asked.items():
        codes, _ = compressed_calls(target, path, [body], patience=30)
        expect("open" not in codes, f"{name} is never answered")
        found += codes
    sizes = sorted(len(body) for _, (body, _) in asked.values())
    return Report(f"{len(asked)} kinds, {sizes[0]:,} to {sizes[-1]:,} bytes", told(found), inflated=16 * MIB)


@attack(SECTION, held_max=384 * MIB)
def a_shape_of_sixteen_million(target: Target) -> Report:
    """One connection after another, as fast as they are answered."""
    path, (body, _) = kinds(wire.MESSAGE_BYTES_MAX - ROOM)["Predict: 16 M dimensions"]
    found = collections.Counter()
    for _ in range(target.times(21, 3)):
        codes, _ = compressed_calls(target, path, [body])
        found += codes
    return Report(f"{found.total()} x {len(body):,} bytes", expect_codes(found, "3", "8"), inflated=16 * MIB)


@attack(SECTION, patience_s=120)
def a_gigabyte_behind_a_megabyte(target: Target) -> Report:
    size = target.times(1 << 30, 64 * MIB)
    found = collections.Counter()
    methods = [
        wire.PREDICT,
        wire.SCAN,
        wire.FEED,
        wire.UPLOAD,
        wire.GET_MODEL,
        wire.INFER,
        wire.STREAM_INFER,
        wire.EXAMPLE,
        wire.open_inference("RepositoryModelLoad"),
    ]
    bombs = {encoding: wire.zeros(size, encoding) for encoding in ("gzip", "zstd", "deflate")}
    for path in methods:
        for encoding, bomb in bombs.items():
            connection = Connection(target.grpc)
            stream = connection.open(path, (("grpc-encoding", encoding),))
            connection.message(stream, bomb, True, True)
            code = connection.wait(stream, 15).code
            # The native API does not take deflate and says so.
            expect(code in ("8", "12"), f"{encoding} to {path}: {code} {connection.streams[stream].message}")
            found[code] += 1
            connection.close()
    return Report(f"{found.total()}: {len(methods)} methods, 3 encodings, {size >> 20} MiB each", told(found), inflated=16 * MIB)


@attack(SECTION, patience_s=120)
def many_bombs_at_once(target: Target) -> Report:
    bomb = wire.zeros(target.times(256 * MIB, 32 * MIB), "gzip")
    connections = [Connection(target.grpc) for _ in range(4)]
    count = target.times(200, 20)
    for index in range(count):
        connection = connections[index % 4]
        connection.message(connection.open(wire.INFER, (("grpc-encoding", "gzip"),)), bomb, True, True)
    found = collections.Counter()
    for connection in connections:
        found += connection.wait_all(patience=30)
        connection.close()
    return Report(f"{count} of {len(bomb) >> 10} KB", expect_codes(found, "8"), inflated=count * 16 * MIB)


@attack(SECTION)
def zstd_windows(target: Target) -> Report:
    """Frames that ask for windows of 128 MiB and 2 GiB."""
    found = collections.Counter()
    for log in (27, 31):
        connection = Connection(target.grpc)
        body = b"\x28\xb5\x2f\xfd" + bytes([0, (log - 10) << 3]) + b"\1\0\0"
        for _ in range(target.times(50, 10)):
            connection.message(connection.open(wire.PREDICT, ZSTD), body, True, True)
        found += connection.wait_all()
        connection.close()
    return Report(f"{found.total()} frames", expect_codes(found, "3", "5", "8", "13"))


@attack(SECTION)
def nested_gzip(target: Target) -> Report:
    """gzip within gzip within gzip: inflated once, it is small and not a message."""
    body = wire.gzipped(wire.gzipped(wire.zeros(64 * MIB, "gzip")))
    found = collections.Counter()
    for path in (wire.PREDICT, wire.SCAN, wire.INFER):
        connection = Connection(target.grpc)
        stream = connection.open(path, (("grpc-encoding", "gzip"),))
        connection.message(stream, body, True, True)
        found[connection.wait(stream).code] += 1
        connection.close()
    return Report(f"{found.total()} of {len(body):,} bytes", expect_codes(found, "3", "13"))


@attack(SECTION, patience_s=120)
def many_small_bombs(target: Target) -> Report:
    """Each within every limit, 1 MiB from 60 bytes; together they are what one client makes the server inflate."""
    connection = Connection(target.grpc, source="127.0.0.2")
    body = nested(4, pattern=b"\0", count=MIB - 64, before=part(1, "nobody"))
    count = target.times(5_000, 200)
    until, sent = time.monotonic() + 3 * target.seconds, 0
    while sent < count and time.monotonic() < until and not connection.closed:
        for _ in range(20):
            connection.message(connection.open(wire.PREDICT, ZSTD), body, True, True)
        sent += 20
        connection.wait_until(lambda: sum(not stream.ended for stream in connection.streams.values()) < 100)
    codes = connection.wait_all(patience=20)
    connection.close()
    return Report(
        f"{sent:,} of {len(body)} bytes, 1 MiB each", expect_codes(codes, "3", "5", "8"), units=sent, inflated=100 * MIB
    )


# A special setting gives it a server that has not held much before: memory that was once used and kept would hide what this takes.
@attack(SECTION, "grpc.max_streams_per_connection=9999", held_max=256 * MIB)
def prefixes_alone(target: Target) -> Report:
    """Unary calls that announce 16 MiB and send one byte: nothing is set aside for what is only announced."""
    count = target.times(2_000, 200)
    connection = Connection(target.grpc)
    block = http2.header_block(http2.call_fields(wire.PREDICT))
    start = wire.framed(b"\n", announced=wire.MESSAGE_BYTES_MAX)
    for _ in range(count):
        stream = connection.new_stream()
        connection.send(http2.headers(stream, block) + http2.frame(http2.DATA, 0, stream, start))
    connection.pump(0.2)
    time.sleep(0.5)
    codes = connection.codes()
    connection.close()
    return Report(f"{count:,} calls", told(codes), units=8 * count)


@attack(SECTION, held_max=640 * MIB, patience_s=120)
def large_messages_that_stop(target: Target) -> Report:
    """All but the last byte of 16 MiB, in 100 calls on one connection."""
    connection = Connection(target.grpc, source="127.0.0.2")
    almost = wire.framed(bytes(wire.MESSAGE_BYTES_MAX - 1), announced=wire.MESSAGE_BYTES_MAX)
    count = target.times(100, 20)
    sent = 0
    for _ in range(count):
        sent += connection.data(connection.open(wire.PREDICT), almost, patience=0.5)
    # A small request from another client has a share reserved for it.
    other = Connection(target.grpc, source="127.0.0.3")
    code = other.call(wire.EXAMPLE, wire.example(1.0)).code
    expect(code == "0", f"another client's small call ends with {code}")
    other.close()
    codes = connection.wait_all(patience=target.clocks["arrival"] + 15)
    connection.close()
    expect("open" not in codes, f"still open: {told(codes)}")
    return Report(f"{count} calls, {sent >> 20} MiB", told(codes), units=count)


@attack(SECTION, held_max=512 * MIB)
def inflated_buffers(target: Target) -> Report:
    """Feeds that get one message of 543 bytes that inflates to 16 MiB, then only keepalives: the buffer shrinks again."""
    count = target.times(100, 30)
    body = zstd_repeated(
        b"\0", wire.MESSAGE_BYTES_MAX - 64, wire.KEEPALIVE + varint(100 << 3 | 2) + varint(wire.MESSAGE_BYTES_MAX - 64)
    )
    connection = Connection(target.grpc)
    streams = []
    for _ in range(count):
        stream = connection.open(wire.FEED, ZSTD)
        connection.message(stream, wire.feed_open())
        connection.wait_until(lambda stream=stream: bool(connection.streams[stream].messages))
        connection.message(stream, body, compressed=True)
        streams.append(stream)
    for stream in streams:
        connection.message(stream, wire.KEEPALIVE)
    time.sleep(2)
    codes = connection.codes(streams)
    connection.close()
    return Report(f"{count} feeds of {len(body)} bytes", told(codes), units=8 * count, inflated=2 * 16 * MIB)


@attack(SECTION, held_max=1024 * MIB, patience_s=120)
def uploads_that_gather(target: Target) -> Report:
    """Uploads whose results are collected: as large as what came in, up to a limit."""
    connection = Connection(target.grpc)
    stream = connection.open(wire.UPLOAD)
    config = part(1, part(1, wire.stream_config(wire.NUMBERS, wire.TENSORS)) + wire.number(3, 1))
    connection.message(stream, config)
    count = target.times(75, 8)
    one = part(3, wire.item(wire.tensor("inputs", [500_000], bytes(4_000_000), 12)))
    sent = 0
    for _ in range(count):
        sent += connection.message(stream, one, patience=5)
    connection.data(stream, b"", True)
    code = connection.wait(stream, 30).code
    expect(code in ("0", "8"), f"{code} {connection.streams[stream].message}")
    connection.close()
    return Report(f"{sent >> 20} MiB", code, units=count)


@attack(SECTION)
def long_ids(target: Target) -> Report:
    connection = Connection(target.grpc)
    stream = connection.open(wire.FEED)
    connection.message(stream, wire.feed_open(payload=wire.TENSORS))
    one = part(2, wire.speech_item(id="i" * MIB))
    sent = 0
    for _ in range(target.times(2_000, 40)):
        if connection.closed or connection.streams[stream].ended:
            break
        connection.message(stream, one, patience=2)
        sent += 1
    connection.close()
    return Report(
        f"{sent:,} items with ids of 1 MiB",
        f"{connection.streams[stream].code}, {len(connection.streams[stream].messages)} answers",
        units=sent,
    )


@attack(SECTION, held_max=384 * MIB)
def small_items_in_large_messages(target: Target) -> Report:
    """Items of 2 KB in messages of 8 MiB: what is queued must not keep the rest in memory."""
    rest = varint(100 << 3 | 2) + varint(8 * MIB) + bytes(8 * MIB)
    connection = Connection(target.grpc)
    stream = connection.open(wire.FEED)
    connection.message(stream, wire.feed_open(payload=wire.TENSORS, window=1_024))
    one = part(2, wire.speech_item()) + rest
    count = target.times(300, 20)
    for _ in range(count):
        connection.message(stream, one, patience=5)
    connection.close()
    waiting = Connection(target.grpc)
    for _ in range(target.times(30, 8)):
        feed = waiting.open(wire.FEED)
        waiting.message(feed, wire.feed_open())
        # Less than a window, so it waits for more.
        waiting.message(feed, wire.feed_chunk(bytes(600)) + rest, patience=5)
    waiting.pump(0.5)
    waiting.close()
    return Report(f"{count} messages of 8 MiB", "taken", units=count)


def small_messages(target: Target, message: bytes, count: int, payload: int = wire.PCM) -> Report:
    connection = Connection(target.grpc)
    stream = connection.open(wire.FEED)
    connection.message(stream, wire.feed_open(payload=payload))
    block = wire.framed(message) * 1_000
    wanted, sent = target.times(count), 0
    until = time.monotonic() + target.seconds
    while sent < wanted and time.monotonic() < until and not connection.closed and not connection.streams[stream].ended:
        if connection.data(stream, block, patience=5) < len(block):
            break
        sent += 1_000
    connection.data(stream, b"", True)
    code = connection.wait(stream, 20).code
    expect(
        code == "0",
        f"the feed ended with {code} {connection.streams[stream].message}; GOAWAY {connection.goaway} {connection.goaway_text}",
    )
    connection.close()
    return Report(f"{sent:,} messages", f"{code}, {len(connection.streams[stream].messages):,} answers")


@attack(SECTION)
def empty_chunks(target: Target) -> Report:
    return small_messages(target, wire.feed_chunk(b""), 2_000_000)


@attack(SECTION)
def chunks_of_one_byte(target: Target) -> Report:
    return small_messages(target, wire.feed_chunk(b"\0"), 1_000_000)


@attack(SECTION)
def flushes(target: Target) -> Report:
    return small_messages(target, part(4, part(1, "x" * 200)), 500_000)


@attack(SECTION)
def keepalives(target: Target) -> Report:
    return small_messages(target, wire.KEEPALIVE, 2_000_000)


@attack(SECTION)
def flushes_that_nobody_reads(target: Target) -> Report:
    connection = Connection(target.grpc, window=1_000)
    stream = connection.open(wire.FEED)
    connection.message(stream, wire.feed_open())
    one = wire.framed(part(4, part(1, "x" * 250))) * 100
    sent = 0
    for _ in range(target.times(2_000, 100)):
        if connection.data(stream, one, patience=1) < len(one):
            break
        sent += 100
    connection.close()
    return Report(f"{sent:,} flushes", "held back", units=sent)


@attack(SECTION)
def deadlines_at_the_extremes(target: Target) -> Report:
    connection = Connection(target.grpc)
    stream = connection.open(wire.FEED)
    connection.message(stream, wire.feed_open(payload=wire.TENSORS, window=1_024))
    items = b"".join(
        wire.framed(part(2, wire.speech_item(deadline_ns=nanoseconds))) for nanoseconds in (1, 0, -5 * 10**9, 10**21)
    )
    sent = 0
    until = time.monotonic() + target.seconds
    while sent < target.times(100_000) and time.monotonic() < until:
        connection.data(stream, items * 20)
        sent += 80
    connection.data(stream, b"", True)
    code = connection.wait(stream, 20).code
    results = sum(2 in wire.members(message) for message in connection.streams[stream].messages)
    expect(code == "0" and results == sent, f"{code}, {results} of {sent} items answered")
    calls = connection.calls(
        wire.INFER,
        (wire.infer(wire.SPEECH, [1, 576], bytes(2_304)) for _ in range(target.times(3_000))),
        (("grpc-timeout", "1n"),),
    )
    connection.close()
    return Report(
        f"{sent:,} items, {calls.total():,} calls",
        f"all items answered; calls: {expect_codes(calls, '4', 'reset 8')}",
        units=sent,
    )


@attack(SECTION)
def openings_at_the_extremes(target: Target) -> Report:
    base = part(1, wire.SPEECH) + wire.number(3, wire.PCM)
    kinds = {
        "window 2^32-1": base + wire.number(5, 2**32 - 1),
        "deadline -1": base + part(6, wire.duration(-(10**9))),
        "deadline 2^63-1": base + part(6, wire.number(1, 2**63 - 1)),
        "nanoseconds 2^31-1": base + part(6, wire.number(2, 2**31 - 1)),
        "max_age -2^63": base + part(8, wire.number(1, -(2**63))),
        "overflow 99": base + wire.number(7, 99),
        "unread 99": base + wire.number(9, 99),
        "priority 99": base + wire.number(10, 99),
        "order -1": base + wire.number(4, -1),
        "payload 99": part(1, wire.SPEECH) + wire.number(3, 99),
        "rate 2^32-1": base + wire.number(11, 2**32 - 1),
        "version ../1": base + part(2, "../1"),
        "version of 10 KB": base + part(2, "9" * 10_000),
        "version 2^64": base + part(2, str(2**64)),
        "model empty": wire.number(3, wire.PCM),
        "model of 1 MiB": part(1, "m" * MIB) + wire.number(3, wire.PCM),
        "model with a newline": part(1, "a\nERROR a line that is not the server's") + wire.number(3, wire.PCM),
        "audio for numbers": part(1, wire.NUMBERS) + wire.number(3, wire.PCM),
    }
    found = collections.Counter()
    for name, config in kinds.items():
        connection = Connection(target.grpc)
        stream = connection.open(wire.FEED)
        connection.message(stream, part(1, config))
        connection.message(stream, wire.feed_chunk(bytes(1_024)), True)
        state = connection.wait(stream)
        expect(state.code in ("0", "3", "5", "8"), f"{name}: {state.code} {state.message}")
        if state.code == "0":
            (opened,) = wire.members(state.messages[0])[1]
            (limits,) = wire.members(opened)[3]
            expect(wire.members(limits)[1][0] <= 1_024, f"{name}: a window of {wire.members(limits)[1][0]} items")
        found[state.code] += 1
        connection.close()
    return Report(f"{len(kinds)} kinds", told(found))


@attack(SECTION)
def one_byte_of_data_and_a_late_end(target: Target) -> Report:
    """Each byte of a message in its own DATA frame, and the end of the stream in an empty one a moment later."""
    connection = Connection(target.grpc)
    message = wire.framed(wire.example(1.0))
    streams = [connection.open(wire.EXAMPLE) for _ in range(target.times(300, 20))]
    for at in range(len(message)):
        connection.send(b"".join(http2.frame(http2.DATA, 0, stream, message[at : at + 1]) for stream in streams))
        connection.pump()
    time.sleep(0.3)
    connection.send(b"".join(http2.frame(http2.DATA, http2.END_STREAM, stream) for stream in streams))
    codes = connection.wait_all(streams, 20)
    connection.close()
    return Report(f"{len(streams)} calls of {len(message)} frames", expect_codes(codes, "0"), units=len(streams))


@attack(SECTION)
def trailers_in_requests(target: Target) -> Report:
    """A request's trailers are not read: they cost no more than their bytes, and end the stream."""
    connection = Connection(target.grpc)
    trailer = http2.header_block([("grpc-status", "0"), ("x-trailer", "t" * 4_000)])
    count = target.times(1_000, 50)
    streams = []
    for _ in range(count):
        stream = connection.open(wire.EXAMPLE)
        connection.message(stream, wire.example(1.0))
        connection.send(http2.headers(stream, trailer, True))
        streams.append(stream)
        connection.pump()
    codes = connection.wait_all(streams, 20)
    connection.close()
    return Report(f"{count:,} calls", expect_codes(codes, "0"), units=count)
