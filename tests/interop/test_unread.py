"""Clients that do not read. grpcio takes a message from its transport only when asked for one, so the HTTP/2 window fills."""

import contextlib
from collections.abc import Iterator

import grpc
import metrics
import numpy as np
import pytest
import synthetic
from feed_call import FeedCall
from messages import TENSORS, feed_items, feed_open, item, kinds, of_kind, pb
from metrics import Metrics
from server import CHANNEL_OPTIONS, Server, await_rest, running, wait_until
from tidemill.v1 import inference_pb2_grpc

SENT = 60
WINDOW_ITEMS = 4
POLICIES = {
    "block": pb.UNREAD_POLICY_BLOCK,
    "oldest": pb.UNREAD_POLICY_DROP_OLDEST,
    "latest": pb.UNREAD_POLICY_LATEST,
    "disconnect": pb.UNREAD_POLICY_DISCONNECT,
}
# The client's window stays as it is: a wider one would only take more to fill.
NARROW = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]


@contextlib.contextmanager
def unread_feed(server: Server, count: int, **fields) -> Iterator[FeedCall]:
    """A feed that is answered with far more than its client's window holds, and that nobody reads."""
    with grpc.insecure_channel(server.address, [*NARROW, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        opening = feed_open(TENSORS, model=synthetic.ECHO, window_items=WINDOW_ITEMS, **fields)
        items = [item(np.full(synthetic.ECHO_ELEMENTS, seq, "<f4"), id=str(seq), name="x") for seq in range(count)]
        feed = FeedCall(stub, opening, *feed_items(items))
        try:
            yield feed
        finally:
            feed.cancel()


def await_gauge(server: Server, name: str, value: int) -> None:
    wait_until(lambda: server.metrics().total(name, method="feed") == value, f"{name} never became {value}")


def waiting(server: Server, before: Metrics) -> float:
    """The results that wait for one feed's client once all its items have come in."""
    after = server.metrics()
    left = after.grown(before, metrics.ITEMS_HANDED_OUT, model=synthetic.ECHO)
    return SENT - left - after.grown(before, metrics.RESULTS_SKIPPED)


def check_told_once(events, sent: int = SENT) -> list[tuple[int, int]]:
    """Each item is reported once, in order: by its own result, or as one of those skipped. Returns the gaps."""
    first, *middle, last = events
    assert (first.WhichOneof("event"), last.WhichOneof("event")) == ("opened", "completed")
    due, gaps = 0, []
    for event in middle:
        match event.WhichOneof("event"):
            case "skipped":
                assert event.skipped.first_seq == due and event.skipped.results > 0
                gaps.append((event.skipped.first_seq, event.skipped.results))
                due += event.skipped.results
            case "result":
                assert (event.result.seq, event.result.id) == (due, str(due))
                assert synthetic.numbers(event.result.outputs) == [due] * synthetic.ECHO_ELEMENTS
                due += 1
            case kind:
                raise AssertionError(f"{kind} does not belong here")
    assert due == sent
    skipped = sum(count for _, count in gaps)
    assert (last.completed.items, last.completed.ok, last.completed.errors) == (sent, sent - skipped, 0)
    return gaps


@pytest.mark.parametrize(
    ("unread", "kept"), [(pb.UNREAD_POLICY_DROP_OLDEST, WINDOW_ITEMS), (pb.UNREAD_POLICY_LATEST, 1)], ids=["oldest", "latest"]
)
def test_the_newest_results_are_kept(one_lane, unread, kept):
    before = await_rest(one_lane)
    with unread_feed(one_lane, SENT, unread=unread) as feed:
        # The model runs on everything even though nothing is read; what has left for the transport is not given up.
        wait_until(lambda: waiting(one_lane, before) == kept, "it never happened that only the newest results wait")
        await_gauge(one_lane, metrics.STREAMS_UNREAD, 1)
        assert one_lane.metrics().total(metrics.STREAMS_STALLED) == 0
        events = feed.finish()
    ((first, count),) = check_told_once(events)
    assert kinds(events)[-(kept + 2) :] == ["skipped", *["result"] * kept, "completed"]
    assert first + count == SENT - kept
    after = await_rest(one_lane)
    assert after.grown(before, metrics.RESULTS_SKIPPED, method="feed") == count
    assert after.total(metrics.STREAMS_UNREAD) == 0


def test_a_feed_that_blocks_is_not_read_either_and_loses_nothing(one_lane):
    before = await_rest(one_lane)

    def grown(name: str, **labels: str) -> float:
        return one_lane.metrics().grown(before, name, **labels)

    with unread_feed(one_lane, SENT) as feed:
        await_gauge(one_lane, metrics.STREAMS_UNREAD, 1)
        with unread_feed(one_lane, SENT, unread=pb.UNREAD_POLICY_LATEST) as other:
            # By the time the other one has been read to its end, this one would have been too.
            wait_until(lambda: grown(metrics.ITEMS, outcome="ok") >= SENT, "the feed that should go on did not")
            other.finish()
        assert grown(metrics.ITEMS_RECEIVED, model=synthetic.ECHO) < SENT + SENT
        assert check_told_once(feed.finish()) == []
    after = await_rest(one_lane)
    assert after.grown(before, metrics.ITEMS, outcome="ok") == SENT + SENT
    assert after.total(metrics.STREAMS_UNREAD) == after.total(metrics.STREAMS_STALLED) == 0


def test_a_feed_that_disconnects_is_reset(one_lane):
    before = await_rest(one_lane)
    with unread_feed(one_lane, SENT, unread=pb.UNREAD_POLICY_DISCONNECT) as feed:
        wait_until(lambda: ended(one_lane, before, "unread") == 1, "the stream was never ended")
        assert feed.failure().code() == grpc.StatusCode.CANCELLED
    after = await_rest(one_lane)
    assert after.total(metrics.STREAMS_UNREAD) == 0
    assert after.grown(before, metrics.RESULTS_SKIPPED) == 0


pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_client_that_reads_loses_nothing_under_any_policy(one_lane, policy):
    before = await_rest(one_lane)
    feed = synthetic.feed(one_lane, synthetic.ECHO, unread=POLICIES[policy])
    for seq in range(SENT):
        feed.send(*feed_items([item(np.full(synthetic.ECHO_ELEMENTS, seq, "<f4"), id=str(seq), name="x")]))
        result = feed.receive().result
        assert (result.seq, synthetic.numbers(result.outputs)[0]) == (seq, seq)
    assert kinds(feed.finish()) == ["completed"]
    assert await_rest(one_lane).grown(before, metrics.RESULTS_SKIPPED) == 0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A server that gives clients a second to take some of what it has for them."""
    models = synthetic.write_models(tmp_path_factory.mktemp("models"), synthetic.ECHO)
    with running("--models", str(models), "--set", "models.embedded=false", "--set", "session.unread_timeout_s=1") as server:
        yield server


def ended(server, before, reason: str) -> float:
    return server.metrics().grown(before, metrics.STREAMS_ENDED, method="feed", reason=reason)


@pytest.mark.parametrize("policy", ["block", "oldest", "latest"])
def test_a_client_that_never_reads_is_reset(impatient, policy):
    before = await_rest(impatient)
    with unread_feed(impatient, SENT, unread=POLICIES[policy]) as feed:
        wait_until(lambda: ended(impatient, before, "unread") == 1, "the stream was never ended")
        error = feed.failure()
    assert error.code() == grpc.StatusCode.CANCELLED
    after = await_rest(impatient)
    assert after.total(metrics.STREAMS_UNREAD) == 0
    assert after.grown(before, metrics.STREAMS_ENDED, method="feed") == 1


def test_a_silent_stream_is_not_unread(impatient):
    """It has nothing to send, and outlives one that is not read."""
    before = await_rest(impatient)
    silent = synthetic.feed(impatient, synthetic.ECHO)
    with unread_feed(impatient, SENT):
        wait_until(lambda: ended(impatient, before, "unread") == 1, "the stream was never ended")
    silent.send(*feed_items([item(np.ones(synthetic.ECHO_ELEMENTS, "<f4"), name="x")]))
    events = silent.finish()
    assert kinds(events) == ["result", "completed"] and of_kind(events, "result")[0].WhichOneof("outcome") == "outputs"
