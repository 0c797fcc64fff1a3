"""Clients that are programs, and what a browser would send for a web page: the programs are served, the page is not."""

import json
import shutil
import socket

import grpc
import metrics
import pytest
import synthetic
import tritonclient.grpc
import tritonclient.http
from feed_call import opened
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from messages import TENSORS
from open_inference import EXAMPLE
from programs import run
from server import PATIENCE_S, running, wait_until
from tidemill.v1 import inference_pb2_grpc, model_pb2, model_pb2_grpc
from tritonclient.utils import InferenceServerException

GENERATE = f"/v2/models/{EXAMPLE}/generate"
UNLOAD = f"/v2/repository/models/{EXAMPLE}/unload"
LOAD = f"/v2/repository/models/{EXAMPLE}/load"
NUMBERS = json.dumps({"inputs": [1, 2]})

FEEDS = 64
FEED_ITEMS = 1_200


def curl(server, path: str, *options: str) -> tuple[int, str]:
    """Status and body."""
    assert shutil.which("curl")
    answer = run("curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *options, f"http://{server.http_address}{path}")
    body, _, status = answer.rpartition("\n")
    return int(status), body


def error(body: str) -> str:
    return json.loads(body)["error"]


# What browsers add to a page's requests by themselves, and a page cannot change.
PAGES = {
    "fetch": ["--header", "Origin: http://evil.example", "--header", "Sec-Fetch-Site: cross-site", "--header", "Sec-Fetch-Mode: no-cors"],
    "form": ["--header", "Origin: null", "--header", "Sec-Fetch-Site: cross-site", "--header", "Sec-Fetch-Mode: navigate"],
    "image": ["--header", "Sec-Fetch-Site: cross-site", "--header", "Sec-Fetch-Mode: no-cors", "--header", "Sec-Fetch-Dest: image"],
    "old-browser": ["--header", "Origin: http://evil.example"],
    "neighbour": ["--header", "Origin: http://localhost:3000", "--header", "Sec-Fetch-Site: same-site"],
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("path", [GENERATE, UNLOAD])
def test_a_page_from_another_site(server, page, path):
    status, body = curl(server, path, *PAGES[page], "--header", "Content-Type: text/plain", "--data", NUMBERS)
    assert status == 403 and "server.allowed_origins" in error(body), body
    assert curl(server, GENERATE, "--data", NUMBERS)[0] == 200


def test_a_name_made_to_point_here(server):
    port = server.http_address.rsplit(":", 1)[1]
    status, body = curl(server, "/v2", "--header", f"Host: evil.example:{port}")
    assert status == 403 and "evil.example" in error(body) and "server.allowed_hosts" in error(body), body
    for host in ["localhost", socket.gethostname(), "127.0.0.1", "[::1]"]:
        assert curl(server, "/v2", "--header", f"Host: {host}:{port}")[0] == 200, host


def test_the_servers_own_page(server):
    own = ["--header", f"Origin: http://{server.http_address}", "--header", "Sec-Fetch-Site: same-origin"]
    assert curl(server, GENERATE, *own, "--data", NUMBERS)[0] == 200


def test_curl_loads_a_model_as_json_and_not_as_a_form(server):
    status, body = curl(server, LOAD, "--data", "{}")
    assert status == 415 and "application/json" in error(body), body
    assert curl(server, LOAD, "--header", "Content-Type: application/json", "--data", "{}")[0] == 200
    assert curl(server, LOAD, "--request", "POST")[0] == 200


def test_tritons_http_client_loads_and_unloads(server):
    """It names no content type."""
    with tritonclient.http.InferenceServerClient(server.http_address) as client:
        client.unload_model(EXAMPLE)
        assert not client.is_model_ready(EXAMPLE)
        client.load_model(EXAMPLE)
        assert client.is_model_ready(EXAMPLE)
        client.unregister_system_shared_memory()


def test_a_server_open_to_everybody_refuses_changes():
    with running("--set", "security.allow_anonymous=true", address="0.0.0.0") as server:
        local = server.http_address.replace("0.0.0.0", "127.0.0.1"), server.address.replace("0.0.0.0", "127.0.0.1")
        with tritonclient.http.InferenceServerClient(local[0]) as client:
            for change in (lambda: client.unload_model(EXAMPLE), client.unregister_system_shared_memory):
                with pytest.raises(InferenceServerException, match="control.repository|shared_memory.enabled") as refused:
                    change()
                assert refused.value.status() == "403", refused.value
        with tritonclient.grpc.InferenceServerClient(local[1]) as client:
            with pytest.raises(InferenceServerException, match="control.repository") as refused:
                client.load_model(EXAMPLE)
            assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
            assert "system_shared_memory" not in client.get_server_metadata().extensions
            assert client.is_model_ready(EXAMPLE)


def test_reflection_can_be_off():
    with running("--set", "control.reflection=off") as server:
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ServerReflectionInfo(iter([question]), timeout=PATIENCE_S))
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert server.models.ListModels(model_pb2.ListModelsRequest(), timeout=PATIENCE_S).models


@pytest.mark.parametrize("length", [20_000, 60_000, 200_000])
def test_large_metadata_is_refused_by_the_name_of_its_limit(server, length):
    with server.connect() as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=[("x-large", "x" * length)], timeout=PATIENCE_S)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value
        assert "grpc.max_header_bytes" in refused.value.details()
        # On the same connection.
        assert call(b"", timeout=PATIENCE_S) is not None


@pytest.fixture
def slow(tmp_path):
    """A server whose model runs fifty items a second."""
    models = synthetic.write_models(tmp_path, synthetic.SLOW)
    with running("--models", str(models), "--set", "models.embedded=false", "--set", "scheduler.lanes=1") as server:
        yield server


def test_many_feeds_that_are_held_back_keep_their_connection(slow):
    """Far faster than the model, on one channel."""
    with slow.connect() as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        rows = synthetic.rows([1.0] * FEED_ITEMS)
        feeds = [opened(stub, payload=TENSORS, model=synthetic.SLOW) for _ in range(FEEDS)]
        for feed in feeds:
            feed.send(*rows)
        wait_until(
            lambda: slow.metrics().total(metrics.STREAMS_STALLED, method="feed") == FEEDS,
            lambda: f"not all of the feeds are held back:\n{slow.get('/metrics')[1]}",
        )
        assert {event.WhichOneof("event") for event in feeds[0].receive_until("result", 20)} == {"result"}
        # Behind all of that, on the same connection.
        assert model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=PATIENCE_S).models
        assert all(feed.call.is_active() for feed in feeds)
        for feed in feeds:
            feed.cancel()
