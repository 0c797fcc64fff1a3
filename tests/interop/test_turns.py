"""What goes first when the only lane is free: priorities, and fair shares of tenants."""

import asyncio
import contextlib

import event_loop
import grpc
import metrics
import pytest
import synthetic
from conftest import TENANT_METADATA
from messages import TENSORS, config, of_kind, pb
from server import CHANNEL_OPTIONS, PATIENCE_S, await_rest
from tidemill.v1 import inference_pb2_grpc

BACKLOG = 20
# The flooding tenant's streams, the items of each of them, and those of the single one.
FLOODING_STREAMS = 10
FLOOD_ITEMS = 200
SINGLE_ITEMS = 12
FLOOD_WINDOW_ITEMS = 3


def waits_ns(events) -> list[int]:
    """How long each item waited for its call."""
    results = of_kind(events, "result")
    assert {result.WhichOneof("outcome") for result in results} == {"outputs"}
    return [result.timing.queue_ns for result in results]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (pb.PRIORITY_HIGH, pb.PRIORITY_LOW),
        (pb.PRIORITY_HIGH, pb.PRIORITY_UNSPECIFIED),
        (pb.PRIORITY_NORMAL, pb.PRIORITY_LOW),
        (pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_LOW),
    ],
    ids=["high-low", "high-unspecified", "normal-low", "unspecified-low"],
)
def test_a_higher_priority_overtakes_a_backlog(one_lane, first, last):
    """What came later, and waited for less time than all of the backlog, was run before it."""
    with synthetic.lane_blocked(one_lane):
        backlog = synthetic.feed(one_lane, synthetic.QUICK, priority=last)
        backlog.send(*synthetic.rows(range(BACKLOG)))
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, BACKLOG)
        urgent = synthetic.feed(one_lane, synthetic.QUICK, priority=first)
        urgent.send(*synthetic.rows(range(3)))
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, BACKLOG + 3)
        request = pb.PredictRequest(model=synthetic.QUICK, item=synthetic.row(1), priority=first)
        predicted = one_lane.inference.Predict(request, timeout=PATIENCE_S)
        urgent_waits = [*waits_ns(urgent.finish()), predicted.timing.queue_ns]
        backlog_waits = waits_ns(backlog.finish())
    assert len(backlog_waits) == BACKLOG
    assert max(urgent_waits) < min(backlog_waits), (urgent_waits, backlog_waits)


def test_a_higher_priority_overtakes_long_calls_too(one_lane):
    """Each call takes longer than a priority may be passed over; that must not make the lower one overdue after every call."""
    low = synthetic.feed(one_lane, synthetic.STUCK, priority=pb.PRIORITY_LOW)
    low.send(*synthetic.rows(range(2)))
    synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.STUCK, 1)
    high = synthetic.feed(one_lane, synthetic.STUCK, priority=pb.PRIORITY_HIGH)
    high.send(*synthetic.rows([0]))
    (high_wait,), (_, low_wait) = waits_ns(high.finish()), waits_ns(low.finish())
    assert high_wait < low_wait


def test_waits_are_counted_by_priority(one_lane):
    before = await_rest(one_lane)
    sent = {"high": pb.PRIORITY_HIGH, "normal": pb.PRIORITY_NORMAL, "low": pb.PRIORITY_LOW}
    for count, priority in enumerate(sent.values(), start=1):
        feed = synthetic.feed(one_lane, synthetic.QUICK, priority=priority)
        feed.send(*synthetic.rows(range(count)))
        feed.finish()
    after = await_rest(one_lane)
    name = "tidemill_item_queue_seconds_count"
    grown = {label: after.grown(before, name, model=synthetic.QUICK, priority=label) for label in sent}
    assert grown == {"high": 1, "normal": 2, "low": 3}


async def shares(server, single: str) -> tuple[int, int]:
    """The results of one stream of the tenant `single`, and those of ten streams of the tenant `flood` until `single` has its last."""
    others = 0

    async def flood(stub, opened: asyncio.Event) -> None:
        nonlocal others
        with contextlib.suppress(asyncio.CancelledError):
            async for event in feed(stub, "flood", FLOOD_ITEMS):
                others += event.WhichOneof("event") == "result"
                opened.set()

    def feed(stub, tenant: str, count: int):
        opening = config(TENSORS, synthetic.SLOW, window_items=FLOOD_WINDOW_ITEMS)
        requests = [pb.FeedRequest(open=opening), *synthetic.rows(range(count))]

        async def sent():
            for request in requests:
                yield request

        return stub.Feed(sent(), metadata=[(TENANT_METADATA, tenant)], timeout=PATIENCE_S)

    async with grpc.aio.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        opened = [asyncio.Event() for _ in range(FLOODING_STREAMS)]
        flooding = [asyncio.create_task(flood(stub, event)) for event in opened]
        await asyncio.gather(*(event.wait() for event in opened))
        begin, own = others, 0
        async for event in feed(stub, single, SINGLE_ITEMS):
            own += event.WhichOneof("event") == "result"
        during = others - begin
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding)
    return own, during


@pytest.mark.parametrize("single", ["lone", "flood"], ids=["tenant-of-its-own", "tenant-of-the-others"])
def test_tenants_share_the_lane_however_many_streams_each_has(one_lane, single):
    """Two tenants get half each; eleven streams of one tenant get an eleventh each."""
    own, others = event_loop.run(shares(one_lane, single))
    await_rest(one_lane)
    assert own == SINGLE_ITEMS
    gets_a_tenants_share = own >= (own + others) / 3
    assert gets_a_tenants_share == (single == "lone"), (own, others)
