"""WebSocket: handshakes, frames, fragments, pings, and sockets that nobody reads."""

import base64
import collections
import json
import os
import struct
import time

from attack import MIB, Report, Target, attack, expect, told
from http1 import Client, request

SECTION = "WebSocket"
FEED = "/tidemill/v1/models/silero-vad/feed"
OPEN = json.dumps({"open": {"payload": "PAYLOAD_KIND_PCM_S16LE"}}).encode()
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
# RFC 6455, section 7.4.
GONE_AWAY, PROTOCOL_ERROR, BAD_TEXT, POLICY, TOO_LARGE = 1001, 1002, 1007, 1008, 1009


def handshake(headers: dict[str, str] | None = None) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    fields = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13", "sec-websocket-key": key}
    return request("GET", FEED, headers={**fields, **(headers or {})})


def frame(kind: int, data: bytes = b"", last: bool = True, masked: bool = True, length: int | None = None) -> bytes:
    """A frame, which may claim to be longer than it is."""
    length = len(data) if length is None else length
    first = (0x80 if last else 0) | kind
    mark = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mark | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, mark | 126, length)
    else:
        head = struct.pack("!BBQ", first, mark | 127, length)
    # A mask of zeros leaves the data as they are.
    return head + (bytes(4) if masked else b"") + data


class Socket:
    """A WebSocket with an open feed."""

    def __init__(self, target: Target, source: str | None = None, receive_buffer: int | None = None) -> None:
        self.client = Client(target.http, source, receive_buffer)
        self.client.send(handshake())
        answer = self.client.answer(to_head=True)
        expect(answer.status == 101, f"the handshake is answered {answer.status} {answer.error}")
        self.received = bytearray()
        self.client.send(frame(TEXT, OPEN))

    def send(self, data: bytes) -> bool:
        return self.client.send(data)

    def end(self, patience: float = 20) -> int:
        """The code that the server closes with; 0 if it just closes, -1 if it does not."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            data = self.client.wire.receive(until - time.monotonic()) if not self.client.closed else None
            if data is None:
                self.client.closed = True
            self.received += (bytes(self.client._received) if self.client._received else b"") + (data or b"")
            self.client._received.clear()
            code = self._closing()
            if code is not None:
                return code
            if self.client.closed:
                return 0
        return -1

    def _closing(self) -> int | None:
        while len(self.received) >= 2:
            kind, length, start = self.received[0] & 15, self.received[1] & 127, 2
            if length == 126:
                if len(self.received) < 4:
                    return None
                (length,), start = struct.unpack("!H", self.received[2:4]), 4
            elif length == 127:
                if len(self.received) < 10:
                    return None
                (length,), start = struct.unpack("!Q", self.received[2:10]), 10
            if len(self.received) < start + length:
                return None
            data = bytes(self.received[start : start + length])
            del self.received[: start + length]
            if kind == CLOSE:
                return struct.unpack("!H", data[:2])[0] if len(data) >= 2 else 1005
        return None

    def close(self, reset: bool = False) -> None:
        self.client.close(reset)


@attack(SECTION)
def sockets_that_break_rules(target: Target) -> Report:
    cases = {
        "unmasked": (frame(BINARY, b"ab", masked=False), PROTOCOL_ERROR),
        "a reserved kind": (frame(3, b"ab"), PROTOCOL_ERROR),
        "reserved bits": (bytes([0xF0 | BINARY, 0x80]) + bytes(4), PROTOCOL_ERROR),
        "a continuation of nothing": (frame(CONTINUATION, b"ab"), PROTOCOL_ERROR),
        "a message inside another": (frame(TEXT, b"{", last=False) + frame(TEXT, b"}"), PROTOCOL_ERROR),
        "a ping in fragments": (frame(PING, b"a", last=False), PROTOCOL_ERROR),
        "a long ping": (frame(PING, b"a" * 126), PROTOCOL_ERROR),
        "text that is none": (frame(TEXT, b"\xff\xfe{"), BAD_TEXT),
        "a frame of 2^62 bytes": (frame(BINARY, length=1 << 62), TOO_LARGE),
        "a frame of 1 GiB": (frame(BINARY, b"a" * 1_000, length=1 << 30), TOO_LARGE),
    }
    found = collections.Counter()
    for what, (data, expected) in cases.items():
        socket = Socket(target)
        socket.send(data)
        code = socket.end()
        expect(code == expected, f"{what}: the server closes with {code}, not {expected}")
        found[str(code)] += 1
        socket.close()
    return Report(f"{len(cases)} sockets, each breaking a rule", told(found), units=8 * len(cases))


@attack(SECTION)
def handshakes_that_are_none(target: Target) -> Report:
    found = collections.Counter()
    for headers, allowed in (
        ({"sec-websocket-version": "8"}, (400, 426)),
        ({"sec-websocket-key": "short"}, (400,)),
        ({"connection": "close"}, (400, 426)),
        ({"origin": "https://evil.example"}, (403,)),
        ({"sec-websocket-protocol": ", ".join(f"x{number}" for number in range(500))}, (101, 400)),
        ({"sec-websocket-extensions": "permessage-deflate; client_max_window_bits=99"}, (101,)),
    ):
        client = Client(target.http)
        client.send(handshake(headers))
        answer = client.answer(to_head=True)
        expect(answer.status in allowed, f"{headers}: answered {answer.status}")
        expect("sec-websocket-extensions" not in answer.headers, "an extension was accepted")
        found[str(answer.status)] += 1
        client.close()
    return Report("handshakes with a wrong part each", told(found), units=8 * 6)


@attack(SECTION)
def fragments_without_end(target: Target) -> Report:
    socket = Socket(target)
    many = frame(CONTINUATION, b" ", last=False) * 1_000
    socket.send(frame(TEXT, b"{", last=False))
    sent = 1
    for _ in range(target.times(1_000, 50)):
        if not socket.send(many):
            break
        sent += 1_000
    code = socket.end()
    expect(code in (POLICY, TOO_LARGE, 0), f"closed with {code}")
    socket.close()
    return Report(f"{sent} fragments of a byte", f"closed with {code}", units=64)


@attack(SECTION)
def half_frames(target: Target) -> Report:
    """Announced and never sent: what is announced costs nothing."""
    sockets = [Socket(target, source="127.0.0.2") for _ in range(target.times(1_000, 100))]
    for socket in sockets:
        socket.send(frame(BINARY, b"a" * 100, length=15 * MIB))
    time.sleep(target.times(5, 2))
    fresh = Socket(target, source="127.0.0.3")
    fresh.send(frame(TEXT, b'{"finish":{}}'))
    code = fresh.end()
    expect(code == 1000, f"another client's socket is closed with {code}")
    for socket in (*sockets, fresh):
        socket.close()
    return Report(f"{len(sockets)} frames of 15 MiB of which 100 bytes come", "others are served", units=40 * len(sockets))


@attack(SECTION)
def a_flood_of_pings(target: Target) -> Report:
    sockets = [Socket(target) for _ in range(4)]
    pings = frame(PING, b"x" * 125) * 1_000
    sent, until = 0, time.monotonic() + target.seconds
    while time.monotonic() < until:
        going = [socket for socket in sockets if not socket.client.closed and socket.send(pings)]
        sent += 1_000 * len(going)
        if not going:
            break
    codes = collections.Counter(str(socket.end(5)) for socket in sockets)
    expect(set(codes) <= {str(POLICY), "0", "-1"}, f"closed with {codes}")
    for socket in sockets:
        socket.close()
    return Report(f"{sent} pings that nobody reads the answers to", told(codes), units=64)


@attack(SECTION, patience_s=120)
def sockets_that_nobody_reads(target: Target) -> Report:
    sockets = [Socket(target, source="127.0.0.2", receive_buffer=4_096) for _ in range(target.times(200, 20))]
    audio = frame(BINARY, bytes(32_000))
    sent = 0
    for _ in range(target.times(30, 5)):
        for socket in sockets:
            socket.client.wire.socket.settimeout(0.05)
            sent += socket.send(audio)
    for socket in sockets:
        socket.close(reset=True)
    return Report(f"{sent} chunks of a second of audio, no answer read", "back-pressure", units=1_000 * len(sockets))


@attack(SECTION)
def sockets_that_come_and_go(target: Target) -> Report:
    count, until = 0, time.monotonic() + target.seconds
    while time.monotonic() < until:
        socket = Socket(target)
        socket.send(frame(BINARY, bytes(1_024)))
        socket.close(reset=count % 2 == 0)
        count += 1
    return Report(f"{count} sockets, dropped with an item in flight", "items cancelled", units=8 * count)


@attack(SECTION)
def messages_of_nonsense(target: Target) -> Report:
    """JSON that is broken, deep, or of the wrong shape ends its own socket with a reason."""
    deep = b"[" * 100_000
    texts = (b"", b"{", b"null", b"[]", deep, b'{"item":7}', b'{"open":{}}', b'{"nothing":1}', b'{"chunk":"!!"}', b'{"flush":{"id":"' + b"i" * 300 + b'"}}')
    found = collections.Counter()
    for text in texts:
        socket = Socket(target)
        socket.send(frame(TEXT, text))
        code = socket.end()
        expect(code in (POLICY, 1003, BAD_TEXT), f"{text[:20]!r}: closed with {code}")
        found[str(code)] += 1
        socket.close()
    return Report(f"{len(texts)} messages that are none", told(found), units=8 * len(texts))
