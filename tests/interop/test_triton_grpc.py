"""Single requests from Triton's gRPC client."""

import audio
import messages
import ml_dtypes
import numpy as np
import pytest
import reference
import synthetic
import tritonclient.grpc as triton
from open_inference import (
    EXAMPLE,
    InferCall,
    InferStream,
    assert_says,
    code,
    numbers,
    probability,
    sequence,
    tensor,
    window,
    windows,
)
from server import await_rest, running
from tritonclient.utils import InferenceServerException

CLIPS = [audio.SHORT_SPEECH, audio.LONG_SPEECH, audio.NOISE]


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def typed_client(typed_server):
    with triton.InferenceServerClient(typed_server.address) as client:
        yield client


def refusal(call, *arguments, **options) -> InferenceServerException:
    """The error that a call must end with."""
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return raised.value


def test_one_item(client):
    result = client.infer(EXAMPLE, numbers([1, 2.5, -3], count=3), request_id="mine")
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (EXAMPLE, "1", "mine")
    np.testing.assert_array_equal(result.as_numpy("outputs"), [[2, 5, -6]])


def test_several_items_in_one_request(client):
    values = np.random.default_rng(1).normal(size=(17, 5))
    np.testing.assert_array_equal(client.infer(EXAMPLE, numbers(values, count=5)).as_numpy("outputs"), 2 * values)


def test_items_of_a_stateful_model_outside_a_sequence_start_fresh(client):
    fresh = windows(audio.SHORT_SPEECH, 20)
    expected = [reference.run([values])[0] for values in fresh]
    batch = client.infer(messages.MODEL, [tensor("input", np.stack(fresh))]).as_numpy("output")
    assert batch.shape == (20, 1)
    reference.assert_equal(batch[:, 0], expected)
    reference.assert_equal([probability(client.infer(messages.MODEL, window(values))) for values in fresh], expected)


def test_a_named_version(client):
    for version in ("1", ""):
        assert client.infer(EXAMPLE, numbers([1]), model_version=version).get_response().model_version == "1"
    error = refusal(client.infer, EXAMPLE, numbers([1]), model_version="9")
    assert code(error) == "NOT_FOUND"
    assert_says(error, "'9'")


@pytest.mark.parametrize("wanted", [["out_integers", "out_floats"], ["out_integers"], ["out_floats"], None])
def test_outputs_are_those_that_were_asked_for_in_that_order(typed_client, wanted):
    floats, integers = np.array([[1.5, 2]], "f4"), np.array([[1, 2, 2**30]], "i4")
    outputs = wanted and [triton.InferRequestedOutput(name) for name in wanted]
    # Inputs in an order other than the model's.
    inputs = [tensor("integers", integers), tensor("floats", floats)]
    result = typed_client.infer(synthetic.PAIR, inputs, outputs=outputs)
    expected = {"out_floats": 2 * floats, "out_integers": np.array([[2, 4, 2**31 - 1]])}
    assert [output.name for output in result.get_response().outputs] == (wanted or ["out_floats", "out_integers"])
    for name in wanted or expected:
        np.testing.assert_array_equal(result.as_numpy(name), expected[name])


def test_elements_of_any_length(typed_client):
    texts = np.array([["", "tide", "naïve ✓".encode(), b"\x00\xff"], ["a", "b", "c", "x" * 100_000]], object)
    result = typed_client.infer(synthetic.TEXTS, [tensor("text", texts)])
    assert result.get_output("out_text").datatype == "BYTES"
    expected = [[text.encode() if isinstance(text, str) else text for text in row] for row in texts.tolist()]
    assert result.as_numpy("out_text").tolist() == expected


def test_two_byte_numbers(typed_client):
    half = np.array([[1.5, -65504]], np.float16)
    brain = np.array([[1.5, -3e38]], ml_dtypes.bfloat16)
    result = typed_client.infer(synthetic.HALVES, [tensor("half", half), tensor("brain", brain)])
    np.testing.assert_array_equal(result.as_numpy("out_half"), half)
    np.testing.assert_array_equal(result.as_numpy("out_brain"), brain)


def test_parameters_that_the_server_does_not_know_are_ignored(client):
    parameters = {"colour": "red", "count": 3, "share": 0.5, "really": True}
    result = client.infer(EXAMPLE, numbers([1]), priority=1, timeout=10_000_000, parameters=parameters)
    np.testing.assert_array_equal(result.as_numpy("outputs"), [[2]])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, algorithm):
    values = np.arange(10_000.0)
    result = client.infer(EXAMPLE, numbers(values, count=10_000), compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("outputs")[0], 2 * values)


@pytest.mark.parametrize("id", [77, 2**63 - 1, "a sequence"])
def test_a_sequence_of_single_calls(server, client, id):
    fresh = windows(audio.SHORT_SPEECH, 12)
    steps = enumerate(fresh)
    results = [client.infer(messages.MODEL, window(values), **sequence(id, index, len(fresh))) for index, values in steps]
    reference.assert_equal([probability(result) for result in results], reference.of_clip(audio.SHORT_SPEECH)[:12])
    error = refusal(client.infer, messages.MODEL, window(fresh[0]), sequence_id=id)
    assert code(error) == "INVALID_ARGUMENT"
    assert_says(error, str(id))
    await_rest(server)


def test_sequences_of_single_calls_do_not_touch_one_another(client):
    """Their calls are in flight at once; those of one sequence follow one another."""
    count = 15
    said: dict[str, list[float]] = {clip: [] for clip in CLIPS}
    for index in range(count):
        calls = {
            clip: InferCall(client, messages.MODEL, window(windows(clip, count)[index]), **sequence(id, index, count))
            for id, clip in enumerate(CLIPS, start=1000)
        }
        for clip, call in calls.items():
            said[clip].append(probability(call.result()))
    for clip, probabilities in said.items():
        reference.assert_equal(probabilities, reference.of_clip(clip)[:count])


def test_a_sequence_begins_with_its_start(client):
    error = refusal(client.infer, messages.MODEL, window(windows(audio.NOISE, 1)[0]), sequence_id=4711)
    assert code(error) == "INVALID_ARGUMENT"
    assert_says(error, "4711", messages.MODEL, "sequence_start")


@pytest.mark.parametrize(
    ("model", "inputs", "status", "words"),
    [
        ("nope", numbers([1]), "NOT_FOUND", ["nope", EXAMPLE]),
        (EXAMPLE, [tensor("wrong", np.ones((1, 1)))], "INVALID_ARGUMENT", ["wrong", "inputs"]),
        (EXAMPLE, [tensor("inputs", np.ones((1, 1), "f4"))], "INVALID_ARGUMENT", ["FP32", "FP64"]),
        (EXAMPLE, [tensor("inputs", np.ones((1, 1, 1)))], "INVALID_ARGUMENT", ["[1, 1, 1]", "[-1, -1]"]),
        (EXAMPLE, [], "INVALID_ARGUMENT", ["inputs", "missing"]),
        (messages.MODEL, [tensor("input", np.ones((1, 575), "f4"))], "INVALID_ARGUMENT", ["575", "576"]),
    ],
    ids=["model", "name", "datatype", "rank", "no inputs", "shape"],
)
def test_what_does_not_fit_is_named(client, model, inputs, status, words):
    error = refusal(client.infer, model, inputs)
    assert code(error) == status
    assert_says(error, *words)


def test_an_unknown_output_is_named(client):
    error = refusal(client.infer, EXAMPLE, numbers([1]), outputs=[triton.InferRequestedOutput("wrong")])
    assert code(error) == "INVALID_ARGUMENT"
    assert_says(error, "wrong", "outputs")


def test_data_whose_length_does_not_fit_the_shape(client):
    made = tensor("inputs", np.ones((1, 4)))
    made.set_shape([1, 5])
    error = refusal(client.infer, EXAMPLE, [made])
    assert code(error) == "INVALID_ARGUMENT"
    assert_says(error, "32", "40")


def test_a_request_larger_than_the_limit():
    with running("--set", "grpc.max_message_bytes=65536", "--set", "session.max_item_bytes=65536") as server:
        with triton.InferenceServerClient(server.address) as client:
            error = refusal(client.infer, EXAMPLE, numbers(np.ones(10_000), count=10_000))
    assert code(error) == "RESOURCE_EXHAUSTED"
    assert_says(error, "grpc.max_message_bytes")


VALUES_OF_NAMED = np.array([[1, 4, 2, 4], [0.5, 0.25, -3, 0]], "f4")
BEST_OF_NAMED = [[b"8.000000:1:bee", b"8.000000:3:dog"], [b"1.000000:0:ant", b"0.500000:1:bee"]]


def test_classes_with_labels(typed_client):
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    result = typed_client.infer(synthetic.LABELLED, [tensor("x", VALUES_OF_NAMED)], outputs=wanted)
    assert result.get_output("y").datatype == "BYTES"
    assert result.as_numpy("y").tolist() == BEST_OF_NAMED


def test_classes_on_a_stream(typed_server):
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    with InferStream(typed_server.address) as stream:
        stream.send(synthetic.LABELLED, [tensor("x", VALUES_OF_NAMED)], outputs=wanted)
        assert stream.result().as_numpy("y").tolist() == BEST_OF_NAMED


def test_classes_of_texts_are_refused(typed_client):
    texts = tensor("text", np.array([["a", "b"]], object))
    error = refusal(typed_client.infer, synthetic.TEXTS, [texts], outputs=[triton.InferRequestedOutput("out_text", class_count=1)])
    assert code(error) == "INVALID_ARGUMENT"
    assert_says(error, "out_text", "BYTES", "classification")
