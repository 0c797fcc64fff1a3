"""KServe's clients, gRPC and REST."""

import json

import audio
import messages
import numpy as np
import places
import pytest
import reference
from open_inference import EXAMPLE, windows
from programs import run

CLIP = audio.SHORT_SPEECH
COUNT = 12

pytestmark = pytest.mark.parametrize("wire", ["grpc", "rest"])


@pytest.fixture(scope="module")
def answers(server, tmp_path_factory) -> dict:
    file = tmp_path_factory.mktemp("kserve") / "windows.npy"
    np.save(file, np.stack(windows(CLIP, COUNT)))
    script = places.ROOT / "tests/interop/kserve_client.py"
    return json.loads(run(places.KSERVE_PYTHON, script, server.address, server.http_address, file))


@pytest.mark.parametrize("form", ["binary", "typed"])
def test_one_request(answers, wire, form):
    told = answers[wire][form]
    assert (told["id"], told["model"], told["name"], told["datatype"]) == ("mine", EXAMPLE, "outputs", "FP64")
    assert (told["shape"], told["data"]) == ([2, 2], [3, -4, 6, 2e300])


def test_several_items(answers, wire):
    told = answers[wire]["several"]
    assert (told["model"], told["shape"]) == (messages.MODEL, [COUNT, 1])
    reference.assert_equal(told["data"], [reference.run([values])[0] for values in windows(CLIP, COUNT)])


def test_a_sequence(answers, wire):
    """Through parameters of the request: KServe's client has no option for it."""
    reference.assert_equal(answers[wire]["sequence"], reference.of_clip(CLIP)[:COUNT])


def test_liveness_and_readiness(answers, wire):
    assert answers[wire]["states"] == [True, True, True]


def test_an_unknown_model(answers, wire):
    status, message = answers[wire]["refusal"]
    assert status == {"grpc": "NOT_FOUND", "rest": 404}[wire]
    assert "nope" in message and EXAMPLE in message
