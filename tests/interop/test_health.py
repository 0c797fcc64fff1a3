"""The standard health service, for the whole server and for each model, and the pages of the admin port."""

import json

import grpc
import messages
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from programs import grpcurl
from server import PATIENCE_S

SERVING = health_pb2.HealthCheckResponse.SERVING


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


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_admin_pages(server, path):
    assert server.get(path)[0] == 200


def test_an_unknown_admin_page(server):
    assert server.get("/nope")[0] == 404
