"""One server for the tests that only ask it things. Tests that need settings of their own or end the server start their own."""

import pytest
from server import Server, running


@pytest.fixture(scope="session")
def server():
    with running() as shared:
        yield shared


@pytest.fixture
def inference(server: Server):
    return server.inference
