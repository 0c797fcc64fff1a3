"""The standard health service, for the whole server and for each model, and the pages of the admin port."""

import json

import grpc
import messages
import pytest
import synthetic
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from programs import grpcurl
from server import PATIENCE_S, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def health(server):
    return health_pb2_grpc.HealthStub(server.channel)


@pytest.mark.parametrize("service", ["", messages.MODEL])
def test_check(health, service):
    assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status == SERVING


def test_check_of_an_unknown_model(health):
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=PATIENCE_S)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_list(server):
    listed = json.loads(grpcurl(server.address, "grpc.health.v1.Health/List"))
    assert {name: listed["statuses"][name]["status"] for name in ("", messages.MODEL)} == {"": "SERVING", messages.MODEL: "SERVING"}


@pytest.mark.parametrize(("service", "status"), [("", SERVING), (messages.MODEL, SERVING)])
def test_watch(health, service, status):
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
    assert next(watch).status == status
    watch.cancel()


def settled(watch) -> int:
    """The next status, skipping that of a model that is still loading."""
    return next(answer.status for answer in watch if answer.status != NOT_SERVING)


def test_watch_of_a_model_that_comes_and_goes(tmp_path):
    """An unknown name is not an error: the watcher learns that it is unknown, and gets an update once there is a model of that name."""
    with running("--models", str(synthetic.write_models(tmp_path, synthetic.QUICK))) as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S) for name in ("nope", synthetic.SLOW)]
        never_there, comes = watches
        assert [next(watch).status for watch in watches] == [SERVICE_UNKNOWN, SERVICE_UNKNOWN]
        synthetic.write_models(tmp_path, synthetic.SLOW)
        with triton.InferenceServerClient(server.address) as client:
            client.load_model(synthetic.SLOW)
            assert settled(comes) == SERVING
            client.unload_model(synthetic.SLOW)
            assert next(comes).status == NOT_SERVING
            client.load_model(synthetic.SLOW)
            assert settled(comes) == SERVING
        assert never_there.is_active()
        for watch in watches:
            watch.cancel()
        heard = []
        with pytest.raises(grpc.RpcError) as raised:
            heard.extend(never_there)
        assert (heard, raised.value.code()) == ([], grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_admin_pages(server, path):
    assert server.get(path)[0] == 200


def test_an_unknown_admin_page(server):
    assert server.get("/nope")[0] == 404
