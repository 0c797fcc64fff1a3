"""Large, compressed and late messages, as real clients send them: answered like any others, or refused with the limit's name."""

import threading

import audio
import grpc
import messages
import numpy as np
import pytest
import reference
from faults import of_call
from messages import pb
from server import PATIENCE_S, await_rest, running, wait_until

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
GZIP = grpc.Compression.Gzip
DIMS_MAX = 64


@pytest.fixture(scope="module")
def impatient():
    with running("--set", "grpc.body_timeout_s=1") as server:
        yield server


def noise(samples: int) -> bytes:
    return np.random.default_rng(1).integers(-9000, 9000, samples, np.int16).tobytes()


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, GZIP], ids=["plain", "gzip"])
@pytest.mark.parametrize("samples", [100, 20_000, 1_000_000])
def test_recordings_of_any_length_in_one_message(server, compression, samples):
    """They come in one DATA frame or in several, and are inflated in place or on the side."""
    request = pb.ScanRequest(config=messages.config(), pcm_s16le=noise(samples))
    events = list(server.inference.Scan(request, timeout=PATIENCE_S, compression=compression))
    completed = events[-1].completed
    windows = -(-samples // reference.WINDOW_SAMPLES)
    assert (completed.samples, completed.ok, completed.errors) == (samples, windows, 0)
    await_rest(server)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, GZIP], ids=["plain", "gzip"])
def test_a_feed_of_long_and_short_chunks_loses_nothing(server, compression):
    clip = audio.pcm(audio.SHORT_SPEECH)
    chunks = [clip[:50_001], clip[50_001:50_003], clip[50_003:]]
    requests = [messages.feed_open(), *messages.feed_chunks(chunks)]
    events = list(server.inference.Feed(iter(requests), timeout=PATIENCE_S, compression=compression))
    results = messages.of_kind(events, "result")
    reference.assert_equal(messages.probabilities(results), reference.of_clip(audio.SHORT_SPEECH))


@pytest.mark.parametrize("method", ["Predict", "Scan", "Upload", "Feed"])
def test_silence_that_inflates_a_great_deal_is_refused_by_its_ratio(server, method):
    silence = bytes(8 << 20)
    call = {
        "Predict": lambda: server.inference.Predict(
            pb.PredictRequest(model=messages.MODEL, pcm_s16le=silence), timeout=PATIENCE_S, compression=GZIP
        ),
        "Scan": lambda: list(
            server.inference.Scan(
                pb.ScanRequest(config=messages.config(), pcm_s16le=silence), timeout=PATIENCE_S, compression=GZIP
            )
        ),
        "Upload": lambda: server.inference.Upload(
            iter([messages.upload(), *messages.upload_chunks([silence])]), timeout=PATIENCE_S, compression=GZIP
        ),
        "Feed": lambda: list(
            server.inference.Feed(
                iter([messages.feed_open(), *messages.feed_chunks([silence])]), timeout=PATIENCE_S, compression=GZIP
            )
        ),
    }[method]
    with pytest.raises(grpc.RpcError) as raised:
        call()
    fault = of_call(raised.value)
    fault.check(EXHAUSTED, "TOO_LARGE", "message.max_inflate_ratio")


def test_a_shape_of_very_many_dimensions_is_not_read_to_its_end(server):
    tensor = pb.Tensor(name="input", shape=[1] * 100_000)
    with pytest.raises(grpc.RpcError) as raised:
        server.inference.Predict(
            pb.PredictRequest(model=messages.MODEL, item=pb.Item(inputs=[tensor])), timeout=PATIENCE_S
        )
    fault = of_call(raised.value)
    fault.check(grpc.StatusCode.INVALID_ARGUMENT, "INVALID", str(DIMS_MAX), field="shape")


def test_a_stream_may_wait_between_messages_for_as_long_as_it_likes(impatient):
    """The clock runs only for a message that has begun."""
    waiting = threading.Event()

    def requests():
        yield messages.feed_open()
        # Longer than the server waits for the rest of a message.
        waiting.wait(2.5)
        yield from messages.feed_chunks([audio.pcm(audio.SHORT_SPEECH)])

    events = list(impatient.inference.Feed(requests(), timeout=PATIENCE_S))
    results = messages.of_kind(events, "result")
    reference.assert_equal(messages.probabilities(results), reference.of_clip(audio.SHORT_SPEECH))


def test_a_call_whose_request_never_comes_is_ended_and_counted(impatient):
    """A unary method that is called as a stream, on which nothing is sent."""
    never = threading.Event()
    call = impatient.channel.stream_unary(
        "/tidemill.v1.InferenceService/Predict", pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString
    )
    future = call.future(iter(lambda: never.wait() and None, None), timeout=PATIENCE_S)
    wait_until(lambda: impatient.metrics().total("tidemill_calls_open", kind="unary") == 1, "the call is never counted")
    fault = of_call(future.exception())
    fault.check(grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED", "grpc.body_timeout_s")
    never.set()
    wait_until(lambda: impatient.metrics().total("tidemill_calls_open") == 0, "the call stays counted")
