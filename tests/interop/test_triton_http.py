"""Triton's HTTP client, binary and JSON, and the plain forms `generate` and `generate_stream`."""

import json
import urllib.error
import urllib.request

import audio
import messages
import numpy as np
import pytest
import reference
import synthetic
import tritonclient.http as triton
from open_inference import EXAMPLE, assert_says, sequence, windows
from server import PATIENCE_S
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

CLIP = audio.SHORT_SPEECH


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.http_address, concurrency=4) as client:
        yield client


@pytest.fixture
def typed_client(typed_server):
    with triton.InferenceServerClient(typed_server.http_address) as client:
        yield client


def tensor(name: str, values: np.ndarray, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=binary)


def refusal(call, *arguments, **options) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return raised.value


VALUES = np.array([[1.5, -2, 1e30], [0, 0.1, 3]])


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_input", [True, False])
def test_binary_and_json(client, binary_input, binary_output):
    outputs = [triton.InferRequestedOutput("outputs", binary_data=binary_output)]
    result = client.infer(EXAMPLE, [tensor("inputs", VALUES, binary_input)], outputs=outputs, request_id="mine")
    assert (result.get_response()["id"], result.get_response()["model_name"]) == ("mine", EXAMPLE)
    np.testing.assert_array_equal(result.as_numpy("outputs"), 2 * VALUES)


@pytest.mark.parametrize("response_algorithm", ["gzip", "deflate", None])
@pytest.mark.parametrize("request_algorithm", ["gzip", "deflate", None])
def test_compression(client, request_algorithm, response_algorithm):
    values = np.arange(10_000.0).reshape(1, -1)
    result = client.infer(
        EXAMPLE,
        [tensor("inputs", values)],
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response_algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("outputs"), 2 * values)


def test_calls_at_once(client):
    calls = [client.async_infer(EXAMPLE, [tensor("inputs", np.array([[float(number)]]))]) for number in range(50)]
    assert [call.get_result(timeout=PATIENCE_S).as_numpy("outputs").item() for call in calls] == [2 * n for n in range(50)]


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_those_that_were_asked_for_in_that_order(typed_client, binary):
    floats, integers = np.array([[1.5, 2]], "f4"), np.array([[1, 2, 2**30]], "i4")
    inputs = [tensor("integers", integers, binary), tensor("floats", floats, not binary)]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("out_integers", "out_floats")]
    result = typed_client.infer(synthetic.PAIR, inputs, outputs=wanted)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["out_integers", "out_floats"]
    np.testing.assert_array_equal(result.as_numpy("out_floats"), 2 * floats)
    np.testing.assert_array_equal(result.as_numpy("out_integers"), [[2, 4, 2**31 - 1]])


@pytest.mark.parametrize("binary", [True, False])
def test_elements_of_any_length(typed_client, binary):
    texts = np.array([["", "tide", "naïve ✓"], ["a", "b", "x" * 100_000]], object)
    outputs = [triton.InferRequestedOutput("out_text", binary_data=binary)]
    found = typed_client.infer(synthetic.TEXTS, [tensor("text", texts, binary)], outputs=outputs).as_numpy("out_text")
    # JSON has strings where binary data has bytes.
    expected = texts.tolist() if not binary else [[text.encode() for text in row] for row in texts.tolist()]
    assert found.tolist() == expected


def test_a_sequence(client):
    fresh = windows(CLIP, 15)
    said = [
        client.infer(messages.MODEL, [tensor("input", values[np.newaxis])], **sequence("spoken", index, len(fresh)))
        for index, values in enumerate(fresh)
    ]
    reference.assert_equal([result.as_numpy("output").item() for result in said], reference.of_clip(CLIP)[:15])


def test_what_the_server_says_about_itself(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(EXAMPLE)
    assert not client.is_model_ready("nope")
    assert {"statistics", "sequence", "binary_tensor_data"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata(messages.MODEL)
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 576]}]
    config = client.get_model_config(messages.MODEL)
    assert config["input"][0]["data_type"] == "TYPE_FP32" and config["max_batch_size"] >= 1
    assert "sequence_batching" in config
    before = client.get_inference_statistics(EXAMPLE)["model_stats"][0]["inference_count"]
    client.infer(EXAMPLE, [tensor("inputs", VALUES)])
    assert client.get_inference_statistics(EXAMPLE)["model_stats"][0]["inference_count"] >= before + 2


def test_the_index(client):
    index = {model["name"]: model["state"] for model in client.get_model_repository_index()}
    assert index == {EXAMPLE: "READY", messages.MODEL: "READY"}


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("nope", [tensor("inputs", VALUES)], "404", ["nope", EXAMPLE]),
        (EXAMPLE, [tensor("wrong", VALUES)], "400", ["wrong", "inputs"]),
        (EXAMPLE, [tensor("inputs", VALUES.astype("f4"))], "400", ["FP32", "FP64"]),
        (messages.MODEL, [tensor("input", np.ones((1, 5), "f4"))], "400", ["[1, 5]", "576"]),
    ],
    ids=["model", "name", "datatype", "shape"],
)
def test_what_does_not_fit_is_named(client, model, inputs, status, words):
    error = refusal(client.infer, model, inputs)
    assert error.status() == status
    assert_says(error, *words)


def test_a_missing_start(client):
    error = refusal(client.infer, messages.MODEL, [tensor("input", windows(CLIP, 1)[0][np.newaxis])], sequence_id=4712)
    assert error.status() == "400"
    assert_says(error, "4712", "sequence_start")


def post(server, path: str, body: dict) -> tuple[int, str, str]:
    """Status, content type and body of the answer, for a client that knows only JSON."""
    request = urllib.request.Request(
        f"http://{server.http_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_generate(server):
    status, kind, body = post(server, f"/v2/models/{EXAMPLE}/generate", {"inputs": [1, 2.5, -3], "id": "mine"})
    assert (status, kind) == (200, "application/json"), body
    answer = json.loads(body)
    assert (answer["model_name"], answer["outputs"]) == (EXAMPLE, [2, 5, -6])


def events(body: str) -> list[dict]:
    """The data of server-sent events."""
    found = []
    for event in body.strip().split("\n\n"):
        (line,) = event.splitlines()
        assert line.startswith("data: "), body
        found.append(json.loads(line.removeprefix("data: ")))
    return found


def test_generate_stream(server):
    status, kind, body = post(server, f"/v2/models/{EXAMPLE}/generate_stream", {"inputs": [1, 2.5]})
    assert status == 200 and kind.startswith("text/event-stream"), body
    (event,) = events(body)
    assert (event["model_name"], event["outputs"]) == (EXAMPLE, [2, 5])


@pytest.mark.parametrize("form", ["generate", "generate_stream"])
def test_generate_refuses(server, form):
    for path, fields, status, word in (
        (f"/v2/models/nope/{form}", {"inputs": [1]}, 404, "nope"),
        (f"/v2/models/{EXAMPLE}/{form}", {}, 400, "inputs"),
        (f"/v2/models/{EXAMPLE}/{form}", {"inputs": ["one"]}, 400, "one"),
    ):
        found, kind, body = post(server, path, fields)
        assert (found, kind) == (status, "application/json"), body
        assert word in json.loads(body)["error"]


VALUES_OF_NAMED = np.array([[1, 4, 2, 4], [0.5, 0.25, -3, 0]], "f4")


@pytest.mark.parametrize("binary", [True, False])
def test_classes_with_labels(typed_client, binary):
    wanted = [triton.InferRequestedOutput("y", binary_data=binary, class_count=2)]
    result = typed_client.infer(synthetic.LABELLED, [tensor("x", VALUES_OF_NAMED)], outputs=wanted)
    assert result.get_output("y")["datatype"] == "BYTES"
    found = [[text if isinstance(text, str) else text.decode() for text in row] for row in result.as_numpy("y")]
    assert found == [["8.000000:1:bee", "8.000000:3:dog"], ["1.000000:0:ant", "0.500000:1:bee"]]


def test_the_server_says_that_it_has_classes(typed_client):
    assert "classification" in typed_client.get_server_metadata()["extensions"]


def test_an_answer_that_is_kept(typed_client):
    statistics = lambda: typed_client.get_inference_statistics(synthetic.KEPT)["model_stats"][0]
    assert typed_client.get_model_config(synthetic.KEPT)["response_cache"] == {"enable": True}
    before = statistics()
    values = np.array([[12.5]], "f4")
    for name in "ab":
        result = typed_client.infer(synthetic.KEPT, [tensor("x", values)], request_id=name)
        assert (result.get_response()["id"], result.as_numpy("y").item()) == (name, 25)
    after = statistics()
    count = lambda part: after["inference_stats"][part]["count"] - before["inference_stats"][part]["count"]
    assert {part: count(part) for part in ("success", "queue", "cache_hit", "cache_miss", "compute_infer")} == {
        "success": 2,
        "queue": 2,
        "cache_hit": 1,
        "cache_miss": 1,
        "compute_infer": 1,
    }
