"""Tensors that Triton's client puts into shared memory and takes out of it."""

import contextlib
import os
import uuid

import numpy as np
import pytest
import synthetic
import tritonclient.grpc as triton
from open_inference import EXAMPLE, InferStream, assert_says, code, numbers, tensor
from tritonclient.utils import InferenceServerException, shared_memory

COUNT = 1_000
BYTES = 8 * COUNT


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client
        client.unregister_system_shared_memory()


class Region:
    """A region of this process, registered with the server."""

    def __init__(self, client: triton.InferenceServerClient, size: int) -> None:
        self.name = f"region-{uuid.uuid4().hex}"
        self.key = f"/tidemill-{uuid.uuid4().hex}"
        self.size = size
        self.handle = shared_memory.create_shared_memory_region(self.name, self.key, size)
        self._client = client

    def register(self) -> None:
        self._client.register_system_shared_memory(self.name, self.key, self.size)

    def input(self, name: str, values: np.ndarray, offset: int = 0) -> triton.InferInput:
        """An input whose elements are here."""
        shared_memory.set_shared_memory_region(self.handle, [values], offset=offset)
        made = tensor(name, values)
        made.set_shared_memory(self.name, values.nbytes, offset)
        return made

    def output(self, name: str, size: int, offset: int = 0) -> triton.InferRequestedOutput:
        """An output that should go here."""
        wanted = triton.InferRequestedOutput(name)
        wanted.set_shared_memory(self.name, size, offset)
        return wanted

    def read(self, datatype, shape, offset: int = 0) -> np.ndarray:
        return shared_memory.get_contents_as_numpy(self.handle, datatype, shape, offset).copy()


@contextlib.contextmanager
def region(client, size: int, registered: bool = True):
    made = Region(client, size)
    try:
        if registered:
            made.register()
        yield made
    finally:
        shared_memory.destroy_shared_memory_region(made.handle)


def refused(call, *arguments, **options) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return raised.value


def test_input_and_output(client):
    """Both in one region, next to each other."""
    values = np.arange(COUNT, dtype=np.float64).reshape(1, -1)
    with region(client, 2 * BYTES) as memory:
        result = client.infer(
            EXAMPLE, [memory.input("inputs", values)], outputs=[memory.output("outputs", BYTES, offset=BYTES)]
        )
        output = result.get_output("outputs")
        assert output.parameters["shared_memory_region"].string_param == memory.name
        size = output.parameters["shared_memory_byte_size"]
        assert getattr(size, size.WhichOneof("parameter_choice")) == BYTES
        np.testing.assert_array_equal(memory.read(np.float64, [1, COUNT], BYTES), 2 * values)


def test_input_alone_and_output_alone(client):
    values = np.arange(COUNT, dtype=np.float64).reshape(1, -1)
    with region(client, BYTES) as memory:
        result = client.infer(EXAMPLE, [memory.input("inputs", values)])
        np.testing.assert_array_equal(result.as_numpy("outputs"), 2 * values)
        client.infer(EXAMPLE, numbers(3 * values, count=COUNT), outputs=[memory.output("outputs", BYTES)])
        np.testing.assert_array_equal(memory.read(np.float64, [1, COUNT]), 6 * values)


@pytest.mark.parametrize("shared", ["floats", "integers"])
def test_some_tensors_in_memory_and_some_in_the_message(typed_server, shared):
    """The client finds the elements of an output by its place among all outputs, wherever the others' elements are."""
    values = {"floats": np.array([[1.5, 2]], "f4"), "integers": np.array([[1, 2, 3]], "i4")}
    with triton.InferenceServerClient(typed_server.address) as client, region(client, 64) as memory:
        inputs = [memory.input(name, value) if name == shared else tensor(name, value) for name, value in values.items()]
        size = values[shared].nbytes
        outputs = [
            memory.output(f"out_{name}", size, offset=32) if name == shared else triton.InferRequestedOutput(f"out_{name}")
            for name in values
        ]
        result = client.infer(synthetic.PAIR, inputs, outputs=outputs)
        (other,) = values.keys() - {shared}
        np.testing.assert_array_equal(result.as_numpy(f"out_{other}"), 2 * values[other])
        np.testing.assert_array_equal(memory.read(values[shared].dtype, values[shared].shape, 32), 2 * values[shared])
        client.unregister_system_shared_memory(memory.name)


def test_on_a_stream(server, client):
    values = np.arange(COUNT, dtype=np.float64).reshape(1, -1)
    with region(client, 2 * BYTES) as memory, InferStream(server.address) as stream:
        for factor in (1, 5, 7):
            stream.send(EXAMPLE, [memory.input("inputs", factor * values)], outputs=[memory.output("outputs", BYTES, BYTES)])
            stream.result()
            np.testing.assert_array_equal(memory.read(np.float64, [1, COUNT], BYTES), 2 * factor * values)


def test_what_is_registered(client):
    with region(client, 64) as one, region(client, 128) as two:
        regions = client.get_system_shared_memory_status().regions
        found = {name: (status.key, status.offset, status.byte_size) for name, status in regions.items()}
        assert found[one.name] == (one.key, 0, 64) and found[two.name] == (two.key, 0, 128)
        client.unregister_system_shared_memory(one.name)
        assert set(client.get_system_shared_memory_status().regions) & {one.name, two.name} == {two.name}
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
        assert code(refused(client.infer, EXAMPLE, [two.input("inputs", np.ones((1, 8)))])) in ("INVALID_ARGUMENT", "NOT_FOUND")


def test_a_region_that_is_too_small(client):
    with region(client, 64) as memory:
        beyond = tensor("inputs", np.ones((1, 16)))
        beyond.set_shared_memory(memory.name, 128)
        error = refused(client.infer, EXAMPLE, [beyond])
        assert code(error) == "INVALID_ARGUMENT"
        assert_says(error, memory.name, "64")
        small = refused(client.infer, EXAMPLE, numbers(np.ones(8), count=8), outputs=[memory.output("outputs", 32)])
        assert code(small) == "INVALID_ARGUMENT"
        assert_says(small, "outputs", "64", "32")


def test_memory_that_does_not_exist(client):
    error = refused(client.register_system_shared_memory, "nowhere", f"/tidemill-{uuid.uuid4().hex}", 64)
    assert code(error) in ("INVALID_ARGUMENT", "NOT_FOUND")
    for key in ("/../etc/passwd", "/..", "/"):
        assert code(refused(client.register_system_shared_memory, "elsewhere", key, 64)) == "INVALID_ARGUMENT"


def test_memory_that_shrinks_breaks_nothing(server, client):
    """A client that takes the memory away harms its own request, not the server."""
    with region(client, BYTES) as memory:
        made = memory.input("inputs", np.ones((1, COUNT)))
        os.truncate(f"/dev/shm{memory.key}", 64)
        assert code(refused(client.infer, EXAMPLE, [made])) in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert server.is_running() and client.is_server_live()
        # The client's own mapping keeps its size.
        os.truncate(f"/dev/shm{memory.key}", BYTES)
