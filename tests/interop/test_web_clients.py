"""The clients that web pages use, in node and in Chromium, and those of the same protocols for node: gRPC-Web, Connect and Realtime."""

import base64
import json
import os
import pathlib

import audio
import grpc
import messages
import numpy as np
import places
import pytest
import reference
from programs import json_objects, run, run_node
from server import PATIENCE_S, await_rest
from test_clients import CLIP, WINDOW, json_probability
from tidemill.v1 import inference_pb2

TRANSPORTS = [
    "connect-node json",
    "connect-node binary",
    "connect-node gzip",
    "connect-node grpc-web",
    "connect-web json",
    "connect-web binary",
    "connect-web grpc-web",
]


def generate(folder: pathlib.Path, style: str = "legacy_commonjs") -> None:
    """Messages and services as protoc-gen-es makes them from proto/, in this style of modules."""
    plugin = {
        "local": "protoc-gen-es",
        "out": str(folder),
        "include_imports": True,
        "opt": ["target=js", f"js_import_style={style}"],
    }
    environment = os.environ | {"PATH": f"{places.NODE_MODULES / '.bin'}:{os.environ['PATH']}"}
    template = json.dumps({"version": "v2", "plugins": [plugin]})
    run(places.BUF, "generate", "--template", template, places.PROTOS, env=environment)


@pytest.fixture(scope="module")
def ran(server, tmp_path_factory):
    """What a script prints that gets the server, the generated code and a recording."""
    folder = tmp_path_factory.mktemp("web-clients")
    recording = folder / "clip.pcm"
    recording.write_bytes(audio.pcm(CLIP))
    generate(folder)
    return lambda script: json.loads(run_node(script, server.http_address, folder, recording))


@pytest.fixture(scope="module")
def connect(ran, server) -> dict:
    printed = ran("connect_clients.cjs")
    await_rest(server)
    return printed


@pytest.fixture(scope="module")
def grpc_web(ran, server) -> dict:
    printed = ran("grpc_web.cjs")
    await_rest(server)
    return printed


@pytest.fixture(scope="module")
def kinds_by_grpc(server) -> list[str]:
    """The kinds of the events of a scan."""
    request = inference_pb2.ScanRequest(config=inference_pb2.StreamConfig(model=messages.MODEL), pcm_s16le=audio.pcm(CLIP))
    return [name.replace("_s", "S") for name in messages.kinds(server.inference.Scan(request, timeout=PATIENCE_S))]


def assert_scanned(scanned: dict, kinds: list[str]) -> None:
    assert scanned["events"] == kinds
    reference.assert_equal(scanned["probabilities"], reference.of_clip(CLIP))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_of_connect_get_what_clients_of_grpc_get(connect, kinds_by_grpc, transport):
    told = connect[transport]
    assert messages.MODEL in told["models"]
    reference.assert_equal([told["predicted"]], reference.of_clip(CLIP)[:1])
    assert_scanned(told["scanned"], kinds_by_grpc)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_of_connect_see_errors_with_their_details(connect, transport):
    told = connect[transport]
    for unknown in (told["unknown"], told["unknown_stream"]):
        assert (unknown["code"], unknown["reasons"]) == ("NotFound", ["NOT_FOUND"])
        assert "nobody" in unknown["message"]
    assert told["left"]["code"] == "Canceled"


@pytest.mark.parametrize("transport", ["connect-node json", "connect-node binary"])
def test_a_client_may_send_a_stream_over_http_1(connect, transport):
    assert connect["uploaded"][transport] == len(audio.pcm(CLIP))


@pytest.mark.parametrize("mode", ["text", "binary"])
def test_the_official_client_of_grpc_web(grpc_web, kinds_by_grpc, mode):
    told = grpc_web[mode]
    reference.assert_equal([told["predicted"]], reference.of_clip(CLIP)[:1])
    assert_scanned(told["scanned"], kinds_by_grpc)
    assert told["unknown"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert "nobody" in told["unknown"]["message"]
    assert told["unknown_stream"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]


def buf_curl(server, protocol: str, method: str, request: dict) -> list[dict]:
    url = f"http://{server.http_address}/{method}"
    arguments = ("curl", "--protocol", protocol, "--schema", places.PROTOS, "--data", "@-", url)
    return json_objects(run(places.BUF, *arguments, input=json.dumps(request)))


@pytest.mark.parametrize("protocol", ["grpcweb", "connect"])
def test_buf_curl(server, kinds_by_grpc, protocol):
    window = {"model": messages.MODEL, "pcmS16le": base64.b64encode(WINDOW).decode()}
    (response,) = buf_curl(server, protocol, "tidemill.v1.InferenceService/Predict", window)
    reference.assert_equal([json_probability(response["outputs"])], reference.of_clip(CLIP)[:1])
    scan = {"config": {"model": messages.MODEL}, "pcmS16le": base64.b64encode(audio.pcm(CLIP)).decode()}
    responses = buf_curl(server, protocol, "tidemill.v1.InferenceService/Scan", scan)
    assert [kind for response in responses for kind in response] == kinds_by_grpc


@pytest.fixture(scope="module")
def in_chromium(server, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("in-chromium")
    generate(folder, "module")
    clip, speech = folder / "clip.pcm", folder / "speech_24_khz.pcm"
    clip.write_bytes(audio.pcm(CLIP))
    samples = np.frombuffer(audio.pcm("goforward.raw"), "<i2")
    moments = np.arange(len(samples) * 3 // 2) * 2 / 3
    louder = np.interp(moments, np.arange(len(samples)), samples).astype("<i2")
    speech.write_bytes(np.concatenate([louder, np.zeros(24_000, "<i2")]).tobytes())
    return json.loads(run_node("in_chromium.cjs", server.http_address, folder, clip, speech))


@pytest.mark.parametrize("transport", ["connect json", "connect binary", "grpc-web"])
def test_pages_in_a_real_browser_get_what_clients_of_grpc_get(in_chromium, kinds_by_grpc, transport):
    told = in_chromium[transport]
    assert in_chromium["complaints"] == [] and told["unknown"] == "NotFound"
    reference.assert_equal([told["predicted"]], reference.of_clip(CLIP)[:1])
    assert_scanned(told["scanned"], kinds_by_grpc)


def test_openais_client_finds_a_turn_in_a_real_browser(in_chromium):
    types = in_chromium["realtime"]
    assert types[:2] == ["session.created", "session.updated"]
    assert types[2:] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
