"""One gRPC call over HTTP/2 frames written by hand: for bytes, headers and flow control that no gRPC library would send."""

import contextlib
import socket
import struct
import urllib.parse
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
from server import PATIENCE_S

STREAM_ID = 1
FRAME_HEADER_BYTES = 9
GOAWAY = 7


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(message)) + message


class RawCall:
    """A connection with one call on it."""

    def __init__(self, address: str, path: str, window_bytes: int = 65_535, **headers: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), PATIENCE_S)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes}
        )
        self._h2.initiate_connection()
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address, "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in headers.items()}
        self._h2.send_headers(STREAM_ID, list(fields.items()))
        self._flush()
        self._received = b""
        self.headers: dict[str, str] = {}
        self.data = b""
        self.ended = False

    def send(self, data: bytes, end: bool = False) -> None:
        """Sends at most one frame's worth of bytes."""
        self._h2.send_data(STREAM_ID, data, end_stream=end)
        self._flush()

    def open_window(self, window_bytes: int) -> None:
        """Lets the server send after all."""
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes})
        self._flush()

    def receive(self) -> dict[str, str]:
        """Headers and trailers, once the call has ended."""
        while not self.ended:
            self._receive_some()
        return self.headers

    def receive_headers(self) -> dict[str, str]:
        while not self.headers:
            self._receive_some()
        return self.headers

    def vanish(self) -> None:
        """Resets the TCP connection, as when a machine goes away."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive_some(self) -> None:
        received = self._socket.recv(65_536)
        assert received, f"the connection closed before the call ended; so far: {self.headers}"
        for event in self._h2.receive_data(self._frames_but_goaway(received)):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self.headers |= dict(event.headers)
                case h2.events.DataReceived():
                    self.data += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, STREAM_ID)
                case h2.events.StreamReset():
                    self.headers |= {"reset": str(event.error_code)}
                    self.ended = True
                case h2.events.StreamEnded():
                    self.ended = True
        self._flush()

    def _frames_but_goaway(self, received: bytes) -> bytes:
        """Whole frames so far. A server that shuts down says GOAWAY and goes on; this HTTP/2 library would take it for the
        end of the connection."""
        self._received += received
        kept = b""
        while len(self._received) >= FRAME_HEADER_BYTES:
            frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(self._received[:3], "big")
            if len(self._received) < frame_bytes:
                break
            frame, self._received = self._received[:frame_bytes], self._received[frame_bytes:]
            if frame[3] != GOAWAY:
                kept += frame
        return kept


@contextlib.contextmanager
def call(address: str, method: str, **options) -> Iterator[RawCall]:
    raw = RawCall(address, f"/tidemill.v1.InferenceService/{method}", **options)
    try:
        yield raw
    finally:
        raw.close()


def message_of(headers: dict[str, str]) -> str:
    return urllib.parse.unquote(headers.get("grpc-message", ""))
