"""The Open Inference Protocol through clients that were not made for it: grpcurl, buf, grpc-js, curl; and its contract."""

import base64
import json
import struct

import audio
import grpc
import messages
import numpy as np
import places
import pytest
import reference
from google.protobuf import descriptor_pb2
from open_inference import EXAMPLE, windows
from programs import buf_curl, grpcurl, json_objects, run, run_node
from reflected import Reflected
from tritonclient.grpc import model_config_pb2, service_pb2

SERVICE = "inference.GRPCInferenceService"
CLIP = audio.SHORT_SPEECH
COUNT = 12

TYPED = {
    "model_name": EXAMPLE,
    "id": "mine",
    "inputs": [{"name": "inputs", "datatype": "FP64", "shape": [1, 3], "contents": {"fp64_contents": [1, 2.5, -3]}}],
}


def names_and_numbers(file: descriptor_pb2.FileDescriptorProto) -> dict:
    """Everything that is on the wire: fields of messages, values of enums, methods of services, by name and number."""
    found = {}

    def walk(prefix: str, holder) -> None:
        for message in getattr(holder, "nested_type", None) or getattr(holder, "message_type", []):
            name = f"{prefix}.{message.name}"
            for field in message.field:
                oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
                found[name, field.number] = (field.name, field.label, field.type, field.type_name, oneof)
            walk(name, message)
        for enum in holder.enum_type:
            found.update({(f"{prefix}.{enum.name}", value.number): value.name for value in enum.value})

    walk(file.package, file)
    for service in file.service:
        for method in service.method:
            streams = (method.client_streaming, method.server_streaming)
            found[f"{file.package}.{service.name}", method.name] = (method.input_type, method.output_type, *streams)
    return found


def test_every_name_and_number_is_the_clients_own(server):
    """Of what the server has; the client knows more about a model's configuration."""
    theirs: dict = {}
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        theirs |= names_and_numbers(file)
    database = Reflected(server.channel).database
    ours: dict = {}
    for symbol in (SERVICE, "inference.ModelConfig"):
        ours |= names_and_numbers(database.FindFileContainingSymbol(symbol))
    assert ours.items() <= theirs.items()
    methods = {key for key in theirs if key[0] == SERVICE}
    assert methods and methods <= ours.keys()


def test_grpcurl_lists_and_describes(server):
    assert SERVICE in grpcurl(server.address, "list").split()
    described = grpcurl(server.address, "describe", SERVICE)
    assert "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )" in described


def test_grpcurl_gets_typed_contents_for_typed_contents(server):
    answer = json.loads(grpcurl("-d", json.dumps(TYPED), server.address, f"{SERVICE}/ModelInfer"))
    assert (answer["modelName"], answer["id"]) == (EXAMPLE, "mine")
    (output,) = answer["outputs"]
    assert (output["name"], output["shape"], output["contents"]) == ("outputs", ["1", "3"], {"fp64Contents": [2, 5, -6]})


def test_grpcurl_streams_a_sequence(server):
    requests = [
        {
            "model_name": messages.MODEL,
            "parameters": {
                "sequence_id": {"int64_param": 5},
                "sequence_start": {"bool_param": index == 0},
                "sequence_end": {"bool_param": index == COUNT - 1},
            },
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 576]}],
            "raw_input_contents": [base64.b64encode(values.tobytes()).decode()],
        }
        for index, values in enumerate(windows(CLIP, COUNT))
    ]
    lines = "\n".join(map(json.dumps, requests))
    answers = json_objects(grpcurl("-d", "@", server.address, f"{SERVICE}/ModelStreamInfer", input=lines))
    raw = [base64.b64decode(answer["inferResponse"]["rawOutputContents"][0]) for answer in answers]
    reference.assert_equal([struct.unpack("<f", value)[0] for value in raw], reference.of_clip(CLIP)[:COUNT])


def test_buf_curl(server):
    (answer,) = buf_curl(server, f"{SERVICE}/ModelInfer", json.dumps(TYPED))
    assert answer["outputs"][0]["contents"] == {"fp64Contents": [2, 5, -6]}
    (ready,) = buf_curl(server, f"{SERVICE}/ModelReady", json.dumps({"name": EXAMPLE}))
    assert ready == {"ready": True}


@pytest.fixture(scope="module")
def grpc_js(server, tmp_path_factory) -> dict:
    file = tmp_path_factory.mktemp("grpc-js") / "windows"
    file.write_bytes(np.stack(windows(CLIP, COUNT)).astype("<f4").tobytes())
    return json.loads(run_node("infer.cjs", server.address, places.PROTOS, file, str(COUNT)))


def test_grpc_js_infers(grpc_js):
    assert grpc_js["typed"] == grpc_js["raw"] == [2, 5, -6]
    assert grpc_js["failed"]["code"] == grpc.StatusCode.NOT_FOUND.value[0] and "nope" in grpc_js["failed"]["details"]


def test_grpc_js_streams(grpc_js):
    *steps, beyond = grpc_js["streamed"]
    for side, id in enumerate(["left", "right"]):
        own = steps[side::2]
        assert [step["id"] for step in own] == [f"{id}/{index}" for index in range(COUNT)]
        reference.assert_equal([step["value"] for step in own], reference.of_clip(CLIP)[:COUNT])
    assert (beyond["id"], "value" in beyond) == ("left/1", False)
    assert "left" in beyond["error"] and "sequence_start" in beyond["error"]


def curl(server, path: str, *options: str) -> str:
    return run("curl", "--silent", "--show-error", *options, f"http://{server.http_address}{path}")


def test_curl(server):
    request = json.dumps({"inputs": [{"name": "inputs", "datatype": "FP64", "shape": [1, 2], "data": [1, 2.5]}]})
    answer = json.loads(curl(server, f"/v2/models/{EXAMPLE}/infer", "--data", request))
    assert answer["outputs"] == [{"name": "outputs", "datatype": "FP64", "shape": [1, 2], "data": [2, 5]}]
    assert json.loads(curl(server, "/v2"))["name"] == "tidemill"
    status = curl(server, "/v2/health/ready", "--output", "/dev/null", "--write-out", "%{http_code}")
    assert status == "200"
    refused = json.loads(curl(server, "/v2/models/nope/infer", "--data", request))
    assert "nope" in refused["error"]


def test_curl_generates(server):
    """Unbuffered, the way a person would watch it."""
    request = json.dumps({"inputs": [1, 2.5]})
    answer = curl(server, f"/v2/models/{EXAMPLE}/generate_stream", "--no-buffer", "--data", request)
    assert json.loads(answer.removeprefix("data: "))["outputs"] == [2, 5]
