"""Streams of every policy at once, and others that are cancelled: what clients see is what the server counts."""

import asyncio
import collections
import itertools
from datetime import timedelta

import event_loop
import grpc
import messages
import metrics
import synthetic
from conftest import TENANT_METADATA
from messages import TENSORS, pb
from server import CHANNEL_OPTIONS, PATIENCE_S, await_rest
from tidemill.v1 import inference_pb2_grpc

SENT = 12
TENANTS = 3
OUTCOME_OF_CODE = {grpc.StatusCode.ABORTED.value[0]: "dropped", grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: "expired"}

OVERFLOWS = [pb.OVERFLOW_POLICY_BLOCK, pb.OVERFLOW_POLICY_DROP_OLDEST, pb.OVERFLOW_POLICY_LATEST]
LIMITS = [{}, {"max_age": timedelta(milliseconds=100)}, {"default_deadline": timedelta(milliseconds=200)}]
PRIORITIES = [pb.PRIORITY_HIGH, pb.PRIORITY_LOW]
ORDERS = [messages.IN_ORDER, messages.AS_READY]


def outcome_of(result) -> str:
    if result.WhichOneof("outcome") == "outputs":
        assert synthetic.numbers(result.outputs) == [2 * result.seq]
        return "ok"
    return OUTCOME_OF_CODE[result.error.code]


async def feed(stub, number: int, config: pb.StreamConfig, leaves: bool = False) -> collections.Counter:
    """How a stream's items ended for its client, which may leave after the first answer."""

    async def requests():
        yield pb.FeedRequest(open=config)
        for request in synthetic.rows(range(SENT)):
            yield request

    call = stub.Feed(requests(), metadata=[(TENANT_METADATA, str(number % TENANTS))], timeout=PATIENCE_S)
    outcomes = {}
    async for event in call:
        if event.WhichOneof("event") == "result":
            assert event.result.seq not in outcomes
            outcomes[event.result.seq] = outcome_of(event.result)
            if leaves:
                call.cancel()
                break
    assert leaves or outcomes.keys() == set(range(SENT))
    return collections.Counter(outcomes.values())


async def all_at_once(server) -> collections.Counter:
    choices = itertools.product(OVERFLOWS, LIMITS, PRIORITIES, ORDERS)
    policies = [
        {"overflow": overflow, "priority": priority, "order": order, "window_items": 4} | limits
        for overflow, limits, priority, order in choices
    ]
    async with grpc.aio.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        staying, leaving = (
            [feed(stub, number, messages.config(TENSORS, model, **fields), leaves) for number, fields in enumerate(policies)]
            for model, leaves in ((synthetic.SLOW, False), (synthetic.QUICK, True))
        )
        outcomes, _ = await asyncio.gather(asyncio.gather(*staying), asyncio.gather(*leaving))
    return sum(outcomes, collections.Counter())


def test_the_accounts_agree(one_lane):
    before = await_rest(one_lane)
    seen = event_loop.run(all_at_once(one_lane))
    after = await_rest(one_lane)

    def grown(name: str, **labels: str) -> float:
        return after.grown(before, name, model=synthetic.SLOW, **labels)

    assert set(seen) == {"ok", "dropped", "expired"}
    counted = {outcome: grown(metrics.ITEMS, outcome=outcome) for outcome in metrics.OUTCOMES}
    assert counted == dict.fromkeys(metrics.OUTCOMES, 0) | seen
    assert grown(metrics.ITEMS_DROPPED) == seen["dropped"]
    assert grown(metrics.ITEMS_RUN) == seen["ok"]
    assert min(grown(metrics.ITEMS_DROPPED, reason=reason) for reason in ("overflow", "max_age")) > 0
    for gauge in (metrics.ITEMS_QUEUED, metrics.ITEMS_IN_FLIGHT, metrics.STREAMS_STALLED, metrics.STREAMS_UNREAD):
        assert after.total(gauge) == 0, gauge
