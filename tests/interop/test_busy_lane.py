"""While the only lane is in a long call, time goes on for everything else: deadlines hold, and full queues say so."""

from datetime import timedelta

import grpc
import messages
import metrics
import pytest
import raw_http2
import synthetic
from conftest import QUEUED_ITEMS_MAX, SHARE_ITEMS_MAX
from faults import of_call, of_item
from messages import TENSORS, kinds, of_kind, pb
from server import PATIENCE_S, await_rest

DEADLINE = timedelta(milliseconds=50)
EXPIRED = (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")
LATE_ITEMS = 5


def prediction(item: pb.Item) -> pb.PredictRequest:
    return pb.PredictRequest(model=synthetic.QUICK, item=item)


def outcomes_since(server, before) -> dict[str, float]:
    """How items of the quick model ended; it ran only on those that are ok."""
    after = await_rest(server)
    model = {"model": synthetic.QUICK}
    grown = {outcome: after.grown(before, metrics.ITEMS, outcome=outcome, **model) for outcome in metrics.OUTCOMES}
    assert after.grown(before, metrics.ITEMS_RUN, **model) == grown["ok"]
    return {outcome: count for outcome, count in grown.items() if count > 0}


def test_a_prediction_is_answered_at_its_deadline(one_lane):
    """The client's own timer is far away, so the status is the server's."""
    before = await_rest(one_lane)
    ended = []
    with synthetic.lane_blocked(one_lane):
        patient = one_lane.inference.Predict.future(prediction(synthetic.row(1)), timeout=PATIENCE_S)
        patient.add_done_callback(lambda _: ended.append("patient"))
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, 1)
        late = one_lane.inference.Predict.future(prediction(synthetic.row(2, deadline=DEADLINE)), timeout=PATIENCE_S)
        late.add_done_callback(lambda _: ended.append("late"))
        of_call(late.exception()).check(*EXPIRED, "deadline", "50.0ms")
        assert synthetic.numbers(patient.result().outputs) == [2]
    assert ended == ["late", "patient"]
    assert outcomes_since(one_lane, before) == {"ok": 1, "expired": 1}


@pytest.mark.parametrize("named_by", ["items", "stream"])
def test_items_of_a_feed_are_answered_at_their_deadline(one_lane, named_by):
    """Items with a deadline come after one without, and are answered before it."""
    before = await_rest(one_lane)
    far, default, own = timedelta(seconds=PATIENCE_S), None, DEADLINE
    if named_by == "stream":
        default, own = DEADLINE, None
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, order=messages.AS_READY, default_deadline=default)
        feed.send(*synthetic.rows([0], deadline=far), *synthetic.rows(range(1, 1 + LATE_ITEMS), deadline=own))
        events = feed.finish()
    assert kinds(events) == ["result"] * (1 + LATE_ITEMS) + ["completed"]
    *late, patient = of_kind(events, "result")
    assert [result.seq for result in late] == list(range(1, 1 + LATE_ITEMS))
    for result in late:
        assert result.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        of_item(result).check(*EXPIRED, "deadline", "50.0ms")
        assert not result.HasField("timing")
    assert (patient.seq, synthetic.numbers(patient.outputs)) == (0, [0])
    completed = events[-1].completed
    assert (completed.items, completed.ok, completed.errors) == (1 + LATE_ITEMS, 1, LATE_ITEMS)
    assert outcomes_since(one_lane, before) == {"ok": 1, "expired": LATE_ITEMS}


@pytest.mark.parametrize("method", ["Predict", "Scan", "Feed", "Upload"])
def test_the_deadline_of_a_call_ends_it_on_the_server(one_lane, method):
    """Frames by hand: a gRPC library would itself end the call at the same moment and hide the server's answer."""
    before = await_rest(one_lane)
    config = messages.config(TENSORS, synthetic.QUICK)
    requests = {
        "Predict": [prediction(synthetic.row(1))],
        "Scan": [pb.ScanRequest(config=config, items=pb.ItemList(items=[synthetic.row(1)]))],
        "Feed": [pb.FeedRequest(open=config), pb.FeedRequest(item=synthetic.row(1))],
        "Upload": [pb.UploadRequest(open=pb.UploadConfig(stream=config)), pb.UploadRequest(item=synthetic.row(1))],
    }
    with synthetic.lane_blocked(one_lane):
        with raw_http2.call(one_lane.address, method, grpc_timeout="200m") as call:
            for request in requests[method]:
                call.send(raw_http2.framed(request.SerializeToString()))
            call.send(b"", end=True)
            headers = call.receive()
        assert headers.get("grpc-status") == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]), headers
        assert "deadline" in raw_http2.message_of(headers)
    # The item's deadline is that of the call: either may be noticed first, and the end of the call cancels the item.
    assert outcomes_since(one_lane, before) in ({"expired": 1}, {"cancelled": 1})


def test_a_full_queue_refuses_a_prediction_and_holds_a_feed_back(one_lane):
    sent = SHARE_ITEMS_MAX + 5
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, window_items=sent)
        feed.send(*synthetic.rows(range(sent)))
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, SHARE_ITEMS_MAX)
        with pytest.raises(grpc.RpcError) as raised:
            one_lane.inference.Predict(prediction(synthetic.row(1)), timeout=PATIENCE_S)
        events = feed.finish()
    fault = of_call(raised.value)
    fault.check(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", str(QUEUED_ITEMS_MAX))
    assert fault.limits == ("scheduler.max_queued_items_per_model",)
    assert fault.retry_after is not None and fault.retry_after.ToNanoseconds() > 0, fault
    pushback = dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert int(pushback) >= max(1, fault.retry_after.ToMilliseconds())
    results = of_kind(events, "result")
    assert [synthetic.numbers(result.outputs) for result in results] == [[2 * seq] for seq in range(sent)]
    assert outcomes_since(one_lane, before) == {"ok": sent, "refused": 1}


def test_a_feed_that_drops_gives_its_own_items_for_room(one_lane):
    """The shared queue is as full as one connection may make it; the stream's newest item takes the place of its own oldest."""
    sent = SHARE_ITEMS_MAX + 5
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(
            one_lane, synthetic.QUICK, window_items=2 * sent, overflow=pb.OVERFLOW_POLICY_DROP_OLDEST
        )
        feed.send(*synthetic.rows(range(sent)))
        results = of_kind(feed.finish(), "result")
    assert [result.WhichOneof("outcome") for result in results] == ["error"] * 5 + ["outputs"] * SHARE_ITEMS_MAX
    for result in results[:5]:
        of_item(result).check(grpc.StatusCode.ABORTED, "DROPPED")
    assert outcomes_since(one_lane, before) == {"ok": SHARE_ITEMS_MAX, "dropped": 5}
