"""Streams of requests from Triton's gRPC client: order, sequences, errors, and what is left when a stream ends."""

import itertools

import audio
import messages
import metrics
import numpy as np
import pytest
import reference
import synthetic
import tritonclient.grpc as triton
from open_inference import (
    EXAMPLE,
    InferCall,
    InferStream,
    assert_says,
    code,
    numbers,
    sequence,
    tensor,
    window,
    windows,
)
from server import await_rest, wait_until

CLIPS = [*audio.SPEECH[:4], audio.NOISE]
COUNT = 25
MISSING_START = ("sequence", "sequence_start", messages.MODEL)


@pytest.fixture
def stream(server):
    with InferStream(server.address) as stream:
        yield stream


def expected(clip: str, count: int = COUNT) -> np.ndarray:
    return reference.of_clip(clip)[:count]


def test_responses_come_in_the_order_of_the_requests(stream):
    """To two models, one of which takes much longer, with large and small items."""
    speech = windows(audio.SHORT_SPEECH, 1)[0]
    for index in range(60):
        if index % 3 == 0:
            stream.send_window(speech, request_id=str(index))
        else:
            count = 1 + 5_000 * (index % 2)
            stream.send(EXAMPLE, numbers(np.full(count, index), count=count), request_id=str(index))
    for index in range(60):
        result = stream.result()
        response = result.get_response()
        assert (response.id, response.model_name) == (str(index), EXAMPLE if index % 3 else messages.MODEL)
        if index % 3:
            assert (result.as_numpy("outputs") == 2 * index).all()


def test_interleaved_sequences_on_one_stream(stream):
    clips = {clip: windows(clip, COUNT) for clip in CLIPS}
    for index, (id, clip) in itertools.product(range(COUNT), enumerate(CLIPS, start=1)):
        stream.send_window(clips[clip][index], **sequence(id, index, COUNT))
    said = np.array(stream.probabilities(COUNT * len(CLIPS))).reshape(COUNT, len(CLIPS))
    for number, clip in enumerate(CLIPS):
        reference.assert_equal(said[:, number], expected(clip))


def test_the_same_number_as_a_name_is_another_sequence(stream):
    """`7` and `"7"` are two sequences, as the protocol has it: the id is a number or a string."""
    clips = {7: CLIPS[0], "7": CLIPS[1]}
    for index, (id, clip) in itertools.product(range(COUNT), clips.items()):
        stream.send_window(windows(clip, COUNT)[index], **sequence(id, index, COUNT))
    said = np.array(stream.probabilities(2 * COUNT)).reshape(COUNT, 2)
    reference.assert_equal(said[:, 0], expected(CLIPS[0]))
    reference.assert_equal(said[:, 1], expected(CLIPS[1]))


def test_several_clients_with_the_same_id(server):
    """A sequence belongs to its stream: nobody can disturb it by choosing its number."""
    streams = [InferStream(server.address) for _ in CLIPS]
    for index in range(COUNT):
        for stream, clip in zip(streams, CLIPS, strict=True):
            stream.send_window(windows(clip, COUNT)[index], **sequence(42, index, COUNT))
    for stream, clip in zip(streams, CLIPS, strict=True):
        with stream:
            reference.assert_equal(stream.probabilities(COUNT), expected(clip))


def test_a_sequence_that_ended_may_begin_again(stream):
    for _ in range(3):
        for index, values in enumerate(windows(CLIPS[0], COUNT)):
            stream.send_window(values, **sequence(5, index, COUNT))
        reference.assert_equal(stream.probabilities(COUNT), expected(CLIPS[0]))


def test_a_start_in_the_middle_is_a_fresh_beginning(stream):
    for values in windows(CLIPS[1], COUNT):
        stream.send_window(values, sequence_id=5, sequence_start=True)
    afresh = [reference.run([values])[0] for values in windows(CLIPS[1], COUNT)]
    reference.assert_equal(stream.probabilities(COUNT), afresh)


def test_a_sequence_may_be_one_request(stream):
    values = windows(CLIPS[2], 1)[0]
    stream.send_window(values, sequence_id=9, sequence_start=True, sequence_end=True)
    reference.assert_equal(stream.probabilities(1), expected(CLIPS[2], 1))
    stream.send_window(values, sequence_id=9)
    assert_says(stream.error(), *MISSING_START, "9")


def test_a_missing_start_is_an_answer_and_the_stream_goes_on(stream):
    values = windows(CLIPS[0], 2)
    stream.send_window(values[0], sequence_id=1, sequence_start=True)
    stream.send_window(values[1], sequence_id=2)
    stream.send_window(values[1], sequence_id=1, sequence_end=True)
    first = stream.probabilities(1)
    error = stream.error()
    assert error.status() is None, "it comes inside the stream, not as its status"
    assert_says(error, *MISSING_START, "2")
    reference.assert_equal(first + stream.probabilities(1), expected(CLIPS[0], 2))


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("nope", numbers([1]), ["nope", EXAMPLE]),
        (EXAMPLE, [tensor("inputs", np.ones((1, 1), "f4"))], ["FP32", "FP64"]),
        (messages.MODEL, [tensor("input", np.ones((1, 5), "f4"))], ["[1, 5]", "576"]),
    ],
    ids=["model", "datatype", "shape"],
)
def test_errors_come_where_the_response_would(stream, model, inputs, words):
    stream.send(EXAMPLE, numbers([1]))
    stream.send(model, inputs)
    stream.send(EXAMPLE, numbers([2]))
    assert stream.result().as_numpy("outputs") == [[2]]
    assert_says(stream.error(), *words)
    assert stream.result().as_numpy("outputs") == [[4]]


def test_an_error_ends_the_stream_for_clients_that_ask_for_it(server):
    stream = InferStream(server.address, headers={"triton_grpc_error": "true"})
    stream.send(EXAMPLE, numbers([1]))
    assert stream.result().as_numpy("outputs") == [[2]]
    stream.send("nope", numbers([1]))
    error = stream.error()
    assert code(error) == "NOT_FOUND" and "nope" in error.message()
    with stream:
        pass


def test_the_last_response_says_so_to_clients_that_ask(stream):
    stream.send(EXAMPLE, numbers([1]), enable_empty_final_response=True)
    stream.send(EXAMPLE, numbers([1]))
    asked, silent = (stream.result().get_response().parameters for _ in range(2))
    assert asked["triton_final_response"].bool_param
    assert "triton_final_response" not in silent


def test_compression(server):
    with InferStream(server.address, compression_algorithm="gzip") as stream:
        stream.send(EXAMPLE, numbers(np.arange(10_000), count=10_000))
        assert (stream.result().as_numpy("outputs")[0] == 2 * np.arange(10_000)).all()


def test_a_stream_that_is_cancelled_leaves_nothing_behind(server):
    stream = InferStream(server.address)
    for id in range(1, 51):
        stream.send_window(windows(CLIPS[0], 1)[0], sequence_id=id, sequence_start=True)
    stream.probabilities(50)
    stream.client.stop_stream(cancel_requests=True)
    assert code(stream.error()) == "CANCELLED"
    stream.client.close()
    await_rest(server)


def test_sequences_of_a_stream_that_ended_are_gone(server):
    """Even those that it never ended; over single calls they never existed."""
    with InferStream(server.address) as stream:
        stream.send_window(windows(CLIPS[0], 1)[0], sequence_id=31, sequence_start=True)
        stream.probabilities(1)
        with triton.InferenceServerClient(server.address) as client:
            call = InferCall(client, messages.MODEL, window(windows(CLIPS[0], 2)[1]), sequence_id=31)
            assert_says(call.error(), *MISSING_START, "31")
    with InferStream(server.address) as stream:
        stream.send_window(windows(CLIPS[0], 2)[1], sequence_id=31)
        assert_says(stream.error(), *MISSING_START, "31")
    await_rest(server)


def test_a_timeout_that_passes_in_the_queue_is_an_answer(one_lane):
    """Microseconds, in the protocol; it is answered while the lane is busy, and the model never runs on it."""
    before = one_lane.metrics()
    with synthetic.lane_blocked(one_lane), InferStream(one_lane.address) as stream:
        stream.send(synthetic.QUICK, [tensor("x", np.ones((1, 1), "f4"))], timeout=10_000)
        error = stream.error()
        assert one_lane.metrics().total(metrics.ITEMS_IN_FLIGHT, model=synthetic.STUCK) == 1
    assert "deadline" in error.message() or "timeout" in error.message(), error
    assert await_rest(one_lane).grown(before, metrics.ITEMS, model=synthetic.QUICK, outcome="expired") == 1


def test_single_calls_end_with_the_timeout_the_clients_limit_or_its_cancelling(one_lane):
    before = one_lane.metrics()
    item = [tensor("x", np.ones((1, 1), "f4"))]

    def ended(outcome: str) -> float:
        return one_lane.metrics().grown(before, metrics.ITEMS, model=synthetic.QUICK, outcome=outcome)

    with synthetic.lane_blocked(one_lane), triton.InferenceServerClient(one_lane.address) as client:
        timed_out = InferCall(client, synthetic.QUICK, item, timeout=10_000)
        assert code(timed_out.error()) == "DEADLINE_EXCEEDED"
        limited = InferCall(client, synthetic.QUICK, item, client_timeout=0.05)
        assert code(limited.error()) == "DEADLINE_EXCEEDED"
        wait_until(lambda: ended("expired") + ended("cancelled") == 2, "a call that is over stays in the queue")
        cancelled = InferCall(client, synthetic.QUICK, item)
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, 1)
        cancelled.cancel()
        assert code(cancelled.error()) == "CANCELLED"
        wait_until(lambda: ended("expired") + ended("cancelled") == 3, "a call that was cancelled stays in the queue")
        assert one_lane.metrics().total(metrics.ITEMS_IN_FLIGHT, model=synthetic.STUCK) == 1
    await_rest(one_lane)
    assert ended("ok") == 0 and ended("cancelled") >= 1


def test_priorities(one_lane):
    """1 is the most urgent, 2 is the usual one, as is none, and anything higher is less urgent."""
    before = await_rest(one_lane)
    with triton.InferenceServerClient(one_lane.address) as client:
        for priority in (1, 2, 0, 3, 9, 2**32):
            client.infer(synthetic.QUICK, [tensor("x", np.ones((1, 1), "f4"))], priority=priority)
    after = await_rest(one_lane)
    name = "tidemill_item_queue_seconds_count"
    waited = {label: after.grown(before, name, model=synthetic.QUICK, priority=label) for label in ("high", "normal", "low")}
    assert waited == {"high": 1, "normal": 2, "low": 3}
