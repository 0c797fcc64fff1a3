"""An HTTP/2 client that lets its user break every rule: frames go out exactly as given, and what comes back is noted.

One thread, no callbacks: to learn what came, call `pump` or one of the functions that wait. A connection keeps its windows open
and answers SETTINGS and PING while it is pumped, unless asked not to."""

import collections
import contextlib
import dataclasses
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterable

import hpack
import wire
from traffic import PATIENCE_S, Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
FRAME_BYTES_MAX = 16_384
# Calls at once on one connection: half of grpc.max_streams_per_connection, which a client that keeps the rules does not exceed.
AT_ONCE_MAX = 5_000
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 2, 3, 8, 11


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, grown: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", grown))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Literals that do not change the table, so that a block can be made once and sent on any connection."""
    out = b""
    for name, value in fields:
        name, value = name.encode("latin-1"), value.encode("latin-1")
        out += b"\0" + prefixed(len(name), 7) + name + prefixed(len(value), 7) + value
    return out


def prefixed(value: int, bits: int, first: int = 0) -> bytes:
    """An integer as HPACK writes it."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    return bytes([first | most]) + wire.varint(value - most)


def call_fields(path: str, extra: Iterable[tuple[str, str]] = (), authority: str = "localhost") -> list[tuple[str, str]]:
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority)]
    return [*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *extra]


def headers(stream: int, block: bytes, end: bool = False) -> bytes:
    """A header block in as many frames as it takes."""
    parts = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)] or [b""]
    out = b""
    for index, one in enumerate(parts):
        flags = END_HEADERS if index == len(parts) - 1 else 0
        out += frame(CONTINUATION if index else HEADERS, flags | (END_STREAM if end and not index else 0), stream, one)
    return out


@dataclasses.dataclass
class Stream:
    """How a stream fared."""

    window: int
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[bytes] = dataclasses.field(default_factory=list)
    data_bytes: int = 0
    reset: int | None = None
    ended: bool = False
    reader: wire.Messages = dataclasses.field(default_factory=wire.Messages)

    @property
    def code(self) -> str:
        """How it ended: a gRPC status, `reset N`, `http N`, or `open`."""
        if "grpc-status" in self.fields:
            return self.fields["grpc-status"]
        if self.reset is not None:
            return f"reset {self.reset}"
        if self.fields.get(":status", "200") != "200":
            return f"http {self.fields[':status']}"
        return "ended" if self.ended else "open"

    @property
    def message(self) -> str:
        return urllib.parse.unquote(self.fields.get("grpc-message", ""))


class Connection:
    """A connection, with the preface sent unless it should stay silent."""

    def __init__(
        self,
        address: str,
        *,
        window: int = WINDOW_MAX,
        more_settings: Iterable[tuple[int, int]] = (),
        greets: bool = True,
        answers_pings: bool = True,
        grows_window: bool = True,
        keeps_messages: bool = True,
        source: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.wire = Wire(address, source, receive_buffer)
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.goaway_text = ""
        self.closed = False
        self.frames: collections.Counter[int] = collections.Counter()
        self.window = WINDOW_DEFAULT
        self.initial_window = WINDOW_DEFAULT
        self.pings = 0
        self._answers_pings, self._grows_window, self._keeps_messages = answers_pings, grows_window, keeps_messages
        self._received = bytearray()
        self._taken = 0
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 1 << 22
        self._block = bytearray()
        self._next = 1
        if greets:
            self.send(PREFACE + settings((INITIAL_WINDOW_SIZE, window), *more_settings))
            if grows_window:
                self.send(window_update(0, WINDOW_MAX - WINDOW_DEFAULT))

    # ---- Out

    def send(self, data: bytes) -> bool:
        """Sends the bytes unchanged; whether the connection took them."""
        try:
            self.wire.send(data)
        except OSError:
            self.drain_input()
            self.closed = True
            return False
        return True

    def new_stream(self) -> int:
        number, self._next = self._next, self._next + 2
        self.streams[number] = Stream(self.initial_window)
        return number

    def open(self, path: str, extra: Iterable[tuple[str, str]] = (), *, block: bytes | None = None, end: bool = False) -> int:
        """Begins a call."""
        number = self.new_stream()
        self.send(headers(number, header_block(call_fields(path, extra)) if block is None else block, end))
        return number

    def data(self, stream: int, data: bytes, end: bool = False, patience: float = PATIENCE_S) -> int:
        """Sends within the windows; how much was sent. Without patience, all of it or nothing."""
        if not patience and min(self.window, self.streams[stream].window) < len(data):
            return 0
        sent, give_up_at = 0, time.monotonic() + patience
        while sent < len(data) or end:
            state = self.streams[stream]
            if self.closed or state.ended:
                return sent
            room = min(self.window, state.window, FRAME_BYTES_MAX, len(data) - sent)
            if room <= 0 and sent < len(data):
                if time.monotonic() > give_up_at:
                    return sent
                self.pump(0.1)
                continue
            piece = data[sent : sent + room]
            last = sent + room == len(data)
            self.window -= room
            state.window -= room
            if not self.send(frame(DATA, END_STREAM if end and last else 0, stream, piece)):
                return sent
            sent += room
            if last:
                return sent
        return sent

    def message(
        self, stream: int, message: bytes, end: bool = False, compressed: bool = False, patience: float = PATIENCE_S
    ) -> int:
        return self.data(stream, wire.framed(message, compressed), end, patience)

    def call(
        self,
        path: str,
        message: bytes,
        extra: Iterable[tuple[str, str]] = (),
        patience: float = PATIENCE_S,
        compressed: bool = False,
    ) -> Stream:
        """One unary call, to its end."""
        stream = self.open(path, extra)
        self.message(stream, message, True, compressed, patience)
        return self.wait(stream, patience)

    def calls(
        self, path: str, messages: Iterable[bytes], extra: Iterable[tuple[str, str]] = (), patience: float = 30
    ) -> collections.Counter:
        """Small unary calls, as many at once as a client that keeps the rules may have; how they ended."""
        block = header_block(call_fields(path, extra))
        numbers: list[int] = []
        running: collections.deque[int] = collections.deque()
        for message in messages:
            give_up_at = time.monotonic() + patience
            while len(running) >= AT_ONCE_MAX and not self.closed and time.monotonic() < give_up_at:
                self.pump(0.1)
                while running and self.streams[running[0]].ended:
                    running.popleft()
            number = self.new_stream()
            numbers.append(number)
            running.append(number)
            body = wire.framed(message)
            while self.window < len(body) and not self.closed:
                self.pump(0.1)
            self.window -= len(body)
            if not self.send(headers(number, block) + frame(DATA, END_STREAM, number, body)):
                break
            if len(numbers) % 64 == 0:
                self.pump()
        return self.wait_all(numbers, patience)

    # ---- In

    def pump(self, patience: float = 0.0) -> bool:
        """Takes in what has arrived, after waiting up to this long for it; whether there was anything."""
        data = self.wire.receive(patience)
        if data is None:
            self.closed = True
            return False
        if not data:
            return False
        self._received += data
        self._take()
        return True

    def drain_input(self) -> None:
        """Reads what arrived before the connection broke: it says why."""
        while self.pump():
            pass

    def wait_until(self, condition: Callable[[], bool], patience: float = PATIENCE_S) -> bool:
        give_up_at = time.monotonic() + patience
        while not condition():
            left = give_up_at - time.monotonic()
            if left <= 0 or self.closed:
                return condition()
            self.pump(min(left, 0.25))
        return True

    def wait(self, stream: int, patience: float = PATIENCE_S) -> Stream:
        """A stream once it has ended, or as it is when patience runs out."""
        state = self.streams[stream]
        self.wait_until(lambda: state.ended, patience)
        return state

    def wait_all(self, numbers: Iterable[int] | None = None, patience: float = PATIENCE_S) -> collections.Counter:
        """How these streams end, or all there are; those that have not when patience runs out are `open`."""
        numbers = list(self.streams if numbers is None else numbers)
        self.wait_until(lambda: all(self.streams[number].ended for number in numbers), patience)
        return self.codes(numbers)

    def wait_goaway(self, patience: float = PATIENCE_S) -> int | None:
        """The code of the GOAWAY that ends this connection."""
        self.wait_until(lambda: bool(self.goaway), patience)
        return self.goaway

    def codes(self, numbers: Iterable[int] | None = None) -> collections.Counter:
        return collections.Counter(self.streams[number].code for number in (self.streams if numbers is None else numbers))

    def close(self, reset: bool = False) -> None:
        self.wire.close(reset)
        self.closed = True

    def _take(self) -> None:
        received, at, out = self._received, 0, bytearray()
        while len(received) - at >= 9:
            length = int.from_bytes(received[at : at + 3], "big")
            if len(received) - at < 9 + length:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big") & WINDOW_MAX
            payload = bytes(received[at + 9 : at + 9 + length])
            at += 9 + length
            self.frames[kind] += 1
            self._note(kind, flags, stream, payload, out)
        del received[:at]
        if self._grows_window and self._taken > 1 << 20:
            out += window_update(0, self._taken)
            self._taken = 0
        if out:
            with contextlib.suppress(OSError):
                self.wire.send(bytes(out))

    def _note(self, kind: int, flags: int, number: int, payload: bytes, out: bytearray) -> None:
        state = self.streams.get(number)
        match kind:
            case 0:
                self._taken += len(payload)
                if state:
                    state.data_bytes += len(payload)
                    if self._keeps_messages:
                        state.messages += state.reader.push(payload)
            case 1 | 9:
                self._block += payload
                if flags & END_HEADERS:
                    fields = self._decoder.decode(bytes(self._block))
                    self._block.clear()
                    if state:
                        state.fields |= {str(name): str(value) for name, value in fields}
            case 3:
                if state:
                    state.reset, state.ended = int.from_bytes(payload, "big"), True
            case 4 if not flags & ACK:
                for name, value in struct.iter_unpack(">HI", payload):
                    if name == INITIAL_WINDOW_SIZE:
                        for one in self.streams.values():
                            one.window += value - self.initial_window
                        self.initial_window = value
                out += frame(SETTINGS, ACK, 0)
            case 6 if not flags & ACK:
                self.pings += 1
                if self._answers_pings:
                    out += frame(PING, ACK, 0, payload)
            case 7:
                code = int.from_bytes(payload[4:8], "big")
                if self.goaway is None or code:
                    self.goaway, self.goaway_text = code, payload[8:].decode(errors="replace")
            case 8:
                grown = int.from_bytes(payload, "big")
                if number == 0:
                    self.window += grown
                elif state:
                    state.window += grown
        if state and kind in (DATA, HEADERS) and flags & END_STREAM:
            state.ended = True
