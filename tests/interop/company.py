"""Queries a model on the server: alone, with several items in a request, and together with other clients. Whatever an item's
neighbours, its answer must be the one that Python's onnxruntime gives for it alone."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import places
import specimens
from alone import Model, Tensors, difference, magnitudes, row_scale
from messages import pb
from server import PATIENCE_S, Server
from tidemill.v1 import inference_pb2_grpc, model_pb2

NUMBERS = {
    pb.DATATYPE_BOOL: "?",
    pb.DATATYPE_UINT8: "<u1",
    pb.DATATYPE_INT8: "<i1",
    pb.DATATYPE_INT32: "<i4",
    pb.DATATYPE_INT64: "<i8",
    pb.DATATYPE_FP16: "<f2",
    pb.DATATYPE_FP32: "<f4",
    pb.DATATYPE_FP64: "<f8",
}
CLIENTS = 6
# Between engines and between sizes of a call, in parts of a row's largest value.
TOLERANCE = 1e-3
# Where a graph rounds internally, a last bit may become a step.
LOSSY_TOLERANCE = 3e-2


@dataclasses.dataclass
class Answer:
    tensors: Tensors
    # Items in the model call.
    batch_size: int


def item(tensors: Tensors) -> pb.Item:
    return pb.Item(inputs=[pb.Tensor(name=name, shape=values.shape, data=_bytes(values)) for name, values in tensors.items()])


def _bytes(values: np.ndarray) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in values.flat)


def values(tensor: pb.Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, NUMBERS[tensor.datatype]).reshape(tensor.shape)


class Clients:
    """Several clients, each with its own connection."""

    def __init__(self, server: Server, count: int = CLIENTS) -> None:
        self._channels = [server.connect() for _ in range(count)]
        self._stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in self._channels]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def ask(self, model: str, *streams: list[Tensors]) -> list[list[Answer]]:
        """The answers to requests that are all in flight at once, each from its own client."""
        assert len(streams) <= len(self._stubs)
        config = pb.StreamConfig(model=model)
        requests = [pb.ScanRequest(config=config, items=pb.ItemList(items=[*map(item, stream)])) for stream in streams]
        calls = [stub.Scan(request, timeout=PATIENCE_S) for stub, request in zip(self._stubs, requests, strict=False)]
        return [self._answers(model, call) for call in calls]

    def _answers(self, model: str, call) -> list[Answer]:
        answers = []
        for event in call:
            if event.WhichOneof("event") == "result":
                result = event.result
                assert result.WhichOneof("outcome") == "outputs", f"{model}: {result}"
                tensors = {tensor.name: values(tensor) for tensor in result.outputs.tensors}
                answers.append(Answer(tensors, result.timing.batch_size))
        return answers


@contextlib.contextmanager
def clients(server: Server, count: int = CLIENTS) -> Iterator[Clients]:
    made = Clients(server, count)
    try:
        yield made
    finally:
        made.close()


class Question:
    """Streams of items for one model, with the correct answers."""

    def __init__(self, name: str, model: Model, streams: list[list[Tensors]], tolerance: float = TOLERANCE) -> None:
        self.name, self.streams, self.tolerance = name, streams, tolerance
        if model.states:
            self.expected = [model.stream(items) for items in streams]
        else:
            self.expected = [[model.alone(one) for one in items] for items in streams]
        self._typical = magnitudes([answer for answers in self.expected for answer in answers])

    def ask(self, clients: Clients, chosen: list[int]) -> set[int]:
        """Sends some of the streams at once and checks what comes back. Returns the sizes of the model calls."""
        answered = clients.ask(self.name, *(self.streams[index] for index in chosen))
        for index, answers in zip(chosen, answered, strict=True):
            assert len(answers) == len(self.expected[index]), f"{self.name}: {len(answers)} answers"
            for answer, expected in zip(answers, self.expected[index], strict=True):
                self._check(answer, expected)
        return {answer.batch_size for answers in answered for answer in answers}

    def _check(self, answer: Answer, expected: Tensors) -> None:
        assert set(answer.tensors) == set(expected), f"{self.name}: {set(answer.tensors)} instead of {set(expected)}"
        apart = difference(answer.tensors, expected, row_scale(expected, self._typical, specimens.LEAST))
        assert apart <= self.tolerance, (
            f"{self.name}: off by {apart:.3g} of the row in a call of {answer.batch_size}:\n{answer.tensors}\nalone:\n{expected}"
        )


def ask_in_company(clients: Clients, question: Question, rounds: int) -> set[int]:
    """Each stream alone, then all of them at the same time, several times over. Returns the sizes of the calls in company."""
    everyone = [*range(len(question.streams))]
    for index in everyone:
        question.ask(clients, [index])
    return set().union(*(question.ask(clients, everyone) for _ in range(rounds)))


# The verdicts that the server may give for each truth. If nothing is left of an item that is alone, or rows follow each other in time, a
# model has no batch and is refused; but a batch that is coupled like that looks the same.
REFUSED = "REFUSED"
VERDICTS = {
    specimens.INDEPENDENT: {"INDEPENDENT"},
    specimens.DEPENDENT: {"DEPENDENT", REFUSED},
    specimens.LABELS: {"DEPENDENT", REFUSED, "UNPROVEN"},
    specimens.LEAKS: {"PADDING_LEAKS"},
    specimens.RANDOM: {"RANDOM"},
    specimens.NO_BATCH: {REFUSED},
    # Refused for its declared shapes, where onnxruntime sees through them, before anything is tried.
    specimens.ONE: {"DEPENDENT", REFUSED},
}
SHARES_CALLS = {specimens.INDEPENDENT, specimens.LEAKS}


def verdict(summary: model_pb2.ModelSummary) -> str:
    if summary.state == model_pb2.MODEL_STATE_FAILED:
        return REFUSED
    return model_pb2.BatchingVerdict.Name(summary.batching.verdict).removeprefix("BATCHING_VERDICT_")


def arguments(engine: str, models: pathlib.Path, cache: pathlib.Path) -> list[str]:
    """For a server that proves these models again. It also has the example, as a server whose only model is refused is never ready."""
    settings = [f"engine.default={engine}", f"models.cache_dir={cache}", "models.embedded=false"]
    given = ["--models", str(models), "--allow-partial", *(part for setting in settings for part in ("--set", setting))]
    return [*given, "--onnxruntime", places.onnxruntime()] if engine == "onnxruntime" else given


def summaries(server: Server) -> dict[str, model_pb2.ModelSummary]:
    listed = server.models.ListModels(model_pb2.ListModelsRequest(), timeout=PATIENCE_S).models
    return {summary.name: summary for summary in listed}
