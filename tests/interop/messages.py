"""Builds requests and parses answers. Works with any module of messages that looks like the generated one."""

from datetime import timedelta

import numpy as np
from tidemill.v1 import inference_pb2 as pb

MODEL = "silero-vad"

PCM = pb.PAYLOAD_KIND_PCM_S16LE
TENSORS = pb.PAYLOAD_KIND_TENSORS
IN_ORDER = pb.RESULT_ORDER_IN_ORDER
AS_READY = pb.RESULT_ORDER_AS_READY


def config(payload=PCM, model=MODEL, **fields) -> pb.StreamConfig:
    return pb.StreamConfig(model=model, payload=payload, **fields)


def tensor(values: np.ndarray, name="input", shape=None, datatype=pb.DATATYPE_FP32) -> pb.Tensor:
    shape = values.shape if shape is None else shape
    return pb.Tensor(name=name, datatype=datatype, shape=shape, data=values.tobytes())


def item(values: np.ndarray, id="", deadline: timedelta | None = None, **fields) -> pb.Item:
    return pb.Item(id=id, inputs=[tensor(values, **fields)], deadline=deadline)


def feed_open(payload=PCM, **fields) -> pb.FeedRequest:
    return pb.FeedRequest(open=config(payload, **fields))


def feed_chunks(chunks: list[bytes]) -> list[pb.FeedRequest]:
    return [pb.FeedRequest(chunk=chunk) for chunk in chunks]


def feed_items(items: list[pb.Item]) -> list[pb.FeedRequest]:
    return [pb.FeedRequest(item=one) for one in items]


def feed_flush(id="") -> pb.FeedRequest:
    return pb.FeedRequest(flush=pb.Flush(id=id))


def feed_keepalive() -> pb.FeedRequest:
    return pb.FeedRequest(keepalive=pb.KeepAlive())


def upload(payload=PCM, expect=None, include_results=False, **fields) -> pb.UploadRequest:
    return pb.UploadRequest(
        open=pb.UploadConfig(stream=config(payload, **fields), expect=expect, include_results=include_results)
    )


def upload_chunks(chunks: list[bytes]) -> list[pb.UploadRequest]:
    return [pb.UploadRequest(chunk=chunk) for chunk in chunks]


def kinds(events) -> list[str]:
    """Which event each message holds."""
    return [event.WhichOneof("event") for event in events]


def of_kind(events, kind: str) -> list:
    return [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]


def probability(outputs) -> float:
    """The one number that the model gives for a window."""
    (output,) = outputs.tensors
    assert (output.name, output.datatype, list(output.shape)) == ("output", pb.DATATYPE_FP32, [1])
    (value,) = np.frombuffer(output.data, "<f4")
    return float(value)


def probabilities(results) -> list[float]:
    """Of results, in the order of their items; fails on an item that was answered with an error."""
    for result in results:
        assert result.WhichOneof("outcome") == "outputs", result
    return [probability(result.outputs) for result in sorted(results, key=lambda result: result.seq)]
