"""Bytes that are not messages, frames that are not gRPC: each call ends with a status, and the server goes on serving."""

import contextlib
import socket

import audio
import grpc
import messages
import numpy as np
import pytest
import raw_http2
import reference
from messages import pb
from server import PATIENCE_S

METHODS = {"Predict": "unary_unary", "Scan": "unary_stream", "Upload": "stream_unary", "Feed": "stream_stream"}

GARBAGE = {
    "bits": b"\xff" * 64,
    "truncated-field": b"\x0a\x7fabc",
    "wrong-wire-type": b"\x0b\x0b\x0b",
    "endless-varint": b"\x08" + b"\x80" * 20,
    "broken-utf8": b"\x0a\x02\xc3\x28",
    "random": np.random.default_rng(1).bytes(4096),
}


@pytest.fixture(autouse=True)
def still_serves(inference):
    """After each of these tests, a call on the same connection is answered as always."""
    yield
    window = audio.pcm(audio.SHORT_SPEECH)[: 2 * reference.WINDOW_SAMPLES]
    response = inference.Predict(pb.PredictRequest(model=messages.MODEL, pcm_s16le=window), timeout=PATIENCE_S)
    reference.assert_equal([messages.probability(response.outputs)], reference.of_clip(audio.SHORT_SPEECH)[:1])


def send_bytes(channel: grpc.Channel, method: str, *payloads: bytes) -> grpc.RpcError:
    """Calls a method with payloads that are not encoded messages."""
    mode = METHODS[method]
    call = getattr(channel, mode)(f"/tidemill.v1.InferenceService/{method}", None, None)
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(iter(payloads) if mode.startswith("stream") else payloads[0], timeout=PATIENCE_S)
        if mode.endswith("stream"):
            list(answer)
    return raised.value


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("method", METHODS)
def test_a_first_message_of_garbage(server, method, garbage):
    assert send_bytes(server.channel, method, GARBAGE[garbage]).code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    ("method", "opening"), [("Upload", messages.upload()), ("Feed", messages.feed_open())], ids=["upload", "feed"]
)
def test_garbage_after_the_opening(server, method, opening, garbage):
    error = send_bytes(server.channel, method, opening.SerializeToString(), GARBAGE[garbage])
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def predict_request() -> bytes:
    return pb.PredictRequest(model=messages.MODEL, pcm_s16le=bytes(1024)).SerializeToString()


def test_the_raw_call_itself_works(server):
    """Otherwise the tests below would prove nothing."""
    with raw_http2.call(server.address, "Predict") as call:
        call.send(raw_http2.framed(predict_request()), end=True)
        assert call.receive()["grpc-status"] == "0"
        response = pb.PredictResponse.FromString(call.data[5:])
    reference.assert_equal([messages.probability(response.outputs)], reference.run(reference.windows(bytes(1024))))


FRAMES = {
    "cut-off-message": raw_http2.framed(predict_request())[:-1],
    "cut-off-prefix": b"\x00\x00",
    "unknown-compression": raw_http2.framed(predict_request(), compressed=7),
    "compressed-without-an-encoding": raw_http2.framed(predict_request(), compressed=1),
    "length-over-all-limits": b"\x00\xff\xff\xff\xff" + predict_request(),
    "nothing": b"",
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("method", METHODS)
def test_frames_that_are_not_grpc_messages(server, method, frame):
    with raw_http2.call(server.address, method) as call:
        call.send(FRAMES[frame], end=True)
        assert int(call.receive().get("grpc-status", "-1")) > 0, call.headers


def test_an_unknown_method(server):
    with raw_http2.call(server.address, "Nope") as call:
        call.send(b"", end=True)
        assert call.receive()["grpc-status"] == str(grpc.StatusCode.UNIMPLEMENTED.value[0])


@pytest.mark.parametrize(
    "greeting",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 9, np.random.default_rng(2).bytes(999)],
)
def test_a_connection_that_is_not_http2(server, greeting):
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        # Closed in order or reset: either way it is over, and the server goes on serving.
        with contextlib.suppress(OSError):
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
