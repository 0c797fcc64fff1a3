"""Items of different lengths in one call, and what `GetModel` says about their padding and the cost of calls."""

import grpc
import messages
import metrics
import pytest
import synthetic
from faults import of_item
from messages import of_kind
from server import PATIENCE_S, await_rest
from tidemill.v1 import model_pb2

FLOAT_BYTES = 4


def model(server, name: str) -> model_pb2.ModelDetail:
    return server.models.GetModel(model_pb2.GetModelRequest(name=name), timeout=PATIENCE_S).model


def check_costs(costs) -> None:
    """How long calls of 1, 2, 4 … items take."""
    assert [cost.batch_size for cost in costs] == [2**power for power in range(len(costs))] != []
    for cost in costs:
        assert cost.duration.ToNanoseconds() > 0, costs


@pytest.mark.parametrize("name", synthetic.MANIFESTS)
def test_calls_have_a_measured_cost(one_lane, name):
    detail = model(one_lane, name)
    check_costs(detail.batch_costs)
    assert 1 <= detail.batch_cap <= detail.batch_costs[-1].batch_size
    assert detail.HasField("padding") == (name == synthetic.ROWS)


@pytest.mark.parametrize(("name", "call_ms"), [(synthetic.SLOW, 20), (synthetic.STUCK, 1_500)])
def test_the_cost_is_that_of_the_model(one_lane, name, call_ms):
    (cost,) = model(one_lane, name).batch_costs
    assert cost.duration.ToMilliseconds() >= call_ms


def test_padding_is_described(one_lane):
    detail = model(one_lane, synthetic.ROWS)
    assert detail.padding == model_pb2.Padding(buckets=synthetic.ROWS_BUCKETS, waste_max=synthetic.ROWS_WASTE_MAX)
    assert [list(spec.shape) for spec in (*detail.inputs, *detail.outputs)] == [[-1, -1]] * 2


def together(server, *sent: list[float]) -> list:
    """The results of items, one from each stream, that are all waiting when the lane becomes free."""
    with synthetic.lane_blocked(server):
        feeds = [synthetic.feed(server, synthetic.ROWS) for _ in sent]
        for feed, values in zip(feeds, sent, strict=True):
            feed.send(*messages.feed_items([synthetic.row(*values)]))
        synthetic.await_items(server, metrics.ITEMS_QUEUED, synthetic.ROWS, len(sent))
        results = [of_kind(feed.finish(), "result") for feed in feeds]
    return [result for (result,) in results]


def test_streams_of_different_lengths_share_a_call(one_lane):
    before = await_rest(one_lane)
    sent = [[1, 2], [10, 20, 30, 40], [-1]]
    results = together(one_lane, *sent)
    assert [synthetic.numbers(result.outputs) for result in results] == [[2 * value for value in values] for values in sent]
    assert [result.timing.batch_size for result in results] == [3, 3, 3]
    after = await_rest(one_lane)
    assert after.grown(before, metrics.INPUT_ELEMENTS, model=synthetic.ROWS) == 3 * 4
    assert after.grown(before, metrics.PADDING_ELEMENTS, model=synthetic.ROWS) == 2 + 0 + 3


def test_streams_of_different_buckets_do_not(one_lane):
    before = await_rest(one_lane)
    sent = [[1, 2, 3], [10, 20, 30, 40, 50, 60]]
    results = together(one_lane, *sent)
    assert [synthetic.numbers(result.outputs) for result in results] == [[2 * value for value in values] for values in sent]
    assert [result.timing.batch_size for result in results] == [1, 1]
    assert await_rest(one_lane).grown(before, metrics.PADDING_ELEMENTS, model=synthetic.ROWS) == 0


def test_a_row_beyond_the_last_bucket_is_refused(one_lane):
    feed = synthetic.feed(one_lane, synthetic.ROWS)
    feed.send(*messages.feed_items([synthetic.row(*[1] * 9), synthetic.row(*[1] * 8)]))
    refused, fits = of_kind(feed.finish(), "result")
    fault = of_item(refused)
    fault.check(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", "9", "8", field="inputs")
    assert fault.limits == ("padding.buckets",)
    assert synthetic.numbers(fits.outputs) == [2] * 8


def test_each_shape_that_arrived_has_a_cost(one_lane):
    """Trial calls had rows of the last bucket; shorter rows get their own cost."""
    together(one_lane, [1, 2, 3], [1, 2])
    await_rest(one_lane)
    detail = model(one_lane, synthetic.ROWS)
    assert detail.shape_costs, "no shape has its own cost"
    for shape in detail.shape_costs:
        check_costs(shape.batch_costs)
        assert 0 < shape.item_bytes <= synthetic.ROWS_BUCKETS[-1] * FLOAT_BYTES
    item_bytes = [shape.item_bytes for shape in detail.shape_costs]
    assert len(set(item_bytes)) == len(item_bytes)
    assert any(size <= synthetic.ROWS_BUCKETS[0] * FLOAT_BYTES for size in item_bytes)
