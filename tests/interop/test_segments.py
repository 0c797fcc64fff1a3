"""Speech is found where the model says it is, in every mode alike, and nowhere else."""

import audio
import messages
import pytest
import reference
from feed_call import FeedCall
from messages import of_kind, pb
from server import PATIENCE_S
from tidemill.v1 import model_pb2


@pytest.fixture(scope="module")
def rules(server) -> model_pb2.SegmentRules:
    request = model_pb2.GetModelRequest(name=messages.MODEL)
    return server.models.GetModel(request, timeout=PATIENCE_S).model.segment_rules


def scan(inference, clip: str) -> list:
    request = pb.ScanRequest(config=messages.config(), pcm_s16le=audio.pcm(clip))
    return list(inference.Scan(request, timeout=PATIENCE_S))


def long_runs(clip: str, rules) -> list[tuple[int, int]]:
    """Stretches of windows over the threshold that are long enough to be kept, as first and last sample."""
    runs, begin = [], None
    for index, probability in enumerate([*reference.of_clip(clip), 0.0]):
        if probability >= rules.threshold and begin is None:
            begin = index
        if probability < rules.threshold and begin is not None:
            runs.append((begin * reference.WINDOW_SAMPLES, index * reference.WINDOW_SAMPLES))
            begin = None
    shortest = rules.min_speech_ms * audio.SAMPLE_RATE_HZ // 1000
    return [(begin, end) for begin, end in runs if end - begin > shortest]


@pytest.mark.parametrize("clip", audio.SPEECH)
def test_speech_is_found_in_speech(inference, rules, clip):
    segments = of_kind(scan(inference, clip), "segment")
    assert segments
    assert [segment.index for segment in segments] == list(range(len(segments)))
    end_before = 0
    for segment in segments:
        assert end_before <= segment.start_sample < segment.end_sample <= audio.sample_count(clip)
        end_before = segment.end_sample
        for sample, ms in [(segment.start_sample, segment.start_ms), (segment.end_sample, segment.end_ms)]:
            assert abs(ms - sample * 1000 / audio.SAMPLE_RATE_HZ) <= 0.5
        first, last = segment.start_sample // reference.WINDOW_SAMPLES, -(-segment.end_sample // reference.WINDOW_SAMPLES)
        assert reference.of_clip(clip)[first:last].max() >= rules.threshold
    for begin, end in long_runs(clip, rules):
        end = min(end, audio.sample_count(clip))
        assert any(segment.start_sample <= begin and end <= segment.end_sample for segment in segments), (begin, end)


def test_no_speech_is_found_in_noise(inference):
    events = scan(inference, audio.NOISE)
    assert of_kind(events, "result")
    assert of_kind(events, "segment") == of_kind(events, "segment_started") == []


@pytest.mark.parametrize("clip", audio.SPEECH)
def test_all_modes_find_the_same_segments(inference, clip):
    found = of_kind(scan(inference, clip), "segment")
    chunks = audio.chunks(audio.pcm(clip), 4001)
    feed = FeedCall(inference, messages.feed_open(), *messages.feed_chunks(chunks))
    assert of_kind(feed.finish(), "segment") == found
    uploaded = inference.Upload(iter([messages.upload(), *messages.upload_chunks(chunks)]), timeout=PATIENCE_S)
    assert list(uploaded.segments) == found


@pytest.mark.parametrize("clip", audio.SPEECH)
def test_a_segment_is_announced_before_it_ends(inference, clip):
    announced = {}
    for event in scan(inference, clip):
        if event.WhichOneof("event") == "segment_started":
            assert event.segment_started.index == len(announced)
            announced[event.segment_started.index] = event.segment_started
        elif event.WhichOneof("event") == "segment":
            started = announced[event.segment.index]
            assert (started.start_sample, started.start_ms) == (event.segment.start_sample, event.segment.start_ms)
    assert announced


def test_a_segment_is_pushed_while_the_feed_still_runs(inference):
    silence = bytes(2 * audio.SAMPLE_RATE_HZ)
    feed = FeedCall(inference, messages.feed_open(), *messages.feed_chunks([audio.pcm(audio.SHORT_SPEECH), silence]))
    segment = feed.receive_until("segment")[-1].segment
    assert segment.end_sample <= audio.sample_count(audio.SHORT_SPEECH)
    feed.finish()
