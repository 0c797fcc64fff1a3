"""Floods of HTTP/2 frames that are cheap to send."""

import collections
import struct
import time
from collections.abc import Callable

import http2
from attack import Report, Target, attack, expect, told
from http2 import ENHANCE_YOUR_CALM, Connection, frame
from wire import EXAMPLE, FEED, PREDICT, example, feed_open, framed

SECTION = "HTTP/2"
CALL = http2.header_block(http2.call_fields(EXAMPLE))


def flood(
    target: Target,
    block: Callable[[Connection], bytes],
    rounds: int,
    must_end: bool = False,
    allowed: tuple[int, ...] = (ENHANCE_YOUR_CALM,),
) -> tuple[int, int, collections.Counter]:
    """Sends what `block(connection)` makes until the server ends the connection, for one of the `allowed` reasons, then on the next one,
    `rounds` times in all. Returns the rounds, the connections and how they ended. A short flood may go unnoticed, unless it `must_end`."""
    ends: collections.Counter = collections.Counter()
    done = 0
    until = time.monotonic() + target.seconds
    wanted = target.times(rounds)
    while done < wanted and time.monotonic() < until:
        connection = Connection(target.grpc)
        while done < wanted and time.monotonic() < until and not connection.closed and connection.goaway is None:
            connection.send(block(connection))
            done += 1
            connection.pump()
        if must_end:
            connection.wait_goaway(3)
        connection.drain_input()
        ends["lives" if connection.goaway is None else f"GOAWAY {connection.goaway} {connection.goaway_text}"] += 1
        connection.close()
    reasons = tuple(f"GOAWAY {code} " for code in allowed)
    wrong = {end for end in ends if not end.startswith(reasons) and (must_end or end != "lives")}
    expect(not wrong, f"connections ended with {wrong}")
    return done, sum(ends.values()), ends


@attack(SECTION)
def rapid_reset(target: Target) -> Report:
    def block(connection: Connection) -> bytes:
        streams = [connection.new_stream() for _ in range(100)]
        return b"".join(http2.headers(stream, CALL) + http2.reset(stream) for stream in streams)

    done, connections, ends = flood(target, block, 13_000, must_end=True)
    return Report(f"{100 * done:,} x HEADERS + RST_STREAM on {connections} connections", told(ends))


@attack(SECTION)
def calls_and_resets_fifteen_at_a_time(target: Target) -> Report:
    def block(connection: Connection) -> bytes:
        streams = [connection.new_stream() for _ in range(15)]
        body = frame(http2.DATA, 0, 0, framed(example(1.0)))
        out = b"".join(http2.headers(stream, CALL) + body[:5] + struct.pack(">I", stream) + body[9:] for stream in streams)
        return out + b"".join(map(http2.reset, streams))

    done, connections, ends = flood(target, block, 500)
    return Report(f"{15 * done:,} on {connections} connections", told(ends))


@attack(SECTION)
def made_you_reset(target: Target) -> Report:
    """The client breaks a rule of the stream, so the server resets it."""

    def block(connection: Connection) -> bytes:
        streams = [connection.new_stream() for _ in range(50)]
        return b"".join(http2.headers(stream, CALL) + http2.window_update(stream, http2.WINDOW_MAX) for stream in streams)

    done, connections, ends = flood(target, block, 6_000)
    return Report(f"{50 * done:,} streams on {connections} connections", told(ends))


@attack(SECTION)
def empty_continuations(target: Target) -> Report:
    def block(connection: Connection) -> bytes:
        stream = connection.new_stream()
        return frame(http2.HEADERS, 0, stream, CALL) + frame(http2.CONTINUATION, 0, stream) * 1_000

    done, connections, ends = flood(target, block, 290)
    return Report(f"{1_000 * done:,} frames", told(ends))


@attack(SECTION)
def full_continuations(target: Target) -> Report:
    filler = http2.header_block([("x-filler", "a" * 16_000)])

    def block(connection: Connection) -> bytes:
        return frame(http2.HEADERS, 0, connection.new_stream(), CALL) + frame(http2.CONTINUATION, 0, 1, filler) * 64

    done, connections, ends = flood(target, block, 20, must_end=True)
    return Report(f"{64 * done:,} frames of 16 KB on {connections} connections", told(ends))


def harmless(target: Target, one: bytes, count: int, reads: bool) -> Report:
    """Frames that need at most an answer: no connection may be lost over them, and nothing piles up."""
    block = one * 1_000
    connection = Connection(target.grpc)
    until, sent = time.monotonic() + target.seconds, 0
    blocked = False
    while sent < target.times(count) and time.monotonic() < until and not connection.closed:
        if reads:
            connection.send(block)
            connection.pump()
        elif connection.wire.send_what_fits(block) < len(block):
            # Half a frame may be left over: this connection sends nothing more.
            blocked = True
            break
        sent += 1_000
    answered = sum(connection.frames.values())
    expect(
        not connection.closed and connection.goaway in (None, 0, ENHANCE_YOUR_CALM),
        f"GOAWAY {connection.goaway} {connection.goaway_text}",
    )
    connection.close()
    return Report(f"{sent:,} frames", f"{answered:,} frames back" if reads else "held back" if blocked else "taken")


@attack(SECTION)
def settings_read(target: Target) -> Report:
    return harmless(target, http2.settings((http2.INITIAL_WINDOW_SIZE, 70_000)), 2_000_000, True)


@attack(SECTION)
def settings_unread(target: Target) -> Report:
    return harmless(target, http2.settings((http2.INITIAL_WINDOW_SIZE, 70_000)), 2_000_000, False)


@attack(SECTION)
def pings_read(target: Target) -> Report:
    return harmless(target, frame(http2.PING, 0, 0, b"12345678"), 2_000_000, True)


@attack(SECTION)
def pings_unread(target: Target) -> Report:
    return harmless(target, frame(http2.PING, 0, 0, b"12345678"), 2_000_000, False)


@attack(SECTION)
def priorities(target: Target) -> Report:
    return harmless(target, frame(http2.PRIORITY, 0, 1, struct.pack(">IB", 3, 200)), 2_000_000, True)


@attack(SECTION)
def window_updates(target: Target) -> Report:
    connection = Connection(target.grpc, grows_window=False)
    until, sent = time.monotonic() + target.seconds, 0
    # As many as fit in the connection's window.
    while sent < target.times(3_000_000) and time.monotonic() < until and not connection.closed:
        connection.send(http2.window_update(0, 1) * 1_000)
        connection.pump()
        sent += 1_000
    expect(connection.call(EXAMPLE, example(1.0)).code == "0", "the connection is lost")
    connection.close()
    return Report(f"{sent:,} frames", "ignored")


@attack(SECTION)
def unknown_frames(target: Target) -> Report:
    return harmless(target, frame(0xAB, 0xFF, 0, b"unknown"), 2_000_000, True)


def data_flood(target: Target, one: bytes, count: int) -> Report:
    """DATA frames that carry little or nothing on a stream that stays open. The server may end a connection for frames without content,
    but never because of what flow control holds back."""

    def block(connection: Connection) -> bytes:
        if not connection.streams:
            feed = connection.open(FEED)
            connection.message(feed, feed_open())
            connection.wait_until(lambda: bool(connection.streams[feed].messages))
        (feed,) = connection.streams
        return (one[:5] + struct.pack(">I", feed) + one[9:]) * 100

    # Padding uses up the window, and this client does not ask whether any is left.
    done, _, ends = flood(target, block, count // 100, allowed=(ENHANCE_YOUR_CALM, http2.FLOW_CONTROL_ERROR))
    return Report(f"{100 * done:,} frames", told(ends))


@attack(SECTION)
def empty_data(target: Target) -> Report:
    return data_flood(target, frame(http2.DATA, 0, 0), 160_000)


@attack(SECTION)
def data_that_is_padding(target: Target) -> Report:
    return data_flood(target, frame(http2.DATA, http2.PADDED, 0, b"\xff" + bytes(255)), 11_000)


@attack(SECTION)
def hpack_bomb(target: Target) -> Report:
    """One entry of 4 KB in the table, then a block of references to it: 62 MB from 16 KB."""
    entry = b"\x40" + http2.prefixed(1, 7) + b"a" + http2.prefixed(4_000, 7) + b"b" * 4_000
    sent, ends = 0, collections.Counter()
    for _ in range(target.times(50, 3)):
        connection = Connection(target.grpc)
        stream = connection.new_stream()
        connection.send(http2.headers(stream, CALL + entry, True))
        connection.send(http2.headers(connection.new_stream(), CALL + bytes([0x80 | 62]) * 15_000, True))
        code = connection.wait_goaway(3)
        ends[f"GOAWAY {code}" if code is not None else told(connection.codes())] += 1
        sent += 1
        connection.close()
    expect(all(end.startswith("GOAWAY 11") or "8" in end for end in ends), told(ends))
    return Report(f"{sent} blocks of 60 MB each", told(ends))


@attack(SECTION)
def hpack_table_grown(target: Target) -> Report:
    """The table is filled with new entries again and again, on many connections: each keeps at most the table's limit."""
    kept = []
    for index in range(target.times(400, 40)):
        connection = Connection(target.grpc)
        kept.append(connection)
        for round in range(4):
            entry = b"\x40" + http2.prefixed(6, 7) + b"x-%04d" % (index * 4 + round) + http2.prefixed(3_900, 7) + b"v" * 3_900
            connection.send(http2.headers(connection.new_stream(), CALL + entry, True))
    codes = collections.Counter()
    for connection in kept:
        codes += connection.wait_all(patience=3)
        connection.close()
    return Report(f"{len(kept)} connections, 4 entries of 4 KB each", told(codes), units=8 * len(kept))


@attack(SECTION)
def hpack_broken(target: Target) -> Report:
    kinds = {
        "an index beyond the table": b"\xff\xff\xff\xff\x07",
        "index 0": b"\x80",
        "a length beyond the block": b"\0\x7f\xff\xff\xff\x07a",
        "an integer without end": b"\xff" + b"\xff" * 40,
        "broken Huffman code": b"\0\x81\xff\x81\x00",
        "a table update in the middle": CALL + b"\x3f\xe1\x1f",
        "a table update beyond the limit": b"\x3f\xff\xff\xff\x07" + CALL,
    }
    ends = collections.Counter()
    for name, block in kinds.items():
        connection = Connection(target.grpc)
        stream = connection.new_stream()
        connection.send(http2.headers(stream, block, True))
        connection.wait_until(
            lambda connection=connection, stream=stream: bool(connection.goaway) or connection.streams[stream].ended, 3
        )
        got = f"GOAWAY {connection.goaway}" if connection.goaway else connection.streams[stream].code
        expect(got.startswith(("GOAWAY", "reset", "http 4")), f"{name}: {got}")
        ends[got] += 1
        connection.close()
    return Report(f"{len(kinds)} kinds", told(ends))


@attack(SECTION)
def odd_frames(target: Target) -> Report:
    """Frames that the RFC forbids: each gets its code, or one of the two that it allows."""
    call = http2.headers(1, CALL)
    ended = http2.headers(1, CALL, True)
    kinds: dict[str, tuple[bytes, tuple[str, ...]]] = {
        "DATA on stream 0": (frame(http2.DATA, 0, 0, b"x"), ("1",)),
        "DATA on an idle stream": (frame(http2.DATA, 0, 5, b"x"), ("1", "5")),
        "DATA after the end": (ended + frame(http2.DATA, 0, 1, b"x"), ("1", "5", "stream 5", "stream 1")),
        "HEADERS on stream 0": (frame(http2.HEADERS, http2.END_HEADERS, 0, CALL), ("1",)),
        "an even stream": (http2.headers(2, CALL), ("1",)),
        "a falling stream": (http2.headers(5, CALL) + http2.headers(3, CALL), ("1", "5")),
        "a stream that depends on itself": (
            frame(http2.PRIORITY, 0, 1, struct.pack(">IB", 1, 0)) + call,
            ("1", "stream 1", "none"),
        ),
        "PRIORITY of 4 bytes": (call + frame(http2.PRIORITY, 0, 1, bytes(4)), ("6", "stream 6", "1")),
        "RST_STREAM on an idle stream": (http2.reset(9), ("1",)),
        "RST_STREAM of 3 bytes": (call + frame(http2.RST_STREAM, 0, 1, bytes(3)), ("6", "1")),
        "SETTINGS of 5 bytes": (frame(http2.SETTINGS, 0, 0, bytes(5)), ("6",)),
        "SETTINGS on a stream": (frame(http2.SETTINGS, 0, 1, b""), ("1",)),
        "SETTINGS ACK with content": (frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), ("6",)),
        "ENABLE_PUSH 2": (http2.settings((http2.ENABLE_PUSH, 2)), ("1",)),
        "INITIAL_WINDOW_SIZE 2^31": (http2.settings((http2.INITIAL_WINDOW_SIZE, 1 << 31)), ("3", "1")),
        "MAX_FRAME_SIZE 1": (http2.settings((http2.MAX_FRAME_SIZE, 1)), ("1",)),
        "PUSH_PROMISE from a client": (frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, struct.pack(">I", 2) + CALL), ("1",)),
        "PING of 7 bytes": (frame(http2.PING, 0, 0, bytes(7)), ("6",)),
        "PING on a stream": (frame(http2.PING, 0, 1, bytes(8)), ("1",)),
        "GOAWAY on a stream": (frame(http2.GOAWAY, 0, 1, bytes(8)), ("1",)),
        "WINDOW_UPDATE of 0 on the connection": (http2.window_update(0, 0), ("1",)),
        "WINDOW_UPDATE of 0 on a stream": (call + http2.window_update(1, 0), ("1", "stream 1")),
        "WINDOW_UPDATE on an idle stream": (http2.window_update(7, 1), ("1",)),
        "the connection's window overflows": (http2.window_update(0, http2.WINDOW_MAX), ("3",)),
        "a stream's window overflows": (call + http2.window_update(1, http2.WINDOW_MAX), ("3", "stream 3")),
        "CONTINUATION without HEADERS": (frame(http2.CONTINUATION, http2.END_HEADERS, 1, CALL), ("1",)),
        "another frame within a block": (frame(http2.HEADERS, 0, 1, CALL) + frame(http2.PING, 0, 0, bytes(8)), ("1",)),
        "padding longer than the frame": (call + frame(http2.DATA, http2.PADDED, 1, b"\xff" + bytes(9)), ("1",)),
        "a frame of 16,385 bytes": (call + frame(http2.DATA, 0, 1, bytes(16_385)), ("6",)),
        "trailers without the end": (call + http2.headers(1, http2.header_block([("x-trailer", "1")])), ("1", "stream 1")),
    }
    found = collections.Counter()
    for name, (sent, allowed) in kinds.items():
        connection = Connection(target.grpc)
        connection.streams[1] = http2.Stream(http2.WINDOW_DEFAULT)
        connection.send(sent)
        connection.wait_until(
            lambda connection=connection: connection.goaway is not None or connection.streams[1].reset is not None, 1
        )
        if connection.goaway:
            got = str(connection.goaway)
        else:
            got = f"stream {connection.streams[1].reset}" if connection.streams[1].reset is not None else "none"
        # A wrong size may be reported as a wrong frame.
        expect(got in allowed or got == "1" and "6" in allowed, f"{name}: {got}, allowed: {allowed}")
        found[got] += 1
        connection.close()
    return Report(f"{len(kinds)} kinds", "codes of the RFC")


@attack(SECTION)
def goaway_games(target: Target) -> Report:
    """A client that says GOAWAY still gets answers to what it asked before."""
    connection = Connection(target.grpc)
    stream = connection.open(EXAMPLE)
    connection.message(stream, example(1.0), True)
    connection.send(frame(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
    expect(connection.wait(stream).code == "0", f"the call ended with {connection.streams[stream].code}")
    connection.close()
    for _ in range(target.times(340, 20)):
        one = Connection(target.grpc)
        one.send(frame(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 11) + bytes(8_000)))
        one.close()
    return Report("a call before GOAWAY, many with 8 KB of debug data", "answered; closed")


@attack(SECTION)
def streams_beyond_the_limit(target: Target) -> Report:
    """10,000 streams are allowed; the next ones are refused, but the connection stays."""
    connection = Connection(target.grpc)
    block = http2.header_block(http2.call_fields(PREDICT))
    count = 10_500
    for _ in range(0, count, 500):
        connection.send(b"".join(http2.headers(connection.new_stream(), block) for _ in range(500)))
        connection.pump()
    connection.wait_until(lambda: sum(stream.ended for stream in connection.streams.values()) >= 500, 10)
    refused = sum(stream.reset == 7 for stream in connection.streams.values())
    ended = sum(stream.ended for stream in connection.streams.values())
    expect(connection.goaway is None and ended >= 500, f"GOAWAY {connection.goaway}, {ended} ended")
    connection.close()
    return Report(
        f"{count:,} calls without a body", f"{refused} x REFUSED_STREAM, {ended - refused} refused otherwise", units=3 * count
    )
