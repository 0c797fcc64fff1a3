"""A wrong item gets its own answer: as the status of `Predict`, and inside the stream in every other mode."""

import dataclasses
from datetime import timedelta

import audio
import grpc
import messages
import numpy as np
import pytest
import reference
from faults import Fault, of_call, of_item
from feed_call import opened
from messages import of_kind, pb
from server import PATIENCE_S

GOOD = reference.windows(audio.pcm(audio.SHORT_SPEECH))[20]


@dataclasses.dataclass(frozen=True)
class BadItem:
    """An item, and what has to be said about it."""

    name: str
    item: pb.Item
    fragments: tuple[str, ...]
    # How the name of the field at fault ends.
    field: str | None
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
    reason: str = "INVALID"

    def check(self, fault: Fault) -> None:
        fault.check(self.code, self.reason, *self.fragments, field=self.field)


def with_shape(name: str, shape: list[int], *fragments: str) -> BadItem:
    return BadItem(name, messages.item(GOOD, shape=shape), fragments, "shape")


BAD_ITEMS = [
    BadItem("no-inputs", pb.Item(), ("input",), "inputs"),
    BadItem("unknown-name", messages.item(GOOD, name="inptu"), ("inptu", "input"), "name"),
    BadItem("name-of-a-state", messages.item(GOOD, name="state"), ("state",), "name"),
    BadItem("twice", pb.Item(inputs=[messages.tensor(GOOD)] * 2), ("input",), "name"),
    BadItem("wrong-datatype", messages.item(GOOD, datatype=pb.DATATYPE_INT32), ("INT32", "FP32"), "datatype"),
    BadItem("unknown-datatype", messages.item(GOOD, datatype=99), ("99",), "datatype"),
    with_shape("shape-too-small", [575], "575", "576"),
    with_shape("shape-too-deep", [1, 1, 576], "576"),
    with_shape("shape-of-two-items", [2, 576], "2"),
    with_shape("shape-negative", [-576], "-576"),
    with_shape("shape-negative-twice", [-1, -576], "-1"),
    with_shape("shape-zero", [0], "0"),
    with_shape("shape-zero-in-front", [0, 576], "0"),
    with_shape("shape-overflow", [2**62, 4], str(2**62)),
    with_shape("shape-overflow-to-the-right-size", [2**61, 8 * 576 + 8], str(2**61)),
    with_shape("shape-smallest", [-(2**63)], str(-(2**63))),
    with_shape("shape-of-many-dimensions", [1] * 10_000 + [576]),
    BadItem("bytes-missing", pb.Item(inputs=[pb.Tensor(name="input", shape=[576], data=bytes(2303))]), ("2303", "2304"), "data"),
    BadItem(
        "bytes-left-over", pb.Item(inputs=[pb.Tensor(name="input", shape=[576], data=bytes(2305))]), ("2305", "2304"), "data"
    ),
    BadItem("no-bytes", pb.Item(inputs=[pb.Tensor(name="input", shape=[576])]), ("0", "2304"), "data"),
    BadItem("negative-deadline", messages.item(GOOD, deadline=timedelta(seconds=-1)), ("deadline",), "deadline"),
    BadItem(
        "expired-deadline",
        messages.item(GOOD, deadline=timedelta(microseconds=1)),
        ("deadline",),
        None,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "EXPIRED",
    ),
]

every_bad_item = pytest.mark.parametrize("bad", BAD_ITEMS, ids=lambda bad: bad.name)


def predict(inference, request: pb.PredictRequest) -> Fault:
    with pytest.raises(grpc.RpcError) as raised:
        inference.Predict(request, timeout=PATIENCE_S)
    return of_call(raised.value)


@every_bad_item
def test_predict(inference, bad):
    bad.check(predict(inference, pb.PredictRequest(model=messages.MODEL, item=bad.item)))


@every_bad_item
def test_feed_goes_on_after_it(inference, bad):
    """Its answer numbers and names the item, and the state is as if it had never been sent."""
    bad_item = pb.Item()
    bad_item.CopyFrom(bad.item)
    bad_item.id = "bad"
    feed = opened(inference, payload=messages.TENSORS)
    feed.send(*messages.feed_items([messages.item(GOOD), bad_item, messages.item(GOOD)]))
    events = feed.finish()
    before, wrong, after = of_kind(events, "result")
    assert (wrong.seq, wrong.id) == (1, "bad")
    bad.check(of_item(wrong))
    reference.assert_equal(messages.probabilities([before, after]), reference.run([GOOD, GOOD]))
    summary = events[-1].completed
    assert (summary.items, summary.ok, summary.errors) == (3, 2, 1)


@every_bad_item
def test_scan_goes_on_after_it(inference, bad):
    items = pb.ItemList(items=[bad.item, messages.item(GOOD)])
    request = pb.ScanRequest(config=messages.config(messages.TENSORS), items=items)
    events = list(inference.Scan(request, timeout=PATIENCE_S))
    wrong, after = of_kind(events, "result")
    bad.check(of_item(wrong))
    reference.assert_equal(messages.probabilities([after]), reference.run([GOOD]))
    assert (events[-1].completed.ok, events[-1].completed.errors) == (1, 1)


def test_upload_reports_the_first_errors_and_counts_all(inference):
    bad = BAD_ITEMS[1]
    requests = [messages.upload(messages.TENSORS)]
    requests += [pb.UploadRequest(item=item) for item in [messages.item(GOOD), *[bad.item] * 20]]
    response = inference.Upload(iter(requests), timeout=PATIENCE_S)
    assert (response.summary.items, response.summary.ok, response.summary.errors) == (21, 1, 20)
    assert [error.seq for error in response.errors] == list(range(1, 17))
    for error in response.errors:
        bad.check(of_item(error))


@pytest.mark.parametrize("mode", ["feed", "scan"])
def test_the_deadline_of_the_stream_holds_for_items_without_one(inference, mode):
    config = messages.config(messages.TENSORS, default_deadline=timedelta(microseconds=1))
    items = [messages.item(GOOD), messages.item(GOOD, deadline=timedelta(seconds=PATIENCE_S))]
    if mode == "feed":
        feed = opened(inference, payload=messages.TENSORS, default_deadline=timedelta(microseconds=1))
        feed.send(*messages.feed_items(items))
        events = feed.finish()
    else:
        events = list(inference.Scan(pb.ScanRequest(config=config, items=pb.ItemList(items=items)), timeout=PATIENCE_S))
    expired, in_time = of_kind(events, "result")
    of_item(expired).check(grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED", "deadline")
    assert not expired.HasField("timing")
    reference.assert_equal(messages.probabilities([in_time]), reference.run([GOOD]))


def test_an_item_over_the_limit(inference):
    feed = opened(inference, payload=messages.TENSORS)
    limits = feed.limits
    huge = pb.Item(id="huge", inputs=[pb.Tensor(name="input", shape=[576], data=bytes(limits.max_item_bytes + 1))])
    feed.send(*messages.feed_items([huge, messages.item(GOOD)]))
    wrong, after = of_kind(feed.finish(), "result")
    fault = of_item(wrong)
    fault.check(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE", str(limits.max_item_bytes + 1), str(limits.max_item_bytes))
    assert any("max_item_bytes" in limit for limit in fault.limits), fault
    reference.assert_equal(messages.probabilities([after]), reference.run([GOOD]))


PREDICTIONS = {
    "unknown-model": (pb.PredictRequest(model="nope", item=messages.item(GOOD)), "NOT_FOUND", ("nope", messages.MODEL), None),
    "unknown-version": (
        pb.PredictRequest(model=messages.MODEL, version="9999", item=messages.item(GOOD)),
        "NOT_FOUND",
        ("9999", messages.MODEL),
        None,
    ),
    "no-model": (pb.PredictRequest(item=messages.item(GOOD)), "INVALID_ARGUMENT", ("model",), "model"),
    "no-payload": (pb.PredictRequest(model=messages.MODEL), "INVALID_ARGUMENT", ("payload",), "payload"),
    "odd-bytes": (pb.PredictRequest(model=messages.MODEL, pcm_s16le=bytes(1023)), "INVALID_ARGUMENT", ("1023",), "pcm_s16le"),
    "two-windows": (
        pb.PredictRequest(model=messages.MODEL, pcm_s16le=bytes(1026)),
        "INVALID_ARGUMENT",
        ("513", "512"),
        "pcm_s16le",
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predict_of_something_that_is_not_an_item(inference, case):
    request, code, fragments, field = PREDICTIONS[case]
    reason = "INVALID" if code == "INVALID_ARGUMENT" else code
    predict(inference, request).check(grpc.StatusCode[code], reason, *fragments, field=field)


def test_values_that_are_not_numbers_go_to_the_model(inference):
    """Not a fault: what a model makes of NaN is its own business, and items on other streams are not affected."""
    request = pb.PredictRequest(model=messages.MODEL, item=messages.item(np.full(576, np.nan, np.float32)))
    response = inference.Predict(request, timeout=PATIENCE_S)
    assert np.isnan(messages.probability(response.outputs)) == np.isnan(reference.run([np.full(576, np.nan, np.float32)])[0])
    good = pb.PredictRequest(model=messages.MODEL, item=messages.item(GOOD))
    response = inference.Predict(good, timeout=PATIENCE_S)
    reference.assert_equal([messages.probability(response.outputs)], reference.run([GOOD]))
