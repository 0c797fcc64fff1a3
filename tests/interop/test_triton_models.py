"""What the server tells Triton's gRPC client about itself, its models and what they have done."""

import messages
import numpy as np
import pytest
import synthetic
import tritonclient.grpc as triton
from google.protobuf import json_format
from open_inference import EXAMPLE, InferStream, assert_says, code, numbers, tensor
from server import await_rest, running
from tritonclient.utils import InferenceServerException

ADVERTISED = {"sequence", "statistics", "model_configuration", "model_repository", "parameters", "system_shared_memory"}
NOT_ADVERTISED = {"cuda_shared_memory", "trace", "logging"}
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def typed_client(typed_server):
    with triton.InferenceServerClient(typed_server.address) as client:
        yield client


def plain(message) -> dict:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_liveness_and_readiness(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(EXAMPLE) and client.is_model_ready(messages.MODEL, "6")
    assert not client.is_model_ready(EXAMPLE, "9") and not client.is_model_ready("nope")


def test_the_server(client):
    metadata = client.get_server_metadata()
    assert metadata.name and metadata.version
    assert ADVERTISED <= set(metadata.extensions)
    assert not NOT_ADVERTISED & set(metadata.extensions)


def test_tensors_of_a_model(client, typed_client):
    speech = plain(client.get_model_metadata(messages.MODEL))
    assert (speech["name"], speech["versions"]) == (messages.MODEL, ["6"])
    assert speech["platform"]
    assert speech["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "576"]}]
    assert speech["outputs"] == [{"name": "output", "datatype": "FP32", "shape": ["-1", "1"]}]
    pair = plain(typed_client.get_model_metadata(synthetic.PAIR))
    assert pair["inputs"] == [
        {"name": "floats", "datatype": "FP32", "shape": ["-1", "2"]},
        {"name": "integers", "datatype": "INT32", "shape": ["-1", "-1"]},
    ]
    texts = plain(typed_client.get_model_metadata(synthetic.TEXTS))
    assert texts["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1", "-1"]}]


def test_how_a_model_is_set_up(client):
    speech = client.get_model_config(messages.MODEL).config
    assert speech.name == messages.MODEL
    assert plain(speech.input[0]) == {"name": "input", "data_type": "TYPE_FP32", "dims": ["576"]}
    assert plain(speech.output[0]) == {"name": "output", "data_type": "TYPE_FP32", "dims": ["1"]}
    assert speech.WhichOneof("scheduling_choice") == "sequence_batching"
    example = client.get_model_config(EXAMPLE).config
    assert plain(example.input[0]) == {"name": "inputs", "data_type": "TYPE_FP64", "dims": ["-1"]}
    assert example.WhichOneof("scheduling_choice") == "dynamic_batching"
    for config in (speech, example):
        assert not config.model_transaction_policy.decoupled and not config.response_cache.enable
    count = example.max_batch_size
    assert count >= 1 and client.infer(EXAMPLE, numbers(np.ones(count))).as_numpy("outputs").shape == (count, 1)


@pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
@pytest.mark.parametrize(("model", "version"), [("nope", ""), (EXAMPLE, "9")], ids=["name", "version"])
def test_what_does_not_exist(client, ask, model, version):
    with pytest.raises(InferenceServerException) as raised:
        getattr(client, ask)(model, version)
    assert code(raised.value) == "NOT_FOUND"
    assert_says(raised.value, model, version or EXAMPLE)


def test_as_json(client):
    """The client's own rendering, which names no field that it does not know."""
    assert client.get_server_metadata(as_json=True)["name"]
    assert client.get_model_metadata(EXAMPLE, as_json=True)["inputs"][0]["shape"] == ["-1", "-1"]
    assert client.get_model_config(EXAMPLE, as_json=True)["config"]["input"][0]["data_type"] == "TYPE_FP64"
    (statistics,) = client.get_inference_statistics(EXAMPLE, as_json=True)["model_stats"]
    assert statistics["name"] == EXAMPLE


def statistics_of(client, model: str):
    (statistics,) = client.get_inference_statistics(model).model_stats
    return statistics


def assert_adds_up(statistics) -> None:
    parts = [getattr(statistics.inference_stats, part) for part in PARTS]
    assert {part.count for part in parts} == {statistics.inference_stats.success.count} == {statistics.inference_count}
    assert sum(part.ns for part in parts) == statistics.inference_stats.success.ns
    calls = {batch.batch_size: batch.compute_infer for batch in statistics.batch_stats}
    assert sum(call.count for call in calls.values()) == statistics.execution_count
    assert sum(size * call.count for size, call in calls.items()) == statistics.inference_count
    assert statistics.inference_stats.compute_infer.ns == sum(size * call.ns for size, call in calls.items())


def test_statistics_add_up(typed_server, typed_client):
    """Over single calls, calls with several items, and streams; items count, however they arrived."""
    before = statistics_of(typed_client, EXAMPLE)
    for _ in range(3):
        typed_client.infer(EXAMPLE, numbers([1]))
    typed_client.infer(EXAMPLE, numbers(np.ones(8)))
    with InferStream(typed_server.address) as stream:
        for _ in range(40):
            stream.send(EXAMPLE, numbers([1, 2, 3]))
        for _ in range(40):
            stream.result()
    with pytest.raises(InferenceServerException):
        typed_client.infer(EXAMPLE, [tensor("wrong", np.ones((1, 1)))])
    await_rest(typed_server)
    after = statistics_of(typed_client, EXAMPLE)
    assert_adds_up(after)
    assert after.inference_count - before.inference_count == 3 + 8 + 120
    assert 0 < after.execution_count - before.execution_count <= 3 + 8 + 120
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    assert after.last_inference > before.last_inference


def test_statistics_of_all_models(client):
    found = {(statistics.name, statistics.version) for statistics in client.get_inference_statistics().model_stats}
    assert {(EXAMPLE, "1"), (messages.MODEL, "6")} <= found


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_cuda_shared_memory_status(),
    ],
    ids=["trace", "log", "cuda"],
)
def test_what_is_not_advertised_is_not_there(client, ask):
    with pytest.raises(InferenceServerException) as raised:
        ask(client)
    assert code(raised.value) == "UNIMPLEMENTED"


class TestRepository:
    """Models come and go while the server runs."""

    @pytest.fixture
    def folder(self, tmp_path):
        return synthetic.write_models(tmp_path, synthetic.QUICK)

    @pytest.fixture
    def client(self, folder):
        with running("--models", str(folder)) as server, triton.InferenceServerClient(server.address) as client:
            yield client

    def index(self, client) -> dict[str, str]:
        return {model.name: model.state for model in client.get_model_repository_index().models}

    def run(self, client, model: str) -> list:
        return client.infer(model, [tensor("x", np.ones((1, 1), "f4"))]).as_numpy("y").tolist()

    def test_the_index(self, client):
        assert self.index(client) == {EXAMPLE: "READY", messages.MODEL: "READY", synthetic.QUICK: "READY"}

    def test_a_model_is_unloaded_and_loaded_again(self, client):
        client.unload_model(synthetic.QUICK)
        assert not client.is_model_ready(synthetic.QUICK)
        assert self.index(client)[synthetic.QUICK] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException) as raised:
            self.run(client, synthetic.QUICK)
        assert_says(raised.value, synthetic.QUICK)
        client.load_model(synthetic.QUICK)
        assert client.is_model_ready(synthetic.QUICK) and self.run(client, synthetic.QUICK) == [[2]]

    def test_a_model_that_was_added_since_is_loaded(self, client, folder):
        synthetic.write_models(folder, synthetic.SLOW)
        client.load_model(synthetic.SLOW)
        assert self.index(client)[synthetic.SLOW] == "READY" and self.run(client, synthetic.SLOW) == [[2]]

    def test_a_model_that_was_changed_is_loaded_again(self, client, folder):
        manifest = folder / synthetic.QUICK / "model.toml"
        manifest.write_text(manifest.read_text().replace("double", "identity"))
        assert self.run(client, synthetic.QUICK) == [[2]]
        client.load_model(synthetic.QUICK)
        assert self.run(client, synthetic.QUICK) == [[1]]

    @pytest.mark.parametrize("change", ["load_model", "unload_model"])
    def test_a_model_that_does_not_exist(self, client, change):
        with pytest.raises(InferenceServerException) as raised:
            getattr(client, change)("nope")
        assert code(raised.value) == "NOT_FOUND"
        assert_says(raised.value, "nope")
