"""What goes over a limit is refused with its name, its value, and when to come back."""

import audio
import grpc
import messages
import pytest
import reference
from faults import of_call
from feed_call import FeedCall, opened
from messages import pb
from server import PATIENCE_S, running, wait_until

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
STREAMS_MAX = 2
UPLOAD_BYTES_MAX = 65_536
RESULTS_MAX = 10


@pytest.fixture(scope="module")
def small():
    """A server that holds little."""
    with running(
        *("--set", f"session.max_streams={STREAMS_MAX}"),
        *("--set", f"session.upload_max_bytes={UPLOAD_BYTES_MAX}"),
        *("--set", f"session.upload_max_results={RESULTS_MAX}"),
    ) as server:
        yield server


def names(fault, key: str) -> bool:
    return any(key in limit for limit in fault.limits)


def test_streams_open_at_once(small):
    open_feeds = [opened(small.inference) for _ in range(STREAMS_MAX)]
    fault = of_call(FeedCall(small.inference, messages.feed_open()).failure())
    fault.check(EXHAUSTED, "OVERLOADED", str(STREAMS_MAX))
    assert names(fault, "session.max_streams"), fault
    assert fault.retry_after is not None and fault.retry_after.ToNanoseconds() > 0, fault
    # A stream that ends makes room.
    open_feeds.pop().finish()
    wait_until(lambda: takes_a_stream(small), "the place of an ended stream never becomes free")
    open_feeds.pop().finish()


def takes_a_stream(server) -> bool:
    feed = FeedCall(server.inference, messages.feed_open())
    feed.half_close()
    try:
        return [event.WhichOneof("event") for event in feed.call] == ["opened", "completed"]
    except grpc.RpcError as error:
        of_call(error).check(EXHAUSTED, "OVERLOADED")
        return False


def upload(server, *requests: pb.UploadRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        server.inference.Upload(iter(requests), timeout=PATIENCE_S)
    return raised.value


@pytest.mark.parametrize("expect", [None, pb.PayloadDigest(total_bytes=UPLOAD_BYTES_MAX + 2)], ids=["sent", "declared"])
def test_bytes_of_an_upload(small, expect):
    chunks = messages.upload_chunks(audio.chunks(bytes(UPLOAD_BYTES_MAX + 2), 10_000))
    fault = of_call(upload(small, messages.upload(expect=expect), *chunks))
    fault.check(EXHAUSTED, "TOO_LARGE", str(UPLOAD_BYTES_MAX))
    assert names(fault, "session.upload_max_bytes"), fault


def test_results_of_an_upload(small):
    chunk = bytes(2 * reference.WINDOW_SAMPLES * (RESULTS_MAX + 1))
    fault = of_call(upload(small, messages.upload(include_results=True), *messages.upload_chunks([chunk])))
    fault.check(EXHAUSTED, "TOO_LARGE", str(RESULTS_MAX))
    assert names(fault, "session.upload_max_results"), fault


def test_an_upload_of_more_windows_without_results_is_allowed(small):
    chunk = bytes(2 * reference.WINDOW_SAMPLES * (RESULTS_MAX + 1))
    response = small.inference.Upload(iter([messages.upload(), *messages.upload_chunks([chunk])]), timeout=PATIENCE_S)
    assert response.summary.ok == RESULTS_MAX + 1
