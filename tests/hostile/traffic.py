"""Sockets that remember what went through them, so that the same bytes can be sent to a sink at the same moments.

Knows no protocol. It keeps references: a flood that sends one block again and again takes the memory of one block.

With `TIDEMILL_HOSTILE_TLS=1`, all of them speak TLS: what is sent and received here is then what is inside of it."""

import contextlib
import functools
import itertools
import pickle
import select
import socket
import ssl
import struct
import time

import places

PATIENCE_S = 10


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Asks nobody whom it talks to, and for no protocol: each port then speaks its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Log:
    """What all sockets of this process did."""

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.connections = 0
        # Moment, number of the connection, what: an address' kind, bytes, or None for the end.
        self.events: list[tuple[float, int, object]] | None = None
        self._began = time.monotonic()
        self._numbers = itertools.count()

    def keep(self) -> None:
        self.events = []
        self._began = time.monotonic()

    def opened(self) -> int:
        self.connections += 1
        number = next(self._numbers)
        self._note(number, "open")
        return number

    def sent(self, number: int, data: bytes, count: int) -> None:
        self.bytes_sent += count
        if count:
            self._note(number, data if count == len(data) else bytes(data[:count]))

    def closed(self, number: int) -> None:
        self._note(number, None)

    def _note(self, number: int, what: object) -> None:
        if self.events is not None:
            self.events.append((time.monotonic() - self._began, number, what))

    def save(self, path: str) -> None:
        with open(path, "wb") as file:
            # A block that was sent several times is written once.
            pickle.dump(self.events, file)


LOG = Log()


def split(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


class Wire:
    """A TCP connection, encrypted if this run is over TLS."""

    def __init__(
        self,
        address: str,
        source: str | None = None,
        receive_buffer: int | None = None,
        patience: float = PATIENCE_S,
        encrypts: bool = True,
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            # The port is chosen when the connection is made; otherwise one address could not have more connections than ports.
            self.socket.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            self.socket.bind((source, 0))
        self.socket.settimeout(patience)
        try:
            self.socket.connect(split(address))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._is_encrypted = encrypts and places.over_tls()
            if self._is_encrypted:
                # With the handshake. It takes the descriptor over.
                self.socket = tls_context().wrap_socket(self.socket)
        except OSError:
            self.socket.close()
            raise
        self._number = LOG.opened()
        self._open = True

    def send(self, data: bytes) -> None:
        """Sends all of it, or raises OSError."""
        self.socket.sendall(data)
        LOG.sent(self._number, data, len(data))

    def send_what_fits(self, data: bytes) -> int:
        """Sends as much as the system takes now; -1 if the connection is gone."""
        try:
            if self._is_encrypted:
                with self._without_waiting():
                    count = self.socket.send(data)
            else:
                count = self.socket.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            return -1
        LOG.sent(self._number, data, count)
        return count

    def receive(self, patience: float = 0.0, most: int = 1 << 18) -> bytes | None:
        """What has arrived, after waiting up to this long for it; empty if nothing has, `None` once the peer has closed."""
        if not self._open:
            return None
        try:
            if self._is_encrypted:
                return self._decrypted(patience, most)
            if not select_one(self.socket, patience):
                return b""
            return self.socket.recv(most) or None
        except (BlockingIOError, TimeoutError):
            return b""
        except (OSError, ValueError):
            return None

    def _decrypted(self, patience: float, most: int) -> bytes | None:
        """All that can be decrypted: what is left inside would not be seen by whoever polls the socket."""
        give_up_at = time.monotonic() + patience
        while True:
            if not self.socket.pending() and not select_one(self.socket, max(0.0, give_up_at - time.monotonic())):
                return b""
            # What has arrived may be nothing to read, such as a ticket for another session.
            data = self._read(most)
            if data is None or data or time.monotonic() >= give_up_at:
                return data

    def _read(self, most: int) -> bytes | None:
        out = bytearray()
        with self._without_waiting():
            while len(out) < most:
                try:
                    data = self.socket.recv(most - len(out))
                except (BlockingIOError, ssl.SSLWantReadError):
                    break
                if not data:
                    return bytes(out) or None
                out += data
        return bytes(out)

    @contextlib.contextmanager
    def _without_waiting(self):
        patience = self.socket.gettimeout()
        self.socket.setblocking(False)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(patience)

    def close(self, reset: bool = False) -> None:
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
        LOG.closed(self._number)


def select_one(sock: socket.socket, patience: float) -> bool:
    # Not select(): descriptors above 1,023 are usual here.
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(patience * 1_000))
