"""Triton's gRPC client on asyncio."""

import asyncio
import itertools

import audio
import event_loop
import messages
import metrics
import numpy as np
import pytest
import reference
import synthetic
import tritonclient.grpc.aio as triton
from open_inference import EXAMPLE, assert_says, code, numbers, probability, sequence, tensor, window, windows
from server import await_rest, wait_until
from tritonclient.utils import InferenceServerException

COUNT = 20
CLIPS = audio.SPEECH[:4]


def test_many_calls_at_once(server):
    async def calls():
        async with triton.InferenceServerClient(server.address) as client:
            results = await asyncio.gather(*(client.infer(EXAMPLE, numbers([index])) for index in range(200)))
            assert await client.is_server_ready() and await client.is_model_ready(EXAMPLE)
            return [result.as_numpy("outputs").item() for result in results]

    assert event_loop.run(calls()) == [2 * index for index in range(200)]


def test_a_refusal(server):
    async def call():
        async with triton.InferenceServerClient(server.address) as client:
            await client.infer("nope", numbers([1]))

    with pytest.raises(InferenceServerException) as raised:
        event_loop.run(call())
    assert code(raised.value) == "NOT_FOUND"
    assert_says(raised.value, "nope")


async def requests(steps):
    """Requests as the client takes them, each once the previous one has been taken."""
    for step in steps:
        yield step


def test_sequences_on_a_stream(server):
    steps = [
        {"model_name": messages.MODEL, "inputs": window(windows(clip, COUNT)[index]), **sequence(id, index, COUNT)}
        for index, (id, clip) in itertools.product(range(COUNT), enumerate(CLIPS, start=1))
    ]

    async def said():
        async with triton.InferenceServerClient(server.address) as client:
            return [answer async for answer in client.stream_infer(requests(steps))]

    answers = event_loop.run(said())
    assert [error for _, error in answers if error] == []
    probabilities = np.array([probability(result) for result, _ in answers]).reshape(COUNT, len(CLIPS))
    for number, clip in enumerate(CLIPS):
        reference.assert_equal(probabilities[:, number], reference.of_clip(clip)[:COUNT])


def test_each_response_comes_before_the_next_request_is_made(server):
    """A client that waits for every response gets it: nothing is held back until more comes."""

    async def converse():
        answered: asyncio.Queue = asyncio.Queue()

        async def one_by_one():
            for index in range(50):
                yield {"model_name": EXAMPLE, "inputs": numbers([index]), "request_id": str(index)}
                assert await answered.get() == str(index)

        async with triton.InferenceServerClient(server.address) as client:
            count = 0
            async for result, error in client.stream_infer(one_by_one()):
                assert error is None
                await answered.put(result.get_response().id)
                count += 1
            return count

    assert event_loop.run(converse()) == 50


def test_errors_are_in_order_among_the_responses(server):
    steps = [{"model_name": model, "inputs": numbers([1])} for model in (EXAMPLE, "nope", EXAMPLE)]

    async def answers():
        async with triton.InferenceServerClient(server.address) as client:
            return [answer async for answer in client.stream_infer(requests(steps))]

    first, second, third = event_loop.run(answers())
    assert first[0].as_numpy("outputs") == third[0].as_numpy("outputs") == [[2]]
    assert second[0] is None
    assert_says(second[1], "nope")


def test_cancelling_a_stream_frees_what_waits(one_lane):
    before = await_rest(one_lane)
    queued = 10

    async def cancelled():
        async with triton.InferenceServerClient(one_lane.address) as client:
            taken = asyncio.Event()

            async def steps():
                for _ in range(queued):
                    yield {"model_name": synthetic.QUICK, "inputs": [tensor("x", np.ones((1, 1), "f4"))]}
                taken.set()
                await asyncio.Event().wait()

            answers = client.stream_infer(steps())
            reading = asyncio.create_task(anext(answers))
            await taken.wait()
            await asyncio.to_thread(synthetic.await_items, one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, queued)
            answers.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    with synthetic.lane_blocked(one_lane):
        event_loop.run(cancelled())
        wait_until(
            lambda: one_lane.metrics().grown(before, metrics.ITEMS, model=synthetic.QUICK, outcome="cancelled") == queued,
            "what a cancelled stream sent stays in the queue",
        )
        assert one_lane.metrics().total(metrics.ITEMS_IN_FLIGHT, model=synthetic.STUCK) == 1
