"""What a `Feed` says apart from its results: limits, flushes and keepalives."""

import audio
import messages
import pytest
import reference
from feed_call import FeedCall, opened
from messages import kinds, of_kind, pb, probabilities


def test_the_first_event_names_the_limits_in_force(inference):
    feed = FeedCall(inference, messages.feed_open(window_items=3))
    first = feed.receive().opened
    assert (first.model, first.limits.window_items) == (messages.MODEL, 3)
    assert first.version != ""
    assert first.limits.window_bytes > 0
    assert 0 < first.limits.max_item_bytes <= first.limits.max_message_bytes
    assert first.limits.idle_timeout.ToNanoseconds() > 0
    assert first.framing == pb.Framing(sample_rate_hz=16_000, window_samples=512, context_samples=64)
    assert kinds(feed.finish()) == ["completed"]


def test_the_server_grants_no_more_than_its_largest_window(inference):
    feed = FeedCall(inference, messages.feed_open(window_items=2**32 - 1))
    assert 0 < feed.receive().opened.limits.window_items < 2**32 - 1
    feed.finish()


def test_a_feed_of_tensors_has_no_framing(inference):
    feed = FeedCall(inference, messages.feed_open(messages.TENSORS))
    assert not feed.receive().opened.HasField("framing")
    feed.finish()


def test_a_stream_can_pin_the_version_that_it_was_given(inference):
    feed = FeedCall(inference, messages.feed_open())
    version = feed.receive().opened.version
    feed.finish()
    pinned = FeedCall(inference, messages.feed_open(version=version))
    assert pinned.receive().opened.version == version
    pinned.finish()


def test_headers_come_before_any_message_is_sent(inference):
    feed = FeedCall(inference)
    assert feed.call.initial_metadata() is not None
    feed.send(messages.feed_open())
    assert feed.receive().WhichOneof("event") == "opened"
    feed.finish()


@pytest.mark.parametrize("window_items", [1, 2, 7])
def test_a_small_window_only_slows_a_stream_down(inference, window_items):
    clip = "003.wav"
    opening = messages.feed_open(window_items=window_items)
    events = FeedCall(inference, opening, *messages.feed_chunks(audio.chunks(audio.pcm(clip), 50_000))).finish()
    reference.assert_equal(probabilities(of_kind(events, "result")), reference.of_clip(clip))


def test_a_flush_at_a_window_border_changes_nothing(inference):
    clip = audio.SHORT_SPEECH
    chunks = audio.chunks(audio.pcm(clip), 20 * 2 * reference.WINDOW_SAMPLES)
    feed = opened(inference)
    events = []
    for index, chunk in enumerate(chunks[:-1]):
        feed.send(*messages.feed_chunks([chunk]), messages.feed_flush(f"flush {index}"))
        events += feed.receive_until("flushed")
        assert events[-1].flushed == pb.Flushed(id=f"flush {index}", items=20 * (index + 1))
        # Everything sent before the flush is answered before it.
        assert len(of_kind(events, "result")) == 20 * (index + 1)
    feed.send(*messages.feed_chunks([chunks[-1]]))
    events += feed.finish()
    reference.assert_equal(probabilities(of_kind(events, "result")), reference.of_clip(clip))


def test_a_flush_pads_and_runs_the_partial_window_at_once(inference):
    data = audio.pcm(audio.SHORT_SPEECH)[: 2 * (5 * reference.WINDOW_SAMPLES + 100)]
    feed = opened(inference)
    feed.send(*messages.feed_chunks([data]), messages.feed_flush("now"))
    events = feed.receive_until("flushed")
    results = of_kind(events, "result")
    reference.assert_equal(probabilities(results), reference.run(reference.windows(data)))
    assert results[-1].window == pb.WindowPosition(index=5, start_sample=5 * 512, end_sample=5 * 512 + 100)
    assert events[-1].flushed == pb.Flushed(id="now", items=6)
    # The stream goes on where the client's samples ended: they are the next context, not the padding.
    more = audio.pcm(audio.SHORT_SPEECH)[len(data) : len(data) + 2 * reference.WINDOW_SAMPLES]
    feed.send(*messages.feed_chunks([more]))
    (result,) = of_kind(feed.finish(), "result")
    assert result.window == pb.WindowPosition(index=6, start_sample=5 * 512 + 100, end_sample=6 * 512 + 100)
    next_input = audio.samples(data[-2 * reference.CONTEXT_SAMPLES :] + more)
    reference.assert_equal(messages.probabilities([result]), reference.run([*reference.windows(data), next_input])[-1:])


def test_a_flush_ends_an_open_segment(inference):
    feed = opened(inference)
    speech = audio.chunks(audio.pcm(audio.LONG_SPEECH), 2 * reference.WINDOW_SAMPLES)
    feed.send(*messages.feed_chunks(speech[:60]))
    started = feed.receive_until("segment_started")[-1].segment_started
    feed.send(messages.feed_flush())
    (segment,) = of_kind(feed.receive_until("flushed"), "segment")
    assert (segment.index, segment.start_sample) == (started.index, started.start_sample)
    assert segment.end_sample <= 60 * reference.WINDOW_SAMPLES
    feed.finish()


def test_a_flush_of_nothing_is_answered(inference):
    feed = opened(inference, messages.feed_flush("one"), messages.feed_flush("two"))
    assert [feed.receive().flushed.id for _ in range(2)] == ["one", "two"]
    assert kinds(feed.finish()) == ["completed"]


def test_a_flush_answers_a_feed_of_tensors(inference):
    windows = reference.windows(audio.pcm(audio.SHORT_SPEECH))[:10]
    feed = opened(inference, payload=messages.TENSORS)
    feed.send(*messages.feed_items([messages.item(window) for window in windows]), messages.feed_flush("all"))
    events = feed.receive_until("flushed")
    assert kinds(events) == ["result"] * 10 + ["flushed"]
    feed.finish()


def test_keepalives_are_not_answered(inference):
    feed = opened(inference, *[messages.feed_keepalive()] * 10, messages.feed_flush("end"))
    assert feed.receive().flushed.id == "end"
    (last,) = feed.finish()
    assert (last.completed.items, last.completed.payload_bytes) == (0, 0)
