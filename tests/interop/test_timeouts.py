"""Calls that take too long, clients that fall silent, clients that are gone: each frees what it held."""

import audio
import grpc
import messages
import metrics
import pytest
import raw_http2
from faults import of_call
from feed_call import FeedCall, opened
from messages import pb
from server import await_rest, running, wait_until

DEADLINE_EXCEEDED = (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")


@pytest.fixture(scope="module")
def impatient():
    """A server that gives silent clients one second."""
    with running("--set", "session.idle_timeout_s=1", "--set", "session.open_timeout_s=1") as server:
        yield server


def test_a_stream_that_goes_silent_is_ended(impatient):
    feed = opened(impatient.inference, *messages.feed_chunks([audio.pcm(audio.SHORT_SPEECH)]))
    assert feed.limits.idle_timeout.ToNanoseconds() == 1_000_000_000
    of_call(feed.failure()).check(*DEADLINE_EXCEEDED, "idle")


def test_keepalives_keep_a_silent_stream(impatient):
    """The stream with keepalives is the older one, so it outlives the other only if they count."""
    kept = opened(impatient.inference)
    silent = opened(impatient.inference)
    ended = []
    silent.call.add_callback(lambda: ended.append(True))

    def keep_alive() -> bool:
        kept.send(messages.feed_keepalive())
        return bool(ended)

    wait_until(keep_alive, "the silent stream never ended")
    kept.send(messages.feed_flush("still here"))
    assert kept.receive().flushed.id == "still here"
    kept.finish()
    of_call(silent.failure()).check(*DEADLINE_EXCEEDED, "idle")


def test_a_feed_that_never_opens_is_ended(impatient):
    of_call(FeedCall(impatient.inference).failure()).check(*DEADLINE_EXCEEDED, "open")


def test_an_upload_that_never_opens_is_ended(impatient):
    with raw_http2.call(impatient.address, "Upload") as call:
        assert call.receive()["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])


def test_an_upload_that_goes_silent_is_ended(impatient):
    with raw_http2.call(impatient.address, "Upload") as call:
        call.send(raw_http2.framed(messages.upload().SerializeToString()))
        assert call.receive()["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])


@pytest.mark.parametrize("method", ["Feed", "Upload"])
def test_the_grpc_timeout_ends_a_stream_on_the_server(server, method):
    """Frames by hand: a gRPC library would itself end the call at the same moment and hide the server's answer."""
    opening = messages.feed_open() if method == "Feed" else messages.upload()
    with raw_http2.call(server.address, method, grpc_timeout="50m") as call:
        call.send(raw_http2.framed(opening.SerializeToString()))
        headers = call.receive()
    assert headers["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]), headers


@pytest.mark.parametrize("method", ["Predict", "Scan"])
def test_a_grpc_timeout_that_has_passed(server, method):
    pcm = bytes(1024)
    if method == "Predict":
        request = pb.PredictRequest(model=messages.MODEL, pcm_s16le=pcm)
    else:
        request = pb.ScanRequest(config=messages.config(), pcm_s16le=pcm)
    with raw_http2.call(server.address, method, grpc_timeout="1n") as call:
        call.send(raw_http2.framed(request.SerializeToString()), end=True)
        headers = call.receive()
    assert headers["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]), headers


def in_flight(server) -> bool:
    return server.metrics().total(metrics.STREAMS_OPEN) > 0


def test_a_client_that_cancels(server):
    feed = opened(server.inference, *messages.feed_chunks([audio.pcm(audio.LONG_SPEECH)]))
    assert in_flight(server)
    feed.cancel()
    await_rest(server)


def test_a_client_whose_channel_closes(server):
    channel = server.connect()
    feeds = [opened(type(server.inference)(channel), *messages.feed_chunks([audio.pcm(audio.LONG_SPEECH)])) for _ in range(8)]
    assert in_flight(server)
    channel.close()
    for feed in feeds:
        feed.half_close()
    await_rest(server)


@pytest.mark.parametrize("window_bytes", [65_535, 1], ids=["reading", "not-reading"])
def test_a_client_that_vanishes(server, window_bytes):
    with raw_http2.call(server.address, "Feed", window_bytes=window_bytes) as call:
        call.send(raw_http2.framed(messages.feed_open().SerializeToString()))
        for message in messages.feed_chunks(audio.chunks(audio.pcm(audio.LONG_SPEECH), 16_000)[:3]):
            call.send(raw_http2.framed(message.SerializeToString()))
        call.receive_headers()
        wait_until(lambda: in_flight(server), "the stream never opened")
        call.vanish()
    await_rest(server)
