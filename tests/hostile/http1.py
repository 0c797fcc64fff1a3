"""HTTP/1.1 written by hand: a request goes out exactly as given, and the answer is parsed."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator

from traffic import PATIENCE_S, Wire


@dataclasses.dataclass
class Answer:
    """A response; status 0 if the connection closed without one, -1 if none came in time."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """What the JSON of an error says."""
        with contextlib.suppress(ValueError):
            said = json.loads(self.body)
            if isinstance(said, dict):
                return str(said.get("error", ""))
        return self.body.decode(errors="replace")


def request(
    method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, host: str | None = "localhost"
) -> bytes:
    """A request with its length, unless the headers already say how long it is."""
    given = {name.lower(): value for name, value in (headers or {}).items()}
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None and "host" not in given:
        lines.append(f"host: {host}")
    if "content-length" not in given and "transfer-encoding" not in given and (body or method == "POST"):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Client:
    """A connection, on which answers come in the order of the requests."""

    def __init__(
        self, address: str, source: str | None = None, receive_buffer: int | None = None, encrypts: bool = True
    ) -> None:
        self.wire = Wire(address, source, receive_buffer, encrypts=encrypts)
        self._received = bytearray()
        self.closed = False

    def send(self, data: bytes) -> bool:
        try:
            self.wire.send(data)
        except OSError:
            self.closed = True
            return False
        return True

    def answer(self, patience: float = PATIENCE_S, to_head: bool = False) -> Answer:
        """The next answer."""
        give_up_at = time.monotonic() + patience
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not self._more(give_up_at):
                return Answer(0 if self.closed else -1, {}, bytes(self._received))
        head = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if status == 100:
            return self.answer(give_up_at - time.monotonic(), to_head)
        if to_head or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks(give_up_at))
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]), give_up_at)
        else:
            while self._more(give_up_at):
                pass
            body = bytes(self._received)
            self._received.clear()
        return Answer(status, headers, body)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        host: str | None = "localhost",
        patience: float = PATIENCE_S,
    ) -> Answer:
        self.send(request(method, path, body, headers, host))
        return self.answer(patience)

    def poll(self) -> bool:
        """Takes in what has arrived; whether there was anything, or the end."""
        self._more(time.monotonic() + 0.001)
        return bool(self._received) or self.closed

    def is_closed_by_server(self, patience: float) -> bool:
        give_up_at = time.monotonic() + patience
        while self._more(give_up_at):
            pass
        return self.closed

    def close(self, reset: bool = False) -> None:
        self.wire.close(reset)

    def _more(self, give_up_at: float) -> bool:
        left = give_up_at - time.monotonic()
        if left <= 0 or self.closed:
            return False
        data = self.wire.receive(left)
        if data is None:
            self.closed = True
        self._received += data or b""
        return bool(data)

    def _exactly(self, count: int, give_up_at: float) -> bytes:
        while len(self._received) < count and self._more(give_up_at):
            pass
        body = bytes(self._received[:count])
        del self._received[:count]
        return body

    def _chunks(self, give_up_at: float) -> Iterator[bytes]:
        while True:
            while (end := self._received.find(b"\r\n")) < 0:
                if not self._more(give_up_at):
                    return
            size = int(self._received[:end], 16)
            del self._received[: end + 2]
            content = self._exactly(size + 2, give_up_at)[:-2]
            if not size:
                return
            yield content


def once(
    address: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    host: str | None = "localhost",
    patience: float = PATIENCE_S,
    source: str | None = None,
) -> Answer:
    """One request on its own connection."""
    client = Client(address, source)
    try:
        return client.ask(method, path, body, headers, host, patience)
    finally:
        client.close()


def raw(address: str, data: bytes, patience: float = PATIENCE_S) -> Answer:
    """The first answer to these bytes."""
    client = Client(address)
    try:
        client.send(data)
        return client.answer(patience)
    finally:
        client.close()
