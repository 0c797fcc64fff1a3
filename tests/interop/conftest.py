"""One server for the tests that only send it requests. Tests that need special settings or end the server start their own."""

import pytest
import synthetic
from server import Server, running

# Of one model, on the server with one lane.
QUEUED_ITEMS_MAX = 40
# How many of them one connection may have while there is no other.
SHARE_ITEMS_MAX = QUEUED_ITEMS_MAX * 7 // 8
TENANT_METADATA = "x-tenant"


@pytest.fixture(scope="session")
def server():
    with running() as shared:
        yield shared


@pytest.fixture
def inference(server: Server):
    return server.inference


@pytest.fixture(scope="session")
def typed_server(tmp_path_factory):
    """A server whose models take several tensors, and elements other than numbers."""
    models = synthetic.write_models(tmp_path_factory.mktemp("models"), *synthetic.TYPED_MANIFESTS)
    with running("--models", str(models)) as server:
        yield server


@pytest.fixture(scope="session")
def one_lane(tmp_path_factory):
    """A server that runs one call at a time, for tests of what waits, what goes first and what is given up."""
    models = synthetic.write_models(tmp_path_factory.mktemp("models"), *synthetic.MANIFESTS)
    with running(
        *("--models", str(models), "--set", "models.embedded=false"),
        # One lane and no long lane, so that a slow call holds up all others.
        *("--set", "scheduler.lanes=1", "--set", "scheduler.long_lanes=false"),
        *("--set", f"scheduler.max_queued_items_per_model={QUEUED_ITEMS_MAX}"),
        *("--set", f"session.tenant_metadata={TENANT_METADATA}"),
    ) as server:
        yield server
