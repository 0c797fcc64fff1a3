"""Clients that know nothing about this project but its .proto, or not even that."""

import base64
import json
import struct

import audio
import grpc
import messages
import places
import pytest
import reference
from messages import kinds, of_kind
from programs import buf_curl, grpcurl, json_objects, run_node
from reflected import Reflected
from server import PATIENCE_S

SERVICES = {
    "tidemill.v1.InferenceService",
    "tidemill.v1.ModelService",
    "model.ModelInference",
    "grpc.health.v1.Health",
}
CLIP = audio.SHORT_SPEECH
WINDOW = audio.pcm(CLIP)[: 2 * reference.WINDOW_SAMPLES]


def json_probability(outputs: dict) -> float:
    (output,) = outputs["tensors"]
    (value,) = struct.unpack("<f", base64.b64decode(output["data"]))
    return value


@pytest.fixture
def reflected(server) -> Reflected:
    return Reflected(server.channel)


def test_reflection_lists_the_services(reflected):
    assert SERVICES <= set(reflected.database.get_services())


def test_predict_by_reflection_alone(reflected):
    predict = reflected.method("tidemill.v1.InferenceService", "Predict")
    request = reflected.message("tidemill.v1.PredictRequest")(model=messages.MODEL, pcm_s16le=WINDOW)
    response = predict(request, timeout=PATIENCE_S)
    reference.assert_equal([messages.probability(response.outputs)], reference.of_clip(CLIP)[:1])


def test_feed_by_reflection_alone(reflected):
    feed = reflected.method("tidemill.v1.InferenceService", "Feed")
    feed_request = reflected.message("tidemill.v1.FeedRequest")
    config = reflected.message("tidemill.v1.StreamConfig")(model=messages.MODEL, payload=messages.PCM)
    requests = [feed_request(open=config), *(feed_request(chunk=chunk) for chunk in audio.chunks(audio.pcm(CLIP), 3001))]
    events = list(feed(iter(requests), timeout=PATIENCE_S))
    assert kinds(events)[0] == "opened" and kinds(events)[-1] == "completed"
    reference.assert_equal(messages.probabilities(of_kind(events, "result")), reference.of_clip(CLIP))


@pytest.fixture(scope="module")
def grpc_js(server, tmp_path_factory) -> dict:
    recording = tmp_path_factory.mktemp("grpc-js") / "clip.pcm"
    recording.write_bytes(audio.pcm(CLIP))
    return json.loads(run_node("client.cjs", server.address, places.PROTOS, recording, "2999"))


@pytest.mark.parametrize(("mode", "end"), [("scanned", ["completed"]), ("fed", ["flushed", "completed"])])
def test_grpc_js(grpc_js, mode, end):
    events = grpc_js[mode]
    found = [event["event"] for event in events]
    assert found[0] == "opened" and found[-len(end) :] == end
    results = [event["result"] for event in events if event["event"] == "result"]
    assert [result["seq"] for result in results] == list(range(len(results)))
    reference.assert_equal([result["outputs"]["tensors"][0]["data"] for result in results], reference.of_clip(CLIP))
    assert "segment" in found and "segment_started" in found
    assert events[-1]["completed"]["ok"] == len(results)


def test_grpc_js_sees_the_status(grpc_js):
    assert grpc_js["failed"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert "nope" in grpc_js["failed"]["details"]


def test_grpcurl_lists_and_describes(server):
    assert SERVICES <= set(grpcurl(server.address, "list").split())
    described = grpcurl(server.address, "describe", "tidemill.v1.InferenceService")
    for method in ("Predict", "Scan", "Upload", "Feed"):
        assert f"rpc {method} " in described
    assert "repeated .tidemill.v1.Segment segments" in grpcurl(server.address, "describe", "tidemill.v1.UploadResponse")


def test_grpcurl_predicts(server):
    request = json.dumps({"model": messages.MODEL, "pcm_s16le": base64.b64encode(WINDOW).decode()})
    response = json.loads(grpcurl("-d", request, server.address, "tidemill.v1.InferenceService/Predict"))
    reference.assert_equal([json_probability(response["outputs"])], reference.of_clip(CLIP)[:1])


def test_grpcurl_feeds(server):
    requests = [{"open": {"model": messages.MODEL, "payload": "PAYLOAD_KIND_PCM_S16LE"}}]
    requests += [{"chunk": base64.b64encode(chunk).decode()} for chunk in audio.chunks(audio.pcm(CLIP), 5001)]
    lines = "\n".join(map(json.dumps, requests))
    events = json_objects(grpcurl("-d", "@", server.address, "tidemill.v1.InferenceService/Feed", input=lines))
    assert list(events[0]) == ["opened"] and list(events[-1]) == ["completed"]
    results = [event["result"] for event in events if "result" in event]
    reference.assert_equal([json_probability(result["outputs"]) for result in results], reference.of_clip(CLIP))


def test_buf_curl_predicts(server):
    request = json.dumps({"model": messages.MODEL, "pcmS16le": base64.b64encode(WINDOW).decode()})
    (response,) = buf_curl(server, "tidemill.v1.InferenceService/Predict", request)
    reference.assert_equal([json_probability(response["outputs"])], reference.of_clip(CLIP)[:1])


def test_buf_curl_scans(server):
    recording = base64.b64encode(audio.pcm(CLIP)).decode()
    request = json.dumps({"config": {"model": messages.MODEL}, "pcmS16le": recording})
    events = buf_curl(server, "tidemill.v1.InferenceService/Scan", request)
    results = [event["result"] for event in events if "result" in event]
    reference.assert_equal([json_probability(result["outputs"]) for result in results], reference.of_clip(CLIP))


def test_buf_curl_lists_the_models(server):
    (response,) = buf_curl(server, "tidemill.v1.ModelService/ListModels", "{}")
    assert messages.MODEL in [model["name"] for model in response["models"]]
