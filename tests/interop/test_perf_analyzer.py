"""Triton's load generator in each of its ways to send: it finds all that it looks for, and loses nothing."""

import messages
import metrics
import perf_analyzer
import pytest
from open_inference import EXAMPLE
from server import await_rest

SHAPE = ("--shape", "inputs:4")
STREAM = ("--streaming", "--async")
SEQUENCES = ("--num-of-sequences", "8", "--sequence-length", "10")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (EXAMPLE, [*SHAPE, "--concurrency-range", "8"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "4", "-b", "4"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "16", *STREAM]),
        (EXAMPLE, [*SHAPE, "--request-rate-range", "100", "--async"]),
        (EXAMPLE, [*SHAPE, "--concurrency-range", "4", "--shared-memory", "system", "--output-shared-memory-size", "64"]),
        (messages.MODEL, [*SEQUENCES, "--concurrency-range", "8", *STREAM]),
        (messages.MODEL, [*SEQUENCES, "--concurrency-range", "8", "--async"]),
        (messages.MODEL, [*SEQUENCES, "--request-rate-range", "100", *STREAM]),
    ],
    ids=["calls", "several items", "stream", "rate", "shared memory", "sequences on streams", "sequences", "sequences at a rate"],
)
def test_grpc(server, model, options):
    before = await_rest(server)
    measured = perf_analyzer.run(server.address, model, *options)
    assert_nothing_went_wrong(server, before, model, measured)


def test_http(server):
    before = await_rest(server)
    measured = perf_analyzer.run(server.http_address, EXAMPLE, *SHAPE, "--concurrency-range", "4", protocol="http")
    assert_nothing_went_wrong(server, before, EXAMPLE, measured)


def assert_nothing_went_wrong(server, before: metrics.Metrics, model: str, measured: perf_analyzer.Measured) -> None:
    assert measured.requests >= 50 and measured.per_second > 0
    assert 0 < measured.calls <= measured.inferences and measured.successes > 0
    assert "queue" in measured.text and "compute infer" in measured.text
    after = await_rest(server)
    ended = {outcome: after.grown(before, metrics.ITEMS, model=model, outcome=outcome) for outcome in metrics.OUTCOMES}
    # It goes on for a while after what it counts, and may break off what is under way at its end.
    assert ended.pop("ok") >= measured.requests
    assert ended.pop("cancelled") <= 64
    assert set(ended.values()) == {0}, ended
