"""Envoy's own transcoder, `grpc_json_transcoder`, over the same proto and in front of the gRPC port: the same URLs give the same JSON."""

import base64
import contextlib
import json
import socket
import struct
import subprocess
import urllib.error
import urllib.request

import audio
import places
import pytest
from server import PATIENCE_S, wait_until

MODEL = "silero-vad"
SAMPLES = audio.pcm(audio.SHORT_SPEECH)[:16_000]
ITEM = {"inputs": [{"data": base64.b64encode(struct.pack("<d", 21)).decode(), "shape": ["1"], "datatype": "DATATYPE_FP64"}]}
# What differs from one call to the next.
CHANGING = ("timing", "elapsed", "queueNs", "computeNs", "batchCosts", "shapeCosts")

CONFIG = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: json
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: tidemill, timeout: 30s}}}}]
          http_filters:
          - name: transcoder
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder
              proto_descriptor: {descriptors}
              services: [tidemill.v1.InferenceService, tidemill.v1.ModelService]
              convert_grpc_status: true
              max_request_body_size: 16777216
              max_response_body_size: 16777216
              request_validation_options: {{reject_unknown_query_parameters: true}}
              print_options: {{stream_newline_delimited: true}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: tidemill
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: tidemill
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {grpc}}}}}}}}}]}}]
"""


def free_port() -> int:
    """Envoy says which port it took only over another one."""
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def accepts(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def envoy(server, tmp_path_factory):
    """Its address."""
    folder = tmp_path_factory.mktemp("envoy")
    descriptors, config, port = folder / "tidemill.binpb", folder / "envoy.yaml", free_port()
    subprocess.run([places.BUF, "build", places.PROTOS, "-o", descriptors], check=True, timeout=PATIENCE_S)
    grpc = server.address.rsplit(":", 1)[1]
    config.write_text(CONFIG.format(port=port, descriptors=descriptors, grpc=grpc))
    # No admin port, and a base id of its own, so that several can run on one machine.
    command = [places.ENVOY, "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: process.poll() is not None or accepts(port), "Envoy does not listen")
            assert process.poll() is None, process.stderr.read()
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def ask(address: str, verb: str, path: str, body: object = None) -> tuple[int, str]:
    """Status and body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{address}{path}", data=data, method=verb, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def lasting(value: object) -> object:
    """Without what differs from one call to the next."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in CHANGING}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def both(server, envoy: str, verb: str, path: str, body: object = None) -> tuple[tuple, tuple]:
    """What both answer: status, and the JSON of each line."""

    def answer(address: str) -> tuple:
        status, text = ask(address, verb, path, body)
        return status, [lasting(json.loads(line)) for line in text.splitlines() if line]

    return answer(server.http_address), answer(envoy)


@pytest.mark.parametrize("path", ["", f"/{MODEL}", f"/{MODEL}/versions/6", f"/{MODEL}?version=6"])
def test_models(server, envoy, path):
    ours, theirs = both(server, envoy, "GET", f"/tidemill/v1/models{path}")
    assert ours[0] == 200 and ours == theirs


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_predict(server, envoy, version):
    ours, theirs = both(server, envoy, "POST", f"/tidemill/v1/models/example_model{version}/predict", {"item": ITEM})
    assert ours[0] == 200 and ours == theirs
    assert ours[1][0]["outputs"]["tensors"][0]["datatype"] == "DATATYPE_FP64"


def test_scan(server, envoy):
    pcm = base64.b64encode(SAMPLES).decode()
    ours, theirs = both(server, envoy, "POST", f"/tidemill/v1/models/{MODEL}/scan", {"pcmS16le": pcm})
    assert ours[0] == 200 and len(ours[1]) > 10 and ours == theirs


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("POST", "/tidemill/v1/models/nope/predict", {"item": ITEM}),
        ("POST", "/tidemill/v1/models/example_model/predict", {}),
        ("POST", "/tidemill/v1/models/nope/scan", {"items": {}}),
        ("GET", "/tidemill/v1/models/nope", None),
    ],
)
def test_errors_of_calls(server, envoy, verb, path, body):
    """A call's own error is the same google.rpc.Status, with its details."""
    ours, theirs = both(server, envoy, verb, path, body)
    assert ours[0] >= 400 and ours == theirs


def test_where_they_differ(server, envoy):
    """As docs/http.md says: what never becomes a call is worded by whoever refuses it, and some statuses tell more here."""
    for verb, path, body, ours, theirs in [
        ("POST", "/tidemill/v1/models/example_model/predict", {"itme": {}}, 400, 400),
        ("GET", f"/tidemill/v1/models/{MODEL}?verison=1", None, 400, 400),
        # A gateway passes on what it does not know, as if it were gRPC.
        ("GET", "/tidemill/v1/nothing", None, 404, None),
        ("GET", "/tidemill/v1/models/m/predict", None, 405, None),
    ]:
        status, text = ask(server.http_address, verb, path, body)
        assert (status, json.loads(text)["code"] > 0) == (ours, True), (path, text)
        if theirs is not None:
            assert ask(envoy, verb, path, body)[0] == theirs, path
