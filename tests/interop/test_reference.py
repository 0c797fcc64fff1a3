"""All four modes give the same probabilities as the model alone, and count what they did."""

import asyncio
import hashlib

import audio
import crc32c
import event_loop
import grpc
import messages
import numpy as np
import pytest
import reference
from feed_call import FeedCall
from messages import kinds, of_kind, pb, probabilities
from server import CHANNEL_OPTIONS, PATIENCE_S
from tidemill.v1 import inference_pb2_grpc

CONCURRENT_STREAMS = 64


def check_summary(summary: pb.Summary, results, samples: int, payload_bytes: int) -> None:
    """The summary is the sum of the results."""
    assert summary.items == len(results)
    assert summary.ok == sum(result.WhichOneof("outcome") == "outputs" for result in results)
    assert summary.errors == summary.items - summary.ok
    assert (summary.samples, summary.payload_bytes) == (samples, payload_bytes)
    assert summary.elapsed.ToNanoseconds() > 0
    assert summary.queue_ns == sum(result.timing.queue_ns for result in results)
    # Each share of a call may be rounded to a whole nanosecond.
    shares_ns = sum(result.timing.compute_ns / max(result.timing.batch_size, 1) for result in results)
    assert summary.compute_ns == pytest.approx(shares_ns, abs=len(results))


def check_positions(results, samples: int) -> None:
    """Windows follow one another without a gap, and the last one ends where the client's samples end."""
    assert [result.seq for result in results] == list(range(len(results)))
    for index, result in enumerate(results):
        start = index * reference.WINDOW_SAMPLES
        end = min(start + reference.WINDOW_SAMPLES, samples)
        assert result.window == pb.WindowPosition(index=index, start_sample=start, end_sample=end)


def check_timing(results) -> None:
    for result in results:
        timing = result.timing
        assert timing.compute_ns > 0 and timing.batch_size >= 1
        assert timing.age_ns >= timing.queue_ns + timing.compute_ns


def tensor_items(clip: str) -> list[pb.Item]:
    return [messages.item(values, id=f"{clip}/{index}") for index, values in enumerate(reference.windows(audio.pcm(clip)))]


def check_results_of_clip(events, clip: str, kind_last: str) -> None:
    """Everything that a whole PCM clip must have given on a stream of events."""
    results = of_kind(events, "result")
    assert kinds(events)[0] == "opened" and kinds(events)[-1] == kind_last
    reference.assert_equal(probabilities(results), reference.of_clip(clip))
    check_positions(results, audio.sample_count(clip))
    check_timing(results)
    check_summary(of_kind(events, "completed")[0], results, audio.sample_count(clip), len(audio.pcm(clip)))


@pytest.mark.parametrize("clip", audio.CLIPS)
def test_scan_of_pcm(inference, clip):
    request = pb.ScanRequest(config=messages.config(), pcm_s16le=audio.pcm(clip))
    events = list(inference.Scan(request, timeout=PATIENCE_S))
    check_results_of_clip(events, clip, "completed")


def test_scan_of_items(inference):
    clip = audio.SHORT_SPEECH
    items = tensor_items(clip)
    request = pb.ScanRequest(config=messages.config(messages.TENSORS), items=pb.ItemList(items=items))
    events = list(inference.Scan(request, timeout=PATIENCE_S))
    results = of_kind(events, "result")
    reference.assert_equal(probabilities(results), reference.of_clip(clip))
    assert [result.id for result in results] == [item.id for item in items]
    assert not any(result.HasField("window") for result in results)
    check_summary(of_kind(events, "completed")[0], results, 0, sum(len(item.inputs[0].data) for item in items))


def test_scan_takes_the_payload_kind_from_the_payload(inference):
    request = pb.ScanRequest(config=pb.StreamConfig(model=messages.MODEL), pcm_s16le=audio.pcm(audio.SHORT_SPEECH))
    check_results_of_clip(list(inference.Scan(request, timeout=PATIENCE_S)), audio.SHORT_SPEECH, "completed")


@pytest.mark.parametrize("clip", audio.CLIPS)
def test_upload_of_pcm(inference, clip):
    data = audio.pcm(clip)
    digest = pb.PayloadDigest(total_bytes=len(data), crc32c=crc32c.checksum(data), sha256=hashlib.sha256(data).digest())
    requests = [messages.upload(include_results=True, expect=digest), *messages.upload_chunks(audio.random_chunks(data, seed=7))]
    response = inference.Upload(iter(requests), timeout=PATIENCE_S)
    reference.assert_equal(probabilities(response.results), reference.of_clip(clip))
    check_positions(response.results, audio.sample_count(clip))
    check_summary(response.summary, response.results, audio.sample_count(clip), len(data))
    assert response.received == digest
    assert (response.model, list(response.errors)) == (messages.MODEL, [])


def test_upload_of_items_with_the_digest_at_the_end(inference):
    items = tensor_items(audio.SHORT_SPEECH)
    data = b"".join(item.inputs[0].data for item in items)
    digest = pb.PayloadDigest(total_bytes=len(data), crc32c=crc32c.checksum(data), sha256=hashlib.sha256(data).digest())
    requests = [
        messages.upload(messages.TENSORS, include_results=True),
        *(pb.UploadRequest(item=item) for item in items),
        pb.UploadRequest(finish=digest),
    ]
    response = inference.Upload(iter(requests), timeout=PATIENCE_S)
    reference.assert_equal(probabilities(response.results), reference.of_clip(audio.SHORT_SPEECH))
    assert [result.id for result in response.results] == [item.id for item in items]
    check_summary(response.summary, response.results, 0, len(data))
    assert response.received.total_bytes == len(data)
    assert response.received.crc32c == digest.crc32c


def test_upload_counts_without_results_when_none_are_asked_for(inference):
    data = audio.pcm(audio.SHORT_SPEECH)
    requests = [messages.upload(), *messages.upload_chunks(audio.random_chunks(data, seed=8))]
    response = inference.Upload(iter(requests), timeout=PATIENCE_S)
    assert len(response.results) == 0
    assert response.summary.ok == response.summary.items == len(reference.of_clip(audio.SHORT_SPEECH))
    assert (response.received.total_bytes, response.received.crc32c) == (len(data), crc32c.checksum(data))


@pytest.mark.parametrize("sizes", [(1, 3, 5), (333, 1021), (1024,), (1025,), (7919,), (1 << 20,)], ids=str)
def test_feed_of_pcm_in_any_chunks(inference, sizes):
    clip = "003.wav"
    feed = FeedCall(inference, messages.feed_open(), *messages.feed_chunks(audio.chunks(audio.pcm(clip), *sizes)))
    check_results_of_clip(feed.finish(), clip, "completed")


@pytest.mark.parametrize("clip", audio.CLIPS)
def test_feed_of_pcm(inference, clip):
    feed = FeedCall(inference, messages.feed_open(), *messages.feed_chunks(audio.chunks(audio.pcm(clip), 2047, 611)))
    check_results_of_clip(feed.finish(), clip, "completed")


@pytest.mark.parametrize("shape", [(576,), (1, 576), ()], ids=str)
def test_feed_of_tensors(inference, shape):
    clip = audio.SHORT_SPEECH
    values = reference.windows(audio.pcm(clip))
    items = [messages.item(one, id=f"item {index}", shape=shape) for index, one in enumerate(values)]
    events = FeedCall(inference, messages.feed_open(messages.TENSORS), *messages.feed_items(items)).finish()
    results = of_kind(events, "result")
    assert kinds(events)[0] == "opened" and kinds(events)[-1] == "completed"
    reference.assert_equal(probabilities(results), reference.of_clip(clip))
    assert [(result.seq, result.id) for result in results] == [(index, item.id) for index, item in enumerate(items)]
    check_timing(results)
    check_summary(events[-1].completed, results, 0, sum(one.nbytes for one in values))


def test_a_tensor_may_leave_out_name_and_datatype(inference):
    (window, *_) = reference.windows(audio.pcm(audio.SHORT_SPEECH))
    item = messages.item(window, name="", datatype=pb.DATATYPE_UNSPECIFIED, shape=())
    response = inference.Predict(pb.PredictRequest(model=messages.MODEL, item=item), timeout=PATIENCE_S)
    reference.assert_equal([messages.probability(response.outputs)], reference.run([window]))


def test_predict_of_a_tensor_starts_from_the_zero_state(inference):
    for index, window in enumerate(reference.windows(audio.pcm(audio.SHORT_SPEECH))[10:14]):
        request = pb.PredictRequest(model=messages.MODEL, item=messages.item(window, id=f"call {index}"))
        response = inference.Predict(request, timeout=PATIENCE_S)
        reference.assert_equal([messages.probability(response.outputs)], reference.run([window]))
        assert (response.model, response.id) == (messages.MODEL, f"call {index}")
        assert response.timing.compute_ns > 0 and response.timing.batch_size >= 1


@pytest.mark.parametrize("samples", [1, 400, 512])
def test_predict_of_one_window_of_pcm(inference, samples):
    window = audio.pcm(audio.SHORT_SPEECH)[20_000 : 20_000 + 2 * samples]
    response = inference.Predict(pb.PredictRequest(model=messages.MODEL, pcm_s16le=window), timeout=PATIENCE_S)
    reference.assert_equal([messages.probability(response.outputs)], reference.run(reference.windows(window)))


def test_streams_in_step_get_each_result_before_they_send_more(inference):
    """As in real time: a result waits neither for later input on its stream nor for other streams."""
    clips = audio.SPEECH[:4]
    feeds = [FeedCall(inference, messages.feed_open()) for _ in clips]
    chunks = [audio.chunks(audio.pcm(clip), 2 * reference.WINDOW_SAMPLES)[:60] for clip in clips]
    results = [[] for _ in clips]
    for step in range(60):
        for feed, own in zip(feeds, chunks):
            feed.send(*messages.feed_chunks([own[step]]))
        for feed, answers in zip(feeds, results):
            answers.append(feed.receive_until("result")[-1].result)
    for feed, clip, answers in zip(feeds, clips, results):
        reference.assert_equal(probabilities(answers), reference.of_clip(clip)[:60])
        assert of_kind(feed.finish(), "completed")[0].ok == 60


@pytest.mark.parametrize("order", [messages.IN_ORDER, messages.AS_READY], ids=pb.ResultOrder.Name)
def test_concurrent_feeds_do_not_touch_one_another(server, order):
    async def feed(stub, number: int) -> tuple[str, list]:
        clip = audio.CLIPS[number % len(audio.CLIPS)]

        async def requests():
            yield messages.feed_open(order=order)
            for chunk in audio.random_chunks(audio.pcm(clip), seed=number):
                yield pb.FeedRequest(chunk=chunk)

        return clip, [event async for event in stub.Feed(requests(), timeout=PATIENCE_S)]

    async def all_feeds() -> list[tuple[str, list]]:
        async with grpc.aio.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            return await asyncio.gather(*(feed(stub, number) for number in range(CONCURRENT_STREAMS)))

    batch_sizes = []
    for clip, events in event_loop.run(all_feeds()):
        results = of_kind(events, "result")
        reference.assert_equal(probabilities(results), reference.of_clip(clip))
        if order == messages.IN_ORDER:
            check_positions(results, audio.sample_count(clip))
        check_summary(events[-1].completed, results, audio.sample_count(clip), len(audio.pcm(clip)))
        batch_sizes += [result.timing.batch_size for result in results]
    # Items of different streams meet in one model call, or the comparison above would prove little.
    assert np.max(batch_sizes) > 1
