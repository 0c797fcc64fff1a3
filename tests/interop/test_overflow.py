"""Feeds that are faster than the model: dropped items are answered, counted and never run, and the newest are kept."""

from datetime import timedelta

import audio
import grpc
import messages
import metrics
import pytest
import reference
import synthetic
from faults import of_call, of_item
from feed_call import opened
from messages import TENSORS, kinds, of_kind, pb
from server import PATIENCE_S, await_rest

SENT = 20
WINDOW_ITEMS = 4

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
DROPPED = (grpc.StatusCode.ABORTED, "DROPPED")
EXPIRED = (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")


def check_answered_once(events, sent: int = SENT) -> list:
    """The results, one for each item in order, with nothing else but the end."""
    assert kinds(events) == ["result"] * sent + ["completed"]
    results = of_kind(events, "result")
    assert [(result.seq, result.id) for result in results] == [(seq, str(seq)) for seq in range(sent)]
    for result in results:
        if result.WhichOneof("outcome") == "outputs":
            assert synthetic.numbers(result.outputs) == [2 * result.seq]
    return results


def check_counts(server, before, reason: str, ok: int, dropped: int) -> None:
    """The server counts what the client saw, and only items answered with outputs have run."""
    after = await_rest(server)
    grown = {
        outcome: after.grown(before, metrics.ITEMS, model=synthetic.QUICK, outcome=outcome) for outcome in metrics.OUTCOMES
    }
    assert grown == dict.fromkeys(metrics.OUTCOMES, 0) | {"ok": ok, "dropped": dropped}
    assert after.grown(before, metrics.ITEMS_DROPPED, model=synthetic.QUICK, reason=reason) == dropped
    assert after.grown(before, metrics.ITEMS_DROPPED, model=synthetic.QUICK) == dropped
    assert after.grown(before, metrics.ITEMS_RUN, model=synthetic.QUICK) == ok
    assert after.grown(before, metrics.FAULTS, reason="dropped") == dropped


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [(pb.OVERFLOW_POLICY_DROP_OLDEST, WINDOW_ITEMS), (pb.OVERFLOW_POLICY_LATEST, 1)],
    ids=["oldest", "latest"],
)
def test_the_newest_items_are_kept(one_lane, overflow, kept):
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, window_items=WINDOW_ITEMS, overflow=overflow)
        feed.send(*synthetic.rows(range(SENT)))
        events = feed.finish()
    results = check_answered_once(events)
    for result in results[:-kept]:
        of_item(result).check(*DROPPED, "newer", "overflow")
        assert not result.HasField("timing")
    assert [result.WhichOneof("outcome") for result in results[-kept:]] == ["outputs"] * kept
    completed = events[-1].completed
    assert (completed.items, completed.ok, completed.errors) == (SENT, kept, SENT - kept)
    check_counts(one_lane, before, "overflow", ok=kept, dropped=SENT - kept)


def test_dropped_items_are_answered_at_once_where_order_does_not_matter(one_lane):
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(
            one_lane, synthetic.QUICK, order=messages.AS_READY, window_items=1, overflow=pb.OVERFLOW_POLICY_DROP_OLDEST
        )
        for seq in range(SENT):
            feed.send(*synthetic.rows([seq]))
            if seq > 0:
                # The previous one has made room.
                dropped = feed.receive().result
                assert dropped.seq == seq - 1
                of_item(dropped).check(*DROPPED)
        (last,) = of_kind(feed.finish(), "result")
        assert (last.seq, synthetic.numbers(last.outputs)) == (SENT - 1, [2 * (SENT - 1)])
    check_counts(one_lane, before, "overflow", ok=1, dropped=SENT - 1)


def test_a_state_goes_on_from_the_last_window_that_ran(server):
    """A whole recording at once: most of its windows are dropped, and the model never sees them."""
    clip = audio.LONG_SPEECH
    before = await_rest(server)
    feed = opened(server.inference, overflow=pb.OVERFLOW_POLICY_DROP_OLDEST, window_items=WINDOW_ITEMS)
    chunks = audio.chunks(audio.pcm(clip), 40 * 2 * reference.WINDOW_SAMPLES)
    feed.send(*messages.feed_chunks(chunks))
    events = feed.finish()
    results, windows = of_kind(events, "result"), reference.windows(audio.pcm(clip))
    assert [result.seq for result in results] == [result.window.index for result in results] == list(range(len(windows)))
    ran = [result for result in results if result.WhichOneof("outcome") == "outputs"]
    assert [result.seq for result in ran[-WINDOW_ITEMS:]] == list(range(len(windows)))[-WINDOW_ITEMS:]
    assert len(ran) < len(windows)
    reference.assert_equal(messages.probabilities(ran), reference.run([windows[result.seq] for result in ran]))
    dropped = await_rest(server).grown(before, metrics.ITEMS_DROPPED, model=messages.MODEL, reason="overflow")
    assert dropped == len(windows) - len(ran)


@pytest.mark.parametrize("overflow", [pb.OVERFLOW_POLICY_UNSPECIFIED, pb.OVERFLOW_POLICY_BLOCK], ids=["unspecified", "block"])
def test_a_feed_that_blocks_drops_nothing(one_lane, overflow):
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, window_items=WINDOW_ITEMS, overflow=overflow)
        feed.send(*synthetic.rows(range(SENT)))
        synthetic.await_items(one_lane, metrics.ITEMS_QUEUED, synthetic.QUICK, WINDOW_ITEMS)
        events = feed.finish()
    assert {result.WhichOneof("outcome") for result in check_answered_once(events)} == {"outputs"}
    check_counts(one_lane, before, "overflow", ok=SENT, dropped=0)


def scan(server, items, **fields) -> list:
    request = pb.ScanRequest(config=messages.config(TENSORS, synthetic.QUICK, **fields), items=pb.ItemList(items=items))
    return list(server.inference.Scan(request, timeout=PATIENCE_S))


@pytest.mark.parametrize("method", ["Feed", "Scan"])
def test_stale_items_are_dropped(one_lane, method):
    before, max_age = await_rest(one_lane), timedelta(milliseconds=50)
    with synthetic.lane_blocked(one_lane):
        if method == "Feed":
            feed = synthetic.feed(one_lane, synthetic.QUICK, max_age=max_age)
            feed.send(*synthetic.rows(range(SENT)))
            events = feed.finish()
        else:
            _, *events = scan(one_lane, [request.item for request in synthetic.rows(range(SENT))], max_age=max_age)
    for result in check_answered_once(events):
        of_item(result).check(*DROPPED, "max_age", "50.0ms")
        assert not result.HasField("timing")
    assert events[-1].completed.errors == SENT
    check_counts(one_lane, before, "max_age", ok=0, dropped=SENT)


@pytest.mark.parametrize("sooner", ["deadline", "max_age"])
def test_the_earlier_of_deadline_and_age_gives_the_reason(one_lane, sooner):
    short, long = timedelta(milliseconds=50), timedelta(seconds=PATIENCE_S)
    deadline, max_age = (short, long) if sooner == "deadline" else (long, short)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, max_age=max_age)
        feed.send(*synthetic.rows([0], deadline=deadline))
        (result,) = of_kind(feed.finish(), "result")
    of_item(result).check(*(EXPIRED if sooner == "deadline" else DROPPED), sooner)


def test_an_age_that_all_items_keep_drops_none(one_lane):
    before = await_rest(one_lane)
    with synthetic.lane_blocked(one_lane):
        feed = synthetic.feed(one_lane, synthetic.QUICK, max_age=timedelta(seconds=PATIENCE_S))
        feed.send(*synthetic.rows(range(SENT)))
        events = feed.finish()
    assert {result.WhichOneof("outcome") for result in check_answered_once(events)} == {"outputs"}
    check_counts(one_lane, before, "max_age", ok=SENT, dropped=0)


POLICIES = {
    "overflow-oldest": ("overflow", {"overflow": pb.OVERFLOW_POLICY_DROP_OLDEST}),
    "overflow-latest": ("overflow", {"overflow": pb.OVERFLOW_POLICY_LATEST}),
    "unread-oldest": ("unread", {"unread": pb.UNREAD_POLICY_DROP_OLDEST}),
    "unread-latest": ("unread", {"unread": pb.UNREAD_POLICY_LATEST}),
    "unread-disconnect": ("unread", {"unread": pb.UNREAD_POLICY_DISCONNECT}),
}
UNKNOWN_VALUES = {
    "overflow-unknown": ("overflow", {"overflow": 99}),
    "unread-unknown": ("unread", {"unread": 99}),
    "priority-unknown": ("priority", {"priority": 99}),
    "priority-negative": ("priority", {"priority": -1}),
    "max-age-negative": ("max_age", {"max_age": timedelta(seconds=-1)}),
    "max-age-too-long": ("max_age", {"max_age": timedelta(days=367)}),
}


def refusal(server, method: str, fields: dict):
    config = messages.config(TENSORS, synthetic.QUICK, **fields)
    items = [synthetic.row(1)]
    with pytest.raises(grpc.RpcError) as raised:
        match method:
            case "Feed":
                list(server.inference.Feed(iter([pb.FeedRequest(open=config)]), timeout=PATIENCE_S))
            case "Scan":
                list(server.inference.Scan(pb.ScanRequest(config=config, items=pb.ItemList(items=items)), timeout=PATIENCE_S))
            case "Upload":
                requests = [pb.UploadRequest(open=pb.UploadConfig(stream=config)), pb.UploadRequest(item=items[0])]
                server.inference.Upload(iter(requests), timeout=PATIENCE_S)
            case "Predict":
                server.inference.Predict(
                    pb.PredictRequest(model=synthetic.QUICK, item=items[0], priority=fields["priority"]), timeout=PATIENCE_S
                )
    return of_call(raised.value)


@pytest.mark.parametrize("method", ["Scan", "Upload"])
@pytest.mark.parametrize("case", POLICIES)
def test_policies_of_live_feeds_are_refused_elsewhere(one_lane, case, method):
    field, fields = POLICIES[case]
    refusal(one_lane, method, fields).check(*INVALID, "feed", field=field)


@pytest.mark.parametrize("method", ["Feed", "Scan", "Upload"])
@pytest.mark.parametrize("case", UNKNOWN_VALUES)
def test_values_that_mean_nothing_are_refused(one_lane, case, method):
    field, fields = UNKNOWN_VALUES[case]
    refusal(one_lane, method, fields).check(*INVALID, field=field)


def test_a_priority_that_means_nothing_is_refused_for_one_item_too(one_lane):
    refusal(one_lane, "Predict", {"priority": 99}).check(*INVALID, "99", "Priority", field="priority")
