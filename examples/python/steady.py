"""Finds speech as feed.py does, and goes on through restarts and overload of the server, lost connections and silence.

steady.py [ADDRESS]; ipv4:HOST:PORT,HOST:PORT for several servers.
"""

import random
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2, status_pb2
from tidemill.v1 import inference_pb2 as pb
from tidemill.v1 import inference_pb2_grpc as rpc

SAMPLE_BYTES, BYTES_PER_MS = 2, 32
# How much is read ahead of the answers: half a minute.
KEPT_BYTES_MAX = 30_000 * BYTES_PER_MS
CHUNK_BYTES_MAX = 1_000 * BYTES_PER_MS
# A sign of life after this much silence; a stream without one ends after 300 s, by default.
SILENCE_S = 20
PAUSE_S, PAUSE_S_MAX = 0.2, 30
# HTTP/2 pings, which notice a dead network.
OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]


class Audio:
    """What has been read and has no answer yet. Positions are bytes from the beginning of the input."""

    def __init__(self) -> None:
        self.first = 0
        self._kept = bytearray()
        self._ended = False
        self._changed = threading.Condition()

    def read(self, source) -> None:
        while chunk := source.read(CHUNK_BYTES_MAX):
            with self._changed:
                self._changed.wait_for(lambda: len(self._kept) < KEPT_BYTES_MAX)
                self._kept += chunk
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def forget(self, until: int) -> None:
        """What comes before `until` has been answered."""
        with self._changed:
            del self._kept[: until - self.first]
            self.first = until
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def after(self, position: int, is_over: threading.Event) -> bytes | None:
        """What follows `position`: empty if nothing comes for a while, None at the end of the input or of the stream."""
        with self._changed:
            self._changed.wait_for(lambda: self._since(position) or self._ended or is_over.is_set(), SILENCE_S)
            chunk = self._since(position)
            return None if is_over.is_set() or (self._ended and not chunk) else chunk

    def _since(self, position: int) -> bytes:
        begin = position - self.first
        return bytes(self._kept[begin : begin + CHUNK_BYTES_MAX])


def feed(stub: rpc.InferenceServiceStub, audio: Audio) -> None:
    """One stream, from the first sample without an answer to the end of the input. It counts positions from there."""
    begin, is_over = audio.first, threading.Event()

    def requests():
        yield pb.FeedRequest(open=pb.StreamConfig(model="silero-vad", payload=pb.PAYLOAD_KIND_PCM_S16LE, sample_rate_hz=16_000))
        position = begin
        while (chunk := audio.after(position, is_over)) is not None:
            position += len(chunk)
            yield pb.FeedRequest(chunk=chunk) if chunk else pb.FeedRequest(keepalive=pb.KeepAlive())

    try:
        for event in stub.Feed(requests()):
            match event.WhichOneof("event"):
                case "result":
                    # An item that fails is answered too; the stream goes on.
                    if event.result.WhichOneof("outcome") == "error":
                        print(f"window {event.result.window.index}: {event.result.error.message}", file=sys.stderr)
                    audio.forget(begin + event.result.window.end_sample * SAMPLE_BYTES)
                case "segment":
                    shift_ms = begin // BYTES_PER_MS
                    print(f"speech {shift_ms + event.segment.start_ms} ms to {shift_ms + event.segment.end_ms} ms", flush=True)
    finally:
        # Or the thread that asks for requests would wait for audio.
        is_over.set()
        audio.wake()


def pause_of(error: grpc.RpcError, pause_s: float) -> float | None:
    """How long to wait before the next try; None if there should be none."""
    reason, retry_s = "", None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    reason = error_details_pb2.ErrorInfo.FromString(packed.value).reason
                elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                    retry_s = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay.ToTimedelta().total_seconds()
    match error.code(), reason:
        case (grpc.StatusCode.UNAVAILABLE, _) | (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
            # A little apart from other clients that were sent away at the same moment.
            return (pause_s if retry_s is None else retry_s) * random.uniform(1, 1.5)
        case (grpc.StatusCode.INTERNAL, ""):
            # Not the server's: grpcio says so if the stream ended while it was still sending, and loses the server's own status.
            return pause_s
        case _:
            return None


def main(address: str) -> None:
    audio, pause_s = Audio(), PAUSE_S
    # Without a buffer, a read gives what there is, and the program may end during one.
    source = open(0, "rb", buffering=0)
    threading.Thread(target=audio.read, args=(source,), daemon=True).start()
    # A list of addresses is not a name that a server could have.
    authority = address.removeprefix("ipv4:").split(",")[0]
    with grpc.insecure_channel(address, [*OPTIONS, ("grpc.default_authority", authority)]) as channel:
        stub = rpc.InferenceServiceStub(channel)
        while True:
            begin = audio.first
            try:
                return feed(stub, audio)
            except grpc.RpcError as error:
                # A stream that was of use starts the pauses from the shortest again.
                pause_s = PAUSE_S if audio.first > begin else min(2 * pause_s, PAUSE_S_MAX)
                wait_s = pause_of(error, pause_s)
                if wait_s is None:
                    sys.exit(f"{error.code().name}: {error.details()}")
                print(f"{error.code().name}: {error.details()}; trying again in {wait_s:.1f} s", file=sys.stderr)
                time.sleep(wait_s)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
