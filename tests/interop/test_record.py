"""`tidemill serve --record FILE`: what arrived and when, one JSON object a line, and nothing of its contents."""

import collections
import json
from datetime import timedelta

import grpc
import messages
import pytest
import synthetic
from conftest import TENANT_METADATA
from faults import of_call
from messages import TENSORS, of_kind, pb
from server import PATIENCE_S, running

ITEMS = 7
DEADLINE = timedelta(seconds=PATIENCE_S - 10)
SECRET = 48_879.0

FIELDS = {
    "trace": {"version": int, "lanes": int},
    "model": {"id": int, "name": str, "version": str, "stateful": bool, "max_batch": int, "curve_ns": list},
    "open": {"at_ns": int, "stream": int, "model": int, "priority": str, "tenant": int},
    "item": {"at_ns": int, "stream": int, "deadline_ns": int | None, "bytes": int, "shape": int, "cost_ns": int},
    "close": {"at_ns": int, "stream": int},
}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The lines by kind, from a server that served one feed of high priority and one prediction, and refused one."""
    models = synthetic.write_models(tmp_path_factory.mktemp("models"), synthetic.QUICK, synthetic.ROWS)
    path = tmp_path_factory.mktemp("record") / "arrivals.jsonl"
    with running(
        *("--models", str(models), "--set", "models.embedded=false", "--set", "models.example=false"),
        *("--set", "scheduler.lanes=1", "--record", str(path)),
        *("--set", f"session.tenant_metadata={TENANT_METADATA}"),
    ) as server:
        opening = pb.FeedRequest(open=messages.config(TENSORS, synthetic.QUICK, priority=pb.PRIORITY_HIGH))
        requests = [opening, *synthetic.rows([SECRET] * ITEMS)]
        fed = server.inference.Feed(iter(requests), timeout=PATIENCE_S, metadata=[(TENANT_METADATA, "secret-tenant")])
        assert len(of_kind(fed, "result")) == ITEMS
        item = synthetic.row(1, 2, 3, id="secret-id", deadline=DEADLINE)
        server.inference.Predict(pb.PredictRequest(model=synthetic.ROWS, item=item), timeout=PATIENCE_S)
        with pytest.raises(grpc.RpcError) as raised:
            server.inference.Predict(pb.PredictRequest(model=synthetic.QUICK, item=synthetic.row(1, 2)), timeout=PATIENCE_S)
        of_call(raised.value).check(grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
        server.signal()
        assert server.wait() == 0
    text = path.read_text()
    assert text.endswith("\n")
    return text


@pytest.fixture(scope="module")
def lines(record) -> dict[str, list[dict]]:
    by_kind = collections.defaultdict(list)
    for line in record.splitlines():
        ((kind, fields),) = json.loads(line).items()
        by_kind[kind].append(fields)
    return by_kind


def test_each_line_is_of_a_known_kind(record, lines):
    assert lines.keys() == FIELDS.keys()
    for kind, found in lines.items():
        for fields in found:
            assert fields.keys() == FIELDS[kind].keys(), (kind, fields)
            for name, value in fields.items():
                assert isinstance(value, FIELDS[kind][name]), (kind, name, value)
    assert list(json.loads(record.splitlines()[0])) == ["trace"]
    assert lines["trace"] == [{"version": 1, "lanes": 1}]


def test_models_and_streams_are_those_that_were_served(lines):
    models = {model["name"]: model["id"] for model in lines["model"]}
    assert models.keys() == {synthetic.QUICK, synthetic.ROWS}
    assert all(model["curve_ns"] and min(model["curve_ns"]) > 0 for model in lines["model"])
    opened = [(stream["model"], stream["priority"]) for stream in lines["open"]]
    quick, rows = models[synthetic.QUICK], models[synthetic.ROWS]
    assert opened == [(quick, "high"), (rows, "normal"), (quick, "normal")]
    named, *others = [stream["tenant"] for stream in lines["open"]]
    assert named not in others and len(set(others)) == 1, "streams that name no tenant are one"
    # Each stream is closed once.
    assert sorted(stream["stream"] for stream in lines["open"]) == sorted(stream["stream"] for stream in lines["close"])


def test_each_item_that_was_queued_has_a_line(lines):
    fed, predicted, _refused = [stream["stream"] for stream in lines["open"]]
    of_stream = collections.Counter(item["stream"] for item in lines["item"])
    assert of_stream == {fed: ITEMS, predicted: 1}
    assert {item["bytes"] for item in lines["item"] if item["stream"] == fed} == {4}
    (late,) = [item for item in lines["item"] if item["stream"] == predicted]
    assert late["bytes"] == 12
    assert late["deadline_ns"] - late["at_ns"] == DEADLINE / timedelta(microseconds=1) * 1_000
    # No item's deadline is later than that of its call.
    (call_ends_ns,) = {item["deadline_ns"] for item in lines["item"] if item["stream"] == fed}
    assert call_ends_ns > late["at_ns"]


def test_times_rise(lines):
    for kind in ("open", "item", "close"):
        times = [fields["at_ns"] for fields in lines[kind]]
        assert times == sorted(times)


def test_nothing_of_what_was_sent_is_in_it(record):
    for secret in ("secret", "48879"):
        assert secret not in record


def test_a_file_that_cannot_be_made_stops_the_server(tmp_path):
    """It says so with the path and the key, before it serves."""
    missing = tmp_path / "missing" / "arrivals.jsonl"
    with pytest.raises(AssertionError) as raised, running("--record", str(missing)):
        pass
    assert str(missing) in str(raised.value) and "scheduler.record" in str(raised.value)
