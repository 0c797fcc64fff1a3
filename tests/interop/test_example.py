"""The contract of plain numbers, from stubs of its own .proto and by reflection."""

import json
import math
import subprocess

import audio
import grpc
import messages
import numpy as np
import places
import pytest
import reference
from faults import of_call
from grpc_health.v1 import health_pb2, health_pb2_grpc
from model import model_pb2, model_pb2_grpc
from programs import buf_curl, grpcurl
from server import PATIENCE_S

SERVICE = "model.ModelInference"
EXAMPLE = "example_model"
CLIP = audio.SHORT_SPEECH


@pytest.fixture
def predict(server):
    stub = model_pb2_grpc.ModelInferenceStub(server.channel)

    def call(model_id: str, inputs) -> list[float]:
        request = model_pb2.PredictRequest(model_id=model_id, inputs=inputs)
        return list(stub.Predict(request, timeout=PATIENCE_S).outputs)

    return call


def test_the_example_doubles(predict):
    assert predict(EXAMPLE, [1, 2.5, -3e200]) == [2, 5, -6e200]
    many = np.random.default_rng(7).normal(size=100_000)
    assert predict(EXAMPLE, many) == (2 * many).tolist()
    assert math.isnan(predict(EXAMPLE, [math.nan])[0])


def test_a_model_other_than_the_example(predict):
    """One window of speech, as the model's own 576 numbers."""
    window = reference.windows(audio.pcm(CLIP))[0]
    reference.assert_equal(predict(messages.MODEL, window), reference.of_clip(CLIP)[:1])


@pytest.mark.parametrize(
    ("model_id", "inputs", "code", "reason", "field", "fragments"),
    [
        ("", [1], "INVALID_ARGUMENT", "INVALID", "model_id", ["name of the model", EXAMPLE]),
        ("nope", [1], "NOT_FOUND", "NOT_FOUND", "model_id", ["nope", EXAMPLE]),
        (EXAMPLE, [], "INVALID_ARGUMENT", "INVALID", "inputs", ["no numbers"]),
        (messages.MODEL, [0] * 575, "INVALID_ARGUMENT", "INVALID", "inputs", ["575", "576"]),
        (messages.MODEL, [0] * 575 + [1e39], "INVALID_ARGUMENT", "INVALID", "inputs[575]", ["1e39", "FP32"]),
    ],
    ids=["no model", "unknown model", "no numbers", "too few", "too large"],
)
def test_what_does_not_fit(predict, model_id, inputs, code, reason, field, fragments):
    with pytest.raises(grpc.RpcError) as raised:
        predict(model_id, inputs)
    of_call(raised.value).check(grpc.StatusCode[code], reason, *fragments, field=field)


def test_grpcurl(server):
    assert SERVICE in grpcurl(server.address, "list").split()
    assert "rpc Predict " in grpcurl(server.address, "describe", SERVICE)
    assert "repeated double inputs = 2;" in grpcurl(server.address, "describe", "model.PredictRequest")
    request = json.dumps({"model_id": EXAMPLE, "inputs": [1, 2.5]})
    assert json.loads(grpcurl("-d", request, server.address, f"{SERVICE}/Predict")) == {"outputs": [2, 5]}


def test_grpcurl_prints_the_error(server):
    command = [places.GRPCURL, "-plaintext", "-d", '{"model_id": "nope", "inputs": [1]}', server.address, f"{SERVICE}/Predict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode != 0 and "NotFound" in done.stderr and "no model 'nope'" in done.stderr


def test_buf_curl(server):
    assert buf_curl(server, f"{SERVICE}/Predict", json.dumps({"modelId": EXAMPLE, "inputs": [0.5]})) == [{"outputs": [1]}]


def test_health(server):
    check = health_pb2_grpc.HealthStub(server.channel).Check
    for service in (SERVICE, EXAMPLE):
        answer = check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
