"""Builds requests for Triton's gRPC client and parses its results."""

import queue

import audio
import numpy as np
import reference
import tritonclient.grpc as triton
from messages import MODEL
from server import PATIENCE_S
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

# Doubles any number of numbers.
EXAMPLE = "example_model"


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    """An input with raw contents."""
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values)


def numbers(values, count: int = 1) -> list[triton.InferInput]:
    """Input of the example: items of this many numbers each, one by default."""
    return [tensor("inputs", np.array(values, np.float64).reshape(-1, count))]


def window(values: np.ndarray) -> list[triton.InferInput]:
    """Input of the speech model: one item."""
    return [tensor("input", values[np.newaxis])]


def windows(clip: str, count: int) -> list[np.ndarray]:
    """The first windows of a recording."""
    return reference.windows(audio.pcm(clip))[:count]


def probability(result: triton.InferResult) -> float:
    """The one number that the speech model gives for one window."""
    output = result.as_numpy("output")
    assert output.shape == (1, 1) and output.dtype == np.float32
    return float(output[0, 0])


def code(error: InferenceServerException) -> str:
    """The name of a call's status."""
    return error.status().removeprefix("StatusCode.")


def assert_says(error: InferenceServerException, *words: str) -> None:
    for word in words:
        assert word in error.message(), f"{word!r} is not in {error}"


def sequence(id, index: int, count: int, **fields) -> dict:
    """The parameters of one request in a sequence of `count`."""
    return {"sequence_id": id, "sequence_start": index == 0, "sequence_end": index == count - 1, **fields}


class _Answers:
    """What the client's callback received and nobody has taken yet."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue = queue.SimpleQueue()

    def put(self, result: triton.InferResult | None, error: InferenceServerException | None) -> None:
        self._answers.put((result, error))

    def result(self) -> triton.InferResult:
        """The next answer, which must be a result."""
        result, error = self._answers.get(timeout=PATIENCE_S)
        assert error is None, error
        return result

    def error(self) -> InferenceServerException:
        """The next answer, which must be an error."""
        result, error = self._answers.get(timeout=PATIENCE_S)
        assert result is None, result.get_response()
        return error

    def are_all_taken(self) -> bool:
        return self._answers.empty()


class InferCall(_Answers):
    """A single request on its way."""

    def __init__(self, client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput], **fields) -> None:
        super().__init__()
        self._call = client.async_infer(model, inputs, self.put, **fields)

    def cancel(self) -> None:
        self._call.cancel()


class InferStream(_Answers):
    """A stream of requests: `send` what goes in, `receive` what comes out. A client holds only one stream, so each has its own client."""

    def __init__(self, address: str, **options) -> None:
        super().__init__()
        self.client = triton.InferenceServerClient(address)
        self.client.start_stream(self.put, **options)

    def __enter__(self) -> "InferStream":
        return self

    def __exit__(self, failure, *_) -> None:
        self.client.stop_stream(cancel_requests=failure is not None)
        self.client.close()
        assert failure or self.are_all_taken()

    def send(self, model: str, inputs: list[triton.InferInput], **fields) -> None:
        self.client.async_stream_infer(model, inputs, **fields)

    def send_window(self, values: np.ndarray, **fields) -> None:
        self.send(MODEL, window(values), **fields)

    def probabilities(self, count: int) -> list[float]:
        """What the next results say about their windows."""
        return [probability(self.result()) for _ in range(count)]
