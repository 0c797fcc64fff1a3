"""What breaks a whole stream ends it, with a status that says what was wrong."""

import dataclasses
import hashlib
from datetime import timedelta

import audio
import crc32c
import grpc
import messages
import numpy as np
import pytest
import reference
from faults import of_call
from feed_call import FeedCall, opened
from messages import pb
from server import PATIENCE_S

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
DATA_LOSS = (grpc.StatusCode.DATA_LOSS, "DATA_LOSS")

PCM = audio.pcm(audio.SHORT_SPEECH)
CHUNKS = audio.chunks(PCM, 30_001)
ITEM = messages.item(reference.windows(PCM)[0])


@dataclasses.dataclass(frozen=True)
class Broken:
    """The requests of a call, and the status that must end it."""

    name: str
    requests: list
    status: tuple[grpc.StatusCode, str]
    fragments: tuple[str, ...]
    field: str | None = None

    def check(self, error: grpc.RpcError) -> None:
        of_call(error).check(*self.status, *self.fragments, field=self.field)


def by_name(broken: Broken) -> str:
    return broken.name


# How a stream can open wrongly in any mode.
BAD_CONFIGS = [
    ("unknown-model", messages.config(model="nope"), NOT_FOUND, ("nope", messages.MODEL), None),
    ("unknown-version", messages.config(version="9999"), NOT_FOUND, ("9999", messages.MODEL), None),
    ("no-model", messages.config(model=""), INVALID, ("model",), "model"),
    ("unknown-payload", messages.config(payload=99), INVALID, ("99",), "payload"),
    ("unknown-order", messages.config(order=99), INVALID, ("99",), "order"),
    ("negative-deadline", messages.config(default_deadline=timedelta(seconds=-1)), INVALID, ("deadline",), "default_deadline"),
]

FEEDS = [
    *(Broken(name, [pb.FeedRequest(open=config)], *rest) for name, config, *rest in BAD_CONFIGS),
    Broken("begins-with-a-chunk", messages.feed_chunks([PCM]), INVALID, ("open",)),
    Broken("begins-with-an-item", messages.feed_items([ITEM]), INVALID, ("open",)),
    Broken("begins-with-a-flush", [messages.feed_flush()], INVALID, ("open",)),
    Broken("begins-with-a-keepalive", [messages.feed_keepalive()], INVALID, ("open",)),
    Broken("begins-with-nothing", [pb.FeedRequest()], INVALID, ("open",)),
    Broken("is-empty", [], INVALID, ("open",)),
    Broken("opens-twice", [messages.feed_open(), messages.feed_open()], INVALID, ("open",), "open"),
    Broken("opens-twice-later", [messages.feed_open(), *messages.feed_chunks(CHUNKS), messages.feed_open()], INVALID, ("open",)),
    Broken("empty-message", [messages.feed_open(), pb.FeedRequest()], INVALID, ("message",)),
    Broken("odd-bytes", [messages.feed_open(), *messages.feed_chunks([PCM, b"x"])], INVALID, ("odd",)),
    Broken("item-on-pcm", [messages.feed_open(), *messages.feed_items([ITEM])], INVALID, ("item",), "item"),
    Broken(
        "chunk-on-tensors", [messages.feed_open(messages.TENSORS), *messages.feed_chunks([PCM])], INVALID, ("chunk",), "chunk"
    ),
]


@pytest.mark.parametrize("broken", FEEDS, ids=by_name)
def test_feed(inference, broken):
    feed = FeedCall(inference, *broken.requests)
    if broken.name in ("odd-bytes", "is-empty"):
        feed.half_close()
    broken.check(feed.failure())


def test_an_odd_byte_at_a_flush_waits_for_its_other_half(inference):
    sample = PCM[:2]
    feed = opened(inference, *messages.feed_chunks([PCM[:1024] + sample[:1]]), messages.feed_flush())
    assert feed.receive_until("flushed")[-1].flushed.items == 1
    feed.send(*messages.feed_chunks([sample[1:]]))
    assert feed.finish()[-1].completed.samples == 513


def test_items_before_the_fault_are_answered_before_it(inference):
    feed = opened(inference, *messages.feed_chunks([PCM[: 3 * 1024], b"x"]))
    results = [feed.receive().result for _ in range(3)]
    feed.half_close()
    of_call(feed.failure()).check(*INVALID, "odd")
    reference.assert_equal(messages.probabilities(results), reference.of_clip(audio.SHORT_SPEECH)[:3])


SCANS = [
    *(Broken(name, [pb.ScanRequest(config=config, pcm_s16le=PCM)], *rest) for name, config, *rest in BAD_CONFIGS),
    Broken("no-config", [pb.ScanRequest(pcm_s16le=PCM)], INVALID, ("config",), "config"),
    Broken("no-payload", [pb.ScanRequest(config=messages.config())], INVALID, ("payload",), "payload"),
    Broken("odd-bytes", [pb.ScanRequest(config=messages.config(), pcm_s16le=PCM + b"x")], INVALID, ("odd",)),
    Broken(
        "items-on-pcm", [pb.ScanRequest(config=messages.config(), items=pb.ItemList(items=[ITEM]))], INVALID, ("items",), "payload"
    ),
    Broken(
        "pcm-on-tensors",
        [pb.ScanRequest(config=messages.config(messages.TENSORS), pcm_s16le=PCM)],
        INVALID,
        ("pcm_s16le",),
        "payload",
    ),
]


@pytest.mark.parametrize("broken", SCANS, ids=by_name)
def test_scan(inference, broken):
    with pytest.raises(grpc.RpcError) as raised:
        list(inference.Scan(broken.requests[0], timeout=PATIENCE_S))
    broken.check(raised.value)


def finish(**digest) -> pb.UploadRequest:
    return pb.UploadRequest(finish=pb.PayloadDigest(**digest))


def declared(**digest) -> list[pb.UploadRequest]:
    """An upload whose opening declares a digest."""
    return [messages.upload(expect=pb.PayloadDigest(**digest)), *messages.upload_chunks(CHUNKS)]


SENT = [messages.upload(), *messages.upload_chunks(CHUNKS)]
CRC = crc32c.checksum(PCM)
SHA = hashlib.sha256(PCM).digest()
OTHER_SHA = hashlib.sha256(b"").digest()
LENGTHS = (str(len(PCM)), str(len(PCM) + 2))

UPLOADS = [
    *(Broken(name, [pb.UploadRequest(open=pb.UploadConfig(stream=config))], *rest) for name, config, *rest in BAD_CONFIGS),
    Broken("no-config", [pb.UploadRequest(open=pb.UploadConfig())], INVALID, ("stream",), "stream"),
    Broken("begins-with-a-chunk", messages.upload_chunks([PCM]), INVALID, ("open",)),
    Broken("begins-with-the-finish", [finish()], INVALID, ("open",)),
    Broken("is-empty", [], INVALID, ("open",)),
    Broken("opens-twice", [*SENT, messages.upload()], INVALID, ("open",), "open"),
    Broken("goes-on-after-the-finish", [*SENT, finish(), *messages.upload_chunks([PCM])], INVALID, ("finish",)),
    Broken("finishes-twice", [*SENT, finish(), finish()], INVALID, ("finish",)),
    Broken("empty-message", [messages.upload(), pb.UploadRequest()], INVALID, ("part",)),
    Broken("odd-bytes", [*SENT, *messages.upload_chunks([b"x"])], INVALID, ("odd",)),
    Broken("item-on-pcm", [messages.upload(), pb.UploadRequest(item=ITEM)], INVALID, ("item",), "item"),
    Broken("chunk-on-tensors", [messages.upload(messages.TENSORS), *messages.upload_chunks([PCM])], INVALID, ("chunk",), "chunk"),
    Broken("fewer-bytes-than-declared", declared(total_bytes=len(PCM) + 2), DATA_LOSS, LENGTHS),
    Broken("more-bytes-than-declared", declared(total_bytes=len(PCM) - 2), DATA_LOSS, (str(len(PCM) - 2),)),
    Broken("fewer-bytes-than-finished-with", [*SENT, finish(total_bytes=len(PCM) + 2)], DATA_LOSS, LENGTHS),
    Broken("nothing-after-a-declaration", [declared(total_bytes=2)[0]], DATA_LOSS, ("0", "2")),
    Broken("checksum", declared(crc32c=CRC ^ 1), DATA_LOSS, ("crc32c", f"{CRC:08x}", f"{CRC ^ 1:08x}")),
    Broken("checksum-at-the-finish", [*SENT, finish(crc32c=CRC ^ 1)], DATA_LOSS, ("crc32c", f"{CRC:08x}", f"{CRC ^ 1:08x}")),
    Broken("sha256", declared(sha256=OTHER_SHA), DATA_LOSS, ("sha256", SHA.hex(), OTHER_SHA.hex())),
    Broken("sha256-too-short", declared(sha256=SHA[:31]), INVALID, ("31", "32"), "sha256"),
    Broken("sha256-too-long", [*SENT, finish(sha256=SHA + b"x")], INVALID, ("33", "32"), "sha256"),
    Broken(
        "finish-against-its-own-opening",
        [*declared(total_bytes=len(PCM)), finish(total_bytes=len(PCM) + 2)],
        INVALID,
        ("declared", str(len(PCM))),
        "total_bytes",
    ),
]


@pytest.mark.parametrize("broken", UPLOADS, ids=by_name)
def test_upload(inference, broken):
    with pytest.raises(grpc.RpcError) as raised:
        inference.Upload(iter(broken.requests), timeout=PATIENCE_S)
    broken.check(raised.value)


def test_an_upload_of_nothing_is_an_answer(inference):
    requests = [messages.upload(expect=pb.PayloadDigest(total_bytes=0, crc32c=0, sha256=OTHER_SHA))]
    response = inference.Upload(iter(requests), timeout=PATIENCE_S)
    assert (response.summary.items, len(response.segments)) == (0, 0)
    assert response.received == pb.PayloadDigest(total_bytes=0, crc32c=0, sha256=OTHER_SHA)


@pytest.mark.parametrize("mode", ["predict", "scan", "upload", "feed"])
def test_a_message_over_the_limit(inference, mode):
    probe = opened(inference)
    probe.finish()
    too_long = bytes(probe.limits.max_message_bytes + 2)
    with pytest.raises(grpc.RpcError) as raised:
        match mode:
            case "predict":
                inference.Predict(pb.PredictRequest(model=messages.MODEL, pcm_s16le=too_long), timeout=PATIENCE_S)
            case "scan":
                list(inference.Scan(pb.ScanRequest(config=messages.config(), pcm_s16le=too_long), timeout=PATIENCE_S))
            case "upload":
                inference.Upload(iter([messages.upload(), *messages.upload_chunks([too_long])]), timeout=PATIENCE_S)
            case "feed":
                list(inference.Feed(iter([messages.feed_open(), *messages.feed_chunks([too_long])]), timeout=PATIENCE_S))
    fault = of_call(raised.value)
    assert fault.code == grpc.StatusCode.RESOURCE_EXHAUSTED, fault
    assert str(probe.limits.max_message_bytes) in fault.message, fault


def test_a_long_scan_of_zeros_fits(inference):
    """Only the message limit bounds a scan: this one is longer than any window."""
    seconds = 60
    request = pb.ScanRequest(config=messages.config(), pcm_s16le=np.zeros(seconds * 16_000, "<i2").tobytes())
    *_, last = inference.Scan(request, timeout=PATIENCE_S)
    assert last.completed.ok == seconds * 16_000 // reference.WINDOW_SAMPLES
