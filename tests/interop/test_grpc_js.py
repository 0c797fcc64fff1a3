"""The policies of live feeds, as grpc-js sees them."""

import json

import grpc
import places
import pytest
from programs import run_node
from server import await_rest

SENT = 40
SENT_UNREAD = 200
WINDOW_ITEMS = 4

ABORTED = grpc.StatusCode.ABORTED.value[0]
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


@pytest.fixture(scope="module")
def told(one_lane) -> dict:
    """How each feed ended."""
    printed = json.loads(run_node("policies.cjs", one_lane.address, one_lane.admin_address, places.PROTOS))
    await_rest(one_lane)
    return printed


def middle(events: list[dict]) -> tuple[list[dict], dict]:
    """What came between `opened` and `completed`, and the latter."""
    assert [events[0]["event"], events[-1]["event"]] == ["opened", "completed"]
    return events[1:-1], events[-1]["completed"]


def value(result: dict) -> float:
    (tensor,) = result["outputs"]["tensors"]
    return tensor["data"]


@pytest.mark.parametrize(("policy", "kept"), [("oldest", WINDOW_ITEMS), ("latest", 1)])
def test_the_newest_items_are_kept(told, policy, kept):
    events, completed = middle(told[policy])
    results = [event["result"] for event in events]
    assert [(result["seq"], result["id"]) for result in results] == [(seq, str(seq)) for seq in range(SENT)]
    codes = {result["error"]["code"] for result in results if result["outcome"] == "error"}
    assert codes == {ABORTED}
    assert [result["outcome"] for result in results[-kept:]] == ["outputs"] * kept
    ran = [result for result in results if result["outcome"] == "outputs"]
    assert all(value(result) == 2 * result["seq"] for result in ran)
    assert (completed["items"], completed["ok"], completed["errors"]) == (SENT, len(ran), SENT - len(ran))


def test_a_deadline_that_cannot_be_met_is_an_answer(told):
    events, completed = middle(told["expired"])
    first, late = [event["result"] for event in events]
    assert value(first) == 0
    assert (late["outcome"], late["error"]["code"], late["timing"]) == ("error", DEADLINE_EXCEEDED, None)
    assert (completed["ok"], completed["errors"]) == (1, 1)


@pytest.mark.parametrize("policy", ["oldest", "latest"])
def test_results_that_are_not_read_in_time_are_skipped(told, policy):
    events, completed = middle(told[f"unread_{policy}"])
    due, skipped = 0, 0
    for event in events:
        match event["event"]:
            case "skipped":
                assert event["skipped"]["first_seq"] == due
                skipped += event["skipped"]["results"]
                due += event["skipped"]["results"]
            case "result":
                assert (event["result"]["seq"], value(event["result"])) == (due, due)
                due += 1
    assert due == SENT_UNREAD and skipped > 0
    assert events[-1]["event"] == "result", "the newest is never skipped"
    assert (completed["items"], completed["ok"], completed["errors"]) == (SENT_UNREAD, SENT_UNREAD - skipped, 0)


def test_a_feed_that_disconnects_is_cancelled(told):
    assert told["disconnected"] == grpc.StatusCode.CANCELLED.value[0]
