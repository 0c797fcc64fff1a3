"""The server describes its models well enough to write a client from that."""

import grpc
import messages
import pytest
from faults import of_call
from messages import pb
from server import PATIENCE_S
from tidemill.v1 import model_pb2


def get_model(server, **fields) -> model_pb2.ModelDetail:
    return server.models.GetModel(model_pb2.GetModelRequest(**fields), timeout=PATIENCE_S).model


def test_list_models(server):
    models = server.models.ListModels(model_pb2.ListModelsRequest(), timeout=PATIENCE_S).models
    (model,) = [model for model in models if model.name == messages.MODEL]
    assert model.state == model_pb2.MODEL_STATE_READY
    assert model.stateful and model.version and model.engine and model.description and not model.reason


def test_get_model(server):
    model = get_model(server, name=messages.MODEL)
    assert list(model.inputs) == [model_pb2.TensorSpec(name="input", datatype=pb.DATATYPE_FP32, shape=[-1, 576])]
    assert list(model.outputs) == [model_pb2.TensorSpec(name="output", datatype=pb.DATATYPE_FP32, shape=[-1, 1])]
    state = model_pb2.StateSpec(input="state", output="stateN", datatype=pb.DATATYPE_FP32, shape=[2, -1, 128], batch_axis=1)
    assert list(model.states) == [state]
    assert model.framing == pb.Framing(sample_rate_hz=16_000, window_samples=512, context_samples=64)
    assert set(model.payloads) == {messages.PCM, messages.TENSORS}
    assert get_model(server, name=messages.MODEL, version=model.summary.version).summary == model.summary


def test_get_model_reports_what_was_measured(server):
    model = get_model(server, name=messages.MODEL)
    sizes = [cost.batch_size for cost in model.batch_costs]
    assert sizes == sorted(sizes) and sizes[0] == 1
    assert all(cost.duration.ToNanoseconds() > 0 for cost in model.batch_costs)
    assert model.batch_cap >= 1
    assert 0 < model.segment_rules.negative_threshold < model.segment_rules.threshold < 1
    assert model.default_limits.window_items > 0


@pytest.mark.parametrize(
    ("fields", "fragments"),
    [({"name": "nope"}, ["nope", messages.MODEL]), ({"name": messages.MODEL, "version": "9999"}, ["9999", messages.MODEL])],
    ids=["name", "version"],
)
def test_get_model_lists_what_exists(server, fields, fragments):
    with pytest.raises(grpc.RpcError) as raised:
        get_model(server, **fields)
    of_call(raised.value).check(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", *fragments)


def test_get_model_wants_a_name(server):
    with pytest.raises(grpc.RpcError) as raised:
        get_model(server)
    of_call(raised.value).check(grpc.StatusCode.INVALID_ARGUMENT, "INVALID", "name", field="name")
